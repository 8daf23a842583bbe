"""A verdict as it is shown: a box in a notebook, lines in a terminal.

    Verdict (plain data, from the judge) ──show──► ShownVerdict (the same, and it draws itself)
"""

import textwrap
from html import escape

from IPython.display import display

from aiinfra.lab.markup import SIGNS, TONES, frame, ink, inline
from puzzles.catalogue import PUZZLES
from puzzles.heat_map import heat_svg
from puzzles.hints import help_for
from puzzles.judge.verdict import Finding, GpuRun, ResourceUsage, Traffic, Verdict

_TONES = {"passed": "good", "failed": "bad", "not solved yet": "calm"}
_TABLE_HEAD = "<tr><th>tensor</th><th>elements</th><th>loads</th><th>stores</th></tr>"


class ShownVerdict(Verdict):
    """A Verdict that a cell or a print can end in."""

    def __str__(self) -> str:
        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self)

    def _ipython_display_(self) -> None:
        display({"text/plain": as_text(self), "text/html": as_html(self)}, raw=True)
        if _needs_help(self):
            help_for(self.puzzle).offer()


def show(verdict: Verdict) -> ShownVerdict:
    """The same verdict, shown when it is a cell's last line."""
    return ShownVerdict(**vars(verdict))


def _needs_help(verdict: Verdict) -> bool:
    return not verdict.passed and verdict.puzzle in PUZZLES


def as_text(verdict: Verdict) -> str:
    """The verdict for a terminal."""
    lines = [_head(verdict) + _at_case(verdict)]
    lines += [textwrap.indent(str(finding), "  ") for finding in _findings(verdict)]
    lines += [f"  {_traffic_line(moved)}" for moved in _moved(verdict)]
    lines += [f"  {line}" for line in _machine_lines(verdict)]
    if printed := verdict.printed.strip():
        lines += ["  printed by the kernel:", textwrap.indent(printed, "    ")]
    if _needs_help(verdict):
        lines.append(f"  {help_for(verdict.puzzle).sentence}")
    return "\n".join(lines)


def as_html(verdict: Verdict) -> str:
    """The verdict as one box: what is wrong, where, the figures, and a heat map of what differs."""
    tone = _TONES[verdict.status]
    parts = [f'<b style="color:{ink(TONES[tone])}">{escape(_head(verdict))}</b>{escape(_at_case(verdict))}']
    parts += [_finding_html(finding) for finding in _findings(verdict)]
    if verdict.heat:
        parts.append(heat_svg(verdict.heat))
    parts += _figures_html(verdict)
    if verdict.printed.strip():
        printed = f"<pre>{escape(verdict.printed)}</pre>"
        parts.append(f"<details><summary>printed by the kernel</summary>{printed}</details>")
    if _needs_help(verdict):
        parts.append(f"<div>{inline(help_for(verdict.puzzle).sentence)}</div>")
    return frame(tone, "".join(parts))


def _head(verdict: Verdict) -> str:
    sign = SIGNS[_TONES[verdict.status]]
    return f"{sign} {verdict.puzzle}: {verdict.status}"


def _at_case(verdict: Verdict) -> str:
    """How many cases passed, or which one did not."""
    if verdict.passed:
        return f" ({len(verdict.cases)} cases, seed {verdict.seed})"
    failed = [label for label, ok in verdict.cases if not ok]
    if not failed or verdict.status != "failed":
        return ""
    return f", case {len(verdict.cases)}: {failed[0]} (seed {verdict.seed})"


def _findings(verdict: Verdict) -> list[Finding]:
    """What is worth saying beside the status."""
    return [finding for finding in verdict.findings if finding.kind != "not_solved"]


def _finding_html(finding: Finding) -> str:
    lines = [f"<b>{finding.title}</b>: {escape(finding.message)}"]
    if finding.line:
        lines.append(f"line {finding.line}: <code>{escape(finding.code)}</code>")
    if finding.look_at:
        lines.append(f"Look at: {escape(finding.look_at)}")
    return f'<div style="margin:4px 0">{"<br>".join(lines)}</div>'


def _moved(verdict: Verdict) -> list[Traffic]:
    """The traffic worth showing: all of a right answer's, and of a wrong one's what was too much."""
    if verdict.passed:
        return list(verdict.traffic)
    return [moved for moved in verdict.traffic if moved.loads_too_much or moved.stores_too_much]


def _machine_lines(verdict: Verdict) -> list[str]:
    """What the traffic comes to, what the compilers said, and what the GPU said."""
    lines = []
    if verdict.passed:
        lines.append(f"traffic: {verdict.traffic_score:.2f} times the least (1.00: each element once)")
    if verdict.compiled:
        usages = " · ".join(map(_usage, verdict.compiled))
        lines.append(f"compiled: {usages}")
    if verdict.gpu:
        lines.append(_gpu_line(verdict.gpu))
    return lines


def _figures_html(verdict: Verdict) -> list[str]:
    """Traffic as a table, then what the compiler and the GPU said."""
    parts = []
    rows = [_traffic_row(moved) for moved in _moved(verdict)]
    if rows:
        parts.append(f"<table>{_TABLE_HEAD}{''.join(rows)}</table>")
    lines = [escape(line) for line in _machine_lines(verdict)]
    if lines:
        parts.append(f'<div style="opacity:0.75">{"<br>".join(lines)}</div>')
    return parts


def _traffic_row(moved: Traffic) -> str:
    cells = [
        escape(moved.tensor),
        f"{max(moved.distinct, moved.written):,}",
        _times(moved.loaded, moved.distinct),
        _times(moved.stored, moved.written),
    ]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr>{row}</tr>"


def _times(moves: int, elements: int) -> str:
    if not moves:
        return ""
    return f"{moves:,} ({moves / elements:.1f} each)"


def _traffic_line(moved: Traffic) -> str:
    """x: 10 elements, 30 loads (3.0 each)"""
    parts = []
    if moved.loaded:
        possible = ""
        if moved.loads_too_much:
            possible = f"; {moved.budget / moved.distinct:.1f} is possible"
        each = f"{moved.times:.1f} each{possible}"
        parts.append(f"{moved.distinct} elements, {moved.loaded} loads ({each})")
    if moved.stored:
        each = f"{moved.stored / moved.written:.1f} each"
        parts.append(f"{moved.written} elements, {moved.stored} stores ({each})")
    return f"{moved.tensor}: {'; '.join(parts) or 'not used'}"


def _usage(usage: ResourceUsage) -> str:
    shared = f"{usage.shared_bytes:,} B shared"
    return f"{usage.target} {usage.registers} registers, {shared}, {usage.spill_bytes} B spilled"


def _gpu_line(run: GpuRun) -> str:
    kernel, torch = run.kernel_seconds * 1e6, run.torch_seconds * 1e6
    share = f"{run.roofline:.0%} of the roofline measured in the same run"
    return f"{run.device}, {run.case}: {kernel:.1f} µs, torch {torch:.1f} µs, {share}"
