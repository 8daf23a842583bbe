"""The command line: `python -m aiinfra generate | chat | bench | fetch | info`, each with --help.

An error is one line on stderr and exit status 1 (2 for a wrong argument), never a traceback; `--debug` shows it.
"""

import argparse
import signal
import sys
from ast import literal_eval
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from aiinfra.errors import nearest


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    args = argparse.Namespace(debug=False)        # until they are known: reading `--set` imports PyTorch, which takes seconds
    try:
        args = parser().parse_args(argv)
        _import_torch()
        args.run(args)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:                       # `… | head` closed the pipe: nothing is wrong
        sys.stderr.close()
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, LookupError, ArithmeticError, AttributeError,
            ImportError) as error:
        if args.debug:
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = _Parser(prog="python -m aiinfra", description="Run, time and serve language models on a CPU or a GPU.")
    commands = top.add_subparsers(metavar="command", required=True)

    generate = _command(commands, "generate", run_generate, "complete a prompt")
    _model_arguments(generate)
    generate.add_argument("--prompt", required=True, help="the text to continue; - reads it from standard input")
    _sampling_arguments(generate, max_tokens=64)
    generate.add_argument("--n", type=int, default=1, help="so many answers, one after another; needs a temperature")

    chat = _command(commands, "chat", run_chat, "talk to the model; an empty line or Ctrl-D ends, Ctrl-C cuts an answer short")
    _model_arguments(chat)
    chat.add_argument("--system", help="a system message to begin with")
    _sampling_arguments(chat, max_tokens=512, temperature=0.7)

    bench = _command(commands, "bench", None, "measure, against others where there are any")
    _bench_commands(bench.add_subparsers(metavar="what", required=True))

    fetch = _command(commands, "fetch", run_fetch, "download a known model into the cache folder, unless it is there")
    fetch.add_argument("name", nargs="?", default="smollm2-135m", help="its name")
    fetch.add_argument("--cache", type=Path, help="another cache folder (None: $AIINFRA_CACHE or the user's own)")
    _command(commands, "info", run_info, "say what this machine offers and where models are kept")
    return top


def run_generate(args: argparse.Namespace) -> None:
    """Print the completion as it is made; several, once they are complete."""
    from aiinfra.engine import LLM
    params = _sampling_params(args)
    prompt = _read_stdin() if args.prompt == "-" else args.prompt
    llm = LLM(args.model, args.dtype, args.device, quantization=args.quantize)
    if params.n == 1:
        for piece in _pieces(llm.stream(prompt, params)):
            print(piece, end="", flush=True)
        print()
        return
    for out in llm.generate(prompt, params)[0].outputs:
        _check_numbers(out)
        print(f"--- {out.index + 1} of {params.n}\n{out.text}")


def run_chat(args: argparse.Namespace) -> None:
    """A conversation: read a line, stream the answer, keep both."""
    from aiinfra.engine import LLM
    params = _sampling_params(args)
    llm = LLM(args.model, args.dtype, args.device, quantization=args.quantize)
    messages = [{"role": "system", "content": args.system}] if args.system else []
    while (line := _ask()):
        messages.append({"role": "user", "content": line})
        answer = ""
        try:
            for piece in _pieces(llm.stream(llm.tokenizer.encode_chat(messages), params)):
                answer += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:                 # cut short: keep what was said, and go on
            print(" …", end="")
        except ValueError as error:               # this turn cannot be answered; the conversation stays
            print(f"error: {error}", file=sys.stderr)
            messages.pop()
            continue
        print()
        messages.append({"role": "assistant", "content": answer})


def run_bench(args: argparse.Namespace) -> None:
    """Print the rows as they come, and save them if asked to."""
    import torch

    from aiinfra import device
    from aiinfra.bench import decode as bench, gpu as bench_gpu, throughput as bench_serving, steps as bench_steps
    from aiinfra.files import save_json
    measure = {"decode": bench.bench_decode, "load": bench.bench_load, "engine": bench_steps.bench_engine, "gpu": bench_gpu.bench_gpu,
               "throughput": bench_serving.bench_throughput, "latency": bench_serving.bench_latency}[args.what]
    options = {name: getattr(args, name) for name in args.options} | dict(getattr(args, "set", []))
    print(f"{args.model} on {device.device_name()}, torch {torch.__version__}")
    settings = {"command": f"bench {args.what}", "model": str(args.model), "device": device.device_name(),
                "torch": torch.__version__, "threads": torch.get_num_threads(), "date": str(date.today()),
                **{name: value.name if isinstance(value, Path) else value for name, value in options.items()}}
    rows = []
    try:
        for row in measure(args.model, **options):
            rows.append(row)
            print(row, flush=True)
    finally:                                      # after minutes, what has been measured is kept, whatever comes then
        if args.save and rows:
            save_json(rows, settings, args.save)


def run_bench_kernels(args: argparse.Namespace) -> None:
    """Print a line a kernel, and save them if asked to. Raises RuntimeError if one computes something else."""
    from aiinfra.bench import kernels as bench
    from aiinfra.gpu import compile as compiler
    from aiinfra.files import save_json
    settings = bench.settings()
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    rows = bench.run(names=args.only)
    print("\n".join(map(str, rows)))
    if args.compile:
        print(compiler.table(compiler.compile_report()))
    if args.save:
        save_json(rows, {"command": "bench kernels", **settings}, args.save)
    wrong = [row.name for row in rows if not row.correct]
    if wrong:
        raise RuntimeError(f"not equal to the reference: {', '.join(wrong)}.")


def run_fetch(args: argparse.Namespace) -> None:
    """Print where the model's file is, after fetching it if need be."""
    from aiinfra.checkpoint.hub import CATALOGUE, fetch
    if args.name not in CATALOGUE:
        raise ValueError(f"no known model {args.name!r}.{nearest(args.name, CATALOGUE)} Known names: {', '.join(CATALOGUE)}.")
    print(f"{args.name}: {fetch(args.name, args.cache)}")


def run_info(args: argparse.Namespace) -> None:
    """Versions, device and folders, a line each."""
    import torch

    from aiinfra import device, environment
    print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, {device.device_name()}")
    print(device.gpu_report())
    print(f"models: {environment.cache_dir() / 'models'}; your progress: {environment.data_dir()}")


class _Parser(argparse.ArgumentParser):
    """Says the nearest command for a mistyped one, in one line."""

    def error(self, message: str) -> None:
        if "invalid choice: '" in message:
            wrong, _, rest = message.split("invalid choice: '")[1].partition("'")
            message += nearest(wrong, [word.strip(" '()") for word in rest.split("choose from")[-1].split(",")])
        if "unrecognized arguments: -" in message:
            message += "." + nearest(message.split(": ")[1].split()[0].split("=")[0], _options(self))
        print(f"error: {message} See {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All that begin with a dash, those of the commands below too."""
    for action in parser._actions:
        yield from action.option_strings
        for below in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from _options(below)


def _command(commands: argparse._SubParsersAction, name: str, run, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                              formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    sub.set_defaults(run=run)
    return sub


def _bench_commands(what: argparse._SubParsersAction) -> None:
    """What can be measured, each with its own options."""
    requests = ("trace", "requests", "seed")
    for name, text, options in (
            ("decode", "one request: decode and prefill, against transformers; int4 against llama.cpp", ()),
            ("throughput", "64 mixed requests at once: the engine, against transformers' static batches and llama.cpp", (*requests, "turns")),
            ("latency", "the same requests by and by: what users wait for, and what they notice of a long prompt", (*requests, "rate")),
            ("engine", "where a decode step's time goes, at 1, 8 and 32 requests", ("seed",)),
            ("gpu", "on a GPU: decoding against its memory's bandwidth, CUDA graphs, 256 requests against transformers", ()),
            ("load", "a fresh process: seconds to the first token, peak memory", ())):
        one = _command(what, name, run_bench, text)
        one.set_defaults(what=name, options=options)
        _model_arguments(one, placing=False)
        _trace_arguments(one, options)
        _save_argument(one)

    kernels = _command(what, "kernels", run_bench_kernels, "every Triton kernel: against PyTorch on a GPU; correctness and GPU code without one")
    kernels.add_argument("--only", nargs="+", metavar="NAME", help="some of them (None: all)")
    kernels.add_argument("--compile", action="store_true", help="also compile for sm_80, sm_90, sm_100: registers, shared memory, spills")
    _save_argument(kernels)


def _trace_arguments(sub: argparse.ArgumentParser, options: tuple[str, ...]) -> None:
    """Those of `options`; and, where there is an engine, its own settings."""
    if "trace" in options:
        sub.add_argument("--trace", type=Path, metavar="FILE", help='JSON lines such as {"prompt_tokens": 57, "output_tokens": 80, '
                         '"arrival_seconds": 0.4}, or with the ids as "prompt" (None: random, seeded)')
        sub.add_argument("--requests", type=int, default=64, help="without a file: how many, prompts of 16 to 256 tokens, answers of 16 to 128")
    if "turns" in options:
        sub.add_argument("--turns", type=int, default=1, help="serve the trace so many times, and take the median")
    if "rate" in options:
        sub.add_argument("--rate", type=float, default=1.0, help="requests a second, on average, where the file has no times")
    if "seed" in options:
        sub.add_argument("--seed", type=int, default=0, help="of the trace")
        sub.add_argument("--set", type=_engine_option, action="append", default=[], metavar="OPTION=VALUE",
                         help="a setting of the engine, such as mode=static or token_budget=128; may be given several times")


def _engine_option(text: str) -> tuple[str, object]:
    """`name=value` for the engine; the value is a number, True, False, or a word."""
    from aiinfra.engine.options import EngineOptions
    name, equals, value = text.partition("=")
    known = EngineOptions.names()
    if not equals or name not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not OPTION=VALUE.{nearest(name, known)} Known: {', '.join(known)}.")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _import_torch() -> None:
    """What every command needs. Ctrl-C meanwhile ends the process at once: an exception in the midst of this import
    would be lost in C code, or leave a half-loaded NumPy that is then complained about."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import torch  # noqa: F401
    finally:
        signal.signal(signal.SIGINT, before)


def _save_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--save", type=Path, metavar="FILE", help="also write the rows and their settings as JSON")


def _model_arguments(sub: argparse.ArgumentParser, placing: bool = True) -> None:
    sub.add_argument("--model", default="smollm2-135m", help="a known name, a Hugging Face folder or a .gguf file")
    if placing:
        sub.add_argument("--device", help="cpu or cuda (None: a GPU if there is one)")
        sub.add_argument("--dtype", help="float32, bfloat16 or float16 (None: bfloat16 on a GPU, else float32)")
        sub.add_argument("--quantize", choices=("int8", "int4"), help="weights of 8 or 4 bits (None: of the dtype)")


def _sampling_arguments(sub: argparse.ArgumentParser, max_tokens: int, temperature: float = 0.0) -> None:
    sub.add_argument("--max-tokens", type=int, default=max_tokens, help="at most so many new tokens")
    sub.add_argument("--temperature", type=float, default=temperature, help="0: always the likeliest token")
    sub.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest; 0: from all")
    sub.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest that reach this probability")
    sub.add_argument("--min-p", type=float, default=0.0, help="sample from those at least so likely as this times the likeliest")
    sub.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: tokens seen before become less likely")
    sub.add_argument("--stop", action="append", default=[], help="end before this text; may be given several times")
    sub.add_argument("--seed", type=int, help="same seed, same tokens")
    sub.add_argument("--ignore-eos", action="store_true", help="go on past the end of sequence")


def _sampling_params(args: argparse.Namespace):
    from aiinfra.engine import SamplingParams
    return SamplingParams(n=getattr(args, "n", 1), repetition_penalty=args.repetition_penalty, temperature=args.temperature,
                          top_k=args.top_k, top_p=args.top_p, min_p=args.min_p, stop=args.stop,
                          max_tokens=args.max_tokens, seed=args.seed, ignore_eos=args.ignore_eos)


def _pieces(outputs):
    """The new text of each growing output."""
    shown = 0
    for request in outputs:
        text = request.outputs[0].text
        yield text[shown:]
        shown = len(text)
        _check_numbers(request.outputs[0])


def _check_numbers(out) -> None:
    from aiinfra.engine.sampler import NOT_FINITE
    if out.finish_reason == "error":
        raise RuntimeError(NOT_FINITE)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02X}. "
                         "Convert it first, for example with iconv.") from error


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
