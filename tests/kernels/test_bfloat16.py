"""Every kernel in bfloat16, forward and backward, against its formula in float64 on the same inputs.

    the inputs, rounded to bfloat16 ─┬─► the kernel, in bfloat16 ─────────┐
                                     └─► the formula, widened to float64 ─┴─► |difference| / |formula|

A bfloat16 number has 8 bits: rounding moves it by at most 2⁻⁸ of itself. A kernel adds in float32, so what it
may be off by is its roundings on the way: one where the result is stored, another where weights of attention
are rounded before they are multiplied. Compiled where there is a GPU, interpreted elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.kernels import test_latent_cache, test_paged_attention
from tests.kernels.flash_inputs import packed
from tests.kernels.hstu_inputs import SampleHistories
from tests.kernels.kernel_checks import DEVICE, doubled, on_device, randn  # noqa: F401
from tests.kernels.kernel_checks import relative_error, unwritten_is_nan  # noqa: F401
from tests.kernels.test_operators import Watch, ours
from torch import Tensor

from aiinfra.kernels.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from aiinfra.kernels.flash_attention import attention_reference, flash_attention
from aiinfra.kernels.grouped_matmul import grouped_matmul, grouped_matmul_reference
from aiinfra.kernels.hstu_attention import hstu_attention, hstu_reference
from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import paged_attention
from aiinfra.kernels.quant_matmul import dequantize, quant_matmul, quantize_int4, quantize_int8
from aiinfra.kernels.rmsnorm import rms_norm, rms_norm_reference
from aiinfra.kernels.rope import rope, rope_reference, rope_tables
from aiinfra.kernels.rope_write import rope_write
from aiinfra.kernels.swiglu import swiglu, swiglu_reference

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")
ROUNDING = 2.0 ** -8
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """A kernel of some inputs, and the same of float64 ones. Those that want gradients are compared in them,
    too. roundings: of numbers on the way to a result."""

    kernel: Callable[..., Tensor | tuple[Tensor, ...]]
    formula: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    roundings: int = 1

    def errors(self) -> list[float]:
        """Of each output, then of each gradient."""
        wide = doubled(*self.inputs)
        got, wanted = _several(self.kernel(*self.inputs)), _several(self.formula(*wide))
        leaves, wide_leaves = ([x for x in inputs if x.requires_grad] for inputs in (self.inputs, wide))
        if leaves:
            slopes = [randn(*y.shape, seed=7).to(y.dtype) for y in got]
            got += torch.autograd.grad(got, leaves, slopes)
            wanted += torch.autograd.grad(wanted, wide_leaves, [slope.double() for slope in slopes])
        return [relative_error(mine, right) for mine, right in zip(got, wanted, strict=True)]


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def learned(*shape: int, seed: int = 0) -> Tensor:
    """Random values that want a gradient."""
    return randn(*shape, dtype=BF16, grad=True, seed=seed)


def norm(fused: bool) -> Case:
    names = ("x", "weight", "residual")[:3 if fused else 2]

    def called(function: Callable, *given: Tensor, **options: str) -> Tensor | tuple[Tensor, ...]:
        return function(eps=1e-5, **dict(zip(names, given)), **options)
    inputs = (learned(5, 100), learned(100, seed=1), learned(5, 100, seed=2))
    return Case(partial(called, rms_norm, backend="triton"), partial(called, rms_norm_reference),
                inputs[:len(names)], roundings=2)


def rotation() -> Case:
    places = torch.tensor([3, 3, 49, 0, 7])
    tables = [table.to(DEVICE) for table in rope_tables(50, 64)]

    def formula(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        wide = [table.double() for table in tables]
        return rope_reference(q, places, *wide), rope_reference(k, places, *wide)
    return Case(lambda q, k: rope(q, k, places, *tables, backend="triton"), formula,
                (learned(5, 4, 64), learned(5, 2, 64, seed=1)))


def rotation_and_write() -> Case:
    places, slots = torch.tensor([3, 49, 7]), torch.tensor([9, -1, 0])
    angles = [table[places].to(DEVICE) for table in rope_tables(50, 16, device=DEVICE)]

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        caches = [torch.zeros(4, 4, 2, 16, dtype=BF16) for _ in "kv"]
        return rope_write(q, k, v, *angles, *caches, slots, backend="triton"), *caches

    def formula(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        rows, wide = torch.arange(3), [table.double() for table in angles]
        caches = torch.zeros(2, 16, 2, 16, dtype=torch.float64)
        caches[0, [9, 0]] = rope_reference(k, rows, *wide)[[0, 2]]
        caches[1, [9, 0]] = v[[0, 2]]
        return rope_reference(q, rows, *wide), *caches.view(2, 4, 4, 2, 16)
    sizes = ((3, 4, 16), (3, 2, 16), (3, 2, 16))
    inputs = [randn(*size, dtype=BF16, seed=seed) for seed, size in enumerate(sizes)]
    return Case(kernel, formula, tuple(inputs))


def gate() -> Case:
    return Case(partial(swiglu, backend="triton"), swiglu_reference, (learned(5, 200),))


def loss() -> Case:
    targets = torch.tensor([1, 49, -100, 7, 0, 3, 8, -100, 21, 2])
    return Case(lambda h, w: linear_cross_entropy(h, w, targets, rows=4, backend="triton"),
                lambda h, w: linear_cross_entropy_reference(h, w, targets),
                (learned(10, 32), learned(50, 32, seed=1)), roundings=3)


def flash(causal: bool) -> Case:
    q, k, v, cu_q, cu_k = packed([17, 5], [33, 5], 4, 2, 64, BF16)
    borders = [cu_q.tolist(), cu_k.tolist()]
    return Case(lambda *qkv: flash_attention(*qkv, cu_q, cu_k, causal=causal, backend="triton"),
                lambda *qkv: attention_reference(*qkv, *borders, causal),
                tuple(x.requires_grad_() for x in (q, k, v)), roundings=2)


def experts() -> Case:
    offsets = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    return Case(lambda x, w: grouped_matmul(x, w, offsets, backend="triton"),
                lambda x, w: grouped_matmul_reference(x, w, offsets),
                (learned(9, 70), learned(3, 33, 70, seed=1)))


def histories() -> Case:
    data = SampleHistories([17, 5], max_len=20)
    options = dict(max_len=20, alpha=data.alpha)

    def kernel(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        return hstu_attention(q, k, v, data.offsets, data.times, *tables, **options, backend="triton")

    def formula(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        return hstu_reference(q, k, v, data.offsets.tolist(), data.times, *tables, **options)
    return Case(kernel, formula, tuple(data.tensors(BF16)), roundings=2)


def written(latent: bool) -> Case:
    """Copies: not even rounded."""
    slots = torch.tensor([9, -1, 0])

    def kernel(k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        caches = [torch.zeros(4, 4, 2, 16, dtype=BF16) for _ in "kv"]
        if latent:
            kv_write(k, None, caches[0], None, slots, backend="triton")
        else:
            kv_write(k, v, *caches, slots, backend="triton")
        return tuple(caches)

    def formula(k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        caches = torch.zeros(2, 16, 2, 16, dtype=torch.float64)
        caches[0, [9, 0]] = k[[0, 2]]
        if not latent:
            caches[1, [9, 0]] = v[[0, 2]]
        return tuple(caches.view(2, 4, 4, 2, 16))
    inputs = [randn(3, 2, 16, dtype=BF16, seed=seed) for seed in (0, 1)]
    return Case(kernel, formula, tuple(inputs), roundings=0)


def paged(new: list[int], splits: int | None = None) -> Case:
    (q, *cache), starts, keys, values = test_paged_attention.batch([40, 9], new, dtype=BF16)
    return Case(lambda q: paged_attention(q, *cache, starts, splits=splits, backend="triton"),
                lambda q: test_paged_attention.expected(q, starts, keys, values), (q,), roundings=2)


def latent(new: list[int], splits: int | None = None) -> Case:
    (q, *cache), starts, rows = test_latent_cache.batch([40, 9], new, dtype=BF16)
    return Case(lambda q: paged_attention(q, *cache, starts, splits=splits, backend="triton"),
                lambda q: test_latent_cache.expected(q, starts, rows, 32), (q,), roundings=2)


def packed_weight(quantize: Callable, tokens: int) -> Case:
    weight = quantize(randn(33, 128))
    return Case(lambda x: quant_matmul(x, weight, backend="triton"),
                lambda x: F.linear(x, dequantize(weight).double()), (randn(tokens, 128, dtype=BF16),))


CASES = {
    "norm": partial(norm, False),
    "norm with residual": partial(norm, True),
    "rotation": rotation,
    "rotation and write": rotation_and_write,
    "gate": gate,
    "loss": loss,
    "flash attention": partial(flash, True),
    "flash attention, all keys": partial(flash, False),
    "experts": experts,
    "HSTU": histories,
    "keys and values written": partial(written, False),
    "latent rows written": partial(written, True),
    "paged prefill": partial(paged, [7, 9]),
    "paged decode": partial(paged, [1, 1]),
    "paged decode in parts": partial(paged, [1, 1], 3),
    "latent prefill": partial(latent, [7, 9]),
    "latent decode": partial(latent, [1, 1]),
    "latent decode in parts": partial(latent, [1, 1], 3),
    "int4, a token": partial(packed_weight, quantize_int4, 1),
    "int4, some tokens": partial(packed_weight, quantize_int4, 5),
    "int4, many tokens": partial(packed_weight, quantize_int4, 40),
    "int8, a token": partial(packed_weight, quantize_int8, 1),
    "int8, some tokens": partial(packed_weight, quantize_int8, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_rounds_as_often_as_it_says(name: str) -> None:
    case = CASES[name]()
    errors = case.errors()
    assert len(errors) >= 1 and max(errors) <= case.roundings * ROUNDING, errors


def test_no_kernel_is_left_out() -> None:
    """Every operator of the package is called here with bfloat16, the backward ones, too."""
    with Watch() as watch:
        for make in CASES.values():
            make().errors()
    narrow = set()
    for func, arguments in watch.calls:
        if any(isinstance(x, Tensor) and x.dtype == BF16 for x in arguments):
            narrow.add(func._opname)
    assert narrow == ours()


def test_one_per_cent_is_seen() -> None:
    """The bounds above are no wider than what a wrong constant would do."""
    for make in CASES.values():
        case = make()
        assert case.roundings * ROUNDING < 0.012
