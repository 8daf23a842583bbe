"""The n answers of a request: one prompt for all, then each for itself, and all in turn where there is
little room."""

import pytest
from tests.engine.small_model import alone, engine_with, serve

from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer


def test_a_prompt_is_run_once_for_all_its_answers(small: Transformer) -> None:
    engine = engine_with(small, 40, prefix_caching=False)
    # 3 blocks of 4, the last half full
    engine.add("a", list(range(10)), SamplingParams(n=3, seed=1, max_tokens=6))
    first, second = engine.step(), engine.step()
    assert first.ran == (("a", 0, 10),)
    assert [(m.request_id, m.index) for m in first.made] == [("a", 0), ("a", 1), ("a", 2)]
    assert first.used_blocks == 3    # shared by all three
    assert second.ran == (("a", 10, 1), ("a#1", 10, 1), ("a#2", 10, 1))
    assert second.used_blocks == 2 + 3    # full ones shared, one's own each
    assert len({m.token_id for m in first.made + second.made}) > 1
    assert engine.abort("a", 1) is True and engine.abort("a", 1) is False and engine.abort("a", 7) is False
    assert engine.step().ran == (("a", 11, 1), ("a#2", 11, 1)) and engine.unfinished == 1
    assert engine.abort("a") is True and engine.pool.used == 0 and engine.unfinished == 0


def test_one_answer_cannot_be_dropped_before_it_began(small: Transformer) -> None:
    engine = engine_with(small, 40)
    engine.add("a", [1, 2], SamplingParams(n=2, seed=1, max_tokens=2))
    assert engine.abort("a", 0) is False and engine.unfinished == 1
    assert engine.abort("a") is True and engine.unfinished == 0


@pytest.mark.parametrize("settings_", [{"max_running": 1}, {"max_running": 3}, {"mode": "one"},
                                       {"mode": "static", "max_running": 4}, {}])
def test_answers_take_turns_where_only_one_fits(settings_: dict, small: Transformer) -> None:
    params = SamplingParams(n=6, seed=4, max_tokens=8)
    engine = engine_with(small, 4, 4, **settings_)    # 9 + 8 - 1 tokens: all 4 blocks
    got, _ = serve(engine, {"a": (list(range(9)), params)})
    assert got == {("a", i): alone(small, list(range(9)), params, i) for i in range(6)}
    with pytest.raises(ValueError, match="may grow to 17 tokens = 5 blocks of 4; the cache has 4"):
        engine.add("b", list(range(10)), params)


def test_answers_go_before_who_came_later(small: Transformer) -> None:
    engine = engine_with(small, 40, max_running=1)
    engine.add("a", [1, 2], SamplingParams(n=3, seed=1, max_tokens=2))
    engine.add("later", [3], SamplingParams(temperature=0, max_tokens=2))
    engine.add("urgent", [3], SamplingParams(temperature=0, max_tokens=2), priority=-1)
    order = [name for record in engine.stream() for name, _, _ in record.ran]
    assert list(dict.fromkeys(order)) == ["urgent", "a", "a#1", "a#2", "later"]


def test_answers_may_end_at_their_first_token(small: Transformer) -> None:
    params = SamplingParams(n=5, seed=2, max_tokens=9)
    free = [alone(small, [5, 6], params, i) for i in range(5)]
    stopping = SamplingParams(n=5, seed=2, max_tokens=9, stop_token_ids=[free[0][0], free[3][1]])
    made, _ = serve(engine_with(small, 40), {"a": ([5, 6], stopping),
                                             "b": ([5, 6], SamplingParams(n=5, seed=2, max_tokens=1))})
    assert [made["b", i] for i in range(5)] == [tokens[:1] for tokens in free]
    ends = {free[0][0], free[3][1]}
    cut = [next((i + 1 for i, token in enumerate(tokens) if token in ends), 9) for tokens in free]
    assert [made["a", i] for i in range(5)] == [tokens[:n] for tokens, n in zip(free, cut)] and cut[0] == 1
