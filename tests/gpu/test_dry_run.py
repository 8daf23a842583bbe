"""A dry run counts what a GPU would be asked for, and fails where code would wait for an answer."""

import pytest
import torch

from aiinfra.kernels import chip
from aiinfra.gpu.dry_run import dry_run
from aiinfra.kernels.rmsnorm import rms_norm

triton = pytest.importorskip("triton")


def test_counts_kernels_and_not_views() -> None:
    x, table = torch.empty(4, 8, device="meta"), torch.empty(1000, 8, device="meta")
    with dry_run() as asked:
        y = x.T.reshape(8, 4).contiguous().float()             # the reshape of a transposed tensor must copy
        y = y.view(4, 8).flatten().to(torch.float32)           # nothing here does
        torch.nn.functional.embedding(torch.zeros(4, dtype=torch.int64, device="meta"), table)
        torch.addmm(y[:8], x, table[:8])
        x.add_(1)
    copy, *others = [launch.name for launch in asked]
    assert copy in ("reshape", "clone") and others == ["zeros", "embedding", "addmm", "add_"]
    assert dict(asked)["embedding"] == 4 * 8 * 4                # the rows that are read, not the table
    assert dict(asked)["add_"] == 4 * 8 * 4


def test_takes_the_way_of_the_gpu_and_leaves_no_trace() -> None:
    x, w = torch.empty(3, 64, device="meta"), torch.empty(64, device="meta")
    run, properties = triton.runtime.JITFunction.run, chip._properties
    with dry_run(arch=80, multiprocessors=108) as asked:
        y, total = rms_norm(x, w, residual=x)
        assert (
            chip.arch_of(x) == 80 and chip.multiprocessors_of(x) == 108 and y.shape == total.shape == x.shape
        )
    assert [launch.name for launch in asked] == ["rmsnorm._forward_kernel"]
    assert triton.runtime.JITFunction.run is run and chip._properties is properties and not x.is_cuda


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: 1 if x.any() else 2,
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: int(x[0]),
        lambda x: max(x),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 0),
    ],
)
def test_what_looks_at_a_number_fails(look) -> None:
    with dry_run(), pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.empty(3, device="meta"))
