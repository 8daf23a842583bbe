"""Does the simulator tell the truth? The same requests through the engine, and through its scheduler alone.

    requests ─┬─► Engine on this machine, by the wall clock ──► when each token came ─┐
              └─► its scheduler, MeasuredCost, no model ──────► when each would come ─┴─► signed errors

Two loads, neither of which the cost has seen: everybody at once, so that the engine is saturated, and bursts
at half of the rate that it could carry. The engine serves each several times, and the median of its runs is
what is compared; beside it stands how far they are apart: nobody can predict a machine more closely than it
repeats itself. Notebook 18.
"""

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from aiinfra.engine.engine import Engine
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer
from aiinfra.perf.timing import percentile
from aiinfra.plan.leap import DecodeCost
from aiinfra.plan.simulate import simulate
from aiinfra.plan.traffic import TrafficShape, Turn, draw

BOUNDS = {"tokens a second": 0.10}         # relative errors that are allowed
_BOUND = 0.20                              # of every other figure
_BELOW_THE_KNEE = 0.5                      # of the rate that the engine can carry
_SCALE = 1 / 8                             # of published lengths, for a small model on a CPU

Times = dict[str, list[float]]             # when each token of a request was there, by its id


@dataclass(frozen=True)
class TimedLoad:
    """Requests, and when they come."""

    name: str
    requests: list[Request]
    arrivals: list[float]

    def fresh(self) -> list[Request]:
        """The requests as if nobody had served them."""
        return [Request(request.id, request.prompt, request.max_tokens) for request in self.requests]


@dataclass(frozen=True)
class FidelityRow:
    """One figure of one load, from each run of the engine and from the simulator."""

    load: str
    figure: str
    engine: tuple[float, ...]
    simulated: float

    @property
    def error(self) -> float:
        """Of the simulator, relative: above 0 where it says more than `measured`."""
        return self.simulated / self.measured - 1

    @property
    def measured(self) -> float:
        """The median of the engine's runs."""
        return median(self.engine)

    @property
    def spread(self) -> float:
        """How far the engine's runs are apart, relative to their median."""
        return (max(self.engine) - min(self.engine)) / self.measured

    @property
    def bound(self) -> float:
        """The error that is allowed."""
        return BOUNDS.get(self.figure, _BOUND)

    @property
    def within(self) -> bool:
        """True if the error is allowed."""
        return abs(self.error) <= self.bound

    @property
    def noisy(self) -> bool:
        """True if the machine repeats itself less closely than the bound asks: measure again."""
        return self.spread > self.bound

    def __str__(self) -> str:
        notes = [""]
        if not self.within:
            notes.append("beyond its bound")
        if self.noisy:
            notes.append("the engine differs more from itself")
        return (f"{self.load:10}{self.figure:18}{self.measured:10.4g}{self.spread:9.1%}{self.simulated:11.4g}"
                f"{self.error:+9.1%}{self.bound:8.0%}{'   '.join(notes)}")


HEADING = f"{'load':10}{'figure':18}{'engine':>10}{'spread':>9}{'simulated':>11}{'error':>9}{'bound':>8}"


def fidelity(model: Transformer, cost: DecodeCost, requests: int = 32, seed: int = 0, runs: int = 3,
             progress: Callable[[int], object] | None = None) -> Iterator[FidelityRow]:
    """Rows of both loads, as they are measured, each from so many runs of the engine. progress(n): n more
    tokens were made by it."""
    for load in loads(model, cost, requests, seed):
        served = [
            figures(load, run_engine(Engine(model, overlap=False), load, progress)) for _ in range(runs)
        ]
        predicted = figures(load, run_simulator(Engine(model, overlap=False), load, cost))
        for name, value in predicted.items():
            found = tuple(one[name] for one in served)
            yield FidelityRow(load=load.name, figure=name, engine=found, simulated=value)


def loads(model: Transformer, cost: DecodeCost, requests: int, seed: int) -> list[TimedLoad]:
    """Everybody at once; and the next requests of the same kind in bursts, at a rate below the knee."""
    saturated = _load("saturated", model, _turns(requests, seed, burst=1.0), factor=0.0)
    seconds = _last(run_simulator(Engine(model, overlap=False), saturated, cost))
    turns = _turns(requests, seed + 1, burst=0.5)
    factor = seconds / _BELOW_THE_KNEE / turns[-1].arrival_seconds
    return [saturated, _load("bursty", model, turns, factor)]


def run_engine(engine: Engine, load: TimedLoad, progress: Callable[[int], object] | None = None) -> Times:
    """Serve a load by the wall clock. Who comes during a step is let in after it."""
    coming = deque(zip(load.arrivals, load.fresh()))
    times: Times = defaultdict(list)
    start = time.perf_counter()
    while coming or engine.unfinished:
        now = time.perf_counter() - start
        while coming and coming[0][0] <= now:
            _, request = coming.popleft()
            params = SamplingParams(temperature=0, max_tokens=request.max_tokens, ignore_eos=True)
            engine.add(request.id, request.prompt, params)
        if not engine.unfinished:
            time.sleep(max(0.0, coming[0][0] - now))
            continue
        record = engine.step()
        _note(times, record, time.perf_counter() - start)
        if progress is not None:
            progress(len(record.made))
    return times


def run_simulator(engine: Engine, load: TimedLoad, cost: DecodeCost) -> Times:
    """Serve it by the engine's scheduler alone."""
    times: Times = defaultdict(list)
    for step in simulate(engine.scheduler, load.fresh(), load.arrivals, cost):
        _note(times, step, step.end_seconds)
    return times


def figures(load: TimedLoad, times: Times) -> dict[str, float]:
    """Throughput, and percentiles of what users wait for."""
    arrivals = dict(zip((request.id for request in load.requests), load.arrivals))
    firsts = [at[0] - arrivals[name] for name, at in times.items()]
    gaps = [after - before for at in times.values() for before, after in zip(at, at[1:])]
    tokens = sum(len(at) for at in times.values())
    return {
        "tokens a second": tokens / _last(times),
        "TTFT P50": percentile(firsts, 50),
        "TTFT P99": percentile(firsts, 99),
        "ITL P50": percentile(gaps, 50),
        "ITL P99": percentile(gaps, 99),
    }


def _turns(requests: int, seed: int, burst: float) -> list[Turn]:
    """So many of a trace that nobody has ever served, lengths as published, but short."""
    shape = TrafficShape(
        seconds=20.0 * requests, per_second=1.0, peak=1, burst=burst, again=0.0, scale=_SCALE, context=1024)
    return draw(shape, seed)[:requests]


def _load(name: str, model: Transformer, turns: Sequence[Turn], factor: float) -> TimedLoad:
    rng = random.Random(len(turns))
    vocab, context = model.config.vocab_size, model.config.max_position_embeddings
    requests = []
    for i, turn in enumerate(turns):
        answer = min(turn.output_tokens, context // 4)
        length = min(turn.prompt_tokens, context - answer)
        prompt = [rng.randrange(vocab) for _ in range(length)]
        requests.append(Request(str(i), prompt, answer))
    return TimedLoad(name, requests, [factor * turn.arrival_seconds for turn in turns])


def _note(times: Times, record: StepRecord, now: float) -> None:
    for made in record.made:
        times[made.request_id].append(now)


def _last(times: Times) -> float:
    return max(at[-1] for at in times.values())
