import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType, quants
from tests.kernels.kernel_checks import randn, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.quant_matmul import (cost, dequantize, from_q4_1, quant_matmul, quant_matmul_reference,
                                          quantize_int4, quantize_int8)

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")
Q4_1 = GGMLQuantizationType.Q4_1
FORMATS = pytest.mark.parametrize("quantize", [quantize_int4, quantize_int8, lambda w: quantize_int8(w, 32)],
                                  ids=["int4", "int8", "int8 groups"])


def test_int4_holds_the_numbers_of_ggufs_q4_1():
    weight = randn(7, 160).cpu()
    weight[3, 32:64] = 0.25                                # a constant block: scale 0
    raw = quants.quantize(weight.numpy(), Q4_1)
    wanted = torch.from_numpy(quants.dequantize(raw, Q4_1))
    ours, read = quantize_int4(weight), from_q4_1(raw)
    assert torch.equal(dequantize(read), wanted) and torch.equal(dequantize(ours), wanted)
    assert torch.equal(ours.words, read.words) and ours.nbytes == raw.nbytes


def test_words_hold_values_in_the_documented_order():
    raw = np.zeros((1, 20), np.uint8)
    raw[0, :2] = np.float16([1.0]).view(np.uint8)          # scale 1, minimum 0
    raw[0, 4 + 5] = 0xC7                                   # value 5 is 7, value 21 is 12
    packed = from_q4_1(raw)
    fields = [(packed.words[0, 5 % 4].item() >> 4 * (5 // 4)) & 15, (packed.words[0, 1].item() >> 4 * 5) & 15]
    assert fields == [7, 12] and dequantize(packed)[0, [5, 21]].tolist() == [7.0, 12.0]


@pytest.mark.parametrize("group", [None, 32, 64])
def test_int8_is_within_half_a_step(group):
    weight = randn(5, 192)
    packed = quantize_int8(weight, group)
    step = packed.scale.repeat_interleave(packed.group_size, dim=1)
    assert packed.group_size == (group or 192) and packed.shape == (5, 192)
    assert ((dequantize(packed) - weight).abs() <= 0.5001 * step).all()


@FORMATS
def test_zero_weight_stays_zero(quantize):
    assert not dequantize(quantize(torch.zeros(2, 64))).any()


def test_reference_is_a_linear_layer():
    weight, x = quantize_int4(randn(5, 64)), randn(3, 64)
    assert torch.equal(quant_matmul_reference(x, weight), F.linear(x, dequantize(weight)))


@FORMATS
@pytest.mark.parametrize("tokens", [0, 1, 2, 16, 17, 33, 65])
@pytest.mark.parametrize("outputs, inputs", [(1, 32), (7, 96), (33, 160), (64, 64)])
def test_kernels_are_the_reference(quantize, tokens, outputs, inputs):
    weight, x = quantize(randn(outputs, inputs)), randn(tokens, inputs, seed=1)
    wanted = F.linear(x.double(), dequantize(weight).double())
    assert relative_error(quant_matmul(x, weight, backend="triton"), wanted) < 3e-6


@FORMATS
@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_longer_than_one_tile(quantize, tokens):
    weight, x = quantize(randn(3, 128 * 32 + 96)), randn(tokens, 128 * 32 + 96, seed=1)
    wanted = F.linear(x.double(), dequantize(weight).double())
    assert relative_error(quant_matmul(x, weight, backend="triton"), wanted) < 3e-6


@FORMATS
def test_weights_far_from_zero_and_activations_with_a_mean(quantize):
    # the one-token kernel subtracts what the float's leading 1 adds; here that part is largest
    weight, x = quantize(randn(40, 1024) + 20), randn(1, 1024, seed=1) + 5
    wanted = F.linear(x.double(), dequantize(weight).double())
    assert relative_error(quant_matmul(x, weight, backend="triton"), wanted) < 3e-6


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, ::2],
        lambda t: t[:, :64],
        lambda t: t[::2, 64:],
        lambda t: t[0, :64],
        lambda t: t[:, :64].unflatten(0, (2, 3)),
        lambda t: t[:1, ::2],
    ],
    ids=["every second", "columns", "rows", "1-D", "3-D", "one strided token"],
)
def test_views(view):
    weight, x = quantize_int4(randn(9, 64)), view(randn(6, 128))
    got = quant_matmul(x, weight, backend="triton")
    assert relative_error(got, F.linear(x.double(), dequantize(weight).double())) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 5])
def test_half_precision(dtype, tokens):
    weight, x = quantize_int4(randn(33, 128)), randn(tokens, 128, dtype=dtype)
    got = quant_matmul(x, weight, backend="triton")
    assert got.dtype == dtype
    assert relative_error(got, F.linear(x.double(), dequantize(weight).double())) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("tokens", [3, 40])
def test_tokens_are_independent(tokens):
    weight, x = quantize_int4(randn(9, 64)), randn(tokens, 64)
    changed = x.clone()
    changed[1] = float("nan")
    before, after = (quant_matmul(t, weight, backend="triton") for t in (x, changed))
    others = [i for i in range(tokens) if i != 1]
    assert torch.equal(before[others], after[others]) and after[1].isnan().all()


def test_to_moves_everything():
    moved = quantize_int8(randn(4, 32)).to("meta")
    assert {t.device.type for t in (moved.words, moved.scale, moved.minimum)} == {"meta"}


def test_errors():
    weight, x = quantize_int4(randn(4, 64)), randn(2, 64)
    with pytest.raises(ValueError, match="Pad D"):
        quantize_int4(randn(4, 48))
    with pytest.raises(ValueError, match="groups of 48"):
        quantize_int8(randn(4, 96), 48)
    with pytest.raises(ValueError, match="20 bytes"):
        from_q4_1(np.zeros((2, 30), np.uint8))
    with pytest.raises(ValueError, match="rows of 32"):
        quant_matmul(x[:, :32], weight)
    with pytest.raises(RuntimeError, match="inference"):
        quant_matmul(x.clone().requires_grad_(), weight)
    with pytest.raises(ValueError, match="not known"):
        quant_matmul(x, weight, backend="cublas")


@FORMATS
def test_cost_reads_the_packed_bytes_once(quantize):
    weight = quantize(randn(8, 64))
    counted = cost(3, 64, 8, weight.bits, weight.group_size, bytes_per_value=2,
                   bytes_per_scale=weight.scale.element_size())
    assert counted.bytes == weight.nbytes + 3 * (64 + 8) * 2 and counted.flops == 2 * 3 * 64 * 8
