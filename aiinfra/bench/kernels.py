"""How fast are the kernels, as ratios to the best known alternative, measured in the same run?

    row                 ours ÷ theirs                                         target
    flash_attention     prefill forward ÷ SDPA's flash backend                G6
    paged_attention     decode: bytes/s ÷ read bandwidth of this GPU          G7
    rmsnorm             fused with the residual: bytes/s ÷ copy bandwidth     G8
    quant_matmul        one token, int4 ÷ cuBLAS bfloat16                     G9
    hstu_attention      forward + backward ÷ the plain PyTorch composition    G10

A ratio above 1 means ours is faster, or reads faster than the limit that was measured. Each row
checks its result in float64, too: a fast wrong answer has not `met` its target. Without a GPU, rows
check small sizes on the torch path and say what they could not measure. Small kernels are timed as a
CUDA graph of many launches over different buffers: a launch costs more than they do, and weights that
stay in the 50 MB cache are read too fast. `python -m aiinfra bench kernels`; notebook 10.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aiinfra.device import as_device, device_name, synchronize
from aiinfra.errors import nearest
from aiinfra.gpu.graph import capture
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


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` and the seconds are None where nothing was measured; then `note` says why."""

    name: str
    target: str                          # its number in the project's list of targets
    setting: str                         # shapes and dtype
    peer: str                            # what it is compared with
    floor: float
    goal: float
    error: float                         # relative, against the check named in `checked`
    checked: str
    ratio: float | None = None           # peer seconds / our seconds, or our bytes/s / theirs
    seconds: float | None = None
    peer_seconds: float | None = None
    peak_bytes: int | None = None        # memory that the operation added at its highest
    peer_peak_bytes: int | None = None
    note: str = ""

    @property
    def correct(self) -> bool:
        """True if the error is within what the dtype's rounding explains; False for NaN."""
        return self.error <= (0.02 if self.setting.startswith("bfloat16") else 1e-5)

    def __str__(self) -> str:
        head = f"{self.target:4s}{self.name:18s}{self.setting}\n      "
        check = f"{'equal to' if self.correct else 'DIFFERS from'} {self.checked} (relative error {self.error:.1e})"
        if self.ratio is None:
            return f"{head}{check}. {self.note}"
        memory = f"; memory {self.peak_bytes / 1e6:,.0f} MB against {self.peer_peak_bytes / 1e6:,.0f} MB" \
            if self.peak_bytes is not None and self.peer_peak_bytes is not None else ""
        return (f"{head}{check}\n      {self.ratio:.2f} × {self.peer} (floor {self.floor}, goal {self.goal}; "
                f"{self.seconds * 1e6:,.0f} µs against {(self.peer_seconds or 0) * 1e6:,.0f} µs{memory}) {self.note}").rstrip()

    @property
    def met(self) -> bool | None:
        """True if the result is correct and the floor reached; None where nothing was measured."""
        return None if self.ratio is None else self.correct and self.ratio >= self.floor


def run(device: torch.device | str | None = None, names: list[str] | None = None,
        measure: bool | None = None) -> list[Row]:
    """A row (for flash_attention two) for each of `names`, by default all, on `device`.

    `measure` is true on a GPU by default; true on a CPU it times the torch path at toy sizes, which
    tests this file and nothing else. Raises ValueError for an unknown name.
    """
    device = as_device(device)
    measure = device.type == "cuda" if measure is None else measure
    for name in names or ():
        if name not in BENCHES:
            raise ValueError(f"no bench is called {name!r}.{nearest(name, BENCHES)} "
                             f"Known: {', '.join(BENCHES)}.")
    rows = []
    for name in names or BENCHES:
        torch.manual_seed(0)
        rows += BENCHES[name](device, measure)
    return rows


def settings(device: torch.device | str | None = None) -> dict[str, str]:
    """What a recorded result must carry: device, date and versions."""
    return {"device": device_name(device), "date": date.today().isoformat(), "torch": torch.__version__,
            "triton": getattr(triton, "__version__", "not installed"), "cuda": str(torch.version.cuda)}


def _rmsnorm(device: torch.device, measure: bool) -> list[Row]:
    n, width = (16384, 4096) if device.type == "cuda" else (33, 96)
    x, residual, weight = _randn(device, n, width), _randn(device, n, width), _randn(device, width)
    y, total = rms_norm(x, weight, 1e-5, residual)
    row = dict(name="rmsnorm", target="G8", setting=f"{_dtype(x)} [{n}, {width}], residual fused",
               peer="copy of the same bytes", floor=0.90, goal=0.95, checked="F.rms_norm in float64",
               error=_error(y, F.rms_norm(total.double(), (width,), weight.double(), 1e-5)))
    if not measure:
        return [Row(**row, note=_no_gpu("its share of copy bandwidth"))]
    moved = rms_norm_cost(n, width, x.element_size()).bytes
    source, target = (torch.zeros(int(moved) // 2, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = _seconds([lambda: rms_norm(x, weight, 1e-5, residual)], device)
    copying = _seconds([lambda: target.copy_(source)], device)          # half read, half written
    return [Row(**row, ratio=copying / seconds, seconds=seconds, peer_seconds=copying)]


def _quant_matmul(device: torch.device, measure: bool) -> list[Row]:
    outputs, inputs = (14336, 4096) if device.type == "cuda" else (64, 96)
    x, weight = _randn(device, 1, inputs), _randn(device, outputs, inputs)
    packed = quantize_int4(weight)
    row = dict(name="quant_matmul", target="G9", setting=f"{_dtype(x)} [1, {inputs}] × int4 [{outputs}, {inputs}]",
               peer=f"F.linear {_dtype(x)}", floor=2.5, goal=3.5, checked="dequantised weight in float64",
               error=_error(quant_matmul(x, packed), F.linear(x.double(), dequantize(packed).double())))
    if not measure:
        return [Row(**row, note=_no_gpu("its speed beside cuBLAS"))]
    copies = _copies(packed.nbytes, device)
    ours = [PackedWeight(packed.words.clone(), packed.scale.clone(), packed.minimum.clone(), 4)
            for _ in range(copies)]
    seconds = _seconds([lambda w=w: quant_matmul(x, w) for w in ours], device)
    theirs = [weight.clone() for _ in range(_copies(weight.nbytes, device))]
    peer = _seconds([lambda w=w: F.linear(x, w) for w in theirs], device)
    return [Row(**row, ratio=peer / seconds, seconds=seconds, peer_seconds=peer)]


def _flash_attention(device: torch.device, measure: bool) -> list[Row]:
    return [_flash_row(device, measure, *sizes) for sizes in ((64, 32, 8, 1.0, 1.2), (128, 16, 4, 1.0, 1.1))]


def _flash_row(device, measure, size, heads, kv_heads, floor, goal) -> Row:
    batch, length = (4, 4096) if device.type == "cuda" else (1, 40)
    q = _randn(device, batch, length, heads, size)
    k, v = (_randn(device, batch, length, kv_heads, size) for _ in "kv")
    row = dict(name="flash_attention", target="G6", peer="SDPA, backend FLASH_ATTENTION", floor=floor, goal=goal,
               setting=f"{_dtype(q)} causal, B={batch} T={length} H={heads} K={kv_heads} Dh={size}",
               checked="softmax in float64, one group of heads",
               error=_error(flash_attention(q, k, v)[0, :, :heads // kv_heads], attention_reference(
                   q[0, :, :heads // kv_heads].double(), k[0, :, :1].double(), v[0, :, :1].double(),
                   [0, length], [0, length])))
    if not measure:
        return Row(**row, note=_no_gpu("its speed beside SDPA's flash attention"))

    def theirs():
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    seconds = _seconds([lambda: flash_attention(q, k, v)], device)
    peer = _seconds([theirs], device)
    return Row(**row, ratio=peer / seconds, seconds=seconds, peer_seconds=peer)


def _paged_attention(device: torch.device, measure: bool) -> list[Row]:
    requests, context, block = (64, 4096, 16) if device.type == "cuda" else (3, 37, 16)
    heads, kv_heads, size, per_request = 32, 8, 128, -(-context // block)
    q = _randn(device, requests, heads, size)
    k, v = (_randn(device, requests * per_request, block, kv_heads, size) for _ in "kv")
    tables = torch.randperm(requests * per_request, device=device).int().view(requests, per_request)
    lengths = torch.full((requests,), context, dtype=torch.int32, device=device)
    keys, values = (c[tables[0].long()].flatten(0, 1)[:context, :1].double() for c in (k, v))   # of request 0
    row = dict(name="paged_attention", target="G7", peer="read bandwidth, measured in this run", floor=0.75,
               goal=0.90, setting=(f"{_dtype(q)} decode, {requests} × {context} keys, block {block}, "
                                   f"H={heads} K={kv_heads} Dh={size}"),
               checked="softmax in float64 over gathered keys",
               error=_error(paged_attention(q, k, v, tables, lengths)[0, :heads // kv_heads],
                            attention_reference(q[:1, :heads // kv_heads].double(), keys, values,
                                                      [0, 1], [0, context])[0]))
    if not measure:
        return [Row(**row, note=_no_gpu("its share of read bandwidth"))]
    moved = paged_cost([context] * requests, [1] * requests, heads, kv_heads, size, q.element_size()).bytes
    seconds = _seconds([lambda: paged_attention(q, k, v, tables, lengths)], device)
    reading = moved / read_bandwidth(device, None if device.type == "cuda" else 1 << 22, 0.1)
    return [Row(**row, ratio=reading / seconds, seconds=seconds, peer_seconds=reading)]


def _hstu_attention(device: torch.device, measure: bool) -> list[Row]:
    batch, length, heads, size = (4, 4096, 4, 64) if device.type == "cuda" else (2, 24, 2, 16)
    q, k, v, dy = (_randn(device, batch * length, heads, size) for _ in range(4))
    position, time = (0.1 * _randn(device, heads, n) for n in (2 * length - 1, BUCKETS))
    offsets = torch.arange(batch + 1, dtype=torch.int32, device=device) * length
    seconds = torch.randint(1, 3600, (batch, length), device=device).cumsum(1).flatten()
    leaves = [x.requires_grad_() for x in (q, k, v, position, time)]

    def step(attention):
        y = attention(q, k, v, offsets, seconds, position, time, max_len=length)
        return y, *torch.autograd.grad(y, leaves, dy)
    ours, theirs = partial(step, hstu_attention), partial(step, partial(naive_hstu, one_hot=False))
    wide = [x.detach().double().requires_grad_() for x in leaves]
    y = hstu_reference(*wide[:3], offsets.tolist(), seconds, *wide[3:], max_len=length)
    wanted = (y, *torch.autograd.grad(y, wide, dy.double()))
    row = dict(name="hstu_attention", target="G10", floor=5.0, goal=15.0,
               setting=f"{_dtype(q)} forward + backward, both biases, B={batch} N={length} H={heads} Dh={size}",
               peer="dense PyTorch composition, time bias by look-up", checked="the formula and autograd in float64",
               error=max(_error(a, b) for a, b in zip(ours(), wanted, strict=True)))
    del y, wanted
    if not measure:
        return [Row(**row, note=_no_gpu("its speed and memory beside the composition"))]
    peaks = _peak_bytes(ours, device), _peak_bytes(theirs, device)
    seconds_ours, seconds_theirs = (time_call(fn, device, budget_seconds=1.0).median_seconds for fn in (ours, theirs))
    return [Row(**row, ratio=seconds_theirs / seconds_ours, seconds=seconds_ours, peer_seconds=seconds_theirs,
                peak_bytes=peaks[0], peer_peak_bytes=peaks[1])]


def _seconds(calls: list[Callable[[], object]], device: torch.device) -> float:
    """Median seconds of one of `calls`, which run one after another; on a GPU inside a CUDA graph."""
    if device.type == "cpu":
        return time_call(lambda: [call() for call in calls], device, budget_seconds=0.02).median_seconds / len(calls)
    many = calls * max(1, 8 // len(calls))

    def work() -> None:
        for call in many:
            call()
    graph = capture(work)
    return time_call(graph.replay, device, budget_seconds=1.0).median_seconds / len(many)


def _peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Memory that `call` added at its highest; None on a CPU, where PyTorch keeps no such count."""
    if device.type == "cpu":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _randn(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _copies(nbytes: int, device: torch.device) -> int:
    return -(-_BEYOND_CACHE // nbytes) if device.type == "cuda" else 2


def _error(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|."""
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def _no_gpu(what: str) -> str:
    return f"Not measured, {what}: this needs a CUDA GPU; here only the torch path's result was checked."


BENCHES: dict[str, Callable[[torch.device, bool], list[Row]]] = {
    "flash_attention": _flash_attention, "paged_attention": _paged_attention, "rmsnorm": _rmsnorm,
    "quant_matmul": _quant_matmul, "hstu_attention": _hstu_attention}
