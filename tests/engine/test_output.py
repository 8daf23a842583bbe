"""Text that grows is cut where all of it would be, and a token costs as much at the end as at first."""

from random import Random

import pytest
from tests.checkpoint.corpus_parts import byte_level

from aiinfra.checkpoint import Tokenizer
from aiinfra.engine import SamplingParams, output
from aiinfra.engine.output import AnswerText, CompletionOutput, cut_at_stop
from aiinfra.engine.record import Made


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level("<|end|>"), None, (0,), eos_token="<|end|>")


def grown(text: str, params: SamplingParams, tokenizer: Tokenizer) -> list[str]:
    """What is shown after each token of a text, a letter each, until it ends."""
    out = CompletionOutput(0)
    answer = AnswerText(out, params, frozenset(), tokenizer)
    shown = []
    for number, letter in enumerate(text, 1):
        [token] = tokenizer.encode(letter)
        answer.push(Made("r", token, "length" if number == len(text) else None))
        shown.append(out.text)
        if out.finish_reason:
            break
    return shown


def looked_through(text: str, stops: tuple[str, ...], held: int) -> str:
    """All of the text again, with every letter that comes: what is shown at the end."""
    for end in range(held + 1, len(text) + 1):
        rest, stop = cut_at_stop(text[held:end], stops, end == len(text))
        if stop is not None:
            break
    return text[:held] + rest


def test_a_growing_text_is_cut_where_all_of_it_would_be(tokenizer: Tokenizer) -> None:
    rng = Random(0)
    for _ in range(300):
        text = "".join(rng.choices("ab", k=rng.randrange(1, 24)))
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(rng.randrange(3))]
        held = rng.choice([0, 0, rng.randrange(len(text))])
        params = SamplingParams(stop=stops, min_tokens=held, max_tokens=100)
        shown = grown(text, params, tokenizer)
        assert shown[-1] == looked_through(text, tuple(stops), held)
        assert all(after.startswith(before) for before, after in zip(shown, shown[1:]))


def test_a_token_costs_as_much_in_a_long_text_as_in_a_short_one(tokenizer: Tokenizer, monkeypatch) -> None:
    """Sixteen long stop strings, looked for in all of a long text after each token, would slow everybody."""
    sizes = []
    monkeypatch.setattr(output, "cut_at_stop", lambda text, stops, final: (
        sizes.append(len(text)), cut_at_stop(text, stops, final))[1])
    params = SamplingParams(stop=["a" * 255 + "!"] * 16, max_tokens=3000)
    assert grown("ba" * 1000, params, tokenizer)[-1] == "ba" * 1000
    assert max(sizes) < 10
