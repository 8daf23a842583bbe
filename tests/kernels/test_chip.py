"""What a chip can hold decides the tiles; the interpreter counts as the smallest."""

import pytest
import torch

from aiinfra.kernels.chip import SHARED_LIMIT, arch_of, large_shared, multiprocessors_of


def test_a_cpu_counts_as_nothing() -> None:
    x = torch.zeros(1)
    assert arch_of(x) == 0 and multiprocessors_of(x) == 2


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_large_means_160_kilobytes(arch: int) -> None:
    assert large_shared(arch) == (SHARED_LIMIT[arch] >= 160_000)
