"""`python -m aiinfra bench …`: what can be measured, with which options. PyTorch is imported only to do it.

    bench latency --set max_running=8 --save rows.json
          │       └ a setting of the engine
          └ a line of the table below: module and function that yield the rows
"""

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiinfra.bench.arrivals import ARRIVALS, Lengths, lengths
from aiinfra.engine.command import add_engine_settings, add_model_argument
from aiinfra.environment import api_key
from aiinfra.files import save_json

if TYPE_CHECKING:
    from aiinfra.bench.serve import Load

Parser = argparse.ArgumentParser


class Benchmark(NamedTuple):
    """A benchmark of a model: its line of help, where its function is, and the options that it takes."""

    help: str
    module: str
    function: str
    options: tuple[str, ...] = ()


BENCHMARKS = {
    "decode": Benchmark(
        "one request: decode and prefill, against transformers; int4 against llama.cpp",
        "decode", "bench_decode"),
    "throughput": Benchmark(
        "64 mixed requests at once: the engine, against transformers' static batches and llama.cpp",
        "throughput", "bench_throughput", options=("trace", "requests", "seed", "turns")),
    "latency": Benchmark(
        "the same requests by and by: what users wait for, and what they notice of a long prompt",
        "latency", "bench_latency", options=("trace", "requests", "seed", "rate")),
    "overhead": Benchmark(
        "our server against its own engine: saturated throughput, the first token of a request alone",
        "overhead", "bench_overhead", options=("trace", "requests", "seed", "turns")),
    "engine": Benchmark(
        "where a decode step's time goes, at 1, 8 and 32 requests",
        "steps", "bench_engine", options=("seed",)),
    "neighbour": Benchmark(
        "decoding beside a process that keeps a core busy, against decoding alone",
        "neighbour", "bench_neighbour"),
    "load": Benchmark(
        "a fresh process: seconds to the first token, peak memory",
        "first_token", "bench_load"),
}
_TRACE = ('JSON lines such as {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}, '
          'or with the ids as "prompt" (default: random, seeded)')
_SAVE = "also write the rows and their settings as JSON"
_LENGTHS = "128, 16:256 (drawn evenly), or lognormal:MEDIAN:SIGMA:MOST"
_TRAIN = "a step of training: ours against transformers' model in the same loop, with the same losses"
_OVERLAP = "what of communication computation hides: gradients, batches; on a GPU copies, too"
_SERVE = "load on a server of OpenAI's wire, ours or another: what users wait for, and where the knee is"
_CARD = "the course's report card: train, kill, resume, serve, load; forecasts beside measurements"
_GPU = "on a GPU: decoding against its memory's bandwidth, CUDA graphs, 256 requests against transformers"
_KERNELS = "every Triton kernel: against PyTorch on a GPU; correctness and GPU code without one"


def add_bench(parser: Parser) -> None:
    """What can be measured, each with its own options."""
    what = parser.add_subparsers(metavar="what", required=True)
    for name, benchmark in BENCHMARKS.items():
        one = _add(what, name, benchmark.help)
        one.set_defaults(run=run_bench, what=name)
        add_model_argument(one)
        _add_options(one, benchmark.options)
        _add_save(one)
    gpu = _add(what, "gpu", _GPU)
    gpu.set_defaults(run=run_bench_gpu)
    gpu.add_argument("--seed", type=int, default=0, help="of the 256 requests")
    _add_save(gpu)
    train = _add(what, "train", _TRAIN)
    train.set_defaults(run=run_bench_train)
    train.add_argument("--steps", type=int, default=8, help="that count, of each model")
    train.add_argument("--length", type=int, default=256, help="of a row, in tokens; a step takes eight rows")
    train.add_argument("--seed", type=int, default=0, help="of weights and texts")
    train.add_argument("--compile", action="store_true", help="compile both models first: minutes")
    _add_save(train)
    overlap = _add(what, "overlap", _OVERLAP)
    overlap.set_defaults(run=run_bench_overlap)
    overlap.add_argument("--ranks", type=int, default=2, help="processes")
    overlap.add_argument("--steps", type=int, default=8, help="that count, of each way")
    _add_save(overlap)
    _add_serve(_add(what, "serve", _SERVE))
    card = _add(what, "card", _CARD)
    card.set_defaults(run=run_bench_card)
    card.add_argument("--data", type=Path, metavar="FILE", help="to train on (default: the course's stories)")
    card.add_argument("--steps", type=int, default=40, help="of each training")
    card.add_argument("--rate", type=_positive, default=4.0, help="requests a second of the load")
    card.add_argument("--seconds", type=_positive, default=10.0, help="of load")
    card.add_argument("--seed", type=int, default=0, help="of the requests")
    _add_save(card)
    kernels = _add(what, "kernels", _KERNELS)
    kernels.set_defaults(run=run_bench_kernels)
    kernels.add_argument("--only", nargs="+", metavar="NAME", help="some of them (default: all)")
    kernels.add_argument("--compile", action="store_true",
                         help="also compile for sm_80, sm_90, sm_100: registers, shared memory, spills")
    _add_save(kernels)


def run_bench(args: argparse.Namespace) -> None:
    """Print the rows as they come, and save them if asked to."""
    benchmark = BENCHMARKS[args.what]
    measure = getattr(import_module(f"aiinfra.bench.{benchmark.module}"), benchmark.function)
    options = {name: getattr(args, name) for name in benchmark.options}
    options |= dict(getattr(args, "set", []))
    settings = {"command": f"bench {args.what}", "model": str(args.model)}
    _print_rows(measure(args.model, **options), settings, options, args.save)


def run_bench_train(args: argparse.Namespace) -> None:
    """As `run_bench`, for a model of random weights. Raises RuntimeError if the two trained differently."""
    from aiinfra.bench.train import bench_train
    options = {"steps": args.steps, "length": args.length, "seed": args.seed, "compiled": args.compile}
    settings = {"command": "bench train", "model": "a small decoder of random weights"}
    _print_rows(bench_train(**options), settings, options, args.save)


def run_bench_gpu(args: argparse.Namespace) -> None:
    """As `run_bench`, for models of random weights. Raises ValueError where there is no GPU."""
    from aiinfra.bench.gpu import bench_gpu
    settings = {"command": "bench gpu", "model": "published shapes of random weights"}
    _print_rows(bench_gpu(args.seed), settings, {"seed": args.seed}, args.save)


def run_bench_overlap(args: argparse.Namespace) -> None:
    """As `run_bench`, for small models of random weights. Raises RuntimeError if two ways computed
    differently."""
    from aiinfra.bench.overlap import bench_overlap
    options = {"ranks": args.ranks, "steps": args.steps}
    settings = {"command": "bench overlap", "model": "small models of random weights"}
    _print_rows(bench_overlap(**options), settings, options, args.save)


def run_bench_card(args: argparse.Namespace) -> None:
    """As `run_bench`, for a model that is trained first."""
    from aiinfra.bench.card import STORIES, CardOptions, bench_card
    options = {"steps": args.steps, "rate": args.rate, "seconds": args.seconds, "seed": args.seed}
    asked = CardOptions(data=args.data or STORIES, **options)
    settings = {"command": "bench card", "model": "a small decoder, trained on stories"}
    _print_rows(bench_card(asked), settings, options, args.save)


def run_bench_serve(args: argparse.Namespace) -> None:
    """As `run_bench`, on the server at `args.url`, or one of our own for as long as it takes. Draws what was
    measured, too, if asked to."""
    from aiinfra.bench.http import Endpoint
    from aiinfra.bench.own_server import own_server
    from aiinfra.bench.serve import LoadTest
    from aiinfra.checkpoint import DEFAULT_MODEL
    load = _load(args)
    key = args.api_key or api_key()
    serving = own_server(args.model or DEFAULT_MODEL, _own(args.set), key)
    with nullcontext(args.url) if args.url else serving as url:
        model = args.model if args.url else None          # ours has one, and knows its name
        endpoint = Endpoint(url, model, key, asked=args.ask, plain=args.plain)
        test = LoadTest(endpoint, load)
        sweeping = args.sweep is not None
        measured = test.sweep(args.sweep) if sweeping else test.rows()
        settings = {"command": "bench serve", "model": args.model or "the server's first"}
        try:
            _print_rows(measured, settings, _said_of(args), args.save)
        finally:
            if args.plot and any(run.answered for run in test.runs):
                from aiinfra.bench.serve_plot import plot
                plot(test.runs, args.plot)


def _load(args: argparse.Namespace) -> "Load":
    from aiinfra.bench.serve import Load
    from aiinfra.plan.latency import LatencyTarget
    rate = args.rate
    if rate is None and args.arrivals != "trace":
        rate = 1.0
    return Load(
        rate=rate,
        users=args.users,
        requests=args.requests,
        arrivals=args.arrivals,
        trace=args.trace,
        prompt_tokens=args.input,
        output_tokens=args.output,
        prefixes=args.prefixes,
        vocab_size=args.vocab_size,
        hang_up=args.hang_up,
        target=LatencyTarget(ttft_seconds=args.ttft_target, tpot_seconds=args.tpot_target),
        seed=args.seed,
    )


_NOT_SAID = ("run", "debug", "api_key", "save", "plot", "set", "model")     # a key is nobody's business


def _said_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `bench serve`, as a file of rows keeps them."""
    said = {name: value for name, value in vars(args).items() if name not in _NOT_SAID}
    return said | {"input": args.input.said, "output": args.output.said, **dict(args.set)}


def _own(settings: list[tuple[str, object]]) -> list[str]:
    """The engine's settings, as our server takes them."""
    return [word for name, value in settings for word in ("--set", f"{name}={value}")]


def _print_rows(measured: Iterator[Any], settings: dict[str, Any], options: dict[str, Any],
                save: Path | None) -> None:
    import torch

    from aiinfra import device
    print(f"{settings['model']} on {device.device_name()}, torch {torch.__version__}")
    settings |= {
        "device": device.device_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": str(date.today()),
        **{name: _without_folder(value) for name, value in options.items()},
    }
    rows = []
    try:
        for row in measured:
            rows.append(row)
            print(row, flush=True)
    finally:                              # after minutes, what has been measured is kept, whatever comes then
        if save and rows:
            save_json(rows, settings, save)


def run_bench_kernels(args: argparse.Namespace) -> None:
    """Print a line a kernel, and save them if asked to. Raises RuntimeError if one computes something
    else."""
    from aiinfra.bench import kernels
    from aiinfra.gpu import compile as compiler
    settings = kernels.settings()
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    rows = []
    try:
        for row in kernels.run(names=args.only):
            rows.append(row)
            print(row, flush=True)
    finally:                              # as in _print_rows
        if args.save and rows:
            save_json(rows, {"command": "bench kernels", **settings}, args.save)
    if args.compile:
        print(compiler.table(compiler.compile_report()))
    wrong = [row.name for row in rows if not row.correct]
    if wrong:
        raise RuntimeError(f"not equal to the reference: {', '.join(wrong)}.")


def _without_folder(value: Any) -> Any:
    """A file by its name: the folders of this machine are nobody's business."""
    return value.name if isinstance(value, Path) else value


def _add(what: argparse._SubParsersAction, name: str, text: str) -> Parser:
    return what.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _add_options(parser: Parser, options: tuple[str, ...]) -> None:
    """Those of `options`; and, where there is an engine, its own settings."""
    add = parser.add_argument
    if "trace" in options:
        add("--trace", type=Path, metavar="FILE", help=_TRACE)
        add("--requests", type=int, default=64,
            help="without a file: how many, prompts of 16 to 256 tokens, answers of 16 to 128")
    if "turns" in options:
        add("--turns", type=int, default=1, help="serve the trace so many times, and take the median")
    if "rate" in options:
        add("--rate", type=float, default=1.0,
            help="requests a second, on average, where the file has no times")
    if "seed" in options:
        add("--seed", type=int, default=0, help="of the trace")
        add_engine_settings(parser)


def _add_serve(parser: Parser) -> None:
    parser.set_defaults(run=run_bench_serve)
    add = parser.add_argument
    add("--url", help="http://HOST:PORT of the server (default: one of ours, for as long as it takes)")
    add("--model", help="its name there (default: the first that it lists); of ours, a folder or file, too")
    add("--api-key", metavar="KEY", help="the server's (default: the variable AIINFRA_API_KEY)")
    add("--ask", choices=("ids", "words", "chat"), default="ids", help="completions of token ids, whose "
        "number is exact; of words, for routers that read text alone; or chats")
    add("--plain", action="store_true", help="send OpenAI's own fields alone, so answers may end early")
    add_engine_settings(parser)
    add("--arrivals", choices=ARRIVALS, default="poisson", help="how requests come")
    add("--rate", type=_positive, help="requests a second, or inf for all at once (default: 1; a trace keeps "
        "its own times)")
    add("--users", type=int, help="in place of a rate: so many, who wait for an answer before they ask again")
    add("--sweep", type=_positive, nargs="*", metavar="RATE", help="one run at each rate, and the knee; "
        "without rates, those that find it")
    add("--requests", type=int, help="without a file: how many (default: 100; of a sweep, 20 seconds' worth)")
    add("--trace", type=Path, metavar="FILE", help=_TRACE)
    add("--input", type=_lengths, default="16:256", metavar="LENGTHS", help=f"tokens of a prompt: {_LENGTHS}")
    add("--output", type=_lengths, default="16:128", metavar="LENGTHS", help="tokens of an answer")
    add("--prefixes", type=_prefixes, metavar="COUNT:TOKENS", help="each prompt begins with one of so many")
    add("--vocab-size", type=int, default=32_000, help="prompts are ids below it")
    add("--hang-up", type=float, default=0.0, metavar="SHARE", help="of the requests: their sender leaves")
    add("--ttft-target", type=_positive, default=2.0, metavar="SECONDS", help="in time: to the first token")
    add("--tpot-target", type=_positive, default=0.1, metavar="SECONDS",
        help="in time: a token, on average over an answer")
    add("--seed", type=int, default=0, help="of requests and arrivals")
    add("--plot", type=Path, metavar="FILE", help="draw it, as .png, .svg or .pdf")
    _add_save(parser)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:                                # NaN is not, either
        raise argparse.ArgumentTypeError(f"{text} must be above 0.")
    return value


def _lengths(text: str) -> Lengths:
    try:
        return lengths(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _prefixes(text: str) -> tuple[int, int]:
    count, colon, tokens = text.partition(":")
    if not (colon and count.isdecimal() and tokens.isdecimal() and int(count) and int(tokens)):
        raise argparse.ArgumentTypeError(f"{text!r} is not COUNT:TOKENS, for instance 4:128.")
    return int(count), int(tokens)


def _add_save(parser: Parser) -> None:
    parser.add_argument("--save", type=Path, metavar="FILE", help=_SAVE)
