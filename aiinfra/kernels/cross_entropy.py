"""Cross-entropy joined to the linear layer before it, so that the logits never exist all at once.

    hidden [N, D] ─┬─ C rows ─► logits [C, V] ─► loss of C rows ─► dlogits, written over the logits
                   ├─ C rows        │                                  │
                   └─ C rows        └── the only large buffer          ├─► dhidden[C rows] = dlogits @ weight
                                                                       └─► dweight += dlogitsᵀ @ hidden

The full logits of 8,192 tokens and 128,000 words are 2 GB in bfloat16, and their gradient as much
again. The derivative of a token's loss is softmax(logits) − onehot(target), known as soon as the
forward is; so both gradients are made chunk by chunk during the forward, and the backward only
multiplies them by what arrives. Invariant: never more than `chunk_rows(N, D, V)` rows of logits.

The kernel reads a row of logits in blocks twice: once for its running maximum and sum (the online
softmax), once to write the gradient in place. The idea of chunking is Liger's (arXiv 2410.10989),
the online softmax Milakov and Gimelshein's (arXiv 1805.02867). Notebook 10.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost

_MIN_ROWS = 256              # fewer rows leave a GPU's matmul units idle
_TILE_ROWS = 128
_BLOCK_V = 4096


def linear_cross_entropy_reference(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor,
                                   ignore_index: int = -100, total: float | None = None) -> torch.Tensor:
    """What `linear_cross_entropy` computes, from the full [N, V] logits; float64 stays float64."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    counted = targets != ignore_index
    safe = torch.where(counted, targets, 0)
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, safe[:, None]).squeeze(-1)
    divisor = counted.sum() if total is None else total
    return torch.where(counted, losses, 0.0).sum() / divisor


def softmax_gradient_reference(logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor,
                               ignore_index: int, gradient: bool) -> torch.Tensor:
    """Each row's loss [C]; with `gradient`, overwrites logits [C, V] by d(sum of losses / count)."""
    counted = (targets != ignore_index)[:, None]
    safe = torch.where(counted, targets[:, None], 0)                               # [C, 1]
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_share = torch.log_softmax(logits, -1, dtype=wide)                          # [C, V]
    losses = torch.where(counted, -log_share.gather(-1, safe), 0.0)
    if gradient:
        slope = log_share.exp_()
        slope.scatter_add_(-1, safe, slope.new_full(safe.shape, -1.0))
        torch.div(slope, count, out=logits)
        logits.masked_fill_(~counted, 0.0)                    # also where 0 / 0 stood: nothing was counted
    return losses.squeeze(-1)


@triton.jit
def _softmax_gradient_kernel(logits_ptr, targets_ptr, count_ptr, losses_ptr, stride, vocabulary,
                             ignore_index, GRADIENT: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(targets_ptr + row).to(tl.int64)
    counted = target != ignore_index
    top, total = float("-inf"), 0.0                      # running maximum, and sum of exp(x - top)
    picked = float("-inf")                               # the target's; one outside the vocabulary has none
    for start in range(0, vocabulary, BLOCK_V):
        col = start + tl.arange(0, BLOCK_V)
        x = tl.load(logits_ptr + col, col < vocabulary, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), 0)
        # Of the values at hand: a load of its own would race with the stores of the second loop.
        picked = tl.maximum(picked, tl.max(tl.where(col == target, x, float("-inf")), 0))
        top = new_top
    log_sum = top + tl.log(total)
    tl.store(losses_ptr + row, tl.where(counted, log_sum - picked, 0.0))
    if GRADIENT:
        scale = 1.0 / tl.load(count_ptr)
        for start in range(0, vocabulary, BLOCK_V):
            col = start + tl.arange(0, BLOCK_V)
            x = tl.load(logits_ptr + col, col < vocabulary, other=float("-inf")).to(tl.float32)
            slope = tl.exp(x - log_sum) - tl.where(col == target, 1.0, 0.0)
            slope = tl.where(counted, slope * scale, 0.0)      # 0 also where 1 / count is infinite
            tl.store(logits_ptr + col, slope.to(logits_ptr.dtype.element_ty), col < vocabulary)


@operator("softmax_gradient", writes=("logits",))
def _softmax_gradient_triton(logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor,
                             ignore_index: int, gradient: bool) -> torch.Tensor:
    """As `softmax_gradient_reference`."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    block = min(_BLOCK_V, triton.next_power_of_2(logits.shape[1]))
    launch(_softmax_gradient_kernel, (len(logits),), logits, targets, count, losses, logits.stride(0),
           logits.shape[1], ignore_index, GRADIENT=gradient, BLOCK_V=block, num_warps=8)
    return losses


def _softmax_gradient(logits, targets, count, ignore_index, gradient, backend) -> torch.Tensor:
    compute = softmax_gradient_reference if backend == "torch" else _softmax_gradient_triton
    return compute(logits, targets, count, ignore_index, gradient)


def chunk_rows(tokens: int, width: int, vocabulary: int) -> int:
    """Rows of logits held at once: about as many values as hidden itself has, at least 256, in whole tiles of
    a GPU's matrix products."""
    rows = max(_MIN_ROWS, tokens * width // vocabulary // _TILE_ROWS * _TILE_ROWS)
    return max(1, min(tokens, rows))


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, in one pass where all have one type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, ignore_index, total, rows, gradient, backend):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if total is None:
            count = (targets != ignore_index).sum().to(wide)     # stays on the device: no wait
        else:
            count = torch.full((), total, dtype=wide, device=hidden.device)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        dhidden = torch.empty_like(hidden) if gradient and ctx.needs_input_grad[0] else None
        # float32: hundreds of bfloat16 additions of small chunks would lose the last of them
        dweight = (torch.zeros(weight.shape, dtype=wide, device=weight.device)
                   if gradient and ctx.needs_input_grad[1] else None)
        for at in range(0, len(hidden), rows):
            part, labels = hidden[at:at + rows], targets[at:at + rows]
            logits = F.linear(part, weight)                                       # [C, V]
            loss += _softmax_gradient(logits, labels, count, ignore_index, gradient, backend).sum()
            if dhidden is not None:
                dhidden[at:at + rows] = logits @ weight
            if dweight is not None:
                _add_product(dweight, logits.T, part)
        ctx.save_for_backward(dhidden, None if dweight is None else dweight.to(weight.dtype))
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        grads = [None if g is None else g * dloss.to(g.dtype) for g in ctx.saved_tensors]
        return *grads, None, None, None, None, None, None


def linear_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor,
                         ignore_index: int = -100, *, total: float | None = None,
                         rows: int | None = None, backend: str | None = None) -> torch.Tensor:
    """Mean cross-entropy of softmax(hidden [N, D] @ weight [V, D]ᵀ) against targets [N], a scalar.

    Rows whose target is `ignore_index` count for nothing; if all are, the mean of no losses is NaN,
    as in PyTorch. `total`: divide the sum of losses by this instead of by the number of counted rows, so
    that the parts of a batch add up to the mean of the whole. `rows` is how many rows of logits exist at
    once (default: `chunk_rows`). The loss is float32; differentiable once, in hidden and weight. Targets
    outside 0..V-1 raise on the torch path and give an infinite loss on the Triton path. Raises ValueError
    where shapes disagree.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1] \
            or targets.shape != hidden.shape[:1]:
        raise ValueError(f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets "
                         f"{tuple(targets.shape)} must be [N, D], [V, D] and [N].")
    rows = chunk_rows(*hidden.shape, len(weight)) if rows is None else rows
    gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _LinearCrossEntropy.apply(hidden.contiguous(), weight, targets.contiguous(), ignore_index,
                                     total, rows, gradient, pick_backend(hidden, backend))


def cost(tokens: int, width: int, vocabulary: int, bytes_per_value: float = 2,
         gradient: bool = True) -> Cost:
    """Matmuls (one, or three with gradients) and five FLOPs a logit.

    Bytes: hidden and weight read once a matmul, gradients written once; each logit is written by
    the matmul and read twice by the kernel, and with gradients written once and read twice more.
    """
    matmuls, logits = 3 if gradient else 1, tokens * vocabulary
    edges = (tokens * width + vocabulary * width) * matmuls
    return Cost(matmuls * 2 * logits * width + 5 * logits,
                (edges + (6 if gradient else 3) * logits) * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """Loss alone, and loss with gradient; see gpu/compile.py."""
    types = {"logits_ptr": "*bf16", "targets_ptr": "*i64", "count_ptr": "*fp32", "losses_ptr": "*fp32",
             "stride": "i32:16", "vocabulary": "i32:16"}
    return [dict(name=f"softmax bf16 gradient={gradient}", kernel=_softmax_gradient_kernel, types=types,
                 constexprs={"GRADIENT": gradient, "BLOCK_V": _BLOCK_V}, num_warps=8)
            for gradient in (False, True)]
