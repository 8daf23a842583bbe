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
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiinfra.arguments import file_to_read, file_to_write, number, whole
from aiinfra.bench.arrivals import lengths
from aiinfra.bench.serve_options import MOST_REQUESTS, TRACE, add_serve_options, check_together, said_of
from aiinfra.engine.command import add_engine_settings, add_model_argument, settings_of
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
_SAVE = "also write the rows and their settings as JSON"
_REQUESTS = 64
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
    train.add_argument("--steps", type=whole(), default=8, help="that count, of each model")
    train.add_argument("--length", type=whole(2, 1 << 20), default=256,
                       help="of a row, in tokens; a step takes eight rows")
    train.add_argument("--seed", type=int, default=0, help="of weights and texts")
    train.add_argument("--compile", action="store_true", help="compile both models first: minutes")
    _add_save(train)
    overlap = _add(what, "overlap", _OVERLAP)
    overlap.set_defaults(run=run_bench_overlap)
    overlap.add_argument("--ranks", type=whole(2, 64), default=2, help="processes")
    overlap.add_argument("--steps", type=whole(), default=8, help="that count, of each way")
    _add_save(overlap)
    serve = _add(what, "serve", _SERVE)
    serve.set_defaults(run=run_bench_serve)
    add_serve_options(serve)
    _add_save(serve)
    card = _add(what, "card", _CARD)
    card.set_defaults(run=run_bench_card)
    card.add_argument("--data", type=file_to_read, metavar="FILE",
                      help="to train on (default: the course's stories)")
    card.add_argument("--steps", type=whole(), default=40, help="of each training")
    card.add_argument("--rate", type=number(above=0), default=4.0, help="requests a second of the load")
    card.add_argument("--seconds", type=number(above=0), default=10.0, help="of load")
    card.add_argument("--seed", type=int, default=0, help="of the requests")
    _add_save(card)
    kernels = _add(what, "kernels", _KERNELS)
    kernels.set_defaults(run=run_bench_kernels)
    kernels.add_argument("--only", nargs="+", metavar="NAME", help="some of them (default: all)")
    kernels.add_argument("--compile", action="store_true",
                         help="also compile for sm_80, sm_90, sm_100: registers, shared memory, spills")
    _add_save(kernels)


def run_bench(args: argparse.Namespace) -> None:
    """Print the rows as they come, and save them if asked to. Raises ValueError, before a model is loaded,
    for a trace or a setting that is wrong."""
    benchmark = BENCHMARKS[args.what]
    options = {name: getattr(args, name) for name in benchmark.options}
    if "trace" in options:
        _check_trace(options)
    options |= settings_of(args)
    measure = getattr(import_module(f"aiinfra.bench.{benchmark.module}"), benchmark.function)
    settings = {"command": f"bench {args.what}", "model": str(args.model)}
    _print_rows(measure(args.model, **options), settings, options, args.save)


def _check_trace(options: dict[str, Any]) -> None:
    """What is wrong with the requests is said now; `requests` is a number afterwards, or there is a file."""
    from aiinfra.bench.trace import check_duration, check_trace
    if options["trace"] is None:
        options["requests"] = options["requests"] or _REQUESTS
        check_duration(options["requests"], options.get("rate", inf))
        return
    if options.pop("requests") is not None:
        raise ValueError("--trace and --requests both say how many requests there are. Leave one of them "
                         "out.")
    check_trace(options["trace"])


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
    from aiinfra.checkpoint.hub import DEFAULT_MODEL, resolve
    load = _load(args)
    load.check(args.sweep)                                # before a server is started
    key = args.api_key or api_key()
    model, serving = args.model, nullcontext(args.url)
    if args.url is None:
        model = None                                      # ours has one, and knows its name
        own, settings = args.model or DEFAULT_MODEL, settings_of(args)
        resolve(own)                                      # a name that is none, or a download, is seen here
        serving = own_server(own, _own(settings), key)
    with serving as url:
        endpoint = Endpoint(url, model, key, asked=args.ask, plain=args.plain)
        test = LoadTest(endpoint, load)
        sweeping = args.sweep is not None
        measured = test.sweep(args.sweep) if sweeping else test.rows()
        settings = {"command": "bench serve", "model": args.model or "the server's first"}
        try:
            _print_rows(measured, settings, said_of(args), args.save)
        finally:
            if args.plot and any(run.answered for run in test.runs):
                from aiinfra.bench.serve_plot import plot
                plot(test.runs, args.plot)


def _load(args: argparse.Namespace) -> "Load":
    """What is asked of the server; fills in the defaults. Raises ValueError for what contradicts itself."""
    from aiinfra.bench.serve import Load
    from aiinfra.plan.latency import LatencyTarget
    check_together(args)
    args.arrivals = args.arrivals or "poisson"
    if args.rate is None and args.arrivals != "trace":
        args.rate = 1.0
    if args.trace is None:
        args.input = args.input or lengths("16:256")
        args.output = args.output or lengths("16:128")
    drawn = {"prompt_tokens": args.input, "output_tokens": args.output}
    return Load(
        rate=args.rate,
        users=args.users,
        requests=args.requests,
        arrivals=args.arrivals,
        trace=args.trace,
        prefixes=args.prefixes,
        vocab_size=args.vocab_size,
        hang_up=args.hang_up,
        target=LatencyTarget(ttft_seconds=args.ttft_target, tpot_seconds=args.tpot_target),
        seed=args.seed,
        **{name: value for name, value in drawn.items() if value is not None},
    )


def _own(settings: dict[str, object]) -> list[str]:
    """The engine's settings, as our server takes them."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


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
    from aiinfra.gpu.compile import compile_report
    from aiinfra.gpu.compile_table import as_text
    settings, measured = kernels.settings(), kernels.run(names=args.only)
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    rows = []
    try:
        for row in measured:
            rows.append(row)
            print(row, flush=True)
    finally:                              # as in _print_rows
        if args.save and rows:
            save_json(rows, {"command": "bench kernels", **settings}, args.save)
    if args.compile:
        print(as_text(compile_report()))
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
        add("--trace", type=file_to_read, metavar="FILE", help=TRACE)
        add("--requests", type=whole(1, MOST_REQUESTS),
            help=f"without a file: how many (default: {_REQUESTS}), prompts of 16 to 256 tokens, answers of "
                 "16 to 128")
    if "turns" in options:
        add("--turns", type=whole(), default=1, help="serve the trace so many times, and take the median")
    if "rate" in options:
        add("--rate", type=number(above=0, endless=True), default=1.0,
            help="requests a second, on average, where the file has no times")
    if "seed" in options:
        add("--seed", type=int, default=0, help="of the trace")
        add_engine_settings(parser)


def _add_save(parser: Parser) -> None:
    parser.add_argument("--save", type=file_to_write(), metavar="FILE", help=_SAVE)
