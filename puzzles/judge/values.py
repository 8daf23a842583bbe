"""The outputs against the answer: which elements differ, by how much, and who wrote them."""

import ast

import numpy as np
import torch

from puzzles.judge.memory import Region
from puzzles.judge.tolerance import allowed_error, error_ratio
from puzzles.judge.trace import Tracer, show
from puzzles.judge.verdict import Finding, HeatMap
from puzzles.puzzle import Answer

_MAP_ROWS, _MAP_COLUMNS = 24, 64
_FOR_BLOCKS = "for blocks, write tl.maximum(a, b), tl.where(cond, a, b) or `&`"


def compare(region: Region, answer: Answer, tracer: Tracer) -> tuple[list[Finding], HeatMap | None]:
    """Judge one output: every element written that must be, no other, and all of them right."""
    written = torch.from_numpy(tracer.uses[region.name].races.written()).view(region.tensor.shape)
    must = torch.ones_like(written) if answer.written is None else answer.written
    findings = _unwritten(region, must & ~written, tracer) + _extra(region, written & ~must, tracer)
    ratio = error_ratio(region.tensor, answer)
    wrong = (ratio > 1) & written & must
    if wrong.any():
        findings.append(_wrong(region, answer, ratio, wrong, tracer))
    elif answer.program is not None:
        findings += _misplaced(region, answer.program(), tracer)
    return findings, heat_map(region.name, ratio) if (ratio > 1).any() else None


def _unwritten(region: Region, missing: torch.Tensor, tracer: Tracer) -> list[Finding]:
    if not missing.any():
        return []
    first = int(missing.flatten().nonzero()[0])
    return [
        Finding(
            "not_written",
            f"{int(missing.sum())} of {missing.numel()} elements of {region.name} were never written, "
            f"the first of them {region.coordinate(first)}",
            f"whether the {_launched(tracer)} cover all of {region.name}, and the mask of the store",
        )
    ]


def _extra(region: Region, extra: torch.Tensor, tracer: Tracer) -> list[Finding]:
    if not extra.any():
        return []
    first = int(extra.flatten().nonzero()[0])
    return [Finding("extra_write", f"{region.coordinate(first)} must stay as it was, but "
                    f"program {_writer(region, first, tracer)} wrote to it", "the mask of the store",
                    **_store_line(region, first, tracer))]


def _misplaced(region: Region, owners: torch.Tensor, tracer: Tracer) -> list[Finding]:
    """The puzzle states which program writes what; right values from another program are not enough."""
    races = tracer.uses[region.name].races
    for element, owner in enumerate(owners.flatten().tolist()):
        if races.writer(element) != owner:
            return [
                Finding(
                    "wrong_program",
                    f"{region.coordinate(element)} was written by program {_writer(region, element, tracer)}; "
                    f"it belongs to program {owner}",
                    "how the program id becomes a tile",
                    **_store_line(region, element, tracer),
                )
            ]
    return []


def _wrong(region: Region, answer: Answer, ratio: torch.Tensor, wrong: torch.Tensor, tracer: Tracer) -> Finding:
    """One finding for all wrong elements of an output, shown at the first."""
    first = int(wrong.flatten().nonzero()[0])
    got, right = region.tensor.flatten()[first].item(), answer.value.flatten()[first].item()
    bad = wrong & answer.value.isfinite() & (region.tensor.isnan() | region.tensor.isposinf())
    allowed = allowed_error(answer, region.tensor.dtype).flatten()[first].item()
    text = (f"{region.coordinate(first)} is {_number(got)}; the answer is {_number(right)}"
            + (f" (rounding may explain {allowed:.1g})" if allowed else "")
            + f". {int(wrong.sum())} of {wrong.numel()} elements differ"
            + f", written by {_writers(region, wrong, tracer)}{_pattern(region, answer, wrong)}")
    look = (
        "where it arises: exp(89) is too much for float32; 0 / 0 and inf - inf are NaN"
        if bad.any()
        else (
            "input_precision='ieee' in tl.dot: without it, float32 is rounded to TF32's 10 bits"
            if tracer.used_tf32
            else _where_to_look(region, wrong, tracer)
        )
    )
    return Finding("not_finite" if bad.any() else "wrong_value", text, look, **_store_line(region, first, tracer))


def _pattern(region: Region, answer: Answer, wrong: torch.Tensor) -> str:
    """A common factor or a common offset says more than numbers."""
    got, right = region.tensor[wrong].double(), answer.value[wrong].double()
    if len(got) < 3 or not torch.isfinite(got).all():
        return ""
    factor, offset = got / right, got - right
    if (right != 0).all() and _constant(factor):
        return f"; all are {factor.mean():.4g} times the answer"
    return f"; all are off by {offset.mean():.4g}" if _constant(offset) else ""


def _constant(values: torch.Tensor) -> bool:
    return bool(values.abs().min() > 1e-6 and values.std() <= 1e-4 * values.abs().mean())


def _where_to_look(region: Region, wrong: torch.Tensor, tracer: Tracer) -> str:
    """If whole columns are right and then none is, the walk or its mask goes wrong at that column."""
    columns = wrong.reshape(-1, wrong.shape[-1]).any(0) if wrong.dim() else wrong.reshape(1)
    first = int(columns.nonzero()[0])
    if first > 1 and bool(columns[first:].all()):
        return f"what changes at column {first}: all before it is right, nothing from there on is"
    return _python_on_blocks(tracer) or "the formula, one step at a time, for the element named above"


def _python_on_blocks(tracer: Tracer) -> str:
    """Python's max, if, and, or see one truth value where a block has many; the interpreter lets them pass."""
    for file, piece in tracer.files.items():
        for node in ast.walk(ast.parse(piece.text)):
            word = _single_number_word(node)
            if word:
                return f"line {node.lineno}: Python's {word} works on single numbers, not on blocks; {_FOR_BLOCKS}"
    return ""


def _single_number_word(node: ast.AST) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("max", "min"):
        return f"`{node.func.id}()`"
    if isinstance(node, ast.BoolOp):
        return "`and`" if isinstance(node.op, ast.And) else "`or`"
    return "`if`" if isinstance(node, (ast.If, ast.IfExp)) else ""


def _launched(tracer: Tracer) -> str:
    return f"{int(np.prod(tracer.grid))} program{'s' * (int(np.prod(tracer.grid)) != 1)} of grid {tracer.grid}"


def _writer(region: Region, element: int, tracer: Tracer) -> str:
    return show(tracer.program_name(tracer.uses[region.name].races.writer(element)))


def _writers(region: Region, wrong: torch.Tensor, tracer: Tracer) -> str:
    races = tracer.uses[region.name].races
    names = sorted({races.writer(int(e)) for e in wrong.flatten().nonzero()})
    shown = ", ".join(show(tracer.program_name(n)) for n in names[:3])
    return f"program{'s' * (len(names) > 1)} {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _store_line(region: Region, element: int, tracer: Tracer) -> dict:
    line = int(tracer.uses[region.name].line_of_write[element])
    file = list(tracer.files)[-1]
    return dict(line=line or None, code=tracer.code_at(file, line))


def _number(x: float) -> str:
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def heat_map(name: str, ratio: torch.Tensor) -> HeatMap:
    """Error over allowed error as a small matrix, each cell the worst of its tile; infinity becomes 1e9."""
    matrix = ratio.reshape(-1, ratio.shape[-1]) if ratio.dim() > 1 else ratio.reshape(1, -1)
    matrix = matrix.clamp(max=1e9).numpy()
    for axis, most in enumerate((_MAP_ROWS, _MAP_COLUMNS)):
        parts = np.array_split(matrix, min(most, matrix.shape[axis]), axis=axis)
        matrix = np.stack([part.max(axis=axis) for part in parts], axis=axis)
    return HeatMap(name, tuple(ratio.shape), tuple(tuple(float(x) for x in row) for row in matrix))
