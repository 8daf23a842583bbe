"""Leaps leave scheduler, pool and clock as single steps do."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.plan.leap import foresee, take
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.simulate import VirtualEngine

# Sums of these are exact, so clocks are compared to the bit.
EXACT = LinearCost(step_seconds=1 / 8, token_seconds=1 / 64, context_seconds=1 / 1024)


def an_engine(draw: random.Random) -> VirtualEngine:
    blocks = draw.choice((9, 14, 30, 200))
    pool = BlockPool(blocks, draw.choice((1, 2, 4, 16)), draw.random() < 0.7)
    mode = draw.choice(("continuous", "continuous", "continuous", "static", "one"))
    scheduler = Scheduler(pool, draw.choice((8, 40, 400)), draw.choice((1, 3, 8)), mode, draw.random() < 0.8)
    return VirtualEngine(scheduler, EXACT)


def some_traffic(draw: random.Random) -> list[tuple[float, Request, tuple]]:
    """(arrival, request, lengths): prompts often begin alike, or as another's answer goes on (with zeros)."""
    visits = []
    clock = 0.0
    for i in range(draw.randint(1, 14)):
        clock += draw.choice((0.0, 0.25, 3.0, 20.0))
        prompt = [7] * draw.choice((0, 4, 9)) + [0] * draw.randint(0, 12) + [draw.randint(0, 2)]
        most = draw.choice((1, 5, 60))
        lengths = tuple(draw.choice((None, None, 1, 3, 17)) for _ in range(draw.choice((1, 1, 1, 3))))
        request = Request(str(i), prompt, most, priority=draw.choice((0, 0, 0, -1, 1)))
        visits.append((clock, request, lengths))
    return visits


def state(engine: VirtualEngine) -> tuple:
    """All that a later decision may depend on, and the blocks themselves."""
    scheduler, pool = engine.scheduler, engine.scheduler.pool
    running = [(r.id, r.computed, list(r.tokens), list(r.blocks), r.preemptions) for r in scheduler.running]
    waiting = [(r.id, list(r.tokens)) for r in scheduler.waiting]
    return (engine.clock, running, waiting, list(pool._free), list(pool._cached), dict(pool._by_digest))


def serve(seed: int, leaping: bool) -> dict[int, tuple]:
    """The state after each step that a leap or a step ended with, by the number of steps so far."""
    draw = random.Random(seed)
    engine = an_engine(draw)
    coming = some_traffic(draw)
    hangs_up = draw.choice((None, 4.0, 11.5))
    states, steps, leapt = {}, 0, 0
    while coming or engine.unfinished:
        while coming and coming[0][0] <= engine.clock:
            _, request, lengths = coming.pop(0)
            try:
                engine.add(request, lengths)
            except ValueError:                        # it can never fit, here as there
                pass
        if hangs_up is not None and hangs_up <= engine.clock:
            engine.abort("2")
            hangs_up = None
        nexts = [when for when in (hangs_up, coming[0][0] if coming else None) if when is not None]
        leap = foresee(engine) if leaping and engine.unfinished else None
        if leap is not None:
            leap = leap.until(min(nexts)) if nexts else leap
            take(engine, leap)
            steps += leap.steps
            leapt += leap.steps
        elif engine.unfinished:
            engine.step()
            steps += 1
        elif coming:
            engine.clock = coming[0][0]
            continue
        states[steps] = state(engine)
    engine.scheduler.pool.check()
    states[-1] = (leapt, steps)
    return states


@settings(deadline=None, max_examples=200)
@given(st.integers(min_value=0))
def test_a_leap_is_its_steps(seed: int) -> None:
    single, leaping = serve(seed, False), serve(seed, True)
    assert single.pop(-1)[1] == leaping.pop(-1)[1]
    for steps, found in leaping.items():
        assert found == single[steps], f"after step {steps}"


def test_most_steps_are_leapt_over() -> None:
    leapt, steps = map(sum, zip(*(serve(seed, True)[-1] for seed in range(50))))
    assert leapt > 0.6 * steps
