"""What Triton would compile anew is told from what it has."""

import pytest
import torch

from aiinfra.gpu.fake import fake_gpu
from aiinfra.gpu.variants import Variant
from aiinfra.kernels.quant_matmul import quant_matmul, quantize_int4
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.kernels.swiglu import swiglu

pytest.importorskip("triton")


def variants(work, *lengths: int, width: int = 64, dtype: torch.dtype = torch.bfloat16) -> set[Variant]:
    """What `work` would have Triton compile for inputs of those lengths."""
    with fake_gpu() as gpu, torch.no_grad():
        for length in lengths:
            work(torch.empty(length, width, dtype=dtype, device=gpu.device))
        return gpu.variants()


@pytest.mark.parametrize("work", [
    lambda x: rms_norm(x, x[0]), lambda x: rms_norm(x, x[0], residual=x), swiglu,
    lambda x: quant_matmul(x, quantize_int4(torch.zeros(32, 64, device=x.device))),
], ids=["norm", "fused norm", "swiglu", "int4"])
def test_how_many_tokens_there_are_is_not_compiled_in(work) -> None:
    """Old code: a variant for one row, one for multiples of 16, one for all others: each in mid-traffic."""
    assert len(variants(work, 2, 3, 7, 16, 15)) == 1
    assert len(variants(work, 2, 3, 7, 16, 1)) <= 2                  # one token has a kernel of its own


def test_what_is_compiled_in_makes_a_variant() -> None:
    assert len(variants(swiglu, 4) | variants(swiglu, 4, width=128)) == 1              # both divide by 16
    assert len(variants(swiglu, 4) | variants(swiglu, 4, width=66)) == 2
    assert len(variants(swiglu, 4) | variants(swiglu, 4, dtype=torch.float32)) == 2
    assert len(variants(lambda x: swiglu(x[:, 1:63]), 4) | variants(lambda x: swiglu(x[:, 2:64]), 4)) == 1
    assert len(variants(lambda x: swiglu(x[:, :62]), 4) | variants(lambda x: swiglu(x[:, 2:64]), 4)) == 2


def test_it_survives_a_journey() -> None:
    [one] = variants(swiglu, 3)
    assert Variant.from_json(one.as_json()) == one
    assert str(one).startswith("swiglu._forward_kernel(") and "BLOCK_F=1024" in str(one)
    case = one.case()
    assert case["types"]["x_ptr"] == "*bf16:16" and case["constexprs"] == {"BLOCK_F": 1024}
