"""`python -m aiinfra generate | chat | serve`: what has an engine, on all ranks that torchrun has started.

    python -m aiinfra serve --model smollm2-135m --port 8000
    torchrun --nproc-per-node 3 -m aiinfra serve               rank 0 reads, answers and prints

The other ranks hold their share of the model. PyTorch and FastAPI are imported only to do it.
"""

import argparse
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiinfra.arguments import number, whole
from aiinfra.engine import command as engine
from aiinfra.environment import api_key, torchrun_place

if TYPE_CHECKING:
    import socket

    from aiinfra.engine import LLM


def add_generate(parser: argparse.ArgumentParser) -> None:
    """The arguments of `generate`."""
    engine.add_generate(parser)
    parser.set_defaults(run=partial(_run, engine.run_generate))


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The arguments of `chat`."""
    engine.add_chat(parser)
    parser.set_defaults(run=partial(_run, engine.run_chat))


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The arguments of `serve`."""
    add = parser.add_argument
    engine.add_model_arguments(parser)
    add("--host", default="127.0.0.1", help="address to listen at; one that others can reach needs --api-key")
    add("--port", type=whole(0, 65_535), default=8000, help="0: one that is free, which the first line names")
    add("--api-key", metavar="KEY", help="clients must send Authorization: Bearer KEY; others on this "
        "machine can see it here, and not in the variable AIINFRA_API_KEY (default: that one, else no key)")
    add("--name", help="of the model, for clients (default: its name or folder)")
    add("--max-queued-requests", type=whole(), default=256,
        help="answers that may wait; who comes then gets 429 at once")
    add("--max-queued-tokens", type=whole(), default=262_144, help="the same, of their prompts")
    add("--request-seconds", type=number(above=0), default=600.0,
        help="an answer that takes longer is given up")
    add("--max-body-bytes", type=whole(), default=4 << 20, help="of a request")
    add("--body-seconds", type=number(above=0), default=60.0, help="until its body is there, or 408")
    add("--drain-seconds", type=number(least=0), default=0.0,
        help="after SIGTERM, go on refusing for at least so long, so that routers notice")
    engine.add_engine_settings(parser)
    parser.set_defaults(run=run_serve)


def run_serve(args: argparse.Namespace) -> None:
    """Serve until a signal. Raises ValueError and OSError, before the model is loaded, for what cannot be."""
    from aiinfra.serve.engine_thread import made_aside
    from aiinfra.serve.server import bind, check_address
    place = torchrun_place()
    if args.api_key is None:                  # "" is no key, but somebody's mistake, and refused
        args.api_key = api_key()
    check_address(args.host, args.api_key)
    if place is not None and place.rank > 0:
        _end_with_rank_0()
        with_llm_on_ranks(args, None)
        return
    with bind(args.host, args.port) as listener:
        if place is None:
            _serve(args, listener, made_aside(lambda: _warmed_up(engine.make_llm(args))))
        else:
            with_llm_on_ranks(args, lambda llm: _serve(args, listener, _warmed_up(llm)))


def _warmed_up(llm: "LLM") -> "LLM":
    from aiinfra.engine import SamplingParams
    llm.generate([[0]], SamplingParams(temperature=0, max_tokens=2), use_tqdm=False)     # the first is slow
    return llm


def _serve(args: argparse.Namespace, listener: "socket.socket", llm: "LLM") -> None:
    from aiinfra.serve.admission import Admission
    from aiinfra.serve.app import make_app
    from aiinfra.serve.engine_thread import EngineThread
    from aiinfra.serve.server import HttpServer, serve_until_signal
    thread = EngineThread(llm)
    name = args.name or Path(args.model).absolute().name
    app = make_app(
        thread,
        name,
        admission=Admission(args.max_queued_requests, args.max_queued_tokens),
        api_key=args.api_key,
        request_seconds=args.request_seconds,
        max_body_bytes=args.max_body_bytes,
        body_seconds=args.body_seconds,
    )
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    ready = f"ready: {name} at {address}/v1"
    serve_until_signal(HttpServer(app, thread, ready, args.drain_seconds), listener)


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
    settings = engine.settings_of(args)
    run_on_ranks(use, args.model, dtype=args.dtype, quantization=args.quantize, **settings)


def _end_with_rank_0() -> None:
    """A signal that goes to all ranks is rank 0's affair: it finishes its work first, with the others."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
