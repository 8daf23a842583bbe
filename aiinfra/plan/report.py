"""What `plan memory` says: a table by kind, the peak's moment, whether it fits, the largest batch, the
ladder."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from aiinfra.perf.memory import MemoryPlan
from aiinfra.plan.budget import Budget
from aiinfra.plan.fit import PlannedRun, Rung, ladder, largest_batch
from aiinfra.perf.training import DecoderShape


@dataclass(frozen=True)
class MemoryAnswer:
    """Does it fit? `usable`: bytes of the budget that the prediction may fill."""

    run: PlannedRun
    budget: Budget
    usable: float
    plan: MemoryPlan
    largest: int                     # rows a micro-batch
    rungs: tuple[Rung, ...]          # empty if it fits

    @property
    def fits(self) -> bool:
        """True if the predicted peak is within what may be filled."""
        return self.plan.peak <= self.usable

    @property
    def remedy(self) -> Rung | None:
        """The first rung that fits."""
        return next((rung for rung in self.rungs if rung.peak <= self.usable), None)

    def as_json(self) -> dict:
        """All of it in plain values, bytes where nothing else is said."""
        rungs = [{"name": rung.name, "peak": rung.peak, "price": rung.price,
                  "fits": rung.peak <= self.usable, "run": asdict(rung.run)} for rung in self.rungs]
        return {
            "fits": self.fits,
            "peak": self.plan.peak,
            "peak_moment": asdict(self.plan.highest),
            "memory": {"name": self.budget.name, "bytes": self.budget.nbytes, "usable": self.usable},
            "kinds": by_kind(self.plan),
            "activations": self.plan.activations,
            "phases": self.plan.phases,
            "largest_batch": self.largest,
            "run": asdict(self.run),
            "remedies": rungs,
        }


def answer(shape: DecoderShape, run: PlannedRun, budget: Budget, reserve: float) -> MemoryAnswer:
    """Predict, compare and look for remedies. reserve: share of the memory that stays free for what the
    prediction does not see: the driver's context, work space of libraries, pieces too small to be used."""
    if not 0 <= reserve < 1:
        raise ValueError(f"reserve={reserve:g}; it must be at least 0 and below 1.")
    usable = budget.nbytes * (1 - reserve)
    plan = run.memory(shape)
    rungs: tuple[Rung, ...] = ()
    if plan.peak > usable:
        rungs = tuple(ladder(shape, run, usable))
    return MemoryAnswer(
        run=run,
        budget=budget,
        usable=usable,
        plan=plan,
        largest=largest_batch(shape, run, usable),
        rungs=rungs)


def by_kind(plan: MemoryPlan) -> dict[str, int]:
    """The most of each kind, at whatever moment."""
    return {
        "parameters": plan.parameters,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "activations": sum(plan.activations.values()),
        "loss": plan.loss,
    }


def lines(found: MemoryAnswer) -> Iterator[str]:
    """The answer for a terminal."""
    peak = found.plan.highest
    yield f"{'on each rank':24}{'most':>12}{'at the peak':>14}"
    most = by_kind(found.plan)
    for kind in dict.fromkeys([*most, *peak.by_kind]):
        at_peak = _size(peak.by_kind.get(kind, 0))
        yield f"{kind:24}{_size(most.get(kind)):>12}{at_peak:>14}"
    yield f"{'together':24}{'':12}{_size(peak.nbytes):>14}   in {peak.phase}, at {peak.operation}"
    verdict = "It fits" if found.fits else "It does not fit"
    usable = f"{_size(found.usable)} that may be filled on {found.budget.name}"
    yield f"{verdict}: {_size(peak.nbytes)} of {usable}."
    if found.largest:
        yield f"The largest batch that does: {found.largest:,} rows a micro-batch."
    else:
        yield "Not even one row does."
    if not found.fits:
        yield from _ladder(found)


def _ladder(found: MemoryAnswer) -> Iterator[str]:
    yield ""
    title = "What would help, cheapest first"
    names = [title, *(rung.name for rung in found.rungs)]
    width = max(map(len, names)) + 2
    yield f"{title:{width}}{'peak':>10}   price"
    for rung in found.rungs:
        mark = "fits" if rung.peak <= found.usable else ""
        yield f"{rung.name:{width}}{_size(rung.peak):>10}   {mark:6}{rung.price}"
    if found.remedy is None:
        yield "None of these does. Divide the matrices as well: --tp."
    else:
        yield f"The cheapest that does: {found.remedy.name}."


def _size(nbytes: float | None) -> str:
    if nbytes is None:
        return ""
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:,.2f} GB"
    return f"{nbytes / 1e6:,.1f} MB"
