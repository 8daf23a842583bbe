"""on_gpus("G1", "G2"): what paper says of a GPU, beside what has been measured on one.

    data/recorded/<gpu>.json, which `make gpu` writes  ─►  a column for each GPU, with its date
    none                                               ─►  the columns of paper, and which command would tell

Figures are ratios; what each divides by is in the first column. Floors, goals and formulas stand in
aiinfra/bench/targets.py and on_paper.py.
"""

import json
from dataclasses import dataclass

from aiinfra.bench.targets import READ, TARGETS, measured
from aiinfra.errors import nearest
from aiinfra.lab.source import RECORDED

_NOBODY = ("Nobody has measured these on a GPU yet: where there is one, `make gpu` does, and keeps the "
           "figures in data/recorded/.")


@dataclass(frozen=True)
class GpuReport:
    """What one run of `make gpu` has measured."""

    device: str
    date: str
    found: dict[str, float | None]


@dataclass(frozen=True, repr=False)
class GpuTable:
    """A line a target: what it is, its floor, what paper expects of each GPU, and what was measured."""

    keys: tuple[str, ...]
    reports: tuple[GpuReport, ...]

    def _repr_markdown_(self) -> str:
        head, *lines = (" | ".join(cells) for cells in self._cells())
        ruler = "---|" * (1 + head.count("|"))
        table = "\n".join(f"| {line} |" for line in lines)
        return f"| {head} |\n|{ruler}\n{table}\n\n{self._remark()}".rstrip()

    def __repr__(self) -> str:
        rows = self._cells()
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, self._remark()]).rstrip()

    def _cells(self) -> list[list[str]]:
        measurements = [f"{report.device}, {report.date}" for report in self.reports]
        rows = [["", "floor", *(f"paper: {kind}" for kind in READ), *measurements]]
        for key in self.keys:
            target = TARGETS[key]
            expected = [target.expected_on(kind) for kind in READ]
            figures = [_figure(report.found[key]) for report in self.reports]
            rows.append([target.name, f"{target.floor:g}", *expected, *figures])
        return rows

    def _remark(self) -> str:
        return "" if self.reports else _NOBODY


def on_gpus(*keys: str) -> GpuTable:
    """The table of some targets, or of all; last line of a cell. Raises ValueError for one that there is not.
    """
    for key in keys:
        if key not in TARGETS:
            known = ", ".join(TARGETS)
            raise ValueError(f"there is no target {key!r}.{nearest(key, TARGETS)} Known: {known}.")
    reports = []
    for path in sorted(RECORDED.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["settings"]
        if settings.get("command") == "gpu_report":                # the folder has other benchmarks', too
            reports.append(GpuReport(settings["device"], settings["date"], measured(content["rows"])))
    return GpuTable(keys or tuple(TARGETS), tuple(reports))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
