"""`generate` and `chat`: what a user is told before and after, and letters that a terminal lacks."""

import builtins
import io
import sys
from argparse import ArgumentParser, Namespace

import pytest

from aiinfra.engine import command
from aiinfra.engine.output import CompletionOutput


class Speaker:
    """A model that answers every message with the same pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.heard = pieces, []
        self.tokenizer = self

    def encode_chat(self, messages):
        self.heard.append([message["content"] for message in messages])
        return [1]

    def stream(self, prompt, params):
        for end in range(1, len(self.pieces) + 1):
            text = "".join(self.pieces[:end])
            output = CompletionOutput(index=0, text=text, token_ids=[0] * end, finish_reason=None)
            yield Namespace(outputs=[output])


def arguments(add, *line: str) -> Namespace:
    parser = ArgumentParser()
    add(parser)
    return parser.parse_args(line)


@pytest.fixture
def speaker():
    return Speaker("It ", "is ", "salt é.")


def chat(speaker, *line: str) -> None:
    command.run_chat(arguments(command.add_chat, *line), lambda args, use: use(speaker))


def typed(monkeypatch, *lines: str) -> None:
    left = iter(lines)

    def ask(prompt: str) -> str:
        print(prompt, end="")
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None
    monkeypatch.setattr(builtins, "input", ask)


@pytest.mark.parametrize("last", [[""], []], ids=["an empty line", "Ctrl-D"])
def test_chat_says_at_once_that_it_loads_and_how_to_leave(speaker, monkeypatch, capsys, last):
    def load(args, use):
        assert "loading smollm2-135m" in capsys.readouterr().out, "before the seconds that loading takes"
        use(speaker)
    typed(monkeypatch, "Why is the sea salty?", "And lakes?", *last)
    command.run_chat(arguments(command.add_chat, "--system", "Be brief."), load)
    assert speaker.heard[1] == ["Be brief.", "Why is the sea salty?", "It is salt é.", "And lakes?"]
    assert capsys.readouterr().out.count("> ") == 3


def test_the_first_line_says_how_to_leave(speaker, monkeypatch, capsys):
    typed(monkeypatch)
    chat(speaker)
    said = capsys.readouterr().out.splitlines()[0]
    assert "an empty line or Ctrl-D ends" in said and "Ctrl-C cuts an answer short" in said


def test_lines_can_be_edited(speaker, monkeypatch):
    monkeypatch.delitem(sys.modules, "readline", raising=False)
    typed(monkeypatch)
    chat(speaker)
    assert "readline" in sys.modules


def test_without_readline_a_chat_goes_on(speaker, monkeypatch):
    monkeypatch.setitem(sys.modules, "readline", None)           # as on Windows
    typed(monkeypatch, "Hello")
    chat(speaker)
    assert speaker.heard == [["Hello"]]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_terminal_lacks_ends_nothing(speaker, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    args = arguments(command.add_generate, "--prompt", "The sea")
    command.run_generate(args, lambda args, use: use(speaker))
    sys.stdout.flush()
    wanted = "It is salt é.\n" if encoding != "ascii" else "It is salt ?.\n"
    assert raw.getvalue().decode(encoding) == wanted
