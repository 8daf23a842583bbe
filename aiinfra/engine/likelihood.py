"""How likely each token is under a request's settings, and one draw among them that nobody else can disturb.

    likelihood   exp((logit - best) / temperature): 1 for the likeliest token of the row
    floor        top-k, top-p and min-p each say how likely a token must at least be; the strictest counts
    draw         a race: token i arrives after wait_i / likelihood_i, with waits from an exponential
                 distribution; the first to arrive wins, each token in proportion to its likelihood (the
                 Gumbel-max trick)

Invariant: a draw depends on its row of logits and its key, and on nothing else in the batch. The waits come
from no generator that others could advance: they are read from a fixed table, at places that are a hash of
(seed, answer, place). Rounding hardly matters: a race minds it only if its two first arrive at almost the
same time, while one number laid on the running sum of 49,152 probabilities would fall that near to one of
their borders for about one token in a hundred. Notebook 12.
"""

import functools
import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.sampling_params import SamplingParams

_ONE = 1 << 40              # the likeliest token as an integer: such a sum does not depend on the order
_ROWS = 1 << 20             # places in the table of waits where a row may begin
_31_BITS = 0x7FFFFFFF
_COLDEST = 1e-30            # a temperature below is not told from 0 by float32
_CANDIDATES = (64, 4096)    # tokens in which top-p is looked for before all are sorted


def likelihoods(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """logits [R, V], temperatures above 0 -> float32 [R, V]: divided by its sum, a row is the distribution
    that is drawn from. Tokens as likely as the last one kept are kept too."""
    settings = [(max(p.temperature, _COLDEST), p.top_p, p.min_p) for p in params]
    settings = to_device(settings, torch.float64, logits.device)         # [R, 3]
    temperature, top_p, min_p = settings.unsqueeze(-1).unbind(1)         # [R, 1] each
    logits = logits.float()
    best = logits.amax(-1, keepdim=True)
    likelihood = (logits - best).div_(temperature.float()).exp_()
    vocabulary = logits.shape[-1]
    top_k = [p.top_k if 0 < p.top_k < vocabulary else 0 for p in params]
    if any(top_k):
        likelihood.mul_(likelihood >= _kth(likelihood, top_k))
    limited = [i for i, p in enumerate(params) if p.top_p < 1]
    if limited:
        likelihood.mul_(likelihood >= _nucleus(likelihood, top_p, limited))
    if any(p.min_p > 0 for p in params):
        likelihood.mul_(likelihood >= min_p.float())
    return likelihood


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """The distribution [V] in float32 that one request's token is drawn from, from logits [V]."""
    likelihood = likelihoods(logits[None], [params])[0].double()
    return (likelihood / likelihood.sum()).float()


def draw(likelihood: Tensor, keys: Sequence[int]) -> Tensor:
    """Likelihoods [R, V] and R keys of 64 bits -> ids [R]. A likelihood of 0 is never drawn."""
    return (likelihood / waits(keys, likelihood.shape[-1], likelihood.device)).argmax(-1)


def waits(keys: Sequence[int], vocabulary: int, device: torch.device) -> Tensor:
    """float32 [R, V]: what each token must wait, exponentially distributed with mean 1, for each key.

    It is -log(1 - u), with u the sum modulo 1 of two rows of V from a table: 2^40 pairs of rows. One row
    alone would not do: of a million numbers, too few are so small that an unlikely token wins by them."""
    rows = _table(vocabulary, device).unfold(0, vocabulary, 1)           # [2 · _ROWS, V], a view
    places = [(key % _ROWS, _ROWS + (key >> 32) % _ROWS) for key in keys]
    first, second = to_device(places, torch.int64, device).unbind(1)
    bits = rows.index_select(0, first) + rows.index_select(0, second)
    u = bits.bitwise_and_(_31_BITS).float().add_(0.5).mul_(2**-31)
    u.clamp_(max=1 - 2**-24)                                             # float32 has rounded some to 1
    return u.neg_().log1p_().neg_()                                      # -log(1 - u), in place


@functools.lru_cache(4)
def _table(vocabulary: int, device: torch.device) -> Tensor:
    """31-bit integers, the same in every process; 8 MB."""
    size = 2 * _ROWS + vocabulary - 1
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_31_BITS + 1, (size,), generator=generator, dtype=torch.int32).to(device)


def draw_key(seed: int, answer: int, place: int) -> int:
    """64 bits that draw token `place` of answer number `answer` to a request with this seed."""
    key = struct.pack("<QQQ", seed & (1 << 64) - 1, answer, place)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _kth(likelihood: Tensor, top_k: list[int]) -> Tensor:
    """The top_k-th largest of each row [R, 1]; 0 where top_k is 0."""
    k = to_device(top_k, torch.int64, likelihood.device)[:, None]        # [R, 1]
    ordered = likelihood.topk(max(top_k)).values
    last = (k - 1).clamp(min=0)
    return ordered.gather(-1, last).mul_(k > 0)


def _nucleus(likelihood: Tensor, top_p: Tensor, limited: list[int]) -> Tensor:
    """The likelihood [R, 1] of the last token that rows `limited` need to reach top_p [R, 1]; 0 in the
    others."""
    vocabulary = likelihood.shape[-1]
    total = (likelihood * _ONE).long().sum(-1, keepdim=True)
    goal = total * top_p
    floor = torch.zeros_like(likelihood[:, :1])
    rows = to_device(limited, torch.int64, likelihood.device)
    for size in _sizes(likelihood):
        some = likelihood[rows]
        if size < vocabulary:
            ordered = some.topk(size).values
        else:
            ordered = some.sort(-1, descending=True).values
        weight = (ordered * _ONE).long()
        before = weight.cumsum(-1) - weight                              # what the likelier ones add up to
        inside = before < goal[rows]
        last = (inside.sum(-1, keepdim=True) - 1).clamp(min=0)
        floor[rows] = ordered.gather(-1, last)
        if size < vocabulary:
            rows = rows[inside[:, -1]]                                   # not reached yet: look further
            if not len(rows):
                break
    return floor


def _sizes(likelihood: Tensor) -> list[int]:
    """In how many of the likeliest tokens to look, one size after another. A CPU sorts slowly and asks
    cheaply whether it can stop; a GPU the other way round."""
    vocabulary = likelihood.shape[-1]
    if likelihood.is_cuda:
        return [vocabulary]
    return [*(size for size in _CANDIDATES if size < vocabulary), vocabulary]
