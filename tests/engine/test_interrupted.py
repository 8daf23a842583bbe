"""A step that is broken off anywhere costs work, never tokens: whoever was running starts again and says
the same."""

import random
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.engine.small_model import alone, engine_with

from aiinfra.engine import llm as llm_module
from aiinfra.engine import output
from aiinfra.engine.engine import Engine
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.speculative import PromptLookup

GREEDY = SamplingParams(temperature=0, max_tokens=9)
ROWS = SamplingParams(n=3, seed=4, max_tokens=9)
PENALISED = SamplingParams(n=3, seed=4, max_tokens=9, repetition_penalty=1.3)


def drain(engine: Engine, made: dict | None = None) -> dict[tuple[str, int], list[int]]:
    made = {} if made is None else made
    for _ in range(500):
        if not engine.unfinished:
            assert engine.pool.used == 0
            return made
        for m in engine.step().made:
            made.setdefault((m.request_id, m.index), []).append(m.token_id)
    raise AssertionError("the engine does not come to an end")


class Fragile:
    """Calls through, and is broken off at the given calls: before the work, or after it."""

    def __init__(self, call, when: set[int], before: bool) -> None:
        self.call, self.when, self.before, self.calls = call, when, before, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls in self.when and self.before:
            raise KeyboardInterrupt
        result = self.call(*args, **kwargs)
        if self.calls in self.when:
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("part", ["runner.run", "answers.draw", "ahead.foresee", "scheduler.plan"])
@pytest.mark.parametrize("seed", range(12))
def test_broken_off_anywhere(seed: int, part: str, before: bool, small, monkeypatch) -> None:
    rng = random.Random(seed)
    settings = [{}, {"speculative": PromptLookup()}, {"overlap": True}][seed % 3]
    params_of = {"p1": ROWS if seed % 2 else PENALISED}
    engine = engine_with(small, blocks=rng.choice([14, 40]), **settings)
    prompts = {f"p{i}": [rng.randrange(53) for _ in range(rng.randint(1, 12))] for i in range(4)}
    for name, prompt in prompts.items():
        engine.add(name, prompt, params_of.get(name, GREEDY))
    owner, leaf = part.split(".")
    holder = getattr(engine, owner)
    when = set(rng.sample(range(1, 16), 4))
    monkeypatch.setattr(holder, leaf, Fragile(getattr(holder, leaf), when, before))
    made: dict = {}
    for _ in range(200):
        try:
            drain(engine, made)
            break
        except KeyboardInterrupt:
            assert engine.pool.used == 0
    for name, prompt in prompts.items():
        params = params_of.get(name, GREEDY)
        for i in range(params.n):
            assert made[name, i] == alone(small, prompt, params, i)


def test_broken_off_in_settling_neither_ends_early_nor_goes_on_for_ever(small, monkeypatch) -> None:
    engine = engine_with(small, blocks=20)
    engine.add("a", list(range(9)), GREEDY)
    monkeypatch.setattr(engine.answers, "commit", Fragile(engine.answers.commit, {1, 5, 9}, before=True))
    made: dict = {}
    for _ in range(4):
        try:
            drain(engine, made)
        except KeyboardInterrupt:
            pass
    assert made["a", 0] == alone(small, list(range(9)), GREEDY)


WATCHED = ("engine.py", "answers.py", "ahead.py", "scheduler.py", "blocks.py", "llm.py",
           "text_engine.py", "output.py")


class AtLine:
    """A trace function that raises KeyboardInterrupt when `line` (of a function, in a file) is reached the
    first time."""

    def __init__(self, line: tuple[str, str, int] | None = None) -> None:
        self.line, self.seen = line, {}

    def __call__(self, frame, event, arg):
        return self.local if Path(frame.f_code.co_filename).name in WATCHED else None

    def local(self, frame, event, arg):
        if event == "line":
            line = Path(frame.f_code.co_filename).name, frame.f_code.co_name, frame.f_lineno
            self.seen.setdefault(line)
            if line == self.line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.local

    @contextmanager
    def watching(self):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
def test_ctrl_c_at_any_line_of_generate(overlap: bool, small, monkeypatch) -> None:
    """Queueing, planning, handing out, letting go: whatever was being written, nothing is left and the next
    call is right."""
    monkeypatch.setattr(output, "StreamDecoder",
                        lambda tokenizer: SimpleNamespace(push=lambda token: "x", flush=lambda: ""))
    prompts = [[1, 2, 3, 4, 5], [6, 7], [1, 2, 3, 4, 9]]
    params = [SamplingParams(temperature=0, max_tokens=4), SamplingParams(n=2, seed=3, max_tokens=3),
              SamplingParams(temperature=0, max_tokens=3)]
    expected = [[alone(small, prompt, one, i) for i in range(one.n)] for prompt, one in zip(prompts, params)]

    def fresh() -> llm_module.LLM:
        engine = engine_with(small, 12, max_running=2, overlap=overlap)
        return llm_module.LLM.around(engine, SimpleNamespace(eos_ids=()))

    def tokens(llm: llm_module.LLM) -> list[list[list[int]]]:
        return [[out.token_ids for out in request.outputs]
                for request in llm.generate(prompts, params, use_tqdm=False)]
    llm = fresh()
    with (watch := AtLine()).watching():
        assert tokens(llm) == expected
    assert len(watch.seen) > 250
    for line in watch.seen:
        llm = fresh()
        with AtLine(line).watching(), suppress(KeyboardInterrupt):
            tokens(llm)
            raise AssertionError(f"{line} was not reached")
        left = llm.engine.unfinished, llm.engine.pool.used, len(llm.engine.scheduler.waiting)
        assert left == (0, 0, 0) and llm.engine.idle, line
        llm.engine.pool.check()
        assert tokens(llm) == expected and llm.engine.pool.used == 0, line


def test_nobody_finds_the_blocks_of_a_request_that_failed(small, monkeypatch) -> None:
    engine, prompt = engine_with(small, blocks=40), list(range(14))
    with monkeypatch.context() as broken:
        broken.setattr(small.layers[0].attention_norm, "eps", float("nan"))
        engine.add("a", prompt, GREEDY)
        assert drain(engine) == {("a", 0): [None]}
    assert engine.pool.cached == 0
    engine.add("b", prompt, GREEDY)
    assert drain(engine)["b", 0] == alone(small, prompt, GREEDY)


def test_a_foreign_request_survives_our_generate(llm) -> None:
    name = "0"
    llm.engine.add(name, [5, 6], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    try:
        llm.texts._numbers = iter(range(100, 10**9))
        assert llm.generate([[7, 8]], SamplingParams(temperature=0, max_tokens=2))[0].finished
        assert llm.engine.unfinished == 1
    finally:
        assert llm.engine.abort(name)


def test_tokens_of_a_step_reach_the_other_call_as_well(llm, monkeypatch) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    whole = llm.generate([[7, 8, 9]], params)[0].outputs[0].token_ids
    stream = llm.stream([7, 8, 9], params)
    next(stream)
    with monkeypatch.context() as once:
        once.setattr(llm.texts, "_hand_out", Fragile(llm.texts._hand_out, {1}, before=True))
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1, 2]], params)
    *_, last = stream
    assert last.outputs[0].token_ids == whole and llm.engine.unfinished == 0

