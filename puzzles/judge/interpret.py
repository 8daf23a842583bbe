"""All cases of a puzzle through one kernel, in Triton's interpreter.

    memory → launch, watched → answer (float64, on copies) → findings: accesses, inputs, values, traffic

The kernel runs in the learner's process (runner.py); everything else here, where the learner's code never
ran. The first case with findings ends the run: cases go from small to large, so the report is about the
smallest failure. Taught in notebook 09.
"""

import ast
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch

from aiinfra.errors import plural
from puzzles.judge.accesses import Tracer
from puzzles.judge.facts import facts
from puzzles.judge.job import Job
from puzzles.judge.launch import fresh_outputs, launch_arguments, lay_out, plain, same_bits
from puzzles.judge.memory import Memory
from puzzles.judge.memory_server import Instead, MemoryServer
from puzzles.judge.runner import EndedEarly, LearnerProcess, raise_finding
from puzzles.judge.tolerance import error_ratio
from puzzles.judge.values import compare
from puzzles.judge.verdict import Finding, HeatMap, Traffic, Verdict, rejected
from puzzles.puzzle import ONCE, Case, Expected, Puzzle
from puzzles.source import KernelText, Piece
from puzzles.syntax import parse
from puzzles.tensors import evaluate

_STORING = ("store", "atomic", "scatter")
_OTHERS = (-math.inf, 0.0, math.inf)         # what lanes that must not count may hold
_SECONDS_TO_TRY = 1.5


@dataclass(frozen=True)
class Signature:
    """A kernel's parameters, and which of them are marked as tl.constexpr."""

    parameters: list[str]
    constants: list[str]


def judge(puzzle: Puzzle, runner: LearnerProcess, signature: Signature, job: Job,
          grids: Sequence[tuple[int, ...]]) -> Verdict:
    """Run the kernel of `runner`, with this signature, on every case with fresh inputs; `grids` holds the
    launch grid of each.
    """
    seed = job.seed
    bad = _signature_finding(puzzle, signature)
    if bad:
        return rejected(puzzle.name, [bad], seed=seed)
    done: list[tuple[str, bool]] = []
    traffic: tuple[Traffic, ...] = ()
    cases = puzzle.cases_of(seed)
    for i, case in enumerate(cases):
        launch = _Launch(
            puzzle=puzzle,
            case=case,
            passed=cases[:i],
            runner=runner,
            grid=grids[i],
            seed=seed + i,
        )
        seen = launch.run()
        done.append((str(case), not seen.findings))
        if seen.findings:
            findings = [replace(finding, case=str(case)) for finding in seen.findings]
            return rejected(
                puzzle.name, findings, cases=tuple(done), traffic=seen.traffic, heat=seen.heat, seed=seed,
            )
        traffic = max(traffic, seen.traffic, key=_moved)
    if unused := _unused_blocks(puzzle, job.text):
        return rejected(puzzle.name, unused, cases=tuple(done), traffic=traffic, seed=seed)
    return Verdict(puzzle.name, "passed", cases=tuple(done), traffic=traffic, seed=seed)


def _moved(traffic: tuple[Traffic, ...]) -> int:
    """How many elements a launch loaded and stored."""
    return sum(one.loaded + one.stored for one in traffic)


@dataclass(frozen=True)
class _Seen:
    """What a case showed."""

    findings: list[Finding]
    traffic: tuple[Traffic, ...] = ()
    heat: HeatMap | None = None


@dataclass(frozen=True)
class _Run:
    """One launch: the memory afterwards, what was watched, and a finding if the kernel raised."""

    memory: Memory
    tracer: Tracer
    error: Finding | None

    @property
    def findings(self) -> list[Finding]:
        if self.error is None:
            return self.tracer.findings
        return [*self.tracer.findings, self.error]


@dataclass(frozen=True)
class _Launch:
    """One case: its inputs, its launches, its findings."""

    puzzle: Puzzle
    case: Case
    passed: tuple[Case, ...]             # before this one
    runner: LearnerProcess
    grid: tuple[int, ...]
    seed: int

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return lay_out(self.puzzle, self.case, self.puzzle.draw(self.case, self.seed))

    @cached_property
    def answers(self) -> dict[str, Expected]:
        return self.puzzle.solve(self.inputs, self.case)

    def run(self) -> _Seen:
        """Launch and judge: first what was done to memory, then the values, then how much was moved."""
        run = self._execute(poison=math.nan)
        if run.findings:
            return _Seen(run.findings)
        traffic = run.tracer.traffic(self._budgets(run.tracer))
        if not stores_anything(self.runner.files):
            return _Seen([Finding("not_solved", "the kernel has no tl.store yet")], traffic)
        findings = [*self._changed(run.memory)]
        heats = []
        known = facts(self.puzzle, self.case, self.passed)
        for name, expected in self.answers.items():
            wrong, heat = compare(run.memory[name], expected, run.tracer, known)
            findings += wrong
            if heat:
                heats.append(heat)
        findings = self._blame_masked_lanes(findings, run)
        findings = self._blame_other(findings, run)
        findings += _over_budget(traffic)
        findings = self._about_the_grid(findings)
        return _Seen(findings, traffic, heats[0] if heats else None)

    def _execute(self, poison: float, instead: Instead | None = None) -> _Run:
        """Launch once, watched; `poison` is what masked lanes hold, and `instead` what those of one line do.
        """
        tensors = self.inputs | fresh_outputs(self.puzzle, self.case, self.inputs, self.seed)
        in_order = {name: tensors[name] for name in self.puzzle.tensors}
        memory = Memory(in_order, set(self.puzzle.outputs))
        tracer = Tracer(memory, self.runner.files, self.grid, self.seed)
        watched = {region.name: region.tensor for region in memory.regions}
        arguments = plain(launch_arguments(self.puzzle, self.case, watched))
        request = {"do": "launch", "grid": self.grid, "arguments": arguments}
        server = MemoryServer(self.runner.channel, tracer, poison, instead)
        return _Run(memory, tracer, self._served(request, server))

    def _served(self, request: dict[str, Any], server: MemoryServer) -> Finding | None:
        """The launch, from its request to its end; what ended it too early, if that is not an access."""
        tracer = server.tracer
        try:
            ended = self.runner.heard(lambda: server.serve(request, self.runner.deadline))
            raise_finding(ended)
        except EndedEarly as early:
            return replace(early.finding, program=tracer.program)
        tracer.used_tf32 = bool(ended.get("used_tf32"))
        if not tracer.all_begun and not server.stopped:
            return Finding("crash", "the launch ended before all of its programs had run")
        return None

    def _changed(self, memory: Memory) -> Iterator[Finding]:
        """Inputs must be bit-identical and every guard zone untouched."""
        for name, values in self.inputs.items():
            if name not in self.puzzle.outputs and not same_bits(memory[name].tensor, values):
                yield Finding("input_changed", f"{name} is no longer what it was")
        for region in memory.regions:
            if not region.canaries_intact():
                yield Finding("out_of_bounds_write", f"the guard zone around {region.name} was overwritten")

    def _blame_masked_lanes(self, findings: list[Finding], run: _Run) -> list[Finding]:
        """If the answer changes with what masked lanes hold, they are the cause."""
        values = [finding for finding in findings if finding.kind in ("wrong_value", "not_finite")]
        if not values or not run.tracer.unguarded:
            return findings
        if not any(self._differs(run.memory, poison) for poison in (0.0, -math.inf)):
            return findings
        [((file, line), _)] = run.tracer.unguarded.most_common(1)
        blame = Finding(
            kind="masked_lanes",
            message=f"lanes that the mask cuts off take part in the result: {values[0].message}",
            look_at="other= in this load: without it, a masked lane may hold anything (here NaN)",
            line=line,
            code=run.tracer.code_at(file, line),
        )
        return [blame, *(finding for finding in findings if finding not in values)]

    def _blame_other(self, findings: list[Finding], run: _Run) -> list[Finding]:
        """If the answer comes out right with another other= in one load, this is the cause."""
        if not any(finding.kind == "wrong_value" for finding in findings):
            return findings
        enough = time.monotonic() + _SECONDS_TO_TRY
        for (line, given), value in product(run.tracer.guarded.items(), _OTHERS):
            if time.monotonic() > enough:
                break
            if value not in given and self._is_right((line, value)):
                look = (f"other= in line {line[1]}: lanes that the mask cuts off count as "
                        f"{given.pop():g} there; with {value:g} in their place, this case is right")
                return [_with_look(finding, "wrong_value", look) for finding in findings]
        return findings

    def _is_right(self, instead: Instead) -> bool:
        """Whether the outputs are right if masked lanes of one line hold something else."""
        again = self._execute(math.nan, instead)
        if again.findings:
            return False
        ratios = [error_ratio(again.memory[name].tensor, expected) for name, expected in self.answers.items()]
        return all((ratio <= 1).all() for ratio in ratios)

    def _differs(self, memory: Memory, poison: float) -> bool:
        """Whether the outputs change if masked lanes hold something else."""
        run = self._execute(poison)
        if run.error:
            return False
        again = run.memory
        return any(not same_bits(again[name].tensor, memory[name].tensor) for name in self.puzzle.outputs)

    def _about_the_grid(self, findings: list[Finding]) -> list[Finding]:
        """Where the grid is the learner's: too few programs explain what is missing, too many are a finding.
        """
        enough = self.puzzle.enough_programs(self.case)
        if enough is None:
            return findings
        launched = math.prod(self.grid)
        text = f"grid {self.grid} for {self.case}: {plural(launched, 'program')}, and {enough} would do"
        if launched > enough:
            look = "the tiles along each axis: one program for each tile"
            return [*findings, Finding("too_many_programs", text, look)]
        if launched == enough:
            return findings
        advice = f"{text}. Did the grid round down? triton.cdiv rounds up"
        return [_with_look(finding, "not_written", advice) for finding in findings]

    def _budgets(self, tracer: Tracer) -> dict[str, int]:
        budgets = {}
        for name, text in self.puzzle.budget.items():
            use = tracer.uses[name]
            once = use.loaded - use.reloaded
            budgets[name] = int(evaluate(text, {**self.case.sizes, ONCE: once}))
        return budgets


def _with_look(finding: Finding, kind: str, look_at: str) -> Finding:
    """The finding with other advice, if it is of this kind."""
    if finding.kind == kind:
        return replace(finding, look_at=look_at)
    return finding


def _over_budget(traffic: Sequence[Traffic]) -> list[Finding]:
    """Loads first, then stores: an element need not be moved twice."""
    loads, stores = [], []
    for one in traffic:
        if one.loads_too_much:
            message = f"{one.loaded} loads from {one.tensor}; {one.budget} are enough"
            look = "loads of the same elements that could be kept in a variable"
            loads.append(Finding("traffic", message, look))
        if one.stores_too_much:
            message = f"{one.stored} stores to {one.tensor}, which has {one.written} elements to write"
            look = "stores to the same elements: keep the value in a variable and store it once"
            stores.append(Finding("traffic", message, look))
    return loads + stores


def stores_anything(files: Mapping[str, Piece]) -> bool:
    """Whether the reader's text calls a store or an atomic at all; a stub does not."""
    for piece in files.values():
        for node in ast.walk(parse(piece.text)):
            name = getattr(node, "attr", getattr(node, "id", ""))
            if any(word in name for word in _STORING):
                return True
    return False


def _unused_blocks(puzzle: Puzzle, text: KernelText) -> list[Finding]:
    """Block sizes that the kernel never looks at: a constant stands in their place."""
    function = next(node for node in ast.walk(parse(text.pieces[-1].text))
                    if isinstance(node, ast.FunctionDef) and node.name == text.name)
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    look = "numbers in the kernel that stand where a block size should"
    return [Finding("unused_block", f"{name} is never used, though the launch chooses it", look)
            for name in puzzle.blocks if name not in names]


def _signature_finding(puzzle: Puzzle, signature: Signature) -> Finding | None:
    """Wrong parameter names, or block sizes that are not marked as constants."""
    has, wants = signature.parameters, list(puzzle.parameters)
    if set(has) != set(wants):
        passed = f"puzzle {puzzle.name} passes ({', '.join(wants)})"
        return Finding("bad_input", f"The kernel's signature {_difference(has, wants)}: {passed}.")
    for name in puzzle.blocks:
        if name not in signature.constants:
            advice = f"write `{name}: tl.constexpr` in the signature"
            return Finding("bad_input", f"Parameter {name} is a block size: {advice}.")
    return None


def _difference(has: list[str], wants: list[str]) -> str:
    """lacks z_ptr and has unknown out_ptr"""
    missing = [name for name in wants if name not in has]
    extra = [name for name in has if name not in wants]
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(missing)}")
    if extra:
        parts.append(f"has unknown {', '.join(extra)}")
    return " and ".join(parts)
