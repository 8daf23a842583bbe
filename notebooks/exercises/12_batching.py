"""Judges and hints of notebook 12, batching. Schedules are integers, so an answer takes milliseconds."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, number, pair
from aiinfra.lab.mornings import TWELVE, Life, Ride, Trace, ran, traces, with_prompts


def _seats(count: int) -> str:
    return plural(count, "seat")


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
    cases = [(TWELVE, 4, "static"), (TWELVE, 4, "continuous"), (TWELVE, 1, "one")]
    for trace, seats in traces(40, 3):
        cases += [(trace, seats, "static"), (trace, seats, "continuous")]
    for trace, seats, mode in cases:
        arrivals = {str(i): at for i, (at, _) in enumerate(trace)}
        ride = Ride(steps=ran(trace, seats, mode), seats=seats, arrivals=arrivals)
        with about(f"{len(trace)} requests, {_seats(seats)}, {mode}"):
            _judge_empty(count, ride)
    return ("Static: 101 of 264 seats wasted on the twelve requests. Continuous: none, in any trace; that is "
            "what work-conserving means.")


def _counted(count, ride: Ride, steps: int):
    """The learner's answer for the first so many steps."""
    shown = [list(ids) for ids in ride.steps[:steps]]
    return count(shown, ride.seats, dict(ride.arrivals))


def _judge_empty(count, ride: Ride) -> None:
    wasted = sum(ride.wasted)
    spare = sum(ride.free) - wasted
    got = answered(_counted(count, ride, len(ride.steps)))
    pair(got, f"you returned {got!r}; two numbers are wanted, (wasted, spare).")
    mine = tuple(number(part, "(wasted, spare)") for part in got)
    if mine == (wasted, spare):
        return
    require(mine != (spare, wasted), "both numbers are right, in the other order: (wasted, spare).")
    _explain_wasted(mine[0], wasted, ride)
    total, empty = sum(mine), wasted + spare
    require(total == empty, f"your two numbers add up to {total}; {empty} seats were empty, in "
                            f"{len(ride.steps)} steps.")
    _first_difference(count, ride)


def _explain_wasted(mine: float, wasted: int, ride: Ride) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    all_free = late = absent = 0
    for step, (ids, free) in enumerate(zip(ride.steps, ride.free)):
        stop = ride.at_the_stop(step)
        waited = [name for name in stop if ride.arrivals[name] < step]
        away = [name for name, at in ride.arrivals.items() if at <= step and name not in ids]
        if stop:
            all_free += free
        late += min(free, len(waited))
        absent += min(free, len(away))
    explain(mine, (
        (all_free, f"you have {mine} wasted, {wasted} is wanted. One person at the stop wastes one seat, "
                   "however many are empty."),
        (late, "who arrives at step 3 could have had a seat in step 3 already: arrivals[name] <= step."),
        (absent, "whoever is not in a step is not therefore waiting: some have been, and are done."),
    ), unless=wasted)


def _first_difference(count, ride: Ride) -> None:
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
            raise Wrong(f"step {step}: riding {riding}; at the stop {stop}. (wasted, spare) of this step is "
                        f"{want}; you add {mine}.")
        before = got
    raise Wrong("asked twice, you give two answers.")


@exercise("12.bus_steps", hints=(
    "A ride is decided by two things: when it leaves, and who is on board. Then you know when the bus is "
    "back.",
    "It leaves at max(bus is back, first one at the stop has arrived). On board: the next `seats` at most, "
    "and only those who have arrived by then. It is back after the longest of them.",
    "now = 0; while trace: now = max(now, trace[0][0]); board = [n for a, n in trace[:seats] if a <= now]; "
    "now += max(board); trace = trace[len(board):]. Return now.",
))
def bus_steps(steps):
    for trace, seats in [(TWELVE, 4), (TWELVE, 1), *traces(60, 7)]:
        want = len(ran(trace, seats, "static"))
        got = number(steps(list(trace), seats), "steps")
        named = f"{trace}"
        if len(trace) > 5:
            named = f"a trace of {len(trace)}"
        with about(f"{named} with {_seats(seats)}"):
            _explain_bus(got, want, trace, seats)
            require(got == want, f"you have {got}; {want} is wanted.")
    return ("66 steps for the twelve. One turn a ride: the bus is so regular that its timetable can be "
            "computed, and that is its only virtue.")


def _explain_bus(got: float, want: int, trace: Trace, seats: int) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    chunks = [trace[i:i + seats] for i in range(0, len(trace), seats)]
    shared = len(ran(trace, seats, "continuous"))
    figures = f"you have {got}, {want} is wanted."
    explain(got, (
        (_rides(chunks), f"{figures} You filled every bus with the next {seats}; somebody among them had not "
                         "arrived when it left."),
        (_waits_for_all(chunks), f"{figures} Your bus waits until it is full; this one leaves with whoever "
                                 "is at the stop."),
        (sum(map(_longest, chunks)), f"{figures} Where nobody is at the stop, time passes, too, and who has "
                                     "not arrived does not ride."),
        (shared, f"{got} is what the shared ride needs. On a bus nobody gets on before all have got off: "
                 f"{want}."),
    ), unless=want)


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
    for trace, seats in [(party, 2), (TWELVE, 4), *traces(80, 5)]:
        got = number(least(list(trace), seats), "steps")
        with about(f"{trace} with {_seats(seats)}"):
            _judge_bound(got, trace, seats)
    return ("For the twelve: 36. The shared ride needs 42, without knowing a single length in advance; "
            "nobody can save more than 6 steps.")


def _judge_bound(got: float, trace: Trace, seats: int) -> None:
    alone = max(at + length for at, length in trace)
    want = max(alone, *(_crowd(trace, seats, at) for at, _ in trace))
    reached = len(ran(trace, seats, "continuous"))
    require(got <= reached,
            f"you say that nobody can need fewer than {got}; the shared ride needs {reached}.")
    show = f"you have {got}; {want} is wanted."
    exact = sum(length for _, length in trace) / seats
    arrivals = (f"{show} Steps in which nobody had arrived cannot be used: look at every arrival time, and "
                "at those who come from then on.")
    explain(got, (
        (exact, f"{show} A step is whole: round up."),
        (alone, f"{show} That is the request that is home last. With few seats there is a crowd, too."),
        (math.ceil(exact), arrivals),
    ), unless=want)
    require(got == want, show)


def _crowd(trace: Trace, seats: int, start: int) -> int:
    """The step by which all that arrive from `start` on can be done at best."""
    tokens = sum(length for at, length in trace if at >= start)
    return start + -(-tokens // seats)


@exercise("12.first_token", hints=(
    "You need a clock: when did each step begin, and when did it end? Then walk through the records once.",
    "A token is there when its step has ENDED; a request arrived when step arrivals[i] BEGAN. The first "
    "token is the first time that the id is in `made`; being in `ran` is not enough.",
    "begin = [0.0]; append begin[-1] + s for each s. For at, record in enumerate(records): for made in "
    "record.made: found.setdefault(made.request_id, begin[at + 1] - begin[arrivals[made.request_id]]).",
))
def first_token(times):
    for seed in range(6):
        rng = random.Random(seed)
        records, lives = with_prompts(rng)
        step_seconds = [rng.choice((0.02, 0.03, 0.05, 0.08)) for _ in records]
        begin = [0.0, *accumulate(step_seconds)]
        arrivals = {name: life.arrived for name, life in lives.items()}
        want = {name: begin[life.first + 1] - begin[life.arrived] for name, life in lives.items()}
        got = answered(times(list(records), step_seconds, arrivals))
        kind = type(got).__name__
        require(isinstance(got, dict), f"you returned a {kind}; a dict {{id: seconds}} is wanted.")
        require(set(got) == set(want), f"ids {sorted(got)}, but these got a token: {sorted(want)}.")
        got = {name: float(seconds) for name, seconds in got.items()}
        _explain_late(got, want, _ways(begin, lives))
        for name, seconds in want.items():
            close(got[name], seconds, f"seconds to the first token of {name}", rtol=1e-6)
    return ("The same records feed a service's dashboards: time to first token needs no timer in the code "
            "that runs the model.")


def _ways(begin: Sequence[float], lives: Mapping[str, Life]) -> dict[str, dict[str, float]]:
    """What each known mistake gives: reason -> {id: seconds}."""
    last_token, first_run, too_early, since_admission, since_start = {}, {}, {}, {}, {}
    for name, life in lives.items():
        arrived = begin[life.arrived]
        there = begin[life.first + 1]
        last_token[name] = begin[life.last + 1] - arrived
        first_run[name] = begin[life.admitted + 1] - arrived
        too_early[name] = begin[life.first] - arrived
        since_admission[name] = there - begin[life.admitted]
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
        if got != want:
            show = f"{rate} requests a second, {tokens} tokens each, at most {most} rows: you have {got!r}"
            with about(show):
                _explain_rows(got, want, most, rate * tokens, curve)
                one_token_each = max(1, math.ceil(rate * curve(1)))
                require(got != one_token_each, f"{got} rows are too few. A request is not one token.")
                raise Wrong("they make too few tokens a second. A step with more rows takes longer: use "
                            "step_seconds(R), not step_seconds(1).")
    return ("Little's law as a loop: rows = tokens wanted a second × seconds a step. The CPU's curve "
            "saturates, and then no number of seats helps.")


def _explain_rows(got, want: int | None, most: int, wanted: float, curve: Callable[[int], float]) -> None:
    """Raise Wrong unless it is an allowed number of rows, and too few of them."""

    def made(rows: int) -> str:
        return f"{rows / curve(rows):,.0f}"

    if want is None:
        best = max(range(1, most + 1), key=lambda rows: rows / curve(rows))
        raise Wrong(f"the best number of rows makes only {made(best)} of {wanted:,.0f} tokens a second, so "
                    "None is wanted.")
    enough = f"{want} rows make {made(want)} tokens a second, {wanted:,.0f} are wanted."
    require(got is not None, f"{enough} {most} rows make {made(most)}: more rows need not make more tokens.")
    rows = number(got, "rows")
    require(rows == int(rows), "rows are whole.")
    require(rows >= 1, "a step has at least one row.")
    require(rows <= most, f"only {most} are allowed.")
    require(rows < want, f"{want} rows are enough. {enough} (More rows need not make more tokens: try them "
                         "one by one.)")


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
        show = f"waiting {waiting}, riding {running}, {seats} seats, room for {room}: you let {got} on"
        size = dict(waiting)
        require(set(got) <= set(size), f"{show}; return ids of those who wait, each once.")
        riders = len(got) + len(running)
        require(riders <= seats, f"{show}, and then {riders} ride. Those who ride already have seats.")
        reserved = [size[name] for name in got] + [tokens for _, tokens in running]
        total = sum(reserved)
        require(total <= room, f"{show}, and then {total:,} tokens are reserved: those who ride, and those "
                               "who have just got on, count.")
        for name, expected in zip(got, size):
            if name != expected:
                _overtaken(got, size, show)
        require(got == want, f"{show}; {want} is wanted: there was a seat and room for one more.")
    return ("Nobody starves. And much of what is reserved will never be used: how to rent that out as well "
            "is notebook 13.")


def _overtaken(got: list[str], size: dict[str, int], show: str) -> None:
    skipped = next(name for name in size if name not in got)
    raise Wrong(f"{show}. {skipped} was there before, and was overtaken: with small requests coming for "
                "ever, it never rides.")
