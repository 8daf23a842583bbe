"""`python -m aiinfra.bench.gpu_report`, or `make gpu`: all that only a GPU can tell, with one command.

    part 1 ──► a process of its own, with a limit ──► rows, one by one ──► data/recorded/<gpu>.json
    part 2 ──► …                                      a part that fails or hangs ends no other

What is short and teaches most comes first: the environment, every kernel checked and timed, graphs and the
step ahead against tokens made one by one, decoding, the peers, then tests. No network, no model file.
Without a GPU it says what it would do; with --fake it does it on a GPU that computes nothing, whose figures
mean nothing. Notebooks draw what was recorded.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from threading import Timer
from typing import Any

import torch

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench import gpu_training
from aiinfra.bench import kernels as bench_kernels
from aiinfra.bench.kernel_row import KernelRow
from aiinfra.bench.kernels_a_token import kernels_rows
from aiinfra.bench.launches import measure_launches
from aiinfra.bench.overlap import copies_row
from aiinfra.bench.row import Row, reason_of
from aiinfra.bench.targets import measured, summary
from aiinfra.bench.token_checks import token_rows
from aiinfra.device import build_tools_missing, default_device, device_name, gpu_report
from aiinfra.files import write_json
from aiinfra.gpu.fake import fake_gpu
from aiinfra.gpu.replaced import replaced

_ROOT = Path(__file__).parents[2]
_LAST_SECONDS = 10.0
_TEST_SECONDS = 600.0
_MOST_SAID = 200                            # characters of a process's last words


@dataclass(frozen=True)
class ReportPart:
    """What is done in one process."""

    about: str
    seconds: float
    rows: Callable[[], Iterator[Row]]


def environment_rows() -> Iterator[Row]:
    """What kernels need here, and what a launch costs."""
    note = f"{gpu_report()} torch {torch.__version__}, CUDA {torch.version.cuda}"
    yield Row("environment", ours=None, unit="", note=note)
    if missing := build_tools_missing():
        raise RuntimeError(missing)
    found = measure_launches(default_device(), budget_seconds=0.1)
    graph = found.graph_seconds
    yield Row("a launch", 1e6 * found.eager_seconds, "µs", note="asked for one by one")
    yield Row("a launch in a graph", None if graph is None else 1e6 * graph, "µs")


def _gpu_rows(*targets: str) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        parts = [part for part in bench_gpu.PARTS if part[0] in targets]
        with replaced(bench_gpu, PARTS=parts):
            yield from bench_gpu.bench_gpu(device=default_device())
    return rows


def _copies() -> Iterator[Row]:
    yield copies_row(default_device())


PARTS = {
    "environment": ReportPart("driver, compiler, memory; what a launch costs", 90, environment_rows),
    "asked": ReportPart("how many kernels a token is, counted", 60, kernels_rows),
    "kernels": ReportPart("every kernel: right in float64, and its time (G6 to G10)", 150, bench_kernels.run),
    "tokens": ReportPart("graphs, the step ahead, guesses: the tokens of plain steps", 150, token_rows),
    "decode": ReportPart("decoding one request, and 64 (G1, G2, G3, G13)", 180,
                         _gpu_rows("G1", "G2", "G3", "G13")),
    "copies": ReportPart("copies that computation hides (G12)", 120, _copies),
    "training": ReportPart("steps of a 1B model (G11)", 300, gpu_training.training_rows),
    "peers": ReportPart("256 requests, and transformers (G4, G5)", 600, _gpu_rows("G4")),
}


def run_part(name: str, write: Callable[[str], object]) -> None:
    """In a process of its own: each row of a part, as a line of JSON, when it is there."""
    rows = PARTS[name].rows()
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as failed:                 # the last row of this part; the next part is not its heir
            row = Row(f"part {name}", ours=None, unit="", note=f"failed: {reason_of(failed)}")
        write(json.dumps(as_json(row)))


def as_json(row: Row) -> dict[str, Any]:
    """A row with its ratio, and for a kernel whether its result is right."""
    fields = {"name": row.name, "ours": row.ours, "unit": row.unit, "peer": row.peer, "ratio": row.ratio,
              "peer_name": row.peer_name, "note": row.note, "target": row.target}
    if isinstance(row, KernelRow):
        fields |= {"setting": row.setting, "correct": row.correct, "error": f"{row.error:.1e}"}
    return fields


def rows_of(name: str, fake: bool) -> Iterator[dict[str, Any]]:
    """Start a part and hand on its rows; the last one says so if it had to be ended."""
    command = ["aiinfra.bench.gpu_report", "--part", name]
    if fake:
        command.append("--fake")
    yield from run_limited(name, command, PARTS[name].seconds)


def tests_of(path: str) -> Iterator[dict[str, Any]]:
    """The same for a file or folder of tests: a row."""
    yield from run_limited(path, ["pytest", "-q", "-x", "-p", "no:cacheprovider", path], _TEST_SECONDS)


def run_limited(name: str, module: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """`python -m module …` in a process that is ended after `seconds`: the rows that it prints as JSON, and
    one more if it prints none, fails, or is ended."""
    begun = time.monotonic()
    last = ""
    rows = 0
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as child:
        limit = Timer(seconds, _end, [child])
        limit.start()
        try:
            for line in child.stdout:
                last = line.strip() or last
                if line.startswith("{"):
                    rows += 1
                    yield json.loads(line)
            child.wait(_LAST_SECONDS)          # it has said its last word
        finally:
            limit.cancel()
            _end(child)
    took = time.monotonic() - begun
    if took >= seconds:
        yield _said(name, f"ended at its limit of {seconds:g} s", failed=True)
    elif child.returncode or not rows:
        yield _said(name, f"{last[-_MOST_SAID:]} ({took:.0f} s)", failed=child.returncode != 0)


def _end(child: subprocess.Popen) -> None:
    """End a part with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _said(name: str, note: str, failed: bool) -> dict[str, Any]:
    row = Row(name, ours=None, unit="", note=("failed: " if failed else "") + note)
    return as_json(row)


def report(found: Iterator[dict[str, Any]], device: str, save: Path | None) -> int:
    """Print rows as they come, keep them in a file, and end with the table of targets; 1 if one is bad."""
    settings = {
        "command": "gpu_report",
        "device": device,
        "date": str(date.today()),
        "torch": torch.__version__,
    }
    rows = []
    for row in found:
        rows.append(row)
        print(line_of(row), flush=True)
        if save is not None:
            write_json(save, {"settings": settings, "rows": rows})
    print(summary(measured(rows), device))
    failed = [row["name"] for row in rows if is_bad(row)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def is_bad(row: dict[str, Any]) -> bool:
    """True for a part that failed, and for a kernel that is wrong."""
    return row["note"].startswith("failed") or row.get("correct") is False


def line_of(row: dict[str, Any]) -> str:
    """A row as text."""
    names = ("name", "ours", "unit", "peer", "peer_name", "note", "target")
    text = str(Row(**{name: row[name] for name in names}))
    if "setting" not in row:
        return text
    verdict = "right" if row["correct"] else "WRONG"
    return f"{text}  {row['setting']}: {verdict} ({row['error']})"


def everything(names: list[str], tests: list[str], fake: bool) -> Iterator[dict[str, Any]]:
    """The rows of these parts, and of tests; a line before each says how long it may take."""
    for name in names:
        print(f"── {name}: {PARTS[name].about}; at most {PARTS[name].seconds:.0f} s", flush=True)
        yield from rows_of(name, fake)
    for path in tests:
        print(f"── {path}: at most {_TEST_SECONDS:.0f} s", flush=True)
        yield from tests_of(path)


def plan_text(names: list[str], tests: list[str]) -> str:
    """What would be done, a line a part."""
    lines = [gpu_report(), "On a GPU this would run:"]
    for name in names:
        lines.append(f"  {name:12s} {PARTS[name].about} (at most {PARTS[name].seconds:.0f} s)")
    lines += [f"  {path} (at most {_TEST_SECONDS:.0f} s)" for path in tests]
    lines.append("With --fake it runs on a GPU that computes nothing: a test of this command.")
    return "\n".join(lines)


def small_shapes(stack: ExitStack) -> None:
    """For the fake GPU: it computes nothing, but Python is asked for every layer and step."""
    shapes = {name: replace(config, num_hidden_layers=1) for name, config in bench_gpu.SHAPES.items()}
    stack.enter_context(replaced(bench_gpu, SHAPES=shapes, STEPS=4, CONTEXT=16))
    stack.enter_context(replaced(gpu_training, TEXTS=1, LENGTH=64, STEPS=1, WARMUP=1, WAYS=(False,)))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m aiinfra.bench.gpu_report", description=(
        "All that only a GPU can tell: correctness, speed beside targets and peers."))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS),
                        help="some parts (default: all)")
    parser.add_argument("--tests", nargs="+", metavar="PATH", default=[], help="then run these tests")
    parser.add_argument("--save", type=Path, help="the JSON file (default: data/recorded/<gpu>.json)")
    parser.add_argument("--fake", action="store_true",
                        help="on a GPU that computes nothing; saves nothing unless told where")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        if args.part and args.fake:
            stack.enter_context(fake_gpu(numbers=True))
            small_shapes(stack)
        if args.part:
            run_part(args.part, lambda line: print(line, flush=True))
            return 0
    if not args.fake and default_device().type != "cuda":
        print(plan_text(args.only, args.tests))
        return 0
    save = args.save
    if save is None and not args.fake:
        name = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
        save = _ROOT / "data" / "recorded" / f"{name}.json"
    device = "a fake GPU" if args.fake else device_name()
    return report(everything(args.only, args.tests, args.fake), device, save)


if __name__ == "__main__":
    sys.exit(main())
