"""The options of `bench serve`: a load, an address, and what is drawn of it.

A value that is left out is what a trace or users say themselves, or the default; of two that say the same,
neither is set aside in silence. `command.py` makes a Load of them.
"""

import argparse
from typing import Any

from aiinfra.arguments import file_to_read, file_to_write, number, whole
from aiinfra.bench.arrivals import ARRIVALS, Lengths, lengths
from aiinfra.engine.command import add_engine_settings, settings_of

TRACE = ('JSON lines such as {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}, '
         'or with the ids as "prompt" (default: random, seeded)')
MOST_REQUESTS = 1_000_000
_LENGTHS = "128, 16:256 (drawn evenly), or lognormal:MEDIAN:SIGMA:MOST"
# Of two that say the same, or of which one leaves nothing to the other, neither is set aside in silence.
_APART = (
    ("users", "rate", "users wait for their answers, and keep no rate"),
    ("users", "sweep", "users wait for their answers, and keep no rate"),
    ("users", "arrivals", "users come when they have their answers"),
    ("trace", "requests", "the file says how many there are"),
    ("trace", "input", "the file says how long prompts are"),
    ("trace", "output", "the file says how long answers are"),
    ("url", "set", "the engine of a server that runs is what it is"),
)
_NOT_SAID = ("run", "debug", "api_key", "save", "plot", "set", "model")     # a key is nobody's business


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench serve`, but for --save."""
    add = parser.add_argument
    add("--url", help="http://HOST:PORT of the server (default: one of ours, for as long as it takes)")
    add("--model", help="its name there (default: the first that it lists); of ours, a folder or file, too")
    add("--api-key", metavar="KEY", help="the server's (default: the variable AIINFRA_API_KEY)")
    add("--ask", choices=("ids", "words", "chat"), default="ids", help="completions of token ids, whose "
        "number is exact; of words, for routers that read text alone; or chats")
    add("--plain", action="store_true", help="send OpenAI's own fields alone, so answers may end early")
    add_engine_settings(parser)
    _add_load(parser)
    finite = number(above=0)
    add("--ttft-target", type=finite, default=2.0, metavar="SECONDS", help="in time: to the first token")
    add("--tpot-target", type=finite, default=0.1, metavar="SECONDS",
        help="in time: a token, on average over an answer")
    add("--plot", type=file_to_write(".png", ".svg", ".pdf"), metavar="FILE",
        help="draw it, as .png, .svg or .pdf")


def _add_load(parser: argparse.ArgumentParser) -> None:
    """What is asked, and when. None is the default of what a trace or users say themselves."""
    add, count = parser.add_argument, whole(1, MOST_REQUESTS)
    add("--arrivals", choices=ARRIVALS, help="how requests come (default: poisson)")
    add("--rate", type=number(above=0, endless=True), help="requests a second, or inf for all at once "
        "(default: 1; a trace keeps its own times)")
    add("--users", type=count,
        help="in place of a rate: so many, who wait for an answer before they ask again")
    add("--sweep", type=number(above=0), nargs="*", metavar="RATE",
        help="one run at each rate, and the knee; without rates, those that find it")
    add("--requests", type=count,
        help="without a file: how many (default: 100; of a sweep, 20 seconds' worth)")
    add("--trace", type=file_to_read, metavar="FILE", help=TRACE)
    add("--input", type=_lengths, metavar="LENGTHS",
        help=f"without a file: tokens of a prompt: {_LENGTHS} (default: 16:256)")
    add("--output", type=_lengths, metavar="LENGTHS", help="the same of an answer (default: 16:128)")
    add("--prefixes", type=_prefixes, metavar="COUNT:TOKENS", help="each prompt begins with one of so many")
    add("--vocab-size", type=whole(2, 1 << 31), default=32_000, help="prompts are ids below it")
    add("--hang-up", type=number(least=0, most=1), default=0.0, metavar="SHARE",
        help="of the requests: their sender leaves")
    add("--seed", type=int, default=0, help="of requests and arrivals")


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


def check_together(args: argparse.Namespace) -> None:
    """Raise ValueError for options of which one would be left aside."""
    given = {name for name, value in vars(args).items() if value not in (None, [])}
    if args.sweep is not None:
        given.add("sweep")
    for one, other, why in _APART:
        if {one, other} <= given:
            raise ValueError(f"--{one} and --{other}: {why}. Leave one of them out.")
    if args.sweep and args.rate is not None:
        raise ValueError("--sweep has its rates, and --rate another one. Leave one of them out.")


def said_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `bench serve`, as a file of rows keeps them."""
    said = {name: value for name, value in vars(args).items() if name not in _NOT_SAID}
    drawn = {name: said[name].said for name in ("input", "output") if said[name] is not None}
    return said | drawn | settings_of(args)
