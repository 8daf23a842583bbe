"""The command line: `python -m aiinfra generate | chat | serve | train | bench | fetch | plan | parallel |
info`, each with --help.

Here are the table of commands and the policy for errors; what a command takes and does says its package's
`command.py`. An error is one line on stderr and exit status 1 (2 for a wrong argument), never a traceback;
`--debug` shows it.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from aiinfra import environment
from aiinfra.errors import nearest


class Command(NamedTuple):
    """A command's package, whose `command.py` has `add_NAME(parser)`, and its line of help."""

    package: str
    help: str


COMMANDS = {
    "generate": Command("serve", "complete a prompt"),
    "chat": Command("serve", "talk to the model; an empty line or Ctrl-D ends, Ctrl-C cuts an answer short"),
    "serve": Command("serve", "answer over HTTP, as OpenAI's server does"),
    "train": Command("parallel", "train a language model on a text file; resume it exactly"),
    "bench": Command("bench", "measure, against others where there are any"),
    "fetch": Command("checkpoint", "download a known model into the cache folder, unless it is there"),
    "plan": Command("plan", "ask before running: does it fit into memory, and what does?"),
    "parallel": Command("parallel", "many ranks: is every mix one process? a pipeline's schedule"),
    "info": Command("gpu", "say what this machine offers and where models are kept"),
}
_ERRORS = (ValueError, TypeError, OSError, RuntimeError, MemoryError, LookupError, ArithmeticError,
           AttributeError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = argparse.Namespace(debug=False)        # until they are known
    try:
        environment.calm_threads()                # before PyTorch is imported
        args = parser(argv).parse_args(argv)
        with _ctrl_c_ends_at_once():
            import_module("torch")                # what every command needs
        args.run(args)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:                       # `… | head` closed the pipe: nothing is wrong
        sys.stderr.close()
        return 0
    except _ERRORS as error:
        if args.debug:
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def parser(argv: list[str]) -> argparse.ArgumentParser:
    """All commands; the one that `argv` begins with has its arguments, too, for which its package is
    imported."""
    purpose = "Run, time and serve language models on a CPU or a GPU."
    top = _Parser(prog="python -m aiinfra", description=purpose)
    commands = top.add_subparsers(metavar="command", required=True, parser_class=_CommandParser)
    for name, command in COMMANDS.items():
        description = command.help[0].upper() + command.help[1:] + "."
        sub = commands.add_parser(name, help=command.help, description=description)
        if argv[:1] == [name]:
            with _ctrl_c_ends_at_once():
                module = import_module(f"aiinfra.{command.package}.command")
            getattr(module, f"add_{name}")(sub)
    return top


@contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """While PyTorch is imported: an exception in the midst of that would be lost in C code, or leave a
    half-loaded NumPy that is then complained about."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Parser(argparse.ArgumentParser):
    """Says the nearest command for a mistyped one, in one line."""

    def error(self, message: str) -> None:
        if "invalid choice: '" in message:
            wrong, _, rest = message.split("invalid choice: '")[1].partition("'")
            known = rest.split("choose from")[-1].split(",")
            message += nearest(wrong, [word.strip(" '()") for word in known])
        if "unrecognized arguments: -" in message:
            wrong = message.split(": ")[1].split()[0].split("=")[0]
            message += "." + nearest(wrong, _options(self))
        print(f"error: {message} See {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where its value says something; None has its meaning in the help itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class _CommandParser(_Parser):
    """Of a command, or of one below it: shows what is used where an option is left out, and can show a
    traceback."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All that begin with a dash, those of the commands below too."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _options(below)


if __name__ == "__main__":
    sys.exit(main())
