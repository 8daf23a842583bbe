"""bfloat16 in Triton's interpreter is what PyTorch computes: every operation, also to the last bit."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from tests.kernels.kernel_checks import DEVICE

from aiinfra.kernels.interpreted import narrow, widen
from aiinfra.kernels.lang import triton as same_triton

pytestmark = pytest.mark.skipif(DEVICE.type == "cuda", reason="kernels are compiled here")
N = 16


@triton.jit
def element_by_element(x_ptr, y_ptr, z_ptr, what: tl.constexpr):
    i = tl.arange(0, 16)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    if what == "sum":
        z = x + y
    elif what == "difference":
        z = x - y
    elif what == "product":
        z = x * y
    elif what == "quotient":
        z = x / y
    elif what == "negative":
        z = -x
    elif what == "multiple":
        z = x * 2.5
    elif what == "multiply and add":
        z = tl.fma(x, x, y)
    elif what == "size":
        z = tl.abs(x)
    elif what == "choice":
        z = tl.where(x > y, x, 0.0)
    elif what == "larger":
        z = tl.maximum(x, y)
    elif what == "comparison":
        z = (x < y) & (x != y)
    elif what == "whole numbers":
        z = (i - 8).to(tl.bfloat16)
    elif what == "to whole numbers":
        z = (x * 4).to(tl.int32)
    elif what == "constant":
        z = tl.full((16,), 1.7, tl.bfloat16)
    elif what == "rounded":
        z = (x.to(tl.float32) * 1.005).to(tl.bfloat16)
    elif what == "rounded by mode":
        z = (x.to(tl.float32) * 1.005).to(tl.bfloat16, fp_downcast_rounding="rtne")
    elif what == "cut":
        z = (x.to(tl.float32) * 1.005).to(tl.bfloat16, fp_downcast_rounding="rtz")
    elif what == "half":
        z = x.to(tl.float16)
    elif what == "sorted":
        z = tl.sort(x)
    tl.store(z_ptr + i, z)


EXPECTED = {
    "sum": lambda x, y: x + y,
    "difference": lambda x, y: x - y,
    "product": lambda x, y: x * y,
    "quotient": lambda x, y: x / y,
    "negative": lambda x, y: -x,
    "multiple": lambda x, y: x * 2.5,
    "multiply and add": lambda x, y: (x.float() * x.float() + y.float()),
    "size": lambda x, y: x.abs(),
    "choice": lambda x, y: torch.where(x > y, x, 0.0),
    "larger": lambda x, y: torch.maximum(x, y),
    "comparison": lambda x, y: x < y,
    "whole numbers": lambda x, y: torch.arange(-8, 8),
    "to whole numbers": lambda x, y: (x * 4).int(),
    "constant": lambda x, y: torch.full((N,), 1.7),
    "rounded": lambda x, y: x.float() * 1.005,
    "rounded by mode": lambda x, y: x.float() * 1.005,
    "cut": lambda x, y: ((x.float() * 1.005).view(torch.int32) & -65536).view(torch.float32),
    "half": lambda x, y: x.half(),
    "sorted": lambda x, y: x.sort().values,
}


def draw(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, generator=generator).bfloat16()


@pytest.mark.parametrize("what", EXPECTED)
def test_elements(what):
    assert same_triton is triton, "the interpreter is mended when lang is imported"
    x, y, z = draw(1), draw(2), torch.empty(N, dtype=torch.bfloat16)
    element_by_element[(1,)](x, y, z, what=what)
    assert torch.equal(z, EXPECTED[what](x, y).bfloat16())


@triton.jit
def sums(x_ptr, z_ptr, i_ptr):
    row = tl.arange(0, 4)
    x = tl.load(x_ptr + row[:, None] * 4 + row[None, :])
    tl.store(z_ptr + row, tl.sum(x, 1))
    tl.store(z_ptr + 4 + row, tl.max(x, 0))
    tl.store(z_ptr + 8, tl.sum(x))
    tl.store(i_ptr + row, tl.argmin(x, 1))
    tl.store(z_ptr + 12 + row, tl.sum(tl.where(row[None, :] < 2, tl.cumsum(x, 1), 0.0), 1))
    tl.atomic_add(z_ptr + 9 + 0 * row, tl.sum(x, 1))


def test_sums_scans_and_atomics():
    """A sum is rounded once, so within half a step of float64's; four atomic additions round four times."""
    x, z, index = draw(3), torch.zeros(N).bfloat16(), torch.zeros(4, dtype=torch.int32)
    sums[(1,)](x, z, index)
    table = x.double().view(4, 4)
    two = table[:, 0] + table[:, :2].sum(1)
    assert torch.allclose(z[:4].double(), table.sum(1), rtol=2 ** -8)
    assert torch.equal(z[4:8].double(), table.amax(0)) and torch.equal(index.long(), table.argmin(1))
    assert torch.allclose(z[8].double(), table.sum(), rtol=2 ** -8)
    assert torch.allclose(z[9].double(), table.sum(), rtol=2 ** -6, atol=0.03)
    assert torch.allclose(z[12:].double(), two, rtol=2 ** -7, atol=0.01)


@triton.jit
def product(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    place = i[:, None] * N + i[None, :]
    tl.store(z_ptr + place, tl.dot(tl.load(x_ptr + place), tl.load(y_ptr + place)))


def test_dot_adds_in_float32():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, 64, 64, generator=generator).bfloat16()
    z = torch.empty(64, 64)
    product[(1,)](x, y, z, N=64)
    assert torch.allclose(z.double(), x.double() @ y.double(), rtol=1e-5, atol=1e-5)


def test_bits_are_pytorchs():
    """All 65,536 values, and float32 values of every kind: ties, overflow, subnormal, infinite, NaN."""
    bits = np.arange(2 ** 16, dtype=np.uint16)
    right = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()
    assert torch.equal(torch.from_numpy(widen(bits)).nan_to_num(7.0), right.nan_to_num(7.0))
    some = np.random.default_rng(0).integers(0, 2 ** 32, 2 ** 20, dtype=np.uint32)
    some[: 2 ** 16] = (bits.astype(np.uint32) << 16) | 0x8000               # a tie for each
    values = some.view(np.float32)
    ours = torch.from_numpy(narrow(values).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(values).bfloat16()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


@triton.jit
def saying(x_ptr):
    tl.device_print("x", tl.load(x_ptr + tl.arange(0, 2)))


def test_what_is_printed_is_the_value(capsys):
    saying[(1,)](torch.tensor([1.0, 2.5]).bfloat16())
    assert "2.5" in capsys.readouterr().out
