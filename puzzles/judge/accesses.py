"""Judge every load, store and atomic of one launch: whose element is it, who asks, is it legal, does it race?

    memory_server.py ──► Tracer.visit(kind, addresses, mask, width) ──► which lanes are legal
                    │ memory.py   the tensor that each address belongs to, and its element there
                    │ races.py    who else touched the element
                    └─► findings, traffic, the line of each write

Line and program are the learner's process' word: they name the place in a finding, and who races. After a few
findings the launch is stopped.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from puzzles.judge.memory import Memory, Region
from puzzles.judge.races import RaceDetector
from puzzles.judge.verdict import Finding, Traffic
from puzzles.source import Piece

_MOST_FINDINGS = 4
_STORE_SLACK = 1.25               # a few elements may be stored again, not all of them
_VERBS = {"read": "reads", "write": "writes", "atomic": "updates"}
_ANY_ORDER = "which program owns this element; programs run in any order and never wait for each other"

Program = tuple[int, ...]


class StopKernel(Exception):
    """Enough is known about this launch."""


@dataclass
class Use:
    """What one launch did with one tensor."""

    races: RaceDetector
    touched: np.ndarray                 # which elements were loaded
    last_reader: np.ndarray             # of each element, the program; -1 if it was not loaded
    line_of_write: np.ndarray           # of each element, the last one; 0 if it was not written
    loaded: int = 0
    reloaded: int = 0                   # by the program that had loaded the element before
    stored: int = 0                     # plainly
    updated: int = 0                    # atomically


class Tracer:
    """One watched launch. Findings collect in `findings`, traffic and writers in `uses`, by tensor."""

    def __init__(self, memory: Memory, files: Mapping[str, Piece], grid: Program, seed: int):
        self.memory = memory
        self.files = files
        self.grid = grid
        self.findings: list[Finding] = []
        # (file, line) -> masked lanes that were loaded without other=
        self.unguarded: Counter[tuple[str, int]] = Counter()
        # the same with other=, and what it was: (file, line) -> {0.0}
        self.guarded: dict[tuple[str, int], set[float]] = {}
        # lines on which Python asked a block for one truth value
        self.tested_blocks: list[tuple[str, int]] = []
        self.uses = {region.name: _unused(region) for region in memory.regions}
        self.used_tf32 = False
        self._reported: set[tuple] = set()
        self._full_grid = (*grid, 1, 1)[:3]
        self._current = (0, 0, 0)
        self._at = ("", 0)
        self.order = list(product(*map(range, self._full_grid)))
        random.Random(seed).shuffle(self.order)
        self._begun = 0

    # --- programs and lines ----------------------------------------------------------------------

    def next_program(self) -> bool:
        """The next program in the shuffled `order` runs now; False if there is none."""
        if self.all_begun:
            return False
        self._current = self.order[self._begun]
        self._begun += 1
        return True

    @property
    def all_begun(self) -> bool:
        """True if every program of the grid has begun."""
        return self._begun == len(self.order)

    @property
    def _me(self) -> int:
        """The number of the program that runs now."""
        return int(np.ravel_multi_index(self._current, self._full_grid))

    @property
    def program(self) -> Program:
        """The program ids of the program that runs now, one for each axis of the grid."""
        return self._current[:len(self.grid)]

    def program_name(self, linear: int) -> Program:
        """The ids of the program with this number, one for each axis of the grid."""
        ids = np.unravel_index(linear, self._full_grid)
        return tuple(map(int, ids))[:len(self.grid)]

    def stand_at(self, piece: int, line: int) -> None:
        """The reader's line that runs now: which piece of their text, and which line of it; 0 if unknown."""
        files = list(self.files)
        self._at = ("", 0)
        if piece < len(files) and line:
            self._at = (files[piece], line)

    def note_unguarded(self, mask: np.ndarray) -> None:
        """A load without `other=` runs now; `mask` says which lanes it spares."""
        cut_off = int((~mask).sum())
        if cut_off:
            self.unguarded[self._at] += cut_off

    def code_at(self, file: str, line: int) -> str:
        """The code of a line of the reader's text."""
        if file not in self.files:
            return ""
        return self.files[file].line(line)

    def note_guarded(self, other: float) -> tuple[str, int]:
        """A load with `other=`, which spares lanes, runs now; returns its line."""
        self.guarded.setdefault(self._at, set()).add(other)
        return self._at

    def note_tested_block(self, piece: int, line: int) -> None:
        """Python asked a block for one truth value on this line."""
        self.stand_at(piece, line)
        if self._at[1]:
            self.tested_blocks.append(self._at)

    # --- one access ------------------------------------------------------------------------------

    def visit(self, kind: str, addresses: np.ndarray, mask: np.ndarray, width: int,
              values: np.ndarray | None = None) -> np.ndarray:
        """Judge the lanes of one "read", "write" or "atomic"; returns which of them are legal.

        All are flat: one address, truth and value a lane; `width` is the bytes of an element. Raises
        StopKernel after the last finding.
        """
        lanes = np.flatnonzero(mask)
        legal = np.zeros(mask.size, bool)
        wanted = addresses[lanes].astype(np.int64)
        slabs = (wanted - self.memory.base) // self.memory.slab_bytes
        for slab in np.unique(slabs):
            mine = slabs == slab
            region = self.memory.region_of(int(slab))
            if region is None:
                self._report_lost(kind, len(mine))
                continue
            elements, inside = self._elements(kind, region, width, wanted[mine])
            legal[lanes[mine]] = inside
            data = None
            if values is not None:
                data = values[lanes[mine]][inside]
            self._record(kind, region, elements[inside], data)
        return legal

    def _elements(self, kind: str, region: Region, width: int,
                  addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The element of `region` at each address, and whether there is one."""
        positions, rest = np.divmod(addresses - region.start, region.itemsize)
        span = len(region.owner)
        inside = (positions >= 0) & (positions < span) & (rest == 0) & (width == region.itemsize)
        owners = region.owner[np.clip(positions, 0, span - 1)]
        elements = np.where(inside, owners, -1)
        inside &= elements >= 0
        if not inside.all():
            self._report_outside(kind, region, positions[~inside], width)
        return elements, inside

    def _record(self, kind: str, region: Region, elements: np.ndarray, values: np.ndarray | None) -> None:
        """Count traffic and look for races: within the operation, then against other programs."""
        use = self.uses[region.name]
        unique = np.unique(elements)
        if kind == "write" and len(unique) < len(elements):
            self._check_lanes(region, elements, values)
        if kind == "read":
            use.loaded += len(unique)
            use.reloaded += int((use.last_reader[unique] == self._me).sum())
            use.last_reader[unique] = self._me
            use.touched[unique] = True
        else:
            use.stored += len(unique) if kind == "write" else 0
            use.updated += len(unique) if kind == "atomic" else 0
            _, line = self._at
            use.line_of_write[unique] = line
            if not region.is_output and len(unique):
                self._report_input(region.coordinate(unique[0]))
        self._check_race(kind, region, unique)

    def _check_race(self, kind: str, region: Region, unique: np.ndarray) -> None:
        """Against other programs."""
        conflict = self.uses[region.name].races.access(kind, unique, self._me)
        if conflict is None:
            return
        element, other, how = conflict
        mine = f"program {show(self.program)} {_VERBS[kind]} {region.coordinate(element)}"
        theirs = f"program {show(self.program_name(other))} {how} it too"
        self._report("race", f"{mine}, and {theirs}", _ANY_ORDER)

    def _check_lanes(self, region: Region, elements: np.ndarray, values: np.ndarray) -> None:
        """Within one store: lanes that meet must write the same bits."""
        order = np.argsort(elements, kind="stable")
        elements = elements[order]
        bits = np.ascontiguousarray(values[order]).view(f"u{values.dtype.itemsize}")
        clash = np.flatnonzero((elements[1:] == elements[:-1]) & (bits[1:] != bits[:-1]))
        if clash.size:
            where = region.coordinate(elements[clash[0]])
            lanes = f"two lanes of one store in program {show(self.program)}"
            message = f"{lanes} write different values to {where}"
            self._report("race", message, "the offsets of this store: they repeat")

    # --- reports ---------------------------------------------------------------------------------

    def _report_lost(self, kind: str, lanes: int) -> None:
        message = f"{lanes} addresses belong to no tensor at all"
        self._report(_outside(kind), message, "the pointer that this address is computed from")

    def _report_input(self, where: str) -> None:
        message = f"program {show(self.program)} writes to {where}, an input"
        look = "which pointer this store starts from; inputs must stay as they are"
        self._report("input_changed", message, look)

    def _report_outside(self, kind: str, region: Region, positions: np.ndarray, width: int) -> None:
        who = f"program {show(self.program)}"
        if width != region.itemsize:
            what = f"accesses {region.name}, {region.itemsize} bytes an element, as {width}-byte elements"
            self._report(_outside(kind), f"{who} {what}", "the cast of this pointer")
            return
        verb = "reads" if kind == "read" else "writes"
        shape = "x".join(map(str, region.tensor.shape))
        if 0 <= positions[0] < len(region.owner):
            where = f"in the padding of {region.name} ({shape}, strides {region.tensor.stride()})"
            look = f"the offsets: are they made of {region.name}'s own strides? Then the mask of this line"
        else:
            where = f"outside of {region.name} ({shape}, positions 0 to {len(region.owner) - 1})"
            look = "the mask of this line, and the offsets it guards"
        at = f"{region.name}_ptr + {positions[0]}"
        message = f"{who} {verb} {at}, {where}; {len(positions)} such lanes in this operation"
        self._report(_outside(kind), message, look)

    def _report(self, kind: str, message: str, look_at: str) -> None:
        """A finding about the line that runs now; each kind once a line."""
        file, line = self._at
        if (kind, file, line) in self._reported:
            return
        self._reported.add((kind, file, line))
        finding = Finding(
            kind=kind,
            message=message,
            look_at=look_at,
            line=line or None,
            code=self.code_at(file, line),
            program=self.program,
        )
        self.findings.append(finding)
        if len(self.findings) >= _MOST_FINDINGS:
            raise StopKernel

    # --- figures ---------------------------------------------------------------------------------

    def traffic(self, budgets: Mapping[str, int]) -> tuple[Traffic, ...]:
        """What was loaded and stored, tensor by tensor; `budgets` holds the most loads of some."""
        return tuple(self._traffic_of(region, budgets.get(region.name)) for region in self.memory.regions)

    def _traffic_of(self, region: Region, budget: int | None) -> Traffic:
        use = self.uses[region.name]
        written = int(use.races.written().sum())
        return Traffic(
            tensor=region.name,
            loaded=use.loaded,
            distinct=int(use.touched.sum()),
            stored=use.stored + use.updated,
            written=written,
            itemsize=region.itemsize,
            budget=budget,
            store_budget=_store_budget(use, written),
        )


def _store_budget(use: Use, written: int) -> int | None:
    """The most stores. Where several programs update an element atomically, it may take any number."""
    if use.races.met_atomically():
        return None
    return int(_STORE_SLACK * written)


def show(program: Program) -> str:
    """Program ids as a reader says them: 3, or (3, 1)."""
    if len(program) == 1:
        return str(program[0])
    return str(program)


def _unused(region: Region) -> Use:
    elements = region.tensor.numel()
    return Use(
        races=RaceDetector(elements),
        touched=np.zeros(elements, bool),
        last_reader=np.full(elements, -1, np.int64),
        line_of_write=np.zeros(elements, np.int64),
    )


def _outside(kind: str) -> str:
    """The kind of finding for an access that is not legal."""
    if kind == "read":
        return "out_of_bounds_read"
    return "out_of_bounds_write"
