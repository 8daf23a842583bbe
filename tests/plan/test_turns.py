"""Trace files: what stands in them, and what is refused by name."""

from pathlib import Path

import pytest

from aiinfra.lab.source import DATA
from aiinfra.plan.traffic import TRACES, draw
from aiinfra.plan.turns import read_turns


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_that_was_drawn_is_read_back(name: str) -> None:
    read = read_turns(DATA / "traces" / f"{name}.jsonl")
    for turn, drawn in zip(read, draw(TRACES[name]), strict=True):
        for field in ("arrival_seconds", "conversation", "prompt_tokens", "output_tokens"):
            assert getattr(turn, field) == getattr(drawn, field)


def test_requests_without_a_conversation_begin_like_no_other(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt": [5, 6], "output_tokens": 2, "arrival_seconds": 3}\n\n'
                    '{"prompt_tokens": 9, "output_tokens": 1, "conversation": 0}\n'
                    '{"prompt_tokens": 9, "output_tokens": 1}\n')
    turns = read_turns(file)
    assert [turn.arrival_seconds for turn in turns] == [0, 0, 3]
    assert len({turn.conversation for turn in turns}) == 3 and turns[2].prompt_tokens == 2


@pytest.mark.parametrize("line, said", [
    ("[1]", "line 1 is not an object"),
    ("{", "line 1 is not JSON"),
    ('{"prompt_tokens": 1}', "it needs output_tokens"),
    ('{"prompt_tokens": 0, "output_tokens": 1}', "prompt_tokens is 0; it must be a whole number"),
    ('{"prompt_tokens": 1, "output_tokens": true}', "output_tokens is True"),
    ('{"prompt": [], "output_tokens": 1}', "at least one"),
    ('{"prompt_tokens": 1, "output_tokens": 1, "arrival_seconds": NaN}', "arrival_seconds is nan"),
    ('{"prompt_tokens": 1, "output_tokens": 1, "conversations": 3}', "Did you mean 'conversation'"),
    ("", "has no requests"),
])
def test_a_line_that_is_wrong_is_named(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match="trace.jsonl") as caught:
        read_turns(file)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.jsonl cannot be read"):
        read_turns(tmp_path / "nowhere.jsonl")
