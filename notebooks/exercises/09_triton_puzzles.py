"""Judges and hints of notebook 09, Triton puzzles. The puzzles' own judge sets its own time limit."""

import inspect
import math
import random
import re
from collections import defaultdict
from typing import Any

from IPython.display import display

from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require
from aiinfra.lab.judging import pair
from puzzles import check
from puzzles.catalogue import PUZZLES
from puzzles.checking import judge_text
from puzzles.judge.verdict import Verdict
from puzzles.source import from_text
from puzzles.usual_checker import KnownAnswer, accepts, survey


# --- the first three puzzles ----------------------------------------------------------------------

def _judged(name: str, kernel: Any) -> Verdict:
    """The puzzle's own verdict, shown above the exercise's; raises Unsolved or Wrong unless it passed."""
    verdict = check(name, kernel)
    if verdict.status == "not solved yet":
        raise Unsolved
    display(verdict)
    if not verdict.passed:
        first = verdict.findings[0]
        raise Wrong(f"{first.kind.replace('_', ' ')}: {first.message}.")
    return verdict


@exercise("09.add_constant", hints=PUZZLES["add_constant"].hints, timed=False)
def add_constant(kernel):
    cases = _judged("add_constant", kernel).cases
    return f"One program, one block, right on {len(cases)} sizes."


@exercise("09.add_blocks", hints=PUZZLES["add_blocks"].hints, timed=False)
def add_blocks(kernel):
    used = next(t for t in _judged("add_blocks", kernel).traffic if t.tensor == "x")
    return f"{used.loaded} elements needed, {used.loaded} loaded, none beyond the end."


@exercise("09.outer_sum", hints=PUZZLES["outer_sum"].hints, timed=False)
def outer_sum(kernel):
    _judged("outer_sum", kernel)
    return "Two 1-D blocks of addresses made a 2-D one. Matrices and attention need nothing more."


# --- counting -------------------------------------------------------------------------------------

def _blocks(n: int, block: int) -> int:
    return -(-n // block)


@exercise("09.launch", hints=(
    "Count pages: a tensor of 10 elements in blocks of 4 needs 3 programs. Which Python expression rounds "
    "up?",
    "Along each axis -(-n // b) programs. Then compare two numbers: all lanes of the launch, and the "
    "elements that exist.",
    "grid = tuple(-(-n // b) for n, b in zip(shape, block)); lanes = math.prod(grid) * math.prod(block); "
    "cut = lanes - math.prod(shape).",
))
def launch(answer):
    cases = (
        ((10,), (4,)),
        ((64,), (16,)),
        ((10, 45), (4, 16)),
        ((1, 1), (16, 16)),
        ((3, 100, 7), (1, 64, 8)),
    )
    for shape, block in cases:
        got = answer(shape, block)
        two = isinstance(got, tuple) and len(got) == 2
        require(two, "return two things: the grid (a tuple) and the number of lanes cut off.")
        grid, cut = tuple(got[0]), got[1]
        where = f"shape {shape} in blocks of {block}"
        want = tuple(map(_blocks, shape, block))
        rounded_down = tuple(n // b for n, b in zip(shape, block))
        if grid == rounded_down != want:
            raise Wrong(f"{where}: grid {grid} leaves the tail to nobody; round up.")
        one_more = tuple(n + 1 for n in rounded_down)
        if grid == one_more != want:
            raise Wrong(f"{where}: grid {grid} launches programs that own nothing, where the block divides "
                        "the size.")
        close(grid, want, f"the grid for {where}")
        beyond = math.prod(want) * math.prod(block) - math.prod(shape)
        corner = math.prod(g * b - n for n, b, g in zip(shape, block, want))
        if cut == corner != beyond:
            raise Wrong(f"{where}: {cut} lanes are cut off in BOTH directions at once. Lanes past one edge "
                        "are cut, too.")
        close(cut, beyond, f"the lanes cut off for {where}")
    return "One element in a block of 16 × 16: 255 of 256 lanes idle. Blocks want to be full."


@exercise("09.bytes", hints=(
    "Ask of each tensor: how many programs load this element? For x[n], all programs of one row of tiles.",
    "x is loaded once per column of tiles, so N · cdiv(M, BLOCK_M) elements; y likewise. Masked lanes load "
    "nothing. Each element of z is stored once.",
    "loaded = 4 * (N * cdiv(M, BLOCK_M) + M * cdiv(N, BLOCK_N)); stored = 4 * N * M.",
))
def bytes_(answer):
    cases = (
        (10, 45, 4, 16),
        (64, 64, 16, 16),
        (1, 33, 4, 8),
        (1000, 3, 32, 2),
    )
    for N, M, BN, BM in cases:
        got = answer(N, M, BN, BM)
        pair(got, "return two numbers: bytes loaded, bytes stored.")
        down, across = _blocks(N, BN), _blocks(M, BM)
        where = f"N={N}, M={M} in tiles of {BN} × {BM}"
        loaded = 4 * (N * across + M * down)
        known = {
            loaded // 4:
                "these are elements; a float32 has 4 bytes.",
            4 * (N + M):
                "that is each element once. But a program keeps nothing for its neighbours: every tile loads "
                "its own.",
            4 * (N * down + M * across):
                "x and y are mixed up: x[n] is loaded again for every tile along M.",
            4 * down * across * (BN + BM):
                "lanes that the mask cuts off move no bytes.",
        }
        for value, message in known.items():
            if got[0] == value != loaded:
                raise Wrong(f"loaded, for {where}: {message}")
        close(got[0], loaded, f"bytes loaded for {where}")
        close(got[1], 4 * N * M, f"bytes stored for {where}")
    return "The judge's own count of loads, found on paper before the kernel ran."


# --- races ----------------------------------------------------------------------------------------

def _raced(log: list[tuple[int, str, int]]) -> set[int]:
    touched, written = defaultdict(set), set()
    for program, kind, element in log:
        touched[element].add(program)
        if kind == "write":
            written.add(element)
    return {element for element in written if len(touched[element]) > 1}


def _log(seed: int, elements: int = 40) -> list[tuple[int, str, int]]:
    """Four programs, mostly at home in their own tenth of the elements; some visit others."""
    rng = random.Random(seed)
    log = []
    for program in range(4):
        home = range(program * elements // 4, (program + 1) * elements // 4)
        for at in home:
            if rng.random() < 0.8:
                both = [(program, "read", at), (program, "write", at)]
                log += both[:rng.randint(0, 2)]
            else:
                log.append((program, "write", at))
        for _ in range(4):
            kind = rng.choice(["read", "read", "write"])
            log.append((program, kind, rng.randrange(elements)))
    rng.shuffle(log)
    return log


@exercise("09.races", hints=(
    "Think of rows in a database and transactions without locks. Which pairs of accesses to one row are "
    "harmless?",
    "Read and read is harmless, and so is anything a program does with an element that nobody else touches. "
    "All else is a race.",
    "For each element keep two sets: `touched` (programs that read or wrote it) and `writers`. It races if "
    "writers is not empty and len(touched) > 1.",
))
def races(answer):
    pairs = {
        "write-write": [(0, "write", 7), (1, "write", 7)],
        "write, then read": [(0, "write", 7), (1, "read", 7)],
        "read, then write": [(0, "read", 7), (1, "write", 7)],
    }
    for what, log in pairs.items():
        got = answer(list(log))
        require(got is not None, "your function returned None. Is a `return` missing?")
        require(set(got) == {7}, f"{what} of element 7 by programs 0 and 1 is a race, but you report "
                                 f"{sorted(got)}.")
    three_readers = [(0, "read", 3), (1, "read", 3), (2, "read", 3)]
    require(not set(answer(three_readers)), "three programs only READ element 3: no race.")
    alone = [(5, "read", 3), (5, "write", 3)]
    require(not set(answer(alone)), "one program reads and writes element 3, nobody else does: no race.")
    for seed in range(20):
        log = _log(seed)
        got, want = set(answer(list(log))), _raced(log)
        if got != want:
            one = min(got ^ want)
            says = "races" if one in want else "does not race"
            story = ", ".join(f"program {p} {kind}s" for p, kind, at in log if at == one)
            raise Wrong(f"element {one} {says}: {story}. The log is in no particular order.")
    return ("Right on 20 random logs. Keep two programs per element in place of sets, and it is the judge's "
            "own detector.")


# --- outwit the usual checker ---------------------------------------------------------------------

@exercise("09.fool", timed=False, hints=(
    "The checker sees only values, once, at the end, in one particular order. What can go wrong in memory "
    "and leave the values right?",
    "Three doors are open: reading beyond the end without using it, writing beyond the end, and programs "
    "that overlap.",
    "Solve the puzzle, then leave the mask out of the LOAD: the lanes past N read what they like, and the "
    "store drops them.",
))
def fool(kernel):
    text = inspect.getsource(kernel.fn)
    if "tl.store" not in text:
        raise Unsolved
    imports = "import triton\nimport triton.language as tl\n\n"
    text = re.sub(r"def \w+\(", "def add_blocks(", imports + text, count=1)
    verdict = judge_text(PUZZLES["add_blocks"], from_text(text, "add_blocks"), full=False)
    require(not verdict.passed, "the judge accepts it, because it is right. Break something that values do "
                                "not show.")
    kind = verdict.kinds[0]
    require(kind not in ("bad_input", "error"), f"that does not even run: {verdict.findings[0].message}.")
    words = kind.replace("_", " ")
    yours = KnownAnswer(puzzle="add_blocks", what="yours", text=text, right=False)
    [launches] = survey([yours], processes=1)
    require(accepts(launches, shapes=99),
            f"both judges reject it; the usual checker sees wrong values on shape {len(launches)}, too. "
            f"(Ours says: {words}.)")
    return f"Four shapes, all values right, accepted. Our judge says: {words}."


