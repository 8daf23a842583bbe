"""The outputs against the answer: which elements differ, by how much, and who wrote them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aiinfra.errors import plural
from aiinfra.lab.difference import Difference, relation, where
from puzzles.judge.accesses import Tracer, Use, show
from puzzles.judge.facts import Facts
from puzzles.judge.memory import Region
from puzzles.judge.races import NOBODY
from puzzles.judge.tolerance import allowed_error, error_ratio
from puzzles.judge.verdict import Finding, HeatMap
from puzzles.puzzle import Expected
from puzzles.syntax import parse

_MAP_ROWS, _MAP_COLUMNS = 24, 64
_MOST_NAMED = 3                          # programs
_DRAWN_INFINITY = 1e9
_FOR_BLOCKS = "for blocks, write tl.maximum(a, b), tl.where(cond, a, b) or `&`"
_WHERE_NAN_ARISES = "where it arises: exp(89) is too much for float32; 0 / 0 and inf - inf are NaN"
_ABOUT_TF32 = "input_precision='ieee' in tl.dot: without it, float32 is rounded to TF32's 10 bits"


def compare(region: Region, expected: Expected, tracer: Tracer,
            facts: Facts = Facts()) -> tuple[list[Finding], HeatMap | None]:
    """Judge one output: every element written that must be, no other, and all of them right."""
    output = _Output(region=region, expected=expected, tracer=tracer, facts=facts)
    written = torch.from_numpy(output.use.races.written()).view(region.tensor.shape)
    must = expected.written
    if must is None:
        must = torch.ones_like(written)
    ratio = error_ratio(region.tensor, expected)
    wrong = (ratio > 1) & written & must
    findings = output.unwritten(must & ~written) + output.extra(written & ~must)
    if wrong.any():
        findings.append(output.wrong(wrong))
    elif expected.program is not None:
        findings += output.misplaced(expected.program())
    if (ratio > 1).any():
        return findings, heat_map(region.name, ratio)
    return findings, None


@dataclass(frozen=True)
class _Output:
    """One output after a launch. Each method returns what it finds about the elements that a mask selects."""

    region: Region
    expected: Expected
    tracer: Tracer
    facts: Facts

    @property
    def use(self) -> Use:
        return self.tracer.uses[self.region.name]

    def unwritten(self, missing: torch.Tensor) -> list[Finding]:
        if not missing.any():
            return []
        name = self.region.name
        launched = plural(int(np.prod(self.tracer.grid)), "program")
        first = self.region.coordinate(_first(missing))
        how_many = f"{int(missing.sum())} of {missing.numel()} elements"
        finding = Finding(
            kind="not_written",
            message=f"{how_many} of {name} were never written, the first of them {first}",
            look_at=f"whether the {launched} of grid {self.tracer.grid} cover all of {name}, "
                    "and the mask of the store",
        )
        return [finding]

    def extra(self, extra: torch.Tensor) -> list[Finding]:
        if not extra.any():
            return []
        first = _first(extra)
        message = (f"{self.region.coordinate(first)} must stay as it was, "
                   f"but program {self._writer(first)} wrote to it")
        return [Finding("extra_write", message, "the mask of the store", **self._store_line(first))]

    def misplaced(self, owners: torch.Tensor) -> list[Finding]:
        """The puzzle states which program writes what; right values from another program are not enough."""
        for element, owner in enumerate(owners.flatten().tolist()):
            writer = self.use.races.writer(element)
            if writer not in (owner, NOBODY):
                written = f"{self.region.coordinate(element)} was written by program {self._writer(element)}"
                message = f"{written}; it belongs to program {owner}"
                line = self._store_line(element)
                return [Finding("wrong_program", message, "how the program id becomes a tile", **line)]
        return []

    def wrong(self, wrong: torch.Tensor) -> Finding:
        """One finding for all wrong elements, shown at the first."""
        first = _first(wrong)
        tensor, value = self.region.tensor, self.expected.value
        infinite = wrong & value.isfinite() & (tensor.isnan() | tensor.isposinf())
        difference = self._difference(wrong)
        seen = [where(difference)]
        kind, look = "not_finite", _WHERE_NAN_ARISES
        if not infinite.any():
            related = relation(difference)
            seen.append(related.seen)
            kind, look = "wrong_value", self._known_cause() or related.look_at
        text = f"{self._got_and_right(first)}. {int(wrong.sum())} of {wrong.numel()} elements differ"
        text = "; ".join([f"{text}, written by {self._writers(wrong)}", *filter(None, seen)])
        if self.facts.new:
            look += f". New in this case, after others that passed: {self.facts.new}"
        return Finding(kind, text, look, **self._store_line(first))

    def _difference(self, wrong: torch.Tensor) -> Difference:
        tensor = self.region.tensor
        return Difference(
            got=tensor.double(),
            right=self.expected.value.double(),
            wrong=wrong,
            allowed=allowed_error(self.expected, tensor.dtype),
            axes=self.facts.axes.get(self.region.name, ()),
            numbers=self.facts.numbers,
            blocks=self.facts.blocks,
        )

    def _got_and_right(self, element: int) -> str:
        got = self.region.tensor.flatten()[element].item()
        right = self.expected.value.flatten()[element].item()
        allowed = allowed_error(self.expected, self.region.tensor.dtype).flatten()[element].item()
        text = f"{self.region.coordinate(element)} is {_number(got)}; the answer is {_number(right)}"
        if allowed:
            text += f" (rounding may explain {allowed:.1g})"
        return text

    def _known_cause(self) -> str:
        """What the launch has shown already, or ""."""
        if self.tracer.used_tf32:
            return _ABOUT_TF32
        return self._python_on_blocks()

    def _python_on_blocks(self) -> str:
        """Python's max, if, and, or see one truth value where a block has many; the interpreter lets them
        pass.
        """
        for file, line in self.tracer.tested_blocks:
            for word in _single_number_words(self.tracer.files[file].text, line):
                what = f"Python's {word} works on single numbers, not on blocks"
                return f"line {line}: {what}; {_FOR_BLOCKS}"
        return ""

    def _writer(self, element: int) -> str:
        return self._program(self.use.races.writer(element))

    def _writers(self, wrong: torch.Tensor) -> str:
        """program 3; or: programs 0, 1, 2 and 4 more"""
        elements = wrong.flatten().nonzero().flatten().tolist()
        programs = sorted({self.use.races.writer(element) for element in elements})
        shown = ", ".join(map(self._program, programs[:_MOST_NAMED]))
        if len(programs) == 1:
            return f"program {shown}"
        if len(programs) > _MOST_NAMED:
            shown += f" and {len(programs) - _MOST_NAMED} more"
        return f"programs {shown}"

    def _program(self, linear: int) -> str:
        return show(self.tracer.program_name(linear))

    def _store_line(self, element: int) -> dict[str, Any]:
        """Where an element was written, as a Finding says it."""
        line = int(self.use.line_of_write[element])
        file = list(self.tracer.files)[-1]
        return dict(line=line or None, code=self.tracer.code_at(file, line))


def _first(mask: torch.Tensor) -> int:
    """The first element that a mask selects."""
    return int(mask.flatten().nonzero()[0])


def _single_number_words(text: str, line: int) -> Iterator[str]:
    """The words on a line of a text that ask for one truth value."""
    for node in ast.walk(parse(text)):
        word = _single_number_word(node)
        if word and node.lineno <= line <= _last_line(node):
            yield word


def _last_line(node: ast.AST) -> int:
    """The last line on which a node asks: of `if`, its condition's."""
    return getattr(node, "test", node).end_lineno


def _single_number_word(node: ast.AST) -> str:
    match node:
        case ast.Call(func=ast.Name(id="max" | "min" as name)):
            return f"`{name}()`"
        case ast.BoolOp(op=ast.And()):
            return "`and`"
        case ast.BoolOp():
            return "`or`"
        case ast.If() | ast.IfExp():
            return "`if`"
        case ast.While():
            return "`while`"
        case ast.UnaryOp(op=ast.Not()):
            return "`not`"
    return ""


def _number(x: float) -> str:
    if isinstance(x, float):
        return f"{x:.6g}"
    return str(x)


def heat_map(name: str, ratio: torch.Tensor) -> HeatMap:
    """Error over allowed error as a small matrix, each cell the worst of its tile; infinity becomes 1e9."""
    matrix = ratio.reshape(1, -1)
    if ratio.dim() > 1:
        matrix = ratio.reshape(-1, ratio.shape[-1])
    matrix = matrix.clamp(max=_DRAWN_INFINITY).numpy()
    for axis, most in enumerate((_MAP_ROWS, _MAP_COLUMNS)):
        cells = min(most, matrix.shape[axis])
        parts = np.array_split(matrix, cells, axis=axis)
        matrix = np.stack([part.max(axis=axis) for part in parts], axis=axis)
    rows = tuple(map(tuple, matrix.astype(float).tolist()))
    return HeatMap(name, tuple(ratio.shape), rows)
