"""Boxes that users are put on: a room for their caches, and a step that takes longer the more they are.

    free ////////////////  users who find room │      step_seconds(users) <= limit     users who are in time

Used by page 17's last exercise and its judge.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiinfra.lab.exercise import Wrong, require
from aiinfra.lab.judging import answered, explain, number, pair
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import read_model
from aiinfra.plan.split import ServingSplit, holding_of
from aiinfra.plan.step_cost import ServingCost, StepLoad

_TOKENS = 8192                       # of a user's cache, on the boxes of giants
_ENOUGH = 400


@dataclass(frozen=True)
class Box:
    """Something that users are put on: bytes that are free, bytes of a user, seconds of a step, seconds
    allowed."""

    said: str
    free: float
    each: float
    steps: Callable[[int], float]
    limit: float

    @property
    def by_memory(self) -> int:
        """Users who find room: none where not even the weights fit and `free` is below 0."""
        return max(0, int(self.free // self.each))

    def by_time(self, most: int = _ENOUGH, strictly: bool = False) -> int:
        """Users whose step is short enough, at most `most`; strictly: shorter than the limit."""
        count = 0
        while count < most and self._in_time(count + 1, strictly):
            count += 1
        return count

    def _in_time(self, users: int, strictly: bool) -> bool:
        seconds = self.steps(users)
        if strictly:
            return seconds < self.limit
        return seconds <= self.limit

    @property
    def right(self) -> tuple[int, str]:
        """The most users, and what is in the way of one more."""
        most = self.by_time(most=self.by_memory)
        return most, "memory" if most == self.by_memory else "time"


def boxes() -> Iterator[Box]:
    """Stairs and slopes, and the two giants on 8 H20s."""
    for said, free, each, limit in (
        ("steps of 8 users for the price of one, room for 30", 95.0, 3.1, 0.030),
        ("the same stairs, room for 5", 17.0, 3.1, 0.030),
        ("the same stairs, both limits at 16", 16.0, 1.0, 0.020),
    ):
        yield Box(said=said, free=free, each=each, steps=_stairs, limit=limit)
    for said, free, each, limit in (
        ("a slope, room for 200", 200.0, 1.0, 0.0225),
        ("no room for anybody", 2.0, 3.1, 1.0),
        ("weights that do not fit", -0.7, 3.1, 1.0),
        ("too slow for anybody", 100.0, 1.0, 0.001),
    ):
        yield Box(said=said, free=free, each=each, steps=_slope, limit=limit)
    yield from giants()


def giants() -> Iterator[Box]:
    """The two giants on 8 H20s, of whose memory 90 % may be used, each with two limits."""
    machine, split = read_machine("H20"), ServingSplit(tp=8)
    for name, precision, limits in (
        ("qwen3-235b-a22b", "bf16", (0.050, 0.100)),
        ("deepseek-r1", "fp8", (0.020, 0.050)),
    ):
        model = read_model(name)
        held = holding_of(model, machine, split, precision=precision)
        steps = _steps_of(ServingCost(model, machine, split, precision=precision))
        for limit in limits:
            said = f"{name} on 8 × H20, {1e3 * limit:.0f} ms"
            yield Box(said=said, free=held.free_bytes, each=_TOKENS * held.kv_bytes, steps=steps, limit=limit)


def _stairs(users: int) -> float:
    return 0.010 * -(-users // 8)


def _slope(users: int) -> float:
    return 0.010 + 0.0005 * users


def _steps_of(cost: ServingCost) -> Callable[[int], float]:
    """A step of so many users, who each have a full cache behind them."""
    def steps(users: int) -> float:
        behind = _TOKENS * users
        return cost.seconds(StepLoad(tokens=users, answers=users, context=behind, decode_pairs=behind))
    return steps


def sizing(answer: Callable) -> str:
    """What the learner's function, when it is right, says of the giants."""
    said = []
    for box in giants():
        most, why = answer(box.free, box.each, box.steps, box.limit)
        said.append(f"{box.said}: {most} users, then {why}")
    return f"By your function, with {_TOKENS:,} tokens each: {'; '.join(said)}."


def judge_users(answer: Callable, box: Box) -> None:
    """Raise Wrong unless the learner's function gives this box's (users, why)."""
    got = answered(answer(box.free, box.each, box.steps, box.limit))
    pair(got, f"you returned {got!r}; two things are wanted, (users, why).")
    mine, why = number(got[0], "users"), got[1]
    require(why in ("memory", "time"), f'why={why!r}; it must be "memory" or "time".')
    want, reason = box.right
    if (mine, why) == (want, reason):
        return
    require(mine == int(mine), f"{mine} users: people come whole.")
    figures = f"you have {mine}; {want} is wanted."
    explain(mine, (
        (box.by_memory, f"{figures} So many find room, but a step of theirs takes "
                        f"{box.steps(max(1, box.by_memory)):.4f} s; {box.limit:g} s are allowed."),
        (box.by_time(), f"{figures} Their step is short enough, but there is room for {box.by_memory}."),
        (box.by_time(most=box.by_memory, strictly=True),
         f"{figures} A step may take the limit itself: at most {box.limit:g} s."),
        (want + 1, f"{figures} That is the first number that is too many."),
    ), unless=want)
    require(mine == want, figures)
    raise Wrong(f'{want} users is right, but what is in the way of one more is "{reason}": room for '
                f"{box.by_memory}, and a step of {want + 1} takes {box.steps(want + 1):.4f} s of "
                f"{box.limit:g}.")
