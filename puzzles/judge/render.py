"""A verdict and the board, as HTML for a notebook and as text for a terminal."""

import html
import math
import textwrap
from typing import TYPE_CHECKING

from puzzles.judge.verdict import Compiled, Finding, GpuRun, HeatMap, Traffic, Verdict

if TYPE_CHECKING:
    from puzzles.board import Board

_COLOURS = {"passed": "#009E73", "failed": "#D55E00", "not solved yet": "#7F7F7F"}
_SIGNS = {"passed": "✓", "failed": "✗", "not solved yet": "○"}
_STATES = {"solved": ("✓", "#009E73"), "tried": ("…", "#E69F00"), "open": ("○", "#7F7F7F")}
_CELL_PIXELS = 9


# --- the verdict ---------------------------------------------------------------------------------

def as_text(verdict: Verdict) -> str:
    """The verdict for a terminal."""
    lines = [f"{_SIGNS[verdict.status]} {verdict.puzzle}: {verdict.status}{_at_case(verdict)}"]
    lines += [textwrap.indent(str(finding), "  ") for finding in verdict.findings if finding.kind != "not_solved"]
    lines += [f"  {row}" for row in (*map(_traffic_line, _moved(verdict)), *_machine_lines(verdict))]
    if verdict.printed.strip():
        lines += ["  printed by the kernel:", textwrap.indent(verdict.printed.strip(), "    ")]
    return "\n".join(lines)


def as_html(verdict: Verdict) -> str:
    """The verdict as one box: what is wrong, where, the figures, and a heat map of what differs."""
    colour = _COLOURS[verdict.status]
    parts = [f'<b style="color:{colour}">{_SIGNS[verdict.status]} {html.escape(verdict.puzzle)}: {verdict.status}</b>'
             f'{html.escape(_at_case(verdict))}']
    parts += [_finding_html(finding) for finding in verdict.findings if finding.kind != "not_solved"]
    parts += [_heat_svg(verdict.heat)] if verdict.heat else []
    parts += _figures_html(verdict)
    if verdict.printed.strip():
        parts.append(
            f"<details><summary>printed by the kernel</summary><pre>{html.escape(verdict.printed)}</pre></details>"
        )
    return f'<div style="border-left:4px solid {colour};padding:4px 12px;line-height:1.5">{"".join(parts)}</div>'


def _at_case(verdict: Verdict) -> str:
    if verdict.status == "passed":
        return f" ({len(verdict.cases)} cases, seed {verdict.seed})"
    failed = [label for label, ok in verdict.cases if not ok]
    return (
        f", case {len(verdict.cases)}: {failed[0]} (seed {verdict.seed})"
        if failed and verdict.status == "failed"
        else ""
    )


def _finding_html(finding: Finding) -> str:
    where = f'<br>line {finding.line}: <code>{html.escape(finding.code)}</code>' if finding.line else ""
    look = f"<br>Look at: {html.escape(finding.look_at)}" if finding.look_at else ""
    return (f'<div style="margin:4px 0"><b>{finding.kind.replace("_", " ")}</b>: '
            f'{html.escape(finding.message)}{where}{look}</div>')


def _moved(verdict: Verdict) -> list[Traffic]:
    """The traffic worth showing: all of a right answer's, and of a wrong one's what was too much."""
    return [t for t in verdict.traffic if verdict.passed or t.too_much]


def _machine_lines(verdict: Verdict) -> list[str]:
    lines = (
        [f"traffic: {verdict.traffic_score:.2f} times the least (1.00: each element once)"] if verdict.passed else []
    )
    lines += [f"compiled: {_compiled_line(verdict.compiled)}"] if verdict.compiled else []
    return lines + ([_gpu_line(verdict.gpu)] if verdict.gpu else [])


def _figures_html(verdict: Verdict) -> list[str]:
    """Traffic as a table, then what the compiler and the GPU said."""
    rows = "".join(
        f"<tr><td>{html.escape(t.tensor)}</td><td>{max(t.distinct, t.written):,}</td>"
        f"<td>{_times(t.loaded, t.distinct)}</td><td>{_times(t.stored, t.written)}</td></tr>"
        for t in _moved(verdict)
    )
    head = "<tr><th>tensor</th><th>elements</th><th>loads</th><th>stores</th></tr>"
    lines = "<br>".join(map(html.escape, _machine_lines(verdict)))
    return [f"<table>{head}{rows}</table>"] * bool(rows) + [f'<div style="opacity:0.75">{lines}</div>'] * bool(lines)


def _traffic_line(t: Traffic) -> str:
    """10 elements, 30 loads (3.0 each)"""
    possible = f"; {t.budget / t.distinct:.1f} is possible" if t.budget is not None and t.loaded > t.budget else ""
    loads = [f"{t.distinct} elements, {t.loaded} loads ({t.times:.1f} each{possible})"] * bool(t.loaded)
    stores = [f"{t.written} elements, {t.stored} stores ({t.stored / t.written:.1f} each)"] if t.stored else []
    return f"{t.tensor}: {'; '.join(loads + stores) or 'not used'}"


def _times(moves: int, elements: int) -> str:
    return f"{moves:,} ({moves / elements:.1f} each)" if moves else ""


def _compiled_line(compiled: tuple[Compiled, ...]) -> str:
    def one(c: Compiled) -> str:
        return f"{c.target} {c.registers} registers, {c.shared_bytes:,} B shared, {c.spill_bytes} B spilled"
    return " · ".join(map(one, compiled))


def _gpu_line(run: GpuRun) -> str:
    return (f"{run.device}, {run.case}: {run.kernel_seconds * 1e6:.1f} µs, torch {run.torch_seconds * 1e6:.1f} µs, "
            f"{run.roofline:.0%} of the roofline measured in the same run")


def _heat_svg(heat: HeatMap) -> str:
    """Grey: within rounding. Light to dark red: further and further off. Hover for the number."""
    rows, columns = len(heat.rows), len(heat.rows[0])
    cells = "".join(
        f'<rect x="{x * _CELL_PIXELS}" y="{y * _CELL_PIXELS}" width="{_CELL_PIXELS - 1}" height="{_CELL_PIXELS - 1}" '
        f'fill="{_heat_colour(value)}"/>' for y, row in enumerate(heat.rows) for x, value in enumerate(row))
    shape = " x ".join(map(str, heat.shape))
    return (
        f'<div style="margin:4px 0">{html.escape(heat.tensor)} [{shape}]: grey is right, red is wrong, dark red is far off'
        f'<br><svg width="{columns * _CELL_PIXELS}" height="{rows * _CELL_PIXELS}" role="img" '
        f'aria-label="where {html.escape(heat.tensor)} differs">{cells}</svg></div>'
    )


def _heat_colour(ratio: float) -> str:
    if ratio <= 1:
        return "#C8CDD2"
    depth = min(1.0, math.log10(ratio) / 6)               # allowed error x 1 ... x 1,000,000
    return f"hsl(16, 90%, {70 - 45 * depth:.0f}%)"


# --- the board -----------------------------------------------------------------------------------

def board_text(board: "Board") -> str:
    """The board for a terminal, sheet by sheet."""
    from puzzles.catalogue import PUZZLES, SHEETS
    lines = [f"{board.solved} of {len(board.entries)} solved"]
    for sheet, title in SHEETS.items():
        lines.append(f"\nsheet {sheet}: {title}")
        for entry in (e for e in board.entries if PUZZLES[e.name].sheet == sheet):
            puzzle, sign = PUZZLES[entry.name], _STATES[entry.state][0]
            lines.append(
                f"  {sign} {entry.name:<24} {puzzle.title:<52} {puzzle.minutes:>3} min  {_tries(entry)}".rstrip()
            )
    return "\n".join(lines)


def board_html(board: "Board") -> str:
    """The board as one row of chips a sheet."""
    from puzzles.catalogue import PUZZLES, SHEETS
    rows = []
    for sheet, title in SHEETS.items():
        chips = "".join(
            _chip(entry, PUZZLES[entry.name].title) for entry in board.entries if PUZZLES[entry.name].sheet == sheet
        )
        rows.append(
            f'<tr><td style="text-align:left">{sheet} {html.escape(title)}</td><td style="text-align:left">{chips}</td></tr>'
        )
    return f"<b>{board.solved} of {len(board.entries)} solved</b><table>{''.join(rows)}</table>"


def _chip(entry, title: str) -> str:
    sign, colour = _STATES[entry.state]
    return (f'<span title="{html.escape(title)} {_tries(entry)}" style="border:1px solid {colour};border-radius:8px;'
            f'padding:1px 7px;margin:2px;display:inline-block;color:{colour}">{sign} {entry.name}</span>')


def _tries(entry) -> str:
    tries = f"{entry.tries} {'try' if entry.tries == 1 else 'tries'}" if entry.tries else ""
    return f"solved {entry.solved}, {tries}" if entry.solved else tries
