"""`python -m aiinfra bench …`: what can be measured, with which options. PyTorch is imported only to do it.

    bench latency --set max_running=8 --save rows.json
          │       └ a setting of the engine
          └ a line of the table below: module and function that yield the rows
"""

import argparse
from collections.abc import Iterator
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from aiinfra.engine.command import add_engine_settings, add_model_argument
from aiinfra.files import save_json

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
    "engine": Benchmark(
        "where a decode step's time goes, at 1, 8 and 32 requests",
        "steps", "bench_engine", options=("seed",)),
    "gpu": Benchmark(
        "on a GPU: decoding against its memory's bandwidth, CUDA graphs, 256 requests against transformers",
        "gpu", "bench_gpu"),
    "neighbour": Benchmark(
        "decoding beside a process that keeps a core busy, against decoding alone",
        "neighbour", "bench_neighbour"),
    "load": Benchmark(
        "a fresh process: seconds to the first token, peak memory",
        "first_token", "bench_load"),
}
_TRACE = ('JSON lines such as {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}, '
          'or with the ids as "prompt" (None: random, seeded)')
_SAVE = "also write the rows and their settings as JSON"
_TRAIN = "a step of training: ours against transformers' model in the same loop, with the same losses"
_OVERLAP = "what of communication computation hides: gradients, batches; on a GPU copies, too"
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
    kernels = _add(what, "kernels", _KERNELS)
    kernels.set_defaults(run=run_bench_kernels)
    kernels.add_argument("--only", nargs="+", metavar="NAME", help="some of them (None: all)")
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


def run_bench_overlap(args: argparse.Namespace) -> None:
    """As `run_bench`, for small models of random weights. Raises RuntimeError if two ways computed
    differently."""
    from aiinfra.bench.overlap import bench_overlap
    options = {"ranks": args.ranks, "steps": args.steps}
    settings = {"command": "bench overlap", "model": "small models of random weights"}
    _print_rows(bench_overlap(**options), settings, options, args.save)


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
    rows = kernels.run(names=args.only)
    print("\n".join(map(str, rows)))
    if args.compile:
        print(compiler.table(compiler.compile_report()))
    if args.save:
        save_json(rows, {"command": "bench kernels", **settings}, args.save)
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


def _add_save(parser: Parser) -> None:
    parser.add_argument("--save", type=Path, metavar="FILE", help=_SAVE)
