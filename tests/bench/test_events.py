"""A read is no event, an event no token, a byte no character."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra.bench.events import EventLines, Heard, error_text


def event(**chunk: object) -> bytes:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def text(piece: str, **more: object) -> dict:
    return {"choices": [{"index": 0, "text": piece, "finish_reason": None}], **more}


STREAM = (event(**text("né")) + b": keep-alive\n\n" + event(**text("漢字 🦊")) + b"data:[DONE]\r\n\r\n")


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_however_the_network_cuts_it(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    heard = Heard()
    for begin, end in zip(bounds, bounds[1:]):
        heard.feed(STREAM[begin:end], 1.0)
    assert heard.text == "né漢字 🦊" and heard.done and heard.at_seconds == [1.0, 1.0]


def test_data_over_several_lines_is_one_event() -> None:
    assert list(EventLines().feed(b"event: x\ndata: a\ndata: b\n\nid: 3\n\ndata: c\n")) == ["a\nb"]


def test_tokens_are_counted_and_not_chunks() -> None:
    heard = Heard()
    heard.feed(event(**text("a", usage={"completion_tokens": 1})), 1.0)
    heard.feed(event(**text("bcd", usage={"completion_tokens": 4})), 2.0)
    heard.feed(event(**text("", usage={"completion_tokens": 5})), 3.0)       # half a character: no text yet
    heard.feed(event(choices=[], usage={"completion_tokens": 5}), 9.0)
    heard.close()
    assert heard.at_seconds == [1.0, 2.0, 2.0, 2.0, 3.0] and heard.counted


def test_ids_count_where_no_usage_does() -> None:
    heard = Heard()
    heard.feed(event(choices=[{"text": "ab", "token_ids": [3, 4]}]), 1.0)
    assert heard.token_ids == [3, 4] and heard.at_seconds == [1.0, 1.0] and heard.counted


def test_a_sum_alone_is_spread_and_told() -> None:
    heard = Heard()
    for now in (1.0, 2.0):
        heard.feed(event(**text("xy", usage=None)), now)
    heard.feed(event(choices=[], usage={"completion_tokens": 4}), 9.0)
    heard.close()
    assert heard.at_seconds == [1.0, 1.0, 2.0, 2.0] and not heard.counted


def test_a_role_is_no_token() -> None:
    heard = Heard()
    heard.feed(event(choices=[{"delta": {"role": "assistant", "content": ""}}]), 1.0)
    assert heard.at_seconds == []
    heard.feed(event(choices=[{"delta": {"content": "x"}, "finish_reason": "stop"}]), 2.0)
    assert heard.at_seconds == [2.0] and heard.done


def test_an_error_in_the_stream() -> None:
    heard = Heard()
    heard.feed(event(**text("a")) + event(error={"message": "the step\nfailed", "code": 500}), 1.0)
    assert heard.error == "the step failed" and not heard.done


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: [1]\n\n", b'data: {"choices": 3}\n\n'])
def test_what_is_not_the_wire_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="the event '.* is damaged"):
        Heard().feed(data, 0.0)


@pytest.mark.parametrize("answer, said", [
    ({"error": {"message": "no"}}, "no"), ({"error": "no"}, "no"), ({"message": "no"}, "no"), ("no", "no"),
])
def test_errors_of_all_shapes(answer: object, said: str) -> None:
    assert error_text(answer) == said
