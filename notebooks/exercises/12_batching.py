"""Judges and hints of notebook 12, batching. Schedules are integers, so an answer takes milliseconds."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import answered, pair
from aiinfra.lab.figures import timeline
from aiinfra.plan.simulate import SimulatedStep, simulate

Trace = list[tuple[int, int]]                # (arrival, length), in order of arrival

_TWELVE: Trace = [(0, 5), (0, 22), (0, 8), (0, 4), (1, 24), (2, 6),
                  (3, 10), (5, 4), (8, 18), (12, 6), (16, 20), (18, 9)]
_IDLE = StepRecord(
    ran=(), made=(), admitted=(), preempted=(), waiting=0, free_blocks=0, cached_blocks=0, used_blocks=0,
    plan_seconds=0.0, model_seconds=0.0, sample_seconds=0.0)


def _every_second(records: Iterable[SimulatedStep]) -> Iterator[StepRecord]:
    """The records of steps of a second each, and an idle one for each second in which nobody was there."""
    second = 0
    for record in records:
        yield from repeat(_IDLE, int(record.begin_seconds) - second)
        yield record
        second = int(record.end_seconds)


def _steps(trace: Trace, seats: int, mode: str) -> list[list[str]]:
    """Who ran in each step of the library's scheduler, from step 0; [] where nobody was there."""
    scheduler = Scheduler(BlockPool(100, 64, prefix_caching=False), 4096, seats, mode)
    requests = [Request(str(i), [0], length) for i, (_, length) in enumerate(trace)]
    records = simulate(scheduler, requests, [at for at, _ in trace])
    return timeline.ran(list(_every_second(records)))


def _seats(count: int) -> str:
    return plural(count, "seat")


def _traces(count: int, seed: int) -> list[tuple[Trace, int]]:
    """Random mornings with gaps in them, each with a number of seats."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        requests = range(rng.randint(1, 9))
        arrivals = sorted(rng.choice((0, 0, 3, 9, 10, 30)) + rng.randint(0, 4) for _ in requests)
        trace = [(at, rng.randint(1, 12)) for at in arrivals]
        found.append((trace, rng.randint(1, 4)))
    return found


def _number(got: object, what: str) -> float:
    got = answered(got)
    number = isinstance(got, int | float) and not isinstance(got, bool)
    require(number, f"{what}: you returned {got!r}; a number is wanted.")
    return got


class _Ride(NamedTuple):
    """A run of the scheduler: who ran in each step, and how many seats and who waits there were."""

    where: str
    steps: list[list[str]]
    seats: int
    arrivals: dict[str, int]
    free: list[int]
    there: list[int]

    @property
    def wasted(self) -> list[int]:
        """For each step, the empty seats that somebody at the stop could have had."""
        return list(map(min, self.free, self.there))

    def at_the_stop(self, step: int) -> list[str]:
        """Who had arrived by then and had never run."""
        been = {name for ids in self.steps[:step + 1] for name in ids}
        return [name for name, at in self.arrivals.items() if at <= step and name not in been]


def _ride(trace: Trace, seats: int, mode: str) -> _Ride:
    steps = _steps(trace, seats, mode)
    arrivals = {str(i): at for i, (at, _) in enumerate(trace)}
    return _Ride(
        where=f"{len(trace)} requests, {_seats(seats)}, {mode}",
        steps=steps,
        seats=seats,
        arrivals=arrivals,
        free=[seats - len(ids) for ids in steps],
        there=timeline.waiting(steps, arrivals),
    )


@exercise("12.empty_seats", hints=(
    "For each step you need two counts: seats without a rider, and requests that are at the stop. Who is at "
    "the stop?",
    "At the stop: arrivals[name] <= step, and the name is in none of steps[0 … step]. Keep a set of the "
    "names that have run. A request that is done is not at the stop: it is in that set.",
    "For at, ids in enumerate(steps): seen |= set(ids); free = seats - len(ids); there = sum(a <= at and "
    "name not in seen for name, a in arrivals.items()); wasted += min(free, there); spare += free - "
    "min(free, there).",
))
def empty_seats(count):
    cases = [(_TWELVE, 4, "static"), (_TWELVE, 4, "continuous"), (_TWELVE, 1, "one")]
    for trace, seats in _traces(40, 3):
        cases += [(trace, seats, "static"), (trace, seats, "continuous")]
    for trace, seats, mode in cases:
        ride = _ride(trace, seats, mode)
        wasted = sum(ride.wasted)
        want = (wasted, sum(ride.free) - wasted)
        got = answered(_counted(count, ride, len(ride.steps)))
        pair(got, f"you returned {got!r}; two numbers are wanted, (wasted, spare).")
        mine = tuple(_number(part, "(wasted, spare)") for part in got)
        if mine != want:
            _explain_empty(mine, want, ride)
            _first_difference(count, ride)
    return ("Static: 101 of 264 seats wasted on the twelve requests. Continuous: none, in any trace; that is "
            "what work-conserving means.")


def _counted(count, ride: _Ride, steps: int):
    """The learner's answer for the first so many steps."""
    shown = [list(ids) for ids in ride.steps[:steps]]
    return count(shown, ride.seats, dict(ride.arrivals))


def _explain_empty(mine: tuple[float, ...], want: tuple[int, int], ride: _Ride) -> None:
    """Raise Wrong, with the reason if it is a known one."""
    where, steps, arrivals = ride.where, ride.steps, ride.arrivals
    if mine == want[::-1]:
        raise Wrong(f"{where}: both numbers are right, in the other order: (wasted, spare).")
    all_free = sum(free for free, there in zip(ride.free, ride.there) if there)
    if mine[0] == all_free:
        raise Wrong(f"{where}: you have {mine[0]} wasted, {want[0]} is wanted. One person at the stop wastes "
                    "one seat, however many are empty.")
    late, absent = [], []
    for step, ids in enumerate(steps):
        waiting = [name for name in ride.at_the_stop(step) if arrivals[name] < step]
        late.append(len(waiting))
        away = [name for name, at in arrivals.items() if at <= step and name not in ids]
        absent.append(len(away))
    if mine[0] == sum(map(min, ride.free, late)):
        raise Wrong(f"{where}: who arrives at step 3 could have had a seat in step 3 already: arrivals[name] "
                    "<= step.")
    if mine[0] == sum(map(min, ride.free, absent)):
        raise Wrong(f"{where}: whoever is not in a step is not therefore waiting: some have been, and are "
                    "done.")
    require(sum(mine) == sum(want), f"{where}: your two numbers add up to {sum(mine)}; {sum(want)} seats "
                                    "were empty, "
            f"in {len(steps)} steps.")


def _first_difference(count, ride: _Ride) -> None:
    """Raise Wrong with the first step whose two numbers differ, who rides in it and who waits."""
    before = (0, 0)
    for step, ids in enumerate(ride.steps):
        got = tuple(_counted(count, ride, step + 1))
        mine = (got[0] - before[0], got[1] - before[1])
        wasted = ride.wasted[step]
        want = (wasted, ride.free[step] - wasted)
        if mine != want:
            riding = ", ".join(ids) or "nobody"
            stop = ", ".join(ride.at_the_stop(step)) or "nobody"
            raise Wrong(f"{ride.where}, step {step}: riding {riding}; at the stop {stop}. (wasted, spare) of "
                        f"this step is {want}; you add {mine}.")
        before = got
    raise Wrong(f"{ride.where}: asked twice, you give two answers.")


@exercise("12.bus_steps", hints=(
    "A ride is decided by two things: when it leaves, and who is on board. Then you know when the bus is "
    "back.",
    "It leaves at max(bus is back, first one at the stop has arrived). On board: the next `seats` at most, "
    "and only those who have arrived by then. It is back after the longest of them.",
    "now = 0; while trace: now = max(now, trace[0][0]); board = [n for a, n in trace[:seats] if a <= now]; "
    "now += max(board); trace = trace[len(board):]. Return now.",
))
def bus_steps(steps):
    for trace, seats in [(_TWELVE, 4), (_TWELVE, 1), *_traces(60, 7)]:
        want = len(_steps(trace, seats, "static"))
        got = _number(steps(list(trace), seats), "steps")
        if got == want:
            continue
        named = f"{trace}" if len(trace) <= 5 else f"a trace of {len(trace)}"
        show = f"{named} with {_seats(seats)}"
        figures = f"{show}: you have {got}, {want} is wanted."
        chunks = [trace[i:i + seats] for i in range(0, len(trace), seats)]
        if got == _rides(chunks):
            raise Wrong(f"{figures} You filled every bus with the next {seats}; somebody among them had not "
                        "arrived when it left.")
        if got == _waits_for_all(chunks):
            raise Wrong(f"{figures} Your bus waits until it is full; this one leaves with whoever is at the "
                        "stop.")
        if got == sum(map(_longest, chunks)):
            raise Wrong(f"{figures} Where nobody is at the stop, time passes, too, and who has not arrived "
                        "does not ride.")
        shared = len(_steps(trace, seats, "continuous"))
        require(got != shared, f"{show}: {got} is what the shared ride needs. On a bus nobody gets on before "
                               "all have "
                f"got off: {want}.")
        raise Wrong(f"{show}: you have {got}; {want} is wanted.")
    return ("66 steps for the twelve. One turn a ride: the bus is so regular that its timetable can be "
            "computed, and that is its only virtue.")


def _longest(chunk: Trace) -> int:
    return max(length for _, length in chunk)


def _rides(chunks: list[Trace]) -> int:
    """Each chunk leaves when its first is there, even if the others have not arrived."""
    now = 0
    for chunk in chunks:
        arrival, _ = chunk[0]
        now = max(now, arrival) + _longest(chunk)
    return now


def _waits_for_all(chunks: list[Trace]) -> int:
    now = 0
    for chunk in chunks:
        arrival, _ = chunk[-1]
        now = max(now, arrival) + _longest(chunk)
    return now


@exercise("12.least_steps", hints=(
    "Two kinds of bound, and the largest of all of them is the answer: one for each request, one for each "
    "arrival time.",
    "A request gives a + n. An arrival time a gives a + (all tokens of those that arrive at a or later) / "
    "seats, and a step is whole, so round up.",
    "max(max(a + n for a, n in trace), max(a + -(-sum(n for b, n in trace if b >= a) // seats) for a, _ in "
    "trace)).",
))
def least_steps(least):
    party: Trace = [(0, 3), *[(10, 8)] * 6]
    for trace, seats in [(party, 2), (_TWELVE, 4), *_traces(80, 5)]:
        alone = max(at + length for at, length in trace)
        want = max(alone, *(_crowd(trace, seats, at) for at, _ in trace))
        got = _number(least(list(trace), seats), "steps")
        reached = len(_steps(trace, seats, "continuous"))
        case = f"{trace} with {_seats(seats)}"
        require(got <= reached,
                f"{case}: you say that nobody can need fewer than {got}; the shared ride needs {reached}.")
        if got == want:
            continue
        show = f"{case}: you have {got}; {want} is wanted."
        total = sum(length for _, length in trace)
        whole = -(-total // seats)
        require(got != total / seats, f"{show} A step is whole: round up.")
        require(got != alone, f"{show} That is the request that is home last. With few seats there is a "
                              "crowd, too.")
        require(got not in (whole, max(whole, alone)), f"{show} Steps in which nobody had arrived cannot be "
                                                       "used: "
                "look at every arrival time, and at those who come from then on.")
        raise Wrong(show)
    return ("For the twelve: 36. The shared ride needs 42, without knowing a single length in advance; "
            "nobody can save more than 6 steps.")


def _crowd(trace: Trace, seats: int, start: int) -> int:
    """The step by which all that arrive from `start` on can be done at best."""
    tokens = sum(length for at, length in trace if at >= start)
    return start + -(-tokens // seats)


def _records(rng: random.Random) -> tuple[list[StepRecord], list[float], dict[str, int],
                                          dict[str, tuple[int, int, int]]]:
    """A run of the scheduler with prompts in pieces; id -> (step of admission, of first and last token)."""
    scheduler = Scheduler(BlockPool(200, 16, prefix_caching=False), token_budget=8, max_running=3)
    arrivals = {f"r{i}": rng.randint(0, 12) for i in range(6)}
    requests = [Request(name, [0] * rng.choice((2, 5, 20)), rng.randint(1, 6)) for name in arrivals]
    records = list(_every_second(simulate(scheduler, requests, arrivals.values())))
    when = {}
    for at, record in enumerate(records):
        served = {made.request_id for made in record.made}
        for name, _, _ in record.ran:
            begun, first, _ = when.get(name, (at, -1, -1))
            if first < 0 and name in served:
                first = at
            when[name] = (begun, first, at)
    step_seconds = [rng.choice((0.02, 0.03, 0.05, 0.08)) for _ in records]
    return records, step_seconds, arrivals, when


@exercise("12.first_token", hints=(
    "You need a clock: when did each step begin, and when did it end? Then walk through the records once.",
    "A token is there when its step has ENDED; a request arrived when step arrivals[i] BEGAN. The first "
    "token is the first time that the id is in `made`; being in `ran` is not enough.",
    "begin = [0.0]; append begin[-1] + s for each s. For at, record in enumerate(records): for made in "
    "record.made: found.setdefault(made.request_id, begin[at + 1] - begin[arrivals[made.request_id]]).",
))
def first_token(times):
    for seed in range(6):
        records, step_seconds, arrivals, when = _records(random.Random(seed))
        begin = [0.0, *accumulate(step_seconds)]
        want = {name: begin[first + 1] - begin[arrivals[name]] for name, (_, first, _) in when.items()}
        got = answered(times(list(records), list(step_seconds), dict(arrivals)))
        require(isinstance(got, dict), f"you returned a {type(got).__name__}; a dict {{id: seconds}} is "
                                       "wanted.")
        require(set(got) == set(want), f"ids {sorted(got)}, but these got a token: {sorted(want)}.")
        got = {name: float(seconds) for name, seconds in got.items()}
        _explain_late(got, want, _ways(begin, arrivals, when))
        for name, seconds in want.items():
            close(got[name], seconds, f"seconds to the first token of {name}", rtol=1e-6)
    return ("The same records feed a service's dashboards: time to first token needs no timer in the code "
            "that runs the model.")


def _ways(begin: Sequence[float], arrivals: Mapping[str, int],
          when: Mapping[str, tuple[int, int, int]]) -> dict[str, dict[str, float]]:
    """What each known mistake gives: reason -> {id: seconds}."""
    last_token, first_run, too_early, since_admission, since_start = {}, {}, {}, {}, {}
    for name, (admitted, first, last) in when.items():
        arrived, there = begin[arrivals[name]], begin[first + 1]
        last_token[name] = begin[last + 1] - arrived
        first_run[name] = begin[admitted + 1] - arrived
        too_early[name] = begin[first] - arrived
        since_admission[name] = there - begin[admitted]
        since_start[name] = there
    return {
        "that is when its LAST token came; the first one is wanted.":
            last_token,
        "that is when it first ran. A long prompt runs in several steps, and only the last of them makes a "
        "token: look in `made`.":
            first_run,
        "that is when the step of its first token began. The token is there when the step has ended.":
            too_early,
        "you count from its admission. The user has been waiting since its arrival.":
            since_admission,
        "that is measured from step 0. Count from its own arrival.":
            since_start,
    }


def _explain_late(got: dict[str, float], want: dict[str, float], ways: dict[str, dict[str, float]]) -> None:
    """Raise Wrong with the reason, if all that is given comes from one mistake."""
    for reason, way in ways.items():
        off = {name: abs(way[name] - seconds) for name, seconds in want.items()}
        worst = max(off, key=off.get)
        made_so = all(abs(got[name] - seconds) < 1e-9 for name, seconds in way.items())
        if made_so and off[worst] > 1e-9:
            raise Wrong(f"{worst}: {got[worst]:.3f} s, and {want[worst]:.3f} s is wanted: {reason}")


def _gpu(rows: int) -> float:
    return 0.0045 + 0.00004 * rows                  # nearly flat


def _cpu(rows: int) -> float:
    return max(0.02, 0.0015 * rows) + 0.005         # flat, then proportional


def _tiles(rows: int) -> float:
    return 0.02 * -(-rows // 8)                     # the ninth row costs as much as the first eight


# Seconds of a step, requests a second, tokens each, most rows, rows that are needed.
_SERVICES = (
    (_gpu, 4, 200, 64, 4),
    (_gpu, 20, 200, 64, 22),
    (_gpu, 20, 200, 16, None),
    (_gpu, 1, 20, 64, 1),
    (_cpu, 2, 60, 64, 3),
    (_cpu, 20, 20, 128, 10),
    (_cpu, 50, 20, 1000, None),
    (_gpu, 0.001, 10, 8, 1),
    (_tiles, 39, 10, 20, 8),
)


@exercise("12.seats_needed", hints=(
    "With R rows the engine makes R tokens in step_seconds(R) seconds. How many are wanted a second?",
    "Wanted: rate · tokens. Made: R / step_seconds(R). Look for the first R, from 1 to most, with made >= "
    "wanted.",
    "for rows in range(1, most + 1): if rows / step_seconds(rows) >= rate * tokens: return rows. After the "
    "loop: return None.",
))
def seats_needed(needed):
    for curve, rate, tokens, most, want in _SERVICES:
        got = answered(needed(rate, tokens, curve, most))
        if got == want:
            continue
        show = f"{rate} requests a second, {tokens} tokens each, at most {most} rows: you have {got!r}"
        wanted = f"{rate * tokens:,.0f}"

        def made(rows: int) -> str:
            return f"{rows / curve(rows):,.0f}"

        if want is None:
            best = max(range(1, most + 1), key=lambda rows: rows / curve(rows))
            require(False, f"{show}; the best number of rows makes only {made(best)} of {wanted} tokens a "
                           "second, so "
                    "None is wanted.")
        require(got is not None, f"{show}; {want} rows make {made(want)} tokens a second, {wanted} are "
                                 f"wanted. {most} "
                f"rows make {made(most)}: more rows need not make more tokens.")
        rows = _number(got, "rows")
        require(rows == int(rows), f"{show}; rows are whole.")
        require(rows >= 1, f"{show}; a step has at least one row.")
        require(rows <= most, f"{show}; only {most} are allowed.")
        if rows > want:
            raise Wrong(f"{show}; {want} rows are enough: they make {made(want)} tokens a second, {wanted} "
                        "are wanted. (More rows need not make more tokens: try them one by one.)")
        one_token_each = max(1, -(-rate * curve(1) // 1))
        if rows == one_token_each:
            raise Wrong(f"{show}: {rows} rows make {made(int(rows))} tokens a second, and {wanted} are "
                        "wanted. A request is not one token.")
        raise Wrong(f"{show}: they make {made(int(rows))} tokens a second, and {wanted} are wanted. A step "
                    "with more rows takes longer: use step_seconds(R), not step_seconds(1).")
    return ("Little's law as a loop: rows = tokens wanted a second × seconds a step. The CPU's curve "
            "saturates, and then no number of seats helps.")


def _admit(waiting: list, running: list, seats: int, room: int) -> list[str]:
    got_on = []
    riders = len(running)
    reserved = sum(tokens for _, tokens in running)
    for name, tokens in waiting:
        if riders == seats or reserved + tokens > room:
            break
        got_on.append(name)
        riders += 1
        reserved += tokens
    return got_on


_STOPS = [                                     # waiting, running, seats, room
    ([("a", 300), ("b", 300), ("c", 300)], [("x", 200)], 8, 1000),
    ([("a", 900), ("b", 50)], [("x", 200)], 8, 1000),
    ([("a", 10), ("b", 10), ("c", 10)], [("x", 10)], 3, 1000),
    ([], [("x", 10)], 3, 1000),
    ([("a", 500)], [("x", 500)], 2, 1000),
]


@exercise("12.admit", hints=(
    "Keep two running totals, riders and reserved tokens, and start both with those who ride already.",
    "Go through `waiting` in order. The first one who does not fit ends it, even if a smaller one stands "
    "behind: otherwise a large request could be overtaken for ever.",
    "for name, tokens in waiting: if riders == seats or reserved + tokens > room: break; otherwise append "
    "the name, riders += 1, reserved += tokens.",
))
def admit(choose):
    rng = random.Random(9)
    cases = list(_STOPS)
    for _ in range(60):
        draw = [(str(i), rng.choice((50, 100, 300, 700))) for i in range(rng.randint(0, 7))]
        riding = [("x", 100), ("y", 200)][:rng.randint(0, 2)]
        cases.append((draw, riding, rng.randint(2, 5), 1000))
    for waiting, running, seats, room in cases:
        got = answered(choose(list(waiting), list(running), seats, room))
        require(isinstance(got, list | tuple), f"you returned {got!r}; a list of ids is wanted.")
        got = list(got)
        want = _admit(waiting, running, seats, room)
        if got == want:
            continue
        show = f"waiting {waiting}, riding {running}, {seats} seats, room for {room}: you let {got} on"
        size = dict(waiting)
        require(set(got) <= set(size), f"{show}; return ids of those who wait, each once.")
        riders = len(got) + len(running)
        require(riders <= seats, f"{show}, and then {riders} ride. Those who ride already have seats.")
        total = sum(size[name] for name in got) + sum(tokens for _, tokens in running)
        require(total <= room, f"{show}, and then {total:,} tokens are reserved: those who ride, and those "
                               "who have "
                "just got on, count.")
        for name, expected in zip(got, size):
            if name != expected:
                _overtaken(got, size, show)
        raise Wrong(f"{show}; {want} is wanted: there was a seat and room for one more.")
    return ("Nobody starves. And much of what is reserved will never be used: how to rent that out as well "
            "is notebook 13.")


def _overtaken(got: list[str], size: dict[str, int], show: str) -> None:
    skipped = next(name for name in size if name not in got)
    raise Wrong(f"{show}. {skipped} was there before, and was overtaken: with small requests coming for "
                "ever, it never rides.")
