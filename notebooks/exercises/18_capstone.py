"""Judges and hints of notebook 18, the capstone: plans are scored by the simulator, which drives the real
scheduler."""

import math
import random
from collections.abc import Callable
from functools import partial
from itertools import accumulate, product
from typing import Any

from aiinfra.lab.capstone import Day, budgets, engines
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, number

_TRIALS = 40                          # of an engine's settings, before they are handed in
_FLEETS = 8                           # and of a fleet: each is a day, and all are 15
_NEAR = 0.95                          # of the best that a search finds
_DEARER = 1.1                         # than the reference


@exercise("18.in_time", hints=(
    "Ask each request two questions, and count those that say yes to both. No percentile is needed.",
    "First token: times[0] - arrival. Each further one: (times[-1] - times[0]) / (len(times) - 1), if there "
    "is a further one.",
    "good = 0; for arrival, times in served: gaps = max(1, len(times) - 1); each = (times[-1] - times[0]) / "
    "gaps; good += times[0] - arrival <= ttft and each <= tpot; return good / len(served)",
))
def in_time(share):
    for seed in range(5):
        served, ttft, tpot = _served(seed)
        got = number(share([(at, list(times)) for at, times in served], ttft, tpot), "the share")
        want = _share(served, ttft, tpot)
        with about(f"{len(served)} requests, {ttft} s and {tpot} s"):
            explain(got, _share_mistakes(served, ttft, tpot, want), unless=want)
            close(got, want, "the share in time")
    return "A percentile belongs to a service; being in time belongs to a request, and requests add up."


def _served(seed: int) -> tuple[list, float, float]:
    """Requests of every kind: one token, exactly on the limit, late in one way only."""
    rng = random.Random(seed)
    ttft, tpot = 0.5, 0.0625
    served = [
        (3.0, [3.5]),
        (1.0, [1.5, 1.5625, 1.625]),
        (2.0, [2.25, 2.75]),
    ]
    for _ in range(40):
        at = rng.randrange(64) / 4
        gaps = rng.choices((0.03125, 0.0625, 0.125), k=rng.randrange(1, 9))
        first = at + rng.choice((0.125, 0.375, 0.75))
        served.append((at, list(accumulate(gaps, initial=first))))
    return served, ttft, tpot


def _is_good(at: float, times: list[float], ttft: float, tpot: float) -> bool:
    first = times[0] - at
    gaps = max(1, len(times) - 1)
    each = (times[-1] - times[0]) / gaps
    return first <= ttft and each <= tpot


def _share(served: list, ttft: float, tpot: float) -> float:
    good = [_is_good(at, times, ttft, tpot) for at, times in served]
    return sum(good) / len(served)


def _share_mistakes(served: list, ttft: float, tpot: float, want: float) -> list[tuple[float, str]]:
    count = len(served)
    either = strict = over_all = longest = tokens = made = 0
    for at, times in served:
        first = times[0] - at
        gaps = [b - a for a, b in zip(times, times[1:])]
        whole = sum(gaps)
        each = whole / max(1, len(gaps))
        early = first <= ttft
        either += early or each <= tpot
        strict += first < ttft and each < tpot
        over_all += early and whole / len(times) <= tpot
        longest += early and max(gaps, default=0) <= tpot
        made += len(times)
        if _is_good(at, times, ttft, tpot):
            tokens += len(times)
    return [
        (either / count,
         "a request is in time if BOTH are kept."),
        (strict / count,
         "the target itself is in time: at most so many seconds."),
        (over_all / count,
         "n tokens have n - 1 gaps: divide by len(times) - 1."),
        (longest / count,
         "you look at the longest gap; the mean of a request's gaps is wanted."),
        (tokens / made,
         "you count tokens; requests are wanted."),
        (want * count,
         "a share is wanted: divide by the number of requests."),
    ]


@exercise("18.most", hints=(
    "Each call is a load test. How do you find a page in a phone book?",
    "Keep two numbers: one that is carried (0 always is), one that is not (most + 1). Ask in the middle "
    "until they are neighbours.",
    "low, high = 0, most + 1; while high - low > 1: middle = (low + high) // 2; if carries(middle): low = "
    "middle; else: high = middle; return low",
))
def most(search):
    cases = (
        (37, 100),
        (0, 64),
        (100, 100),
        (1, 1000),
        (999, 1000),
        (512, 1023),
    )
    for limit, top in cases:
        asked: list[int] = []

        def carries(users: int, limit: int = limit) -> bool:
            require(isinstance(users, int) and 1 <= users <= top,
                    f"carries({users!r}): ask for a whole number of 1 to {top} users.")
            asked.append(users)
            return users <= limit

        got = answered(search(carries, top))
        allowed = math.ceil(math.log2(top + 1)) + 1
        with about(f"{limit} of at most {top} users"):
            require(len(asked) <= allowed, f"you ran {len(asked)} load tests; {allowed} are enough. Halve.")
            explain(number(got, "users"), (
                (limit + 1,
                 "that is the first number that is NOT carried."),
                (limit - 1,
                 "one more is carried, too."),
            ), unless=limit)
            require(got == limit, f"you found {got}; {limit} is right.")
    return "Seven load tests for a hundred users, ten for a thousand. It works because load is monotone."


@exercise("18.tune", hints=(
    "A simulated afternoon of load tests takes a moment. Which settings would you try at all?",
    "max_running: 2, 4, 8, 16, 32. chunk_tokens: 8, 32, 128. That is a grid of fifteen; keep the best.",
    "grid = [dict(max_running=m, chunk_tokens=c) for m in (2, 4, 8, 16, 32) for c in (8, 32, 128)]; return "
    "max(grid, key=lambda settings: score(**settings))",
))
def tune(search):
    for name, day in engines().items():
        with about(name):
            _judge_tuned(search, day)
    return "No setting is good by itself: what is best here is a quarter of it elsewhere. Hence the search."


def _judge_tuned(search, day: Day) -> None:
    calls = _Counted(partial(_in_time, day), _TRIALS)
    got = answered(search(calls))
    message = f"you returned {got!r}; a dict with max_running and chunk_tokens is wanted."
    require(isinstance(got, dict), message)
    require(set(got) == {"max_running", "chunk_tokens"}, message)
    mine = _in_time(day, **got)
    grid = product((2, 4, 8, 16, 32), (8, 32, 128))
    best = max(_in_time(day, rows, piece) for rows, piece in grid)
    require(mine >= _NEAR * best,
            f"with {got} {mine:.0%} of the requests are in time; {best:.0%} can be.")


def _in_time(day: Day, max_running: int, chunk_tokens: int) -> float:
    settings = {"max_running": max_running, "chunk_tokens": chunk_tokens}
    return day.run("this machine", 1, token_budget=512, **settings).in_time


class _Counted:
    """Something that may be tried so many times."""

    def __init__(self, trial: Callable[..., Any], most: int) -> None:
        self.trial = trial
        self.most = most
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        require(self.count <= self.most,
                f"more than {self.most} trials: choose which are worth one, and in which order.")
        return self.trial(*args, **kwargs)


@exercise("18.timetable", hints=(
    "Who serves in slot 7 was paid for in slots 7 - boot to 7. So slot i must pay for whom?",
    "Needed in a slot: ceil(rate / each). Slot i pays for the largest need among slots i, i + 1, … i + boot.",
    "need = [math.ceil(rate / each) for rate in rates]; return [max(need[i:i + boot + 1]) for i in "
    "range(len(need))]",
))
def timetable(plan):
    for rates, each, boot in _forecasts():
        got = answered(plan(list(rates), each, boot))
        with about(f"rates {rates}, {each} each, {boot} slots to start"):
            _judge_timetable(got, rates, each, boot)
    return "Scaling by what you see is late by the time that a machine takes to start: a forecast's worth."


def _forecasts() -> list[tuple[list[float], float, int]]:
    """(rates, requests a second of a replica, slots to start)"""
    cases = [
        ([3, 3, 9, 3, 3, 3], 2, 1),
        ([1, 5, 1, 1, 8, 1], 1, 2),
        ([4, 4.5, 0, 0, 10], 2, 0),
    ]
    rng = random.Random(5)
    for _ in range(12):
        slots = rng.randrange(3, 12)
        rates = [rng.randrange(40) / 4 for _ in range(slots)]
        each = rng.choice((0.5, 1.5, 2, 3))
        boot = rng.randrange(4)
        cases.append((rates, each, boot))
    return cases


def _judge_timetable(got: Any, rates: list[float], each: float, boot: int) -> None:
    require(isinstance(got, list | tuple), f"you returned {got!r}; a list of whole numbers is wanted.")
    mine = [number(one, "replicas") for one in got]
    require(len(mine) == len(rates), f"{len(mine)} slots for {len(rates)} rates.")
    need = [math.ceil(rate / each) for rate in rates]
    want = [max(need[i:i + boot + 1]) for i in range(len(need))]
    if mine == want:
        return
    figures = f"you pay for {mine}; {want} is wanted."
    later = need[boot:] + [0] * min(boot, len(need))
    down = [math.floor(rate / each) for rate in rates]
    back = [max(need[max(0, i - boot):i + 1]) for i in range(len(need))]
    explain(mine, (
        (need,
         f"{figures} Who is asked for when the load comes is ready {boot} slots too late."),
        ([max(need)] * len(need),
         f"{figures} That is the peak, all day: it serves everybody, and is dearer."),
        (down,
         f"{figures} Replicas come whole: round up."),
        (later,
         f"{figures} Those who serve now must still be paid for, too."),
        (back,
         f"{figures} You look back; a start has to look ahead."),
    ), unless=want)
    for slot, wanted in enumerate(need):
        serving = min(mine[max(0, slot - boot):slot + 1])
        require(serving >= wanted, f"{figures} In slot {slot} only {serving:g} serve, and {wanted} must.")
    paid, enough = sum(mine), sum(want)
    require(paid <= enough, f"{figures} All are served, but {paid:g} slots are paid for; {enough} do.")
    raise Wrong(figures)


@exercise("18.fleet", hints=(
    "What a fleet costs an hour is known before it is tried. Which fleet would you like to be enough?",
    "Sort the 15 fleets by replicas * offers[name].hourly and try them from the cheapest up: the first whose "
    "score is finite is the answer, since all after it are dearer. It is never later than the eighth.",
    "plans = [(name, n) for name in offers for n in (1, 2, 3)]; plans.sort(key=lambda plan: plan[1] * "
    "offers[plan[0]].hourly); for name, n in plans: if try_out(name, n).score < math.inf: return name, n",
))
def fleet(buy):
    saved = []
    for name, day in budgets().items():
        with about(name):
            saved.append(_judge_bought(buy, day))
    factors = ", ".join(f"{factor:.1f}" for factor in saved)
    return f"The naive plan, two pairs of H100 in turns, costs {factors} times as much on the three days."


def _judge_bought(buy, day: Day) -> float:
    calls = _Counted(day.try_out, _FLEETS)
    got = answered(buy(dict(day.offers), calls))
    require(isinstance(got, tuple | list) and len(got) in (2, 3),
            f"you returned {got!r}; (name of an offer, replicas) is wanted, or (name, replicas, settings).")
    require(got[0] in day.offers, f"{got[0]!r} is none of the offers: {', '.join(day.offers)}.")
    settings = dict(*got[2:])
    replicas = number(got[1], "replicas")
    fleet = f"{got[1]} replicas of {got[0]}"
    require(replicas in range(1, 100), f"{fleet}; a whole number from 1 to 99 is wanted.")
    found = day.try_out(got[0], int(replicas), **settings)
    share = day.target.share
    require(found.in_time >= share,
            f"{fleet}: {found.in_time:.1%} of the requests are in time, and {share:.0%} must be. What binds: "
            f"{found.binds}.")
    best = day.reference()
    require(found.score <= _DEARER * best.score,
            f"{fleet} keep the target for {found.score:.2f} dollars a million tokens; it can be had for "
            f"{best.score:.2f}.")
    return day.naive().score / found.score
