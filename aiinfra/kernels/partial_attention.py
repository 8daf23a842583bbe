"""Attention over some of the keys, and how such parts are joined: what a ring of ranks does with attention.

    keys      [ one part ]   [ another part ]              each gives o and L = log sum exp(scores), a row
    joined    L = log(exp L1 + exp L2)      o = o1 · exp(L1 - L) + o2 · exp(L2 - L)

L is all that a part must tell of its softmax. Backward needs no joining: a probability is exp(score - L) with
the L of all keys, so each part's gradients follow from it alone, and are added. The Triton path is the two
kernels of flash_attention.py and flash_backward.py; the torch path is the formula, float64 in float64. A part
is causal (rows and keys are the same tokens) or sees all its keys. Milakov and Gimelshein 2018, arXiv
1805.02867; Liu et al. 2023 (ring attention), arXiv 2310.01889. Notebook 06.
"""

import math

import torch
from torch import Tensor

from aiinfra.kernels.flash_attention import attention_forward
from aiinfra.kernels.flash_backward import attention_backward
from aiinfra.kernels.lang import pick_backend


def partial_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int] | None = None, *, scale: float,
                      backend: str | None = None) -> tuple[Tensor, Tensor]:
    """o [N, H, Dh] and natural-log L [H, N] (at least float32) of q [N, H, Dh] over k and v [M, K, Dh].

    lengths: the sequences one after another, whose rows and keys are the same tokens (N = M = their sum);
    causal within each. None: every row sees every key. Not differentiable: see `partial_backward`.
    """
    if pick_backend(q, backend) == "triton":
        q, k, v = _adjacent(q, k, v)
        o, lse = attention_forward(q, k, v, _borders(q, lengths), _borders(k, lengths),
                                   _longest(q, lengths), lengths is not None, scale)
        return o, lse * math.log(2)
    parts = [_forward(*piece, lengths is not None, scale) for piece in _pieces(lengths, q, k, v)]
    return torch.cat([o for o, _ in parts]), torch.cat([lse for _, lse in parts], 1)


def partial_backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, do: Tensor,
                     lengths: list[int] | None = None, *, scale: float,
                     backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """A part's dq, dk and dv. o [N, H, Dh], lse [H, N] and do are those of all parts joined."""
    if pick_backend(q, backend) == "triton":
        q, k, v, o, do = _adjacent(q, k, v, o, do)
        base2 = lse.contiguous() / math.log(2)
        return attention_backward(q, k, v, o, base2, do, _borders(q, lengths), _borders(k, lengths),
                                  _longest(q, lengths), _longest(k, lengths), lengths is not None, scale)
    rows = [q, k, v, o, lse.T, do]                                      # each cut along its tokens
    parts = [_backward(*piece, lengths is not None, scale) for piece in _pieces(lengths, *rows)]
    return tuple(torch.cat(gradients) for gradients in zip(*parts))


def join(o: Tensor, lse: Tensor, part_o: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the keys of two parts: o [N, H, Dh] and lse [H, N] of each. A part without a key has an
    lse of -inf."""
    both = torch.logaddexp(lse, part_lse)
    weights = [torch.exp(one - both).T.unsqueeze(-1) for one in (lse, part_lse)]         # [N, H, 1]
    return o * weights[0] + part_o * weights[1], both


def _pieces(lengths: list[int] | None, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The tensors, cut into sequences."""
    if lengths is None:
        return [tensors]
    return list(zip(*(tensor.split(lengths) for tensor in tensors)))


def _forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    scores = _scores(q, k, causal, scale)                                                # [H, N, M]
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - lse.unsqueeze(-1))
    values = _for_each_head(v, q).to(weights.dtype)
    return torch.einsum("hts,shd->thd", weights, values).to(q.dtype), lse


def _backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, do: Tensor, causal: bool,
              scale: float) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.exp(_scores(q, k, causal, scale) - lse.T.unsqueeze(-1))              # [H, N, M]
    wide = weights.dtype
    queries, o, do = (x.to(wide) for x in (q, o, do))
    keys, values = (_for_each_head(x, q).to(wide) for x in (k, v))                       # [M, H, Dh]
    along = (do * o).sum(-1).T.unsqueeze(-1)                                             # [H, N, 1]
    dscores = weights * (torch.einsum("thd,shd->hts", do, values) - along) * scale
    dq = torch.einsum("hts,shd->thd", dscores, keys)
    dk = torch.einsum("hts,thd->shd", dscores, queries)
    dv = torch.einsum("hts,thd->shd", weights, do)
    group = k.shape[:2] + (-1, k.shape[2])                   # the query heads of a key head, and their sum
    return dq.to(q.dtype), dk.view(group).sum(2).to(k.dtype), dv.view(group).sum(2).to(v.dtype)


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """[H, N, M], at least in float32; -inf where a row must not look."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = _for_each_head(k, q)
    scores = torch.einsum("thd,shd->hts", q.to(wide), keys.to(wide)) * scale
    if causal:
        later = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


def _for_each_head(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values [M, K, Dh] once for each query head: [M, H, Dh]."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def _adjacent(*tensors: Tensor) -> list[Tensor]:
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _longest(x: Tensor, lengths: list[int] | None) -> int:
    return len(x) if lengths is None else max(lengths)


def _borders(x: Tensor, lengths: list[int] | None) -> Tensor:
    """Where each sequence starts, and the end of the last: int32."""
    ends = torch.tensor([0, *(lengths or [len(x)])], device=x.device).cumsum(0)
    return ends.int()
