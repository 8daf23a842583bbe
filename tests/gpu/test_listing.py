"""A kernel's generated code, from a process that interprets its kernels as well as from one that does not."""

import pytest

from aiinfra.kernels.lang import tl, triton
from aiinfra.gpu.listing import listings

pytest.importorskip("triton")
pytestmark = pytest.mark.compile


@triton.jit
def double_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, at < n), at < n)


TYPES = {"x_ptr": "*fp32", "y_ptr": "*fp32"}


def test_wide_loads_appear_when_the_mask_allows_them():
    known, unknown = listings(double_kernel, TYPES, dict(BLOCK=1024, types={"n": "i32:16"}), dict(BLOCK=1024))
    assert len(known.lines(r"ld\.global\.v4", "ptx")) == len(known.lines(r"LDG\.E\.128")) == 2
    assert not unknown.lines(r"\.v4", "ptx") and len(unknown.lines("LDG")) == 8
    assert known.arch == 90 and known.num_warps == 4 and known.registers > 0 and known.spill_bytes == 0


def test_the_code_names_no_file_of_this_machine_and_no_padding():
    [seen] = listings(double_kernel, TYPES, dict(BLOCK=128, arch=80, num_warps=2))
    assert seen.arch == 80 and seen.num_warps == 2 and "sm_80" in seen.ptx
    assert "/" not in seen.sass and ".loc" not in seen.ptx and ".file" not in seen.ptx
    assert "NOP" not in seen.sass.split() and seen.lines("EXIT")


@triton.jit
def broken_kernel(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), tl.no_such_function(x_ptr))


def test_a_refused_kernel_says_why():
    with pytest.raises(RuntimeError, match="(?s)^broken_kernel does not compile: triton.*no_such_function"):
        listings(broken_kernel, {"x_ptr": "*fp32"}, dict(BLOCK=128))
