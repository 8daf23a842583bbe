"""An exception as a line of the reader's kernel, its reason, and what to look at."""

import pytest

from puzzles.checking import Workers, judge_text
from puzzles.catalogue import PUZZLES
from puzzles.judge.compiled import too_much
from puzzles.judge.process import Worker
from puzzles.judge.verdict import ResourceUsage
from puzzles.source import from_text

_TEXT = """import triton
import triton.language as tl
FACTOR = 2


@triton.jit
def helper(x, c):
    y = tl.zeros([x.shape[0] * 2], tl.float32)
    return x + y


@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < N)
    THERE
    tl.store(z_ptr + at, x + c, mask=at < N)
"""


@pytest.fixture(scope="module")
def both():
    made = Workers(interpreter=Worker(True), compiler=Worker(False))
    yield made
    made.interpreter.close()
    made.compiler.close()


def _finding(workers, there):
    text = from_text(_TEXT.replace("THERE", there), "add_blocks")
    [finding] = judge_text(PUZZLES["add_blocks"], text, workers=workers, seed=1).findings
    return finding


def test_an_error_in_a_helper_is_told_at_its_line(workers):
    finding = _finding(workers, "x = helper(x, c)")
    assert finding.kind == "error" and finding.code == "return x + y" and finding.line == 9


@pytest.mark.parametrize(
    "there, words, look",
    [
        ("x = x + cc", "NameError: name 'cc' is not defined", "the spelling"),
        ("y = tl.arange(0, N)", "arange's arguments", "run-time arguments are not"),
        ("x = a = tl.zeros([BLOCK], tl.float32)", "Multiple assignments", "a line for each"),
        ("p = tl.make_tensor_descriptor(x_ptr, [N, 7], [7, 1], [8, 8])", "16-byte aligned", "at multiples"),
    ],
)
def test_interpreted_errors(workers, there, words, look):
    finding = _finding(workers, there)
    assert words in finding.message and look in finding.look_at and finding.line == 16


def test_what_a_chip_does_not_have_is_refused_with_its_limit():
    taken = dict(target="sm_80", registers=64, shared_bytes=166_912, spill_bytes=0)
    assert too_much(ResourceUsage(**taken), 80) is None
    shared = too_much(ResourceUsage(**taken | dict(shared_bytes=166_913)), 80)
    spilled = too_much(ResourceUsage(**taken | dict(spill_bytes=8192)), 80)
    assert shared.kind == spilled.kind == "does_not_fit"
    assert "166,913 bytes of shared memory on sm_80" in shared.message and "166,912" in shared.message
    assert "8,192 bytes" in spilled.message and "4,096" in spilled.message


@pytest.mark.compile
def test_blocks_that_no_chip_can_hold_are_refused(both):
    """Right when interpreted, and compiled without a word."""
    finding = _finding(both, """if BLOCK >= 1024:
        wide = tl.broadcast_to(tl.where(at < N, x, 0.0)[None, :], [64, BLOCK])
        x += 0 * tl.max(tl.dot(wide, tl.trans(wide)))""")
    assert finding.kind == "does_not_fit", str(finding)
    assert "262,144 bytes of shared memory on sm_90, and the chip has 232,448" in finding.message


@pytest.mark.compile
@pytest.mark.parametrize(
    "there, words, line, look",
    [
        ("if c > 1e9:\n        x = helper(x, c)", "incompatible dimensions", 9, "[:, None] makes a column"),
        ("y = x * FACTOR", "NameError: Cannot access global variable FACTOR", 16, "tl.constexpr(2)"),
        ("if x > -1e9:\n        x = x * 1", "Boolean value of Tensor", 16, "not on blocks"),
        ("f = lambda a: a\n    x = f(x)", "AST node type: Lambda", 16, "this statement"),
        ("y = 0\n    for i in range(N):\n        y += 1.5", "Loop-carried variable y", 17, "before the loop"),
        ("if c > 1e9:\n        x = x + cc", "NameError: cc is not defined", 17, "the spelling"),
    ],
)
def test_what_only_the_compiler_refuses(both, there, words, line, look):
    finding = _finding(both, there)
    assert finding.kind == "does_not_compile" and words in finding.message, str(finding)
    assert finding.line == line and look in finding.look_at, str(finding)
