"""`python -m aiinfra plan …`: questions that are answered before anything runs, a line of the table each.

    plan memory --model config.json --batch 8 --sequence 4096 --memory H100 --fsdp 8
    plan serve --model deepseek-r1 --gpu H200 --gpus 8 --tp 8 --precision fp8 --concurrency 64
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aiinfra.errors import plural

Parser = argparse.ArgumentParser
_RESERVE = 0.1


class Question(NamedTuple):
    """What can be asked: its line of help, and who adds its arguments."""

    help: str
    add: Callable[[Parser], None]


def add_plan(parser: Parser) -> None:
    """A command below it for each question."""
    what = parser.add_subparsers(metavar="what", required=True)
    for name, question in QUESTIONS.items():
        text = question.help
        one = what.add_parser(name, help=text, description=text[0].upper() + text[1:])
        question.add(one)


def add_memory(parser: Parser) -> None:
    """The arguments of `plan memory`: the run, and the device it must fit."""
    add = parser.add_argument
    add("--model", default="smollm2-135m",
        help="a known name, a Hugging Face folder (its config.json is enough), a .json or a .gguf file")
    add("--batch", type=int, default=8, help="rows a micro-batch, on each data-parallel rank")
    add("--sequence", type=int, default=2048, help="tokens a row")
    add("--accumulate", type=int, default=1, help="micro-batches a step")
    add("--dtype", help="to compute in; weights stay float32 (default: bfloat16 on a GPU, else float32)")
    add("--recompute", default="none",
        help="activations to compute again instead of keeping them: none, operation or block")
    add("--memory", default="this machine",
        help='of one device: bytes (80e9, 80GB, 64GiB), a GPU such as H100, H200 or H20, or "this machine"')
    add("--reserve", type=float, default=_RESERVE,
        help="share of it that stays free for what the prediction does not see")
    add("--dp", type=int, default=1, help="data-parallel ranks that each hold everything that --zero leaves")
    add("--zero", type=int, default=0,
        help="what --dp ranks divide: 1 the optimizer's state, 2 gradients, too, 3 parameters, too")
    add("--fsdp", type=int, default=1, help="so many ranks divide everything: --dp N --zero 3")
    add("--tp", type=int, default=1, help="ranks that share each matrix (tensor parallel)")
    add("--json", action="store_true", help="print everything as one JSON object")
    parser.set_defaults(run=run_memory)


def run_memory(args: argparse.Namespace) -> None:
    """Print the answer. Raises ValueError for settings that do not go together."""
    import json

    from aiinfra.checkpoint.shape import read_config
    from aiinfra.perf.memory import parameter_count
    from aiinfra.plan.budget import read_budget
    from aiinfra.plan.fit import PlannedRun
    from aiinfra.plan.report import answer, lines
    budget = read_budget(args.memory)
    run = PlannedRun(
        rows=args.batch,
        length=args.sequence,
        accumulate=args.accumulate,
        narrow=_narrow(args.dtype, budget.gpu),
        recompute=args.recompute,
        sharding=_sharding(args),
        backend="triton" if budget.gpu else "torch")
    shape = read_config(args.model)
    found = answer(shape, run, budget, args.reserve)
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
        return
    weights = parameter_count(shape)
    bits = "16 bits" if run.narrow else "float32"
    print(f"{args.model}: {weights / 1e6:,.1f} million parameters, AdamW; {plural(run.rows, 'row')} of "
          f"{run.length:,} tokens in {bits}, recompute {run.recompute}, {_ranks(run.sharding)}")
    print("\n".join(lines(found)))


def _narrow(dtype: str | None, gpu: bool) -> bool:
    """True for 16 bits."""
    from aiinfra.device import as_dtype
    if dtype is None:
        return gpu
    return as_dtype(dtype, "cpu").itemsize == 2


def _sharding(args: argparse.Namespace) -> Any:
    from aiinfra.perf.sharding import Sharding
    if args.fsdp == 1:
        return Sharding(ranks=args.dp, stage=args.zero, tensor=args.tp)
    if args.zero not in (0, 3):
        raise ValueError(f"--fsdp {args.fsdp} divides everything, --zero {args.zero} less. Give --dp and "
                         "--zero, or --fsdp.")
    if args.dp < 1:
        raise ValueError(f"--dp {args.dp}; it must be at least 1.")
    return Sharding(ranks=args.fsdp, stage=3, tensor=args.tp)     # --dp copies of such a group change nothing


def _ranks(sharding: Any) -> str:
    if sharding.ranks * sharding.tensor == 1:
        return "on one device"
    words = f"on {sharding.ranks} data-parallel ranks, stage {sharding.stage}"
    if sharding.tensor > 1:
        words += f", each {sharding.tensor} tensor-parallel ones"
    return words


def add_serve(parser: Parser) -> None:
    """The arguments of `plan serve`."""
    add = parser.add_argument
    add("--model", default="llama-3.1-8b",
        help="a name such as deepseek-r1 or qwen3-235b-a22b, or a folder with a config.json")
    add("--gpu", default="H100", help='H20, H800, H100, H200, A100, B200, or "this machine", measured')
    add("--gpus", type=int, help="all of them: replicas of tp · dp (default: one replica)")
    add("--tp", type=int, default=1, help="ranks that share each matrix")
    add("--dp", type=int, default=1,
        help="groups with requests of their own, which share experts with --ep above 1, else nothing")
    add("--ep", type=int, default=1, help="ranks that experts are spread over")
    add("--redundant-experts", type=int, default=0, help="copies of the busiest experts")
    add("--imbalance", type=float, default=1.15, help="with --ep: what the busiest rank has, over the mean")
    add("--two-batches", action="store_true", help="transfers of one half overlap products of the other")
    add("--precision", default="bf16", help="of weights: bf16, fp8, int4, mxfp4 (experts alone) or fp32")
    add("--kv", default="bf16", help="of the cache: bf16, fp8 or fp32")
    add("--utilization", type=float, default=0.9, help="share of a GPU's memory that may be used")
    add("--token-budget", type=int, default=8192, help="tokens in a step of a group")
    add("--max-running", type=int, default=1024, help="requests that a group answers at a time")
    add("--drafts", type=int, default=0, help="guesses behind each token")
    add("--accepted", type=float, default=0.0,
        help="of which so many come true on average: stated by you, not predicted")
    add("--input", type=int, default=1024, help="tokens of a prompt")
    add("--shared-prefix", type=int, default=0, help="of them, the same in all prompts and cached")
    add("--output", type=int, default=1024, help="tokens of an answer")
    add("--concurrency", type=int, help="requests under way at any time, on all GPUs (None: 1)")
    add("--rate", type=float, help="or requests a second: finds how many are under way then")
    add("--apart", action="store_true", help="some replicas read prompts, others answer: how many of each?")
    add("--sweep", action="store_true", help="for 1, 2, 4, … requests under way, up to the knee and beyond")
    add("--price", type=float, help="dollars for a GPU and hour: what a million tokens cost")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> None:
    """Print the answer. Raises ValueError for what cannot be together."""
    from aiinfra.plan.serving_report import print_serve
    print_serve(args)


def add_check(parser: Parser) -> None:
    """The arguments of `plan check`."""
    parser.add_argument("--family", help="only families whose name has this in it, for instance H20")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> None:
    """Print every row with its signed error. Raises ValueError for an unknown family."""
    from aiinfra.plan.serving_report import print_check
    print_check(args)


def add_fidelity(parser: Parser) -> None:
    """The arguments of `plan fidelity`."""
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a known name, a Hugging Face folder or a .gguf file")
    add("--requests", type=int, default=32, help="of each of the two loads")
    add("--turns", type=int, default=3, help="of the measurement that the cost is made from")
    add("--runs", type=int, default=3, help="of the engine over each load: their median is compared")
    add("--seed", type=int, default=0, help="of the loads")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_fidelity)


def run_fidelity(args: argparse.Namespace) -> None:
    """Print engine and simulator side by side. Raises ValueError for a number below 1."""
    from aiinfra.plan.fidelity_report import print_fidelity
    print_fidelity(args)


def add_fleet(parser: Parser) -> None:
    """The arguments of `plan fleet`."""
    add = parser.add_argument
    add("--model", default="llama-3.1-8b",
        help="a name such as qwen3-32b, or a folder with a config.json")
    add("--gpu", default="H100", help='H20, H800, H100, H200, A100, B200, or "this machine", measured')
    add("--tp", type=int, default=1, help="GPUs of each replica")
    add("--precision", default="bf16", help="of weights: bf16, fp8, int4, mxfp4 (experts alone) or fp32")
    add("--kv", default="bf16", help="of the cache: bf16, fp8 or fp32")
    add("--trace", type=Path, metavar="FILE",
        help='JSON lines such as {"arrival_seconds": 0.4, "conversation": 7, "prompt_tokens": 57, '
             '"output_tokens": 80} (default: drawn by --hours and --rate)')
    add("--hours", type=float, help="without a file: how long the trace is; 24 is a day (default: 1)")
    add("--rate", type=float, help="without a file: requests a second, on average (default: 2)")
    add("--seed", type=int, help="without a file: of the trace (default: 0)")
    add("--replicas", type=int, help="so many from the start (default: the fewest that keep the target)")
    add("--router", default="prefix aware", help="round robin, least loaded or prefix aware")
    add("--token-budget", type=int, default=2048, help="tokens in a step")
    add("--chunk-tokens", type=int, help="of prompts in a step beside decodes (default: all of the budget)")
    add("--max-running", type=int, default=256, help="requests that a replica answers side by side")
    add("--start", type=float, default=120.0, help="seconds until a replica that was asked for serves")
    add("--autoscale", type=_least_most, metavar="LEAST:MOST",
        help="start replicas where many wait, drain those that are spare")
    add("--fail", type=float, action="append", default=[], metavar="SECONDS",
        help="a replica dies then; may be given several times")
    add("--target-ttft", type=float, default=2.0, help="seconds that a first token may take")
    add("--target-itl", type=float, default=0.05, help="seconds a token after it, mean of each answer")
    add("--share", type=float, default=0.99, help="of requests that must be in time")
    add("--price", type=float, default=2.0, help="dollars for a GPU and hour")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_fleet)


def run_fleet(args: argparse.Namespace) -> None:
    """Print the answer. Raises ValueError for what cannot be together, and for a target that no number of
    replicas keeps."""
    from aiinfra.plan.fleet_answer import print_fleet
    print_fleet(args)


def _least_most(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LEAST:MOST, such as 2:16.")
    return int(least), int(most)


def add_recorded(parser: Parser) -> None:
    """The arguments of `plan recorded`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_recorded)


def run_recorded(args: argparse.Namespace) -> None:
    """Print measured and simulated side by side, a setup after the other."""
    import json
    from dataclasses import asdict

    from tqdm import tqdm

    from aiinfra.plan.recorded import SETUPS, recorded_rows
    setups = tqdm(SETUPS.items(), desc="setups", leave=False, disable=None)
    found = {name: list(recorded_rows(setup)) for name, setup in setups}
    if args.json:
        rows = [asdict(row) | {"error": row.error} for some in found.values() for row in some]
        print(json.dumps(rows, indent=1))
        return
    for name, rows in found.items():
        print(f"\n{name}: 300 requests\n{'figure':18}{'measured':>10}{'simulated':>11}{'error':>9}")
        print("\n".join(map(str, rows)))


QUESTIONS = {
    "memory": Question("does this training run fit, and what is the largest batch that does?", add_memory),
    "serve": Question("what happens when this model is served so: does it fit, how fast, what binds?",
                      add_serve),
    "fidelity": Question("how far is the simulator from the engine on this machine?", add_fidelity),
    "fleet": Question("how many replicas for this traffic and these users, and at what price?", add_fleet),
    "recorded": Question("300 requests that others timed on vLLM: what does the simulator say of them?",
                         add_recorded),
    "check": Question("how far are our predictions from what others have published?", add_check),
}
