"""What does a step cost on this machine? A few real steps of the real engine, each of which tells one number.

    a prompt of 1, 2, 4, … 512 tokens      base: all that grows with the tokens of a step, weights read or not
    32 that decode, with little behind     what each further request costs: its attention, its row of logits
    4 that decode, with much behind        what each token of cache costs that a decode reads
    a piece of a prompt, with much behind  what each pair costs of a token of it and one before the piece

    seconds = base(tokens) + requests · a + context · b + pairs · c

No curve is fitted: three differences and a table, each with its meaning, from no trace that is predicted
later. What lies behind a decode is not read for this: blocks that the prefix cache takes for it are enough,
whatever they hold. The table stands in for a roofline because on a CPU the passage from reading weights to
arithmetic is wide. Notebook 18.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from aiinfra.engine.blocks import digest_of
from aiinfra.engine.engine import Engine
from aiinfra.engine.record import StepRecord
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Plan
from aiinfra.model import Transformer
from aiinfra.perf.timing import percentile

_PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MANY = 32                    # requests that decode side by side, with little behind them
_FEW = 4                      # with much
_MUCH = 768                   # tokens behind
_PIECE = 64                   # tokens of a prompt's piece
_SHORT = 32                   # prompts of so many tokens take so little that a turn has several of them
_TIMES = 3
_STEPS = 4                    # timed of those that decode, in a turn
_BLOCK = 16


@dataclass(frozen=True)
class MeasuredCost:
    """Seconds of a step on the machine where it was measured; a `plan.leap.DecodeCost`."""

    base: tuple[tuple[int, float], ...]        # (tokens of a step, its seconds) for a prompt alone
    request_seconds: float                     # each request of a step after the first
    context_seconds: float                     # each token that a decode reads from the cache
    pair_seconds: float                        # each token of a piece, and each one before the piece

    def __call__(self, plan: Plan) -> float:
        """Of the plan's step."""
        context = pairs = 0
        for work in plan.work:
            if work.count == 1:
                context += work.end
            else:
                pairs += work.count * work.start
        return self._seconds(plan.tokens, len(plan.work), context, pairs)

    def decode(self, requests: int, context: int) -> float:
        """See `plan.leap.DecodeCost`."""
        return self._seconds(requests, requests, context)

    def _seconds(self, tokens: int, requests: int, context: int, pairs: int = 0) -> float:
        more = (requests - 1) * self.request_seconds if requests else 0.0
        behind = context * self.context_seconds + pairs * self.pair_seconds
        return self._base(tokens) + more + behind

    def _base(self, tokens: int) -> float:
        """Between two sizes, and after the last, on a straight line."""
        sizes = [size for size, _ in self.base]
        after = min(max(1, bisect_left(sizes, tokens)), len(sizes) - 1)
        (small, quick), (large, slow) = self.base[after - 1:after + 1]
        return quick + (slow - quick) * (tokens - small) / (large - small)

    def lines(self) -> Iterator[str]:
        """Each number with its meaning."""
        table = ", ".join(f"{size} {1e3 * seconds:,.1f}" for size, seconds in self.base)
        yield f"a step of so many tokens, in ms          {table}"
        yield f"each further request of a step           {1e3 * self.request_seconds:,.3f} ms"
        yield f"1,000 tokens of cache that decodes read  {1e6 * self.context_seconds:,.3f} ms"
        yield f"1,000 pairs of a piece and before it     {1e6 * self.pair_seconds:,.4f} ms"


def measure_cost(model: Transformer, turns: int = 3,
                 progress: Callable[[int], object] | None = None) -> MeasuredCost:
    """The cost of this model here, now: the median of several turns, in each of which every kind of step has
    its turn, so that a busy moment of the machine is in all of them. progress(n): n more turns are done."""
    bench = _Bench(model)
    bench.turn()                                  # not counted: memory is touched, kernels are chosen
    found: dict[Any, list[float]] = {}
    for _ in range(turns):
        for kind, seconds in bench.turn().items():
            found.setdefault(kind, []).append(seconds)
        if progress is not None:
            progress(1)
    typical = {kind: percentile(values, 50) for kind, values in found.items()}
    cost = MeasuredCost(
        base=tuple((size, typical[size]) for size in bench.sizes),
        request_seconds=0.0,
        context_seconds=0.0,
        pair_seconds=0.0)
    many = typical["many"] - cost.decode(_MANY, 0)
    much = typical["much"] - typical["few"]
    late = typical["late piece"] - typical[_PIECE]
    return replace(
        cost,
        request_seconds=max(0.0, many) / (_MANY - 1),
        context_seconds=max(0.0, much) / (_FEW * bench.behind),
        pair_seconds=max(0.0, late) / (_PIECE * bench.behind))


class _Bench:
    """An engine of its own, and the kinds of steps that are timed on it."""

    def __init__(self, model: Transformer) -> None:
        longest = min(model.config.max_position_embeddings, _MUCH + 2 * _PIECE)
        self.behind = (longest - 2 * _PIECE + _BLOCK) // _BLOCK * _BLOCK
        self.sizes = [size for size in _PROMPTS if size < longest]
        self.random = random.Random(0)
        blocks = 2 * (_FEW * longest + _MANY * _BLOCK + _PROMPTS[-1]) // _BLOCK
        self.engine = Engine(
            model,
            cache_bytes=blocks * PagedCache.block_bytes(model.config, _BLOCK, model.dtype),
            block_size=_BLOCK,
            max_running=_MANY,
            token_budget=_PROMPTS[-1],
            chunk_tokens=_PROMPTS[-1],
            overlap=False,
        )
        self.engine.runner.cache.k.zero_()                 # else what nobody wrote may be no numbers at all
        self.engine.runner.cache.v.zero_()

    def turn(self) -> dict[Any, float]:
        """Seconds of each kind of step."""
        found: dict[Any, float] = {}
        for size in self.sizes:
            times = _TIMES if size <= _SHORT else 1
            found[size] = percentile([self.prompt(size) for _ in range(times)], 50)
        found["many"] = self.decodes(_MANY)
        found["few"] = self.decodes(_FEW)
        found["much"] = self.decodes(_FEW, self.behind)
        found["late piece"] = self.prompt(_PIECE, self.behind)
        return found

    def prompt(self, tokens: int, behind: int = 0) -> float:
        """Of a step that reads so many tokens, the last of a prompt."""
        self._add("prompt", tokens, behind, _answer(1))
        record = self.engine.step()
        assert record.ran == (("prompt", behind, tokens),)
        return _seconds(record)

    def decodes(self, requests: int, behind: int = 0) -> float:
        """Of a step in which so many decode: the median of a few."""
        for i in range(requests):
            self._add(str(i), 1, behind, _answer(_STEPS + 1))
        records = list(self.engine.stream())
        assert all(len(record.ran) == requests for record in records)
        return percentile([_seconds(record) for record in records[1:]], 50)

    def _add(self, name: str, tokens: int, behind: int, params: SamplingParams) -> None:
        """A request of random tokens, of which the first `behind` look as if they had been read."""
        prompt = [self.random.randrange(self.engine.model.config.vocab_size) for _ in range(behind + tokens)]
        pool = self.engine.pool
        blocks = pool.allocate(behind // _BLOCK)
        digests: list[bytes] = []
        for place, block in enumerate(blocks):
            pool.seal(block, digest_of(place, prompt, _BLOCK, digests))
        pool.release(blocks)
        self.engine.add(name, prompt, params)


def _answer(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def _seconds(record: StepRecord) -> float:
    return record.plan_seconds + record.model_seconds + record.sample_seconds
