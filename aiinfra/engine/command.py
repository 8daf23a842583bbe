"""`python -m aiinfra generate | chat`: their arguments, and what they do. PyTorch is imported only to do
it."""

import argparse
import sys
import time
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from aiinfra.engine.options import EngineOptions
from aiinfra.errors import nearest

if TYPE_CHECKING:
    from aiinfra.engine import LLM, CompletionOutput, RequestOutput, SamplingParams

Parser = argparse.ArgumentParser
_SET = "a setting of the engine, such as mode=static or token_budget=128; may be given several times"
# How an LLM is made, of a command's arguments, for who uses it.
WithLLM = Callable[[argparse.Namespace, Callable[["LLM"], None]], None]


def add_generate(parser: Parser) -> None:
    """The arguments of `generate`."""
    add = parser.add_argument
    add_model_arguments(parser)
    add("--prompt", required=True, help="the text to continue; - reads it from standard input")
    _add_sampling_arguments(parser, max_tokens=64)
    add("--n", type=int, default=1, help="so many answers, one after another; needs a temperature")
    parser.set_defaults(run=run_generate)


def add_chat(parser: Parser) -> None:
    """The arguments of `chat`."""
    add_model_arguments(parser)
    parser.add_argument("--system", help="a system message to begin with")
    _add_sampling_arguments(parser, max_tokens=512, temperature=0.7)
    parser.set_defaults(run=run_chat, n=1)


def make_llm(args: argparse.Namespace) -> "LLM":
    """The LLM that the arguments name."""
    from aiinfra.engine import LLM
    return LLM(args.model, args.dtype, args.device, quantization=args.quantize, **settings_of(args))


def with_llm(args: argparse.Namespace, use: Callable[["LLM"], None]) -> None:
    """Make the LLM that the arguments name, in this process, and use it."""
    use(make_llm(args))


def run_generate(args: argparse.Namespace, with_llm: WithLLM = with_llm) -> None:
    """Print the completion as it is made; several, once they are complete."""
    params = _sampling_params(args)
    _print_any_letter()
    prompt = _read_stdin() if args.prompt == "-" else args.prompt
    with_llm(args, partial(_complete, prompt, params))


def _complete(prompt: str, params: "SamplingParams", llm: "LLM") -> None:
    if params.n == 1:
        for piece in _pieces(llm.stream(prompt, params)):
            print(piece, end="", flush=True)
        print()
        return
    for out in llm.generate(prompt, params)[0].outputs:
        _check_numbers(out)
        print(f"--- {out.index + 1} of {params.n}\n{out.text}")


def run_chat(args: argparse.Namespace, with_llm: WithLLM = with_llm) -> None:
    """A conversation: read a line, stream the answer, keep both."""
    params = _sampling_params(args)
    _print_any_letter()
    _edit_lines()
    print(f"loading {args.model} … (an empty line or Ctrl-D ends, Ctrl-C cuts an answer short)", flush=True)
    with_llm(args, partial(_converse, args.system, params))


def _converse(system: str | None, params: "SamplingParams", llm: "LLM") -> None:
    messages = [{"role": "system", "content": system}] if system else []
    while line := _ask():
        messages.append({"role": "user", "content": line})
        try:
            answer = _answer(llm, messages, params)
        except ValueError as error:               # this turn cannot be answered; the conversation stays
            print(f"error: {error}", file=sys.stderr)
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})


def _answer(llm: "LLM", messages: list[dict[str, str]], params: "SamplingParams") -> str:
    """Print the answer as it is made, and its speed; returns what there is of it, also if Ctrl-C cuts it
    short."""
    said = ""
    times = []
    try:
        for piece in _pieces(llm.stream(llm.tokenizer.encode_chat(messages), params)):
            times.append(time.perf_counter())
            said += piece
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    print(_speed(times))
    return said


def _speed(times: list[float]) -> str:
    """Tokens a second between the first and the last, from the moment of each; "" for fewer than two."""
    if len(times) < 2 or not sys.stdout.isatty():
        return ""
    rate = (len(times) - 1) / (times[-1] - times[0])
    return f"\n[{rate:.0f} tokens/s]"


def _print_any_letter() -> None:
    """Where the terminal's encoding lacks a letter, print ? instead of ending there."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _edit_lines() -> None:
    """Let input() understand the arrow keys, where Python has readline."""
    with suppress(ImportError):                   # Windows
        import readline                           # noqa: F401  importing it is all


def add_model_argument(parser: Parser) -> None:
    """--model, the same for every command that has one."""
    kinds = "a known name, a Hugging Face folder or a .gguf file"
    parser.add_argument("--model", default="smollm2-135m", help=kinds)


def add_model_arguments(parser: Parser) -> None:
    """--model and how to load it."""
    add = parser.add_argument
    add_model_argument(parser)
    add("--device", help="cpu or cuda (default: a GPU if there is one)")
    add("--dtype", help="float32, bfloat16 or float16 (default: bfloat16 on a GPU, else float32)")
    add("--quantize", choices=("int8", "int4"), help="weights of 8 or 4 bits (default: of the dtype)")


def add_engine_settings(parser: Parser) -> None:
    """--set, the same for every command that has an engine: `args.set` is a list of (name, value)."""
    parser.add_argument("--set", type=_engine_setting, action="append", default=[], metavar="OPTION=VALUE",
                        help=_SET)


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """Those of --set; none of a command that does not have it. Raises ValueError for a value that cannot
    be."""
    settings = dict(getattr(args, "set", []))
    EngineOptions(**settings)
    return settings


def _engine_setting(text: str) -> tuple[str, object]:
    """`name=value` for the engine; the value is a number, True, False, or a word."""
    name, equals, value = text.partition("=")
    known = EngineOptions.names()
    if not equals or name not in known:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not OPTION=VALUE.{nearest(name, known)} Known: {', '.join(known)}.")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _add_sampling_arguments(parser: Parser, max_tokens: int, temperature: float = 0.0) -> None:
    add = parser.add_argument
    add("--max-tokens", type=int, default=max_tokens, help="at most so many new tokens")
    add("--temperature", type=float, default=temperature, help="0: always the likeliest token")
    add("--top-k", type=int, default=0, help="sample from the k likeliest; 0: from all")
    add("--top-p", type=float, default=1.0, help="sample from the likeliest that reach this probability")
    add("--min-p", type=float, default=0.0,
        help="sample from those at least so likely as this times the likeliest")
    add("--repetition-penalty", type=float, default=1.0,
        help="above 1: tokens seen before become less likely")
    add("--stop", action="append", default=[], help="end before this text; may be given several times")
    add("--seed", type=int, help="same seed, same tokens")
    add("--ignore-eos", action="store_true", help="go on past the end of sequence")


def _sampling_params(args: argparse.Namespace) -> "SamplingParams":
    from aiinfra.engine import SamplingParams
    names = [field.name for field in fields(SamplingParams) if hasattr(args, field.name)]
    return SamplingParams(**{name: getattr(args, name) for name in names})


def _pieces(outputs: "Iterable[RequestOutput]") -> Iterator[str]:
    """The new text of each growing output."""
    shown = 0
    for request in outputs:
        text = request.outputs[0].text
        yield text[shown:]
        shown = len(text)
        _check_numbers(request.outputs[0])


def _check_numbers(out: "CompletionOutput") -> None:
    from aiinfra.engine.sampler import NOT_FINITE
    if out.finish_reason == "error":
        raise RuntimeError(NOT_FINITE)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"standard input is not UTF-8: byte {error.start} is 0x{byte:02X}. "
                         "Convert it first, for example with iconv.") from error


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
