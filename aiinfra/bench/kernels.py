"""How fast are the kernels, as ratios to the best known alternative, measured in the same run?

    flash_attention     prefill forward ÷ SDPA's flash backend                G6
    paged_attention     decode: bytes/s ÷ read bandwidth of this GPU          G7
    rmsnorm             fused with the residual: bytes/s ÷ copy bandwidth     G8
    quant_matmul        one token, int4 ÷ cuBLAS bfloat16                     G9
    hstu_attention      forward + backward ÷ the plain PyTorch composition    G10

Without a GPU, rows check small sizes on the torch path and say what they could not measure. Small kernels
are timed as a CUDA graph of many launches over different buffers: a launch costs more than they do, and
weights that stay in the 50 MB cache are read too fast. `python -m aiinfra bench kernels`; notebook 10.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aiinfra.bench.kernel_row import KernelComparison, KernelRow, failed_row, peak_bytes, seconds_of
from aiinfra.device import as_device, device_name
from aiinfra.errors import nearest
from aiinfra.kernels.flash_attention import attention_reference, flash_attention
from aiinfra.kernels.hstu_attention import hstu_attention, hstu_reference, naive_hstu
from aiinfra.kernels.hstu_bias import BUCKETS
from aiinfra.kernels.lang import triton
from aiinfra.kernels.paged_attention import cost as paged_cost
from aiinfra.kernels.paged_attention import paged_attention
from aiinfra.kernels.quant_matmul import PackedWeight, dequantize, quant_matmul, quantize_int4
from aiinfra.kernels.rmsnorm import cost as rms_norm_cost
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.perf.hardware import read_bandwidth
from aiinfra.perf.timing import time_call

_BEYOND_CACHE = 1 << 29        # bytes of distinct weights that a timed loop walks through


def run(device: torch.device | str | None = None, names: list[str] | None = None,
        measure: bool | None = None) -> Iterator[KernelRow]:
    """A row (for flash_attention two) for each of `names`, by default all, on `device`, as it is measured.

    `measure` is true on a GPU by default; true on a CPU it times the torch path at toy sizes, which
    tests this file and nothing else. One that fails is a row that says why. Raises ValueError for an unknown
    name.
    """
    device = as_device(device)
    if measure is None:
        measure = device.type == "cuda"
    for name in names or ():
        if name not in COMPARISONS:
            known = ", ".join(COMPARISONS)
            raise ValueError(f"no bench is called {name!r}.{nearest(name, COMPARISONS)} Known: {known}.")
    return _rows(names or COMPARISONS, device, measure)


def _rows(names: Iterable[str], device: torch.device, measure: bool) -> Iterator[KernelRow]:
    for name in names:
        torch.manual_seed(0)
        for compare in COMPARISONS[name]:
            yield _row(name, compare, device, measure)


def _row(name: str, compare: Callable[[torch.device], KernelComparison], device: torch.device,
         measure: bool) -> KernelRow:
    try:
        comparison = compare(device)
        return comparison.measured() if measure else comparison.unmeasured()
    except Exception as failed:                          # whatever one kernel does, the others are measured
        return failed_row(name, failed)


def settings(device: torch.device | str | None = None) -> dict[str, str]:
    """What a recorded result must carry: device, date and versions."""
    return {
        "device": device_name(device),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "triton": getattr(triton, "__version__", "not installed"),
        "cuda": str(torch.version.cuda),
    }


def _rmsnorm(device: torch.device) -> KernelComparison:
    n, width = (16384, 4096) if device.type == "cuda" else (33, 96)
    x, residual = _randn(device, n, width), _randn(device, n, width)
    weight = _randn(device, width)
    y, total = rms_norm(x, weight, 1e-5, residual)
    wanted = F.rms_norm(total.double(), (width,), weight.double(), 1e-5)

    def measure() -> dict[str, float]:
        half = int(rms_norm_cost(n, width, x.element_size()).bytes) // 2          # half read, half written
        source = torch.zeros(half, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        return {
            "ours": seconds_of([lambda: rms_norm(x, weight, 1e-5, residual)], device),
            "peer": seconds_of([lambda: target.copy_(source)], device),
        }
    row = KernelRow(
        name="rmsnorm",
        target="G8",
        setting=f"{_dtype(x)} [{n}, {width}], residual fused",
        peer_name="copy of the same bytes",
        floor=0.90,
        goal=0.95,
        checked="F.rms_norm in float64",
        error=_error(y, wanted),
    )
    return KernelComparison(row, "its share of copy bandwidth", measure)


def _quant_matmul(device: torch.device) -> KernelComparison:
    outputs, inputs = (14336, 4096) if device.type == "cuda" else (64, 96)
    x, weight = _randn(device, 1, inputs), _randn(device, outputs, inputs)
    packed = quantize_int4(weight)
    wanted = F.linear(x.double(), dequantize(packed).double())

    def measure() -> dict[str, float]:
        ours = [_copy(packed) for _ in range(_copies(packed.nbytes, device))]
        theirs = [weight.clone() for _ in range(_copies(weight.nbytes, device))]
        return {
            "ours": seconds_of([partial(quant_matmul, x, one) for one in ours], device),
            "peer": seconds_of([partial(F.linear, x, one) for one in theirs], device),
        }
    row = KernelRow(
        name="quant_matmul",
        target="G9",
        setting=f"{_dtype(x)} [1, {inputs}] × int4 [{outputs}, {inputs}]",
        peer_name=f"F.linear {_dtype(x)}",
        floor=2.5,
        goal=3.5,
        checked="dequantised weight in float64",
        error=_error(quant_matmul(x, packed), wanted),
    )
    return KernelComparison(row, "its speed beside cuBLAS", measure)


def _copy(packed: PackedWeight) -> PackedWeight:
    return PackedWeight(
        words=packed.words.clone(), scale=packed.scale.clone(), minimum=packed.minimum.clone(), bits=4)


def _flash_attention(
    device: torch.device, size: int, heads: int, kv_heads: int, goal: float
) -> KernelComparison:
    batch, length = (4, 4096) if device.type == "cuda" else (1, 40)
    q = _randn(device, batch, length, heads, size)
    k, v = (_randn(device, batch, length, kv_heads, size) for _ in "kv")
    group = heads // kv_heads                                   # the query heads of the first key head
    one_k, one_v = (x[0, :, :1].double() for x in (k, v))
    wanted = attention_reference(q[0, :, :group].double(), one_k, one_v, [0, length], [0, length])

    def theirs() -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)

    def measure() -> dict[str, float]:
        return {
            "ours": seconds_of([lambda: flash_attention(q, k, v)], device),
            "peer": seconds_of([theirs], device),
        }
    row = KernelRow(
        name="flash_attention",
        target="G6",
        setting=f"{_dtype(q)} causal, B={batch} T={length} H={heads} K={kv_heads} Dh={size}",
        peer_name="SDPA, backend FLASH_ATTENTION",
        floor=1.0,
        goal=goal,
        checked="softmax in float64, one group of heads",
        error=_error(flash_attention(q, k, v)[0, :, :group], wanted),
    )
    return KernelComparison(row, "its speed beside SDPA's flash attention", measure)


def _paged_attention(device: torch.device) -> KernelComparison:
    requests, context = (64, 4096) if device.type == "cuda" else (3, 37)
    block, heads, kv_heads, size = 16, 32, 8, 128
    per_request = -(-context // block)
    group = heads // kv_heads                                   # the query heads of the first key head
    q = _randn(device, requests, heads, size)
    k, v = (_randn(device, requests * per_request, block, kv_heads, size) for _ in "kv")
    tables = torch.randperm(requests * per_request, device=device).int().view(requests, per_request)
    lengths = torch.full((requests,), context, dtype=torch.int32, device=device)
    first = tables[0].long()
    one_k, one_v = (cache[first].flatten(0, 1)[:context, :1].double() for cache in (k, v))
    wanted = attention_reference(q[:1, :group].double(), one_k, one_v, [0, 1], [0, context])[0]

    def measure() -> dict[str, float]:
        contexts, new = [context] * requests, [1] * requests
        moved = paged_cost(contexts, new, heads, kv_heads, size, q.element_size()).bytes
        nbytes = None if device.type == "cuda" else 1 << 22
        return {
            "ours": seconds_of([lambda: paged_attention(q, k, v, tables, lengths)], device),
            "peer": moved / read_bandwidth(device, nbytes, 0.1),
        }
    row = KernelRow(
        name="paged_attention",
        target="G7",
        setting=f"{_dtype(q)} decode, {requests} × {context} keys, block {block}, "
                f"H={heads} K={kv_heads} Dh={size}",
        peer_name="read bandwidth, measured in this run",
        floor=0.75,
        goal=0.90,
        checked="softmax in float64 over gathered keys",
        error=_error(paged_attention(q, k, v, tables, lengths)[0, :group], wanted),
    )
    return KernelComparison(row, "its share of read bandwidth", measure)


def _hstu_attention(device: torch.device) -> KernelComparison:
    batch, length, heads, size = (4, 4096, 4, 64) if device.type == "cuda" else (2, 24, 2, 16)
    q, k, v, dy = (_randn(device, batch * length, heads, size) for _ in range(4))
    position, time = (0.1 * _randn(device, heads, n) for n in (2 * length - 1, BUCKETS))
    starts = [length * number for number in range(batch + 1)]
    offsets = torch.tensor(starts, dtype=torch.int32, device=device)
    seconds = torch.randint(1, 3600, (batch, length), device=device).cumsum(1).flatten()
    leaves = [x.requires_grad_() for x in (q, k, v, position, time)]

    def step(attention: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        y = attention(q, k, v, offsets, seconds, position, time, max_len=length)
        return y, *torch.autograd.grad(y, leaves, dy)
    ours = partial(step, hstu_attention)
    theirs = partial(step, partial(naive_hstu, one_hot=False))

    def in_float64() -> tuple[Tensor, ...]:
        wide = [x.detach().double().requires_grad_() for x in leaves]
        y = hstu_reference(*wide[:3], starts, seconds, *wide[3:], max_len=length)
        return y, *torch.autograd.grad(y, wide, dy.double())

    def measure() -> dict[str, float | int | None]:
        return {
            "peak_bytes": peak_bytes(ours, device),
            "peer_peak_bytes": peak_bytes(theirs, device),
            "ours": time_call(ours, device, budget_seconds=1.0).median_seconds,
            "peer": time_call(theirs, device, budget_seconds=1.0).median_seconds,
        }
    row = KernelRow(
        name="hstu_attention",
        target="G10",
        setting=f"{_dtype(q)} forward + backward, both biases, B={batch} N={length} H={heads} Dh={size}",
        peer_name="dense PyTorch composition, time bias by look-up",
        floor=5.0,
        goal=15.0,
        checked="the formula and autograd in float64",
        error=max(_error(got, wanted) for got, wanted in zip(ours(), in_float64(), strict=True)),
    )
    return KernelComparison(row, "its speed and memory beside the composition", measure)


def _randn(device: torch.device, *shape: int) -> Tensor:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.randn(*shape, device=device, dtype=dtype)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _copies(nbytes: int, device: torch.device) -> int:
    return -(-_BEYOND_CACHE // nbytes) if device.type == "cuda" else 2


def _error(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|."""
    wide = wanted.double()
    return ((got.double() - wide).norm() / wide.norm()).item()


COMPARISONS: dict[str, tuple[Callable[[torch.device], KernelComparison], ...]] = {
    "flash_attention": (
        partial(_flash_attention, size=64, heads=32, kv_heads=8, goal=1.2),
        partial(_flash_attention, size=128, heads=16, kv_heads=4, goal=1.1),
    ),
    "paged_attention": (_paged_attention,),
    "rmsnorm": (_rmsnorm,),
    "quant_matmul": (_quant_matmul,),
    "hstu_attention": (_hstu_attention,),
}
