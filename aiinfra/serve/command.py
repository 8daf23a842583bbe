"""`python -m aiinfra generate | chat`: the commands of the engine, on all ranks that torchrun has started.

    torchrun --nproc-per-node 3 -m aiinfra generate --prompt "The sea is"

Rank 0 reads, answers and prints; the others hold their share of the model. PyTorch is imported only to do it.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aiinfra.engine import command as engine
from aiinfra.environment import torchrun_place

if TYPE_CHECKING:
    from aiinfra.engine import LLM


def add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `generate`."""
    engine.add_generate(parser)
    parser.set_defaults(run=partial(_run, engine.run_generate))


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The arguments of `chat`."""
    engine.add_chat(parser)
    parser.set_defaults(run=partial(_run, engine.run_chat))


def _run(command: Callable[..., None], args: argparse.Namespace) -> None:
    place = torchrun_place()
    if place is None:
        command(args)
    elif place.rank == 0:
        command(args, with_llm_on_ranks)
    else:
        with_llm_on_ranks(args, None)


def with_llm_on_ranks(args: argparse.Namespace, use: Callable[["LLM"], None] | None) -> None:
    """Under torchrun, as `engine.command.with_llm`: all ranks call it, and only rank 0 uses the LLM.

    Raises ValueError for a device that these ranks do not have, Disagreement for a rank with other arguments
    or versions, and whatever `run_on_ranks` raises.
    """
    from aiinfra.parallel.launch import init_ranks
    from aiinfra.serve.ranks import run_on_ranks
    compared = {name: getattr(args, name) for name in ("model", "dtype", "device", "quantize")}
    device = init_ranks(compared)
    if args.device not in (None, device.type):
        raise ValueError(f"--device {args.device}: the ranks that torchrun has started compute on "
                         f"{device.type} here. Leave it out.")
    run_on_ranks(use, args.model, dtype=args.dtype, quantization=args.quantize)
