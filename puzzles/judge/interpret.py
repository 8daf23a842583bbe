"""All cases of a puzzle through one kernel, in Triton's interpreter.

    answer (float64, on copies) → memory → launch, watched → findings: accesses, inputs, values, traffic

The first case with findings ends the run: cases go from small to large, so the report is about the
smallest failure. Runs in the worker process only. Taught in notebook 09.
"""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from puzzles.judge.explain import explain, root_cause
from puzzles.judge.memory import Memory
from puzzles.judge.trace import StopKernel, Tracer
from puzzles.judge.values import compare
from puzzles.judge.verdict import Finding, HeatMap, Traffic, Verdict, rejected
from puzzles.puzzle import Case, Puzzle, axis_names, evaluate
from puzzles.source import Piece


def judge(puzzle: Puzzle, kernel: Any, files: dict[str, Piece], seed: int,
          grid: Callable[[int], tuple[int, ...]]) -> Verdict:
    """Run `kernel` on every case with fresh inputs; `grid(i)` is the launch grid of case i."""
    bad = _signature_finding(puzzle, kernel)
    if bad:
        return rejected(puzzle.name, bad, seed=seed)
    done: list[tuple[str, bool]] = []
    traffic: tuple[Traffic, ...] = ()
    for i, case in enumerate(puzzle.cases):
        launch = _Launch(puzzle, case, kernel, files, seed + i, grid(i))
        findings, heat = launch.run()
        done.append((str(case), not findings))
        if findings:
            return rejected(puzzle.name, [replace(f, case=str(case)) for f in findings],
                            cases=tuple(done), traffic=launch.traffic, heat=heat, seed=seed)
        traffic = max(traffic, launch.traffic, key=lambda ts: sum(t.loaded + t.stored for t in ts))
    return Verdict(puzzle.name, "passed", cases=tuple(done), traffic=traffic, seed=seed)


class _Launch:
    """One case: its memory, its trace, its findings."""

    def __init__(
        self, puzzle: Puzzle, case: Case, kernel: Any, files: dict[str, Piece], seed: int, grid: tuple[int, ...]
    ):
        self.puzzle, self.case, self.kernel, self.files, self.grid, self.seed = puzzle, case, kernel, files, grid, seed
        self.inputs = lay_out(puzzle, case, puzzle.draw(case, seed))
        self.answers = puzzle.solve(self.inputs, case)
        self.traffic: tuple[Traffic, ...] = ()

    def run(self) -> tuple[list[Finding], HeatMap | None]:
        memory, tracer, error = self._execute(poison=float("nan"))
        if error or tracer.findings:
            return [*tracer.findings, *([error] if error else [])], None
        self.traffic = tracer.traffic(self._budgets())
        if not stores_anything(self.files):
            return [Finding("not_solved", "the kernel has no tl.store yet")], None
        findings = self._changed(memory)
        heats = []
        for name, answer in self.answers.items():
            wrong, heat = compare(memory[name], answer, tracer)
            findings += wrong
            heats += [heat] if heat else []
        findings = self._blame_masked_lanes(findings, memory, tracer) + self._over_budget()
        return self._about_the_grid(findings), heats[0] if heats else None

    def _execute(self, poison: float) -> tuple[Memory, Tracer, Finding | None]:
        """Launch once. Returns the memory afterwards, the trace, and a finding if the kernel raised."""
        tensors = {**self.inputs, **fresh_outputs(self.puzzle, self.case, self.inputs)}
        memory = Memory({name: tensors[name] for name in self.puzzle.tensors}, set(self.puzzle.outputs))
        tracer = Tracer(memory, self.files, self.grid, self.seed, poison)
        arguments = launch_arguments(self.puzzle, self.case, {r.name: r.tensor for r in memory.regions})
        try:
            with tracer.watching(), np.errstate(all="ignore"):
                self.kernel[self.grid](**arguments)
        except Exception as error:           # whatever the reader's kernel raises is a finding, not our failure
            stopped = isinstance(root_cause(error), StopKernel)
            return memory, tracer, None if stopped else explain(error, self.files, program=tracer.program)
        return memory, tracer, None

    def _changed(self, memory: Memory) -> list[Finding]:
        """Inputs must be bit-identical and every guard zone untouched."""
        changed = [name for name in self.inputs if name not in self.puzzle.outputs
                   and not same_bits(memory[name].tensor, self.inputs[name])]
        broken = [region.name for region in memory.regions if not region.canaries_intact()]
        return ([Finding("input_changed", f"{name} is no longer what it was") for name in changed]
                + [Finding("out_of_bounds_write", f"the guard zone around {name} was overwritten") for name in broken])

    def _blame_masked_lanes(self, findings: list[Finding], memory: Memory, tracer: Tracer) -> list[Finding]:
        """If the answer changes with what masked lanes hold, they are the cause."""
        values = [f for f in findings if f.kind in ("wrong_value", "not_finite")]
        if not values or not tracer.unguarded:
            return findings
        if not any(self._differs(memory, poison) for poison in (0.0, -float("inf"))):
            return findings
        (file, line), lanes = max(tracer.unguarded.items(), key=lambda item: item[1])
        blame = Finding("masked_lanes", f"lanes that the mask cuts off take part in the result: {values[0].message}",
                        "other= in this load: without it, a masked lane may hold anything (here NaN)",
                        line, tracer.code_at(file, line))
        return [blame] + [f for f in findings if f not in values]

    def _differs(self, memory: Memory, poison: float) -> bool:
        """Whether the outputs change if masked lanes hold something else."""
        again, _, _ = self._execute(poison)
        return any(not same_bits(again[name].tensor, memory[name].tensor) for name in self.puzzle.outputs)

    def _about_the_grid(self, findings: list[Finding]) -> list[Finding]:
        """Where the grid is the learner's: too few programs explain what is missing, too many are a finding."""
        if not self.puzzle.programs:
            return findings
        enough, launched = int(evaluate(self.puzzle.programs, self.case.sizes)), math.prod(self.grid)
        text = f"grid {self.grid} for {self.case}: {launched} program{'s' * (launched != 1)}, and {enough} would do"
        if launched > enough:
            return [*findings, Finding("too_many_programs", text, "the tiles along each axis: one program for each tile")]
        advice = f"{text}. Did the grid round down? triton.cdiv rounds up"
        return [replace(f, look_at=advice) if f.kind == "not_written" and launched < enough else f for f in findings]

    def _budgets(self) -> dict[str, int]:
        return {name: int(evaluate(text, self.case.sizes)) for name, text in self.puzzle.budget.items()}

    def _over_budget(self) -> list[Finding]:
        loads = [Finding("traffic", f"{t.loaded} loads from {t.tensor}; {t.budget} are enough",
                         "loads of the same elements that could be kept in a variable")
                 for t in self.traffic if t.budget is not None and t.loaded > t.budget]
        return loads + [Finding("traffic", f"{t.stored} stores to {t.tensor}, which has {t.written} elements to write",
                                "stores to the same elements: keep the value in a variable and store it once")
                        for t in self.traffic if t.store_budget is not None and t.stored > t.store_budget]


def stores_anything(files: Mapping[str, Piece]) -> bool:
    """Whether the reader's text calls a store or an atomic at all; a stub does not."""
    names = [getattr(node, "attr", getattr(node, "id", "")) for piece in files.values()
             for node in ast.walk(ast.parse(piece.text)) if isinstance(node, (ast.Attribute, ast.Name))]
    return any("store" in name or "atomic" in name or "scatter" in name for name in names)


def lay_out(puzzle: Puzzle, case: Case, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values; where the case asks for it, with odd strides for the tensors that declare strides."""
    strided = [name for name, t in puzzle.tensors.items() if t.strides]
    return {
        name: odd_strides(t, case.layout + strided.index(name)) if case.layout and name in strided else t.contiguous()
        for name, t in tensors.items()
    }


def odd_strides(t: torch.Tensor, choice: int) -> torch.Tensor:
    """A copy of `t` with padded rows (odd choice), or with its dimensions in reverse order in memory."""
    if choice % 2 == 0 and t.dim() > 1:
        back = tuple(reversed(range(t.dim())))
        return t.permute(back).contiguous().permute(back)
    padded = torch.zeros(*t.shape[:-1], t.shape[-1] + 3, dtype=t.dtype)
    return padded[..., :t.shape[-1]].copy_(t)


def fresh_outputs(puzzle: Puzzle, case: Case, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs full of NaN (or, for integers, of the smallest value), in the layout of the case."""
    made = {}
    for name, t in puzzle.outputs.items():
        if name in inputs:
            continue
        start = (
            t.start
            if t.start is not None
            else float("nan") if t.dtype.is_floating_point else torch.iinfo(t.dtype).min
        )
        made[name] = torch.full(t.shape(case.sizes), start, dtype=t.dtype)
    return lay_out(puzzle, case, made)


def launch_arguments(puzzle: Puzzle, case: Case, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Everything the kernel receives, by parameter name."""
    arguments: dict[str, Any] = {f"{name}_ptr": tensors[name] for name in puzzle.tensors}
    for name, t in puzzle.tensors.items():
        if t.strides:
            arguments |= {f"stride_{name}{axis}": s for axis, s in zip(axis_names(t), tensors[name].stride())}
    return arguments | puzzle.meta(case)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: a NaN equals itself, and 0.0 differs from -0.0."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _signature_finding(puzzle: Puzzle, kernel: Any) -> Finding | None:
    """Wrong parameter names, or block sizes that are not marked as constants."""
    has, wants = list(kernel.arg_names), list(puzzle.parameters)
    if set(has) != set(wants):
        missing, extra = [n for n in wants if n not in has], [n for n in has if n not in wants]
        parts = ["lacks " + ", ".join(missing)] * bool(missing) + ["has unknown " + ", ".join(extra)] * bool(extra)
        return Finding("bad_input", f"The kernel's signature {' and '.join(parts)}: "
                       f"puzzle {puzzle.name} passes ({', '.join(wants)}).")
    loose = [n for n in puzzle.blocks if "constexpr" not in str(kernel.fn.__annotations__.get(n, ""))]
    if loose:
        return Finding(
            "bad_input", f"Parameter {loose[0]} is a block size: write `{loose[0]}: tl.constexpr` in the signature."
        )
    return None
