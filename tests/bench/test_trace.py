"""The file of a trace is written by hand: every wrong line is found before anything is measured."""

import math
from pathlib import Path

import pytest

from aiinfra.bench import trace
from aiinfra.bench.trace import TraceRequest, poisson_arrivals, random_trace, read_trace

VOCAB, CONTEXT = 211, 128


def test_a_random_trace_shares_no_prefix_and_can_be_had_again() -> None:
    drawn = random_trace(64, 49_152)
    assert drawn == random_trace(64, 49_152) != random_trace(64, 49_152, seed=1)
    assert len({request.prompt[0] for request in drawn}) == 64
    assert all(
        16 <= len(r.prompt) <= 256 and 16 <= r.output_tokens <= 128 and r.arrival_seconds == 0 for r in drawn
    )


def test_arrivals_are_poisson() -> None:
    arriving = poisson_arrivals(random_trace(200, VOCAB), 4.0, seed=3)
    times = [request.arrival_seconds for request in arriving]
    assert times == sorted(times) and 200 / times[-1] == pytest.approx(4, rel=0.2)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert sum(gap < 0.25 for gap in gaps) / len(gaps) == pytest.approx(1 - math.exp(-1), abs=0.08)
    for rate in (0, math.nan):
        with pytest.raises(ValueError, match=f"{rate} requests a second"):
            poisson_arrivals(arriving, rate)


def read(tmp_path: Path, *lines: str) -> list[TraceRequest]:
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return read_trace(file, VOCAB, CONTEXT)


def test_a_trace_file(tmp_path) -> None:
    lines = (
        '{"prompt": [5, 6, 7], "output_tokens": 4}',
        "",
        '{"prompt_tokens": 30, "output_tokens": 98, "arrival_seconds": 0.5}',
    )
    first, second = read(tmp_path, *lines)
    assert first == TraceRequest([5, 6, 7], 4) and len(second.prompt) == 30 and second.arrival_seconds == 0.5
    assert read(tmp_path, *lines) == [first, second]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "is not JSON"),
        ("[1]", "is not an object"),
        pytest.param("[" * 100_000, "is not JSON", id="deep"),
        pytest.param("9" * 5_000, "is not JSON", id="5,000 digits"),
        ('{"prompt_tokens": 3, "output_token": 4}', "Did you mean 'output_tokens'"),
        ('{"output_tokens": 4}', "either prompt .* or prompt_tokens"),
        ('{"prompt_tokens": 3, "output_tokens": 4, "conversation": -1}', "conversation is -1; it must be"),
        ('{"prompt": [1], "prompt_tokens": 1, "output_tokens": 4}', "either prompt"),
        ('{"prompt_tokens": 3}', "needs output_tokens"),
        *(
            (f'{{"prompt_tokens": {count}, "output_tokens": 4}}', f"prompt_tokens is {shown}")
            for count, shown in (("0", "0"), ("true", "True"), ("3.0", "3.0"), ("null", "None"))
        ),
        ('{"prompt_tokens": 3, "output_tokens": true}', "output_tokens is True"),
        *(
            (
                f'{{"prompt_tokens": 3, "output_tokens": 4, "arrival_seconds": {arrival}}}',
                f"arrival_seconds is {shown}; it must be a number from 0 to 86,400",
            )
            for arrival, shown in (
                ("-1", "-1"),
                ("NaN", "nan"),
                ("Infinity", "inf"),
                ("1e400", "inf"),
                ("true", "True"),
                ('"1"', "'1'"),
            )
        ),
        *(
            (
                f'{{"prompt": {prompt}, "output_tokens": 4}}',
                "must be a list of token ids, at least one, each from 0 to 210",
            )
            for prompt in ('"Hello"', "[1, 211]", "[]", "[1.5]", "[true]", "[-1]")
        ),
        pytest.param(
            '{"prompt_tokens": 3, "output_tokens": 4, "arrival_seconds": ' + "9" * 400 + "}",
            "arrival_seconds is 9+; it must",
            id="400 digits",
        ),
        (
            '{"prompt_tokens": 1000000000, "output_tokens": 1}',
            "1,000,000,000 tokens in and 1 out; the model's context is 128",
        ),
        ('{"prompt": [1, 2], "output_tokens": 127}', "2 tokens in and 127 out"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"line 2.*{message}"):
        read(tmp_path, '{"prompt_tokens": 3, "output_tokens": 4}', line)


def test_nothing_is_drawn_before_all_lines_were_checked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trace, "_draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ValueError, match="line 2 has 1,000,000,000 tokens in"):
        read(
            tmp_path,
            '{"prompt_tokens": 3, "output_tokens": 4}',
            '{"prompt_tokens": 1000000000, "output_tokens": 1}',
        )


def test_more_lines_than_tokens_to_begin_with(tmp_path) -> None:
    drawn, given = '{"prompt_tokens": 3, "output_tokens": 4}', '{"prompt": [7], "output_tokens": 4}'
    requests = read(tmp_path, *[drawn] * VOCAB, *[given] * 3)
    assert len({r.prompt[0] for r in requests[:VOCAB]}) == VOCAB and len(requests) == VOCAB + 3
    with pytest.raises(
        ValueError, match="212 requests; it must be 1 to 211, so that each can begin with a token of its own"
    ):
        read(tmp_path, *[drawn] * (VOCAB + 1))


def test_files_that_are_no_traces(tmp_path) -> None:
    (tmp_path / "none").write_text("\n")
    (tmp_path / "latin").write_bytes(b'{"prompt": "caf\xe9"}')
    for name, message in {
        "none": "has no requests",
        "latin": "is not UTF-8: byte 15 is 0xE9",
        "missing": "cannot be read: No such file",
        ".": "cannot be read: Is a directory",
    }.items():
        with pytest.raises(ValueError, match=f"{(tmp_path / name)} {message}"):
            read_trace(tmp_path / name, VOCAB, CONTEXT)
    with pytest.raises(ValueError, match="0 requests"):
        random_trace(0, VOCAB)
