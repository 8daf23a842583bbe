import pytest
import torch

from aiinfra.environment import triton_interpreted
from aiinfra.kernels.swiglu import cost, swiglu
from aiinfra.gpu.traffic import kernel_traffic

interpreted = pytest.mark.skipif(not triton_interpreted(), reason="counts in Triton's interpreter")


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("features", [1, 40, 1500])       # 1500: more than one block, the last one masked
def test_swiglu_moves_what_its_cost_says(features, dtype):
    x = torch.randn(3, 2 * features).to(dtype)
    with kernel_traffic() as traffic:
        swiglu(x, backend="triton")
    assert traffic.counted and traffic.read == x.nbytes and traffic.written == x.nbytes // 2
    assert traffic.bytes == cost(3, features, x.element_size()).bytes


@interpreted
def test_counts_nothing_outside_and_cleans_up_after_an_error():
    x = torch.randn(1, 8)
    with pytest.raises(RuntimeError, match="on purpose"), kernel_traffic() as traffic:
        raise RuntimeError("on purpose")
    swiglu(x, backend="triton")
    assert traffic.bytes == 0
    with kernel_traffic() as traffic:
        swiglu(x, backend="triton")
    assert traffic.bytes == 8 * 4 + 4 * 4


def test_without_the_interpreter_it_says_that_nothing_was_counted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with kernel_traffic() as traffic:
        pass
    assert not traffic.counted and traffic.bytes == 0
