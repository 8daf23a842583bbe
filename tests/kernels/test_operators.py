"""Kernels are operators: who watches, traces or compiles sees them; and a launch is guarded."""

from subprocess import CalledProcessError

import pytest
import torch
from tests.kernels.kernel_checks import DEVICE, randn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.kernels import operators
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.kernels.flash_attention import flash_attention
from aiinfra.kernels.grouped_matmul import grouped_matmul
from aiinfra.kernels.hstu_attention import hstu_attention
from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import paged_attention
from aiinfra.kernels.quant_matmul import quant_matmul, quantize_int4, quantize_int8
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.kernels.rope import rope, rope_tables
from aiinfra.kernels.rope_write import rope_write
from aiinfra.kernels.swiglu import swiglu

pytest.importorskip("triton")


def integers(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def every_kernel() -> None:
    """Each wrapper of this package once, forward and where there is one backward."""
    x, w = randn(3, 32, grad=True), randn(32, grad=True)
    y, total = rms_norm(x, w, residual=randn(3, 32, grad=True), backend="triton")
    (rms_norm(x, w, backend="triton") + y + total + swiglu(randn(3, 64), backend="triton")).sum().backward()
    swiglu(randn(2, 3, 64, grad=True), backend="triton").sum().backward()
    q, k, v = (randn(5, heads, 16, grad=True) for heads in (4, 2, 2))
    tables = [table.to(DEVICE) for table in rope_tables(8, 16)]
    turned = rope(q, k, integers(0, 1, 2, 3, 4), *tables, backend="triton")
    flash_attention(*turned, v, backend="triton").sum().backward()
    hstu_attention(*(randn(5, 2, 16, grad=True) for _ in "qkv"), integers(0, 2, 5),
                   integers(1, 2, 3, 4, 5, dtype=torch.int64), randn(9, grad=True), randn(129, grad=True),
                   max_len=5, backend="triton").sum().backward()
    linear_cross_entropy(x, randn(50, 32, grad=True), integers(1, 2, 49, dtype=torch.int64),
                         backend="triton").backward()
    grouped_matmul(x, randn(2, 16, 32, grad=True), integers(0, 1, 3), backend="triton").sum().backward()
    caches = [randn(4, 2, 2, 16), randn(4, 2, 2, 16)]
    latent = randn(4, 2, 1, 24)
    with torch.no_grad():
        for pack in (quantize_int4, quantize_int8):
            packed = pack(randn(16, 32))
            quant_matmul(x, packed, backend="triton")
            quant_matmul(x[:1], packed, backend="triton")
        kv_write(k, v, *caches, integers(0, 1, 2, 3, -1, dtype=torch.int64), backend="triton")
        kv_write(randn(2, 1, 24), None, latent, None, integers(0, 3, dtype=torch.int64), backend="triton")
        rope_write(q, k, v, *(table[:5] for table in tables), *caches,
                   integers(0, 1, 2, 3, -1, dtype=torch.int64), backend="triton")
        blocks, lengths = integers(0, 1, 2, 3).view(2, 2), integers(3, 4)
        paged_attention(q[:2], *caches, blocks, lengths, splits=2, backend="triton")
        paged_attention(q[:3], *caches, blocks, lengths, integers(0, 1, 3), backend="triton")
        paged_attention(randn(2, 4, 24), latent, latent[..., :16], blocks, lengths, backend="triton")


class Watch(TorchDispatchMode):
    """Every call of an operator of ours, and with what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aiinfra":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def calls() -> list[tuple]:
    with Watch() as watch:
        every_kernel()
    return watch.calls


def ours() -> set[str]:
    """The operators that the package defines."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("aiinfra::") for name in names if name.startswith("aiinfra::")}


def test_a_dispatch_mode_sees_every_kernel(calls):
    """Old code: a bare launch, which a mode never saw; a tape of operations had no norm and no rope."""
    assert {func._opname for func, _ in calls} == ours() and len(ours()) >= 15


@pytest.mark.slow
def test_each_operator_keeps_its_word(calls):
    """It writes only what it names, its outputs are its own, and without memory they have the same shapes."""
    seen = {}
    for func, args in calls:
        kinds = tuple(map(type, args))                                    # with a residual, without one, …
        seen.setdefault((func, kinds), args)
    for (func, _), args in seen.items():
        args = [x.detach() if isinstance(x, torch.Tensor) else x for x in args]
        torch.library.opcheck(func, tuple(args), test_utils=("test_schema", "test_faketensor"))


def test_the_profiler_sees_them():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        swiglu(randn(3, 64), backend="triton")
    assert "aiinfra::swiglu_forward" in {event.key for event in seen.key_averages()}


def layer(x: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    y, total = rms_norm(x, weight, residual=2 * x, backend="triton")
    q = (y @ matrix).view(len(x), 2, 16)
    attended = flash_attention(q, 2 * q, 3 * q, backend="triton").flatten(1)
    return total + swiglu(torch.cat([attended, y], -1), backend="triton")


@pytest.mark.compile
def test_a_compiler_traces_through_them_whole():
    """One graph, forward and backward, and the same values. Old code: the trace ended at the launch."""
    inputs = [randn(5, 32, grad=True), randn(32, grad=True), randn(32, 32, grad=True)]
    wanted = layer(*inputs)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    got = compiled(*inputs)
    torch.testing.assert_close(got, wanted)
    want = torch.autograd.grad(wanted.square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), inputs), want)


@pytest.mark.parametrize("grid", [(1, 65_536), (1, 1, 70_000), (1 << 31,)])
def test_a_grid_that_no_gpu_has_is_refused(grid):
    """Old code: CUDA's "invalid configuration argument", which names neither kernel nor remedy."""
    class Kernel:
        fn = layer
    with pytest.raises(ValueError, match=r"layer would need [\d,]+ programs along axis \d.*Cut the batch"):
        operators.launch(Kernel(), grid, randn(1))


def test_a_launch_is_on_the_gpu_of_its_tensors(monkeypatch):
    """Old code: on the current one, which may be another."""
    entered = []

    class Guard:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            entered.append(self.tensor)

        def __exit__(self, *_):
            entered.append(None)
    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    x = randn(3, 64)
    swiglu(x, backend="triton")
    assert [value is None for value in entered] == [False, True] and entered[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("missing, raised, said", [
    ("Triton needs a C compiler.", RuntimeError, "layer could not be started. Triton needs a C compiler"),
    ("", CalledProcessError, "'gcc'"),
])
def test_a_launch_that_finds_no_compiler_says_so(missing, raised, said, monkeypatch):
    """Old code: a compiler's command and its exit status, in the middle of a recording."""
    class Kernel:
        fn = layer

        def __getitem__(self, grid):
            raise CalledProcessError(1, ["gcc", "driver.c"])
    monkeypatch.setattr(operators, "build_tools_missing", lambda: missing)
    with pytest.raises(raised, match=said):
        operators.launch(Kernel(), (1,), randn(1))
