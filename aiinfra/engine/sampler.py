"""From logits to the next token: all rows of a step at once, and one wait for the device.

    logits [R, V] ─ repetition penalty, bans ─┬─ greedy rows: argmax ──────────────────────────────────┐
                                              └─ others: temperature ─ top-k ─ top-p ─ min-p ─ one draw ┴─> ids [R]

    likelihood   exp((logit - best) / temperature): 1 for the likeliest token of the row
    floor        top-k, top-p and min-p each say how likely a token must at least be; the strictest counts
    draw         a race: token i arrives after wait_i / likelihood_i, with waits from an exponential distribution; the
                 first to arrive wins, each token in proportion to its likelihood (the Gumbel-max trick)

Invariant: a token depends on its own row of logits, its request's seed and its place in the answer, and on
nothing else in the batch. The waits come from no generator that others could advance: they are read from a fixed
table, at places that are a hash of (seed, answer, place). So a preempted request has no state to save, and any place
can be drawn again. The logits themselves are rounded differently in other company. A race minds only if its two
first arrive at almost the same time; one number laid on the running sum of 49,152 probabilities would fall that near
to one of their borders for about one token in a hundred. The order of the four is transformers'. Notebook 12.
"""

import functools
import hashlib
import secrets
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.sampling_params import SamplingParams

NOT_FINITE = ("the model's logits are not finite numbers: its weights are damaged, or float16 overflowed. "
              "Load it with dtype='float32' or 'bfloat16'.")

_ONE = 1 << 40              # the likeliest token as an integer: sums of integers do not depend on the order of their terms
_ROWS = 1 << 20            # places in the table of waits where a row may begin
_31_BITS = 0x7FFFFFFF
_COLDEST = 1e-30            # a temperature below is not told from 0 by float32
_CANDIDATES = (64, 4096)    # tokens in which top-p is looked for before all are sorted


class Row(NamedTuple):
    """How one row of logits becomes a token."""

    params: SamplingParams
    key: int = 0                            # what is drawn with, from `draw_key`; greedy rows need none
    seen: Collection[int] = ()              # prompt and made so far: what repetition_penalty bears on
    banned: Collection[int] = ()            # ids that must not be chosen


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability under the model alone (before penalties, temperature and cuts, as in vLLM), and
    its rank: 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str | None = None


class Choice(NamedTuple):
    """The token of a row, None if its logits were not numbers; and, if asked for, the log-probabilities of this
    token (first) and of the `params.logprobs` likeliest."""

    token_id: int | None
    logprobs: dict[int, Logprob] | None = None


class Sampler:
    """One answer's part in it: the parameters, how many tokens it has and, for the penalty, which. Nothing random
    is kept."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int] = (), answer: int = 0) -> None:
        self.params, self.answer, self.place = params, answer, 0
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._prompt, self._seen = prompt, None                          # a set only once it is needed: many may wait

    def row(self, banned: Collection[int] = (), ahead: Sequence[int] = ()) -> Row:
        """How to choose the next token; or the one after `ahead`, if the tokens there are guesses yet to be made."""
        key = 0 if self.params.greedy else draw_key(self.seed, self.answer, self.place + len(ahead))
        if self.params.repetition_penalty == 1:
            return Row(self.params, key, (), banned)
        return Row(self.params, key, self._ids().union(ahead) if ahead else self._ids(), banned)

    def took(self, token: int) -> None:
        """The answer has grown by this token."""
        self.place += 1
        if self.params.repetition_penalty != 1:
            self._ids().add(token)

    def rewind(self, tokens: Sequence[int], made: int) -> None:
        """Begin again where the answer has `made` tokens, the last of `tokens`."""
        self._prompt, self._seen, self.place = tokens, None, made

    def choose(self, logits: Tensor, banned: Collection[int] = ()) -> Choice:
        """The next token, from logits [V]. Raises ValueError if they are not numbers."""
        [choice] = choose(logits[None], [self.row(banned)])
        if choice.token_id is None:
            raise ValueError(NOT_FINITE)
        self.took(choice.token_id)
        return choice

    def __call__(self, logits: Tensor) -> int:
        """As `choose`, the token id alone."""
        return self.choose(logits).token_id

    def _ids(self) -> set[int]:
        if self._seen is None:
            self._seen = set(self._prompt)
        return self._seen


def draw_key(seed: int, answer: int, place: int) -> int:
    """64 bits that draw token `place` of answer number `answer` to a request with this seed."""
    key = struct.pack("<QQQ", seed & (1 << 64) - 1, answer, place)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Draws:
    """Choices that have been made, but on the device: `read` waits for them, `ids` can be worked with before."""

    ids: Tensor                             # int64 [R]: where `read` will have None, any id
    told: Tensor                            # float64, on the CPU once `arrived`: best logits [R], ids [R], reports
    arrived: torch.cuda.Event | None
    rows: Sequence[Row]
    most: int                               # log-probabilities in a report

    def read(self) -> list[Choice]:
        """A choice for each row."""
        if self.arrived is not None:
            self.arrived.synchronize()                                   # for this copy, not for what was asked for since
        flat, R = self.told.tolist(), len(self.rows)
        tokens = [int(i) if abs(top) < torch.inf else None for top, i in zip(flat, flat[R:2 * R])]
        choices = [Choice(token) for token in tokens]
        width = 2 + 2 * self.most
        for i, start in zip(_reported(self.rows), range(2 * R, len(flat), width)):
            if tokens[i] is not None:
                choices[i] = Choice(tokens[i], _read(tokens[i], flat[start:start + width], self.rows[i].params.logprobs))
        return choices


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Choice]:
    """logits [R, V], on any device, and how to read each row -> a choice each. The logits are not changed."""
    return start_choosing(logits, rows).read()


@torch.inference_mode()
def start_choosing(logits: Tensor, rows: Sequence[Row]) -> Draws:
    """As `choose`, without waiting for a GPU."""
    edited = _edit(logits, rows)
    best, ids = edited.max(-1)                                           # NaN counts as the largest
    drawn = [i for i, row in enumerate(rows) if not row.params.greedy]
    for group in _groups(drawn, logits):
        at, some = to_device(group, torch.int64, logits.device), [rows[i] for i in group]
        likelihood = likelihoods(edited.index_select(0, at), [row.params for row in some])
        ids.index_copy_(0, at, draw(likelihood, [row.key for row in some]))
    told = _reported(rows)
    most = min(max((rows[i].params.logprobs for i in told), default=0), logits.shape[-1])
    parts = [best.double(), ids.double()]                                # a double holds every id
    for group in _groups(told, logits):
        parts.append(_report(logits, ids, to_device(group, torch.int64, logits.device), most).flatten())
    return Draws(ids, *_send(torch.cat(parts)), rows, most)


def _reported(rows: Sequence[Row]) -> list[int]:
    return [i for i, row in enumerate(rows) if row.params.logprobs is not None]


def _send(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The values on the CPU, and what says when they are there; None: now."""
    if not values.is_cuda:
        return values, None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    return host, torch.cuda.current_stream(values.device).record_event()


def likelihoods(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """logits [R, V], temperatures above 0 -> float32 [R, V]: divided by its sum, a row is the distribution that
    is drawn from. Tokens as likely as the last one kept are kept too."""
    settings = to_device([(max(p.temperature, _COLDEST), p.top_p, p.min_p) for p in params], torch.float64, logits.device)
    temperature, top_p, min_p = settings.unsqueeze(-1).unbind(1)         # [R, 1] each
    logits = logits.float()
    likelihood = (logits - logits.amax(-1, keepdim=True)).div_(temperature.float()).exp_()
    top_k = [p.top_k if 0 < p.top_k < logits.shape[-1] else 0 for p in params]
    if any(top_k):
        likelihood.mul_(likelihood >= _kth(likelihood, top_k))
    if any(p.top_p < 1 for p in params):
        likelihood.mul_(likelihood >= _nucleus(likelihood, top_p, [i for i, p in enumerate(params) if p.top_p < 1]))
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
    """float32 [R, V]: what each token must wait, exponentially distributed with mean 1, for each key. -log(1 - u), u being
    the sum modulo 1 of two rows of V from a table: 2^40 pairs of rows. One row alone would not do: of a million
    numbers, too few are so small that an unlikely token wins by them."""
    rows = _table(vocabulary, device).unfold(0, vocabulary, 1)                                 # [2 · _ROWS, V], a view
    first, second = to_device([(key % _ROWS, _ROWS + (key >> 32) % _ROWS) for key in keys], torch.int64, device).unbind(1)
    u = (rows.index_select(0, first) + rows.index_select(0, second)).bitwise_and_(_31_BITS)
    return u.float().add_(0.5).mul_(2**-31).clamp_(max=1 - 2**-24).neg_().log1p_().neg_()


@functools.lru_cache(4)
def _table(vocabulary: int, device: torch.device) -> Tensor:
    """31-bit integers, the same in every process; 8 MB."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_31_BITS + 1, (2 * _ROWS + vocabulary - 1,), generator=generator, dtype=torch.int32).to(device)


def _groups(rows: list[int], logits: Tensor) -> list[list[int]]:
    """Rows that are worked on together: a GPU takes all at once; a CPU's cache holds one row, not a batch of them."""
    return [rows] if logits.is_cuda and rows else [[row] for row in rows]


def _kth(likelihood: Tensor, top_k: list[int]) -> Tensor:
    """The top_k-th largest of each row [R, 1]; 0 where top_k is 0."""
    k = to_device(top_k, torch.int64, likelihood.device)[:, None]
    return likelihood.topk(max(top_k)).values.gather(-1, (k - 1).clamp(min=0)).mul_(k > 0)


def _nucleus(likelihood: Tensor, top_p: Tensor, limited: list[int]) -> Tensor:
    """The likelihood [R, 1] of the last token that rows `limited` need to reach top_p [R, 1]; 0 in the others."""
    vocabulary = likelihood.shape[-1]
    goal = (likelihood * _ONE).long().sum(-1, keepdim=True) * top_p
    floor = torch.zeros_like(likelihood[:, :1])
    rows = to_device(limited, torch.int64, likelihood.device)
    # A CPU sorts slowly and asks cheaply whether it can stop; a GPU the other way round.
    sizes = () if likelihood.is_cuda else [size for size in _CANDIDATES if size < vocabulary]
    for size in (*sizes, vocabulary):
        some = likelihood[rows]
        ordered = some.topk(size).values if size < vocabulary else some.sort(-1, descending=True).values
        weight = (ordered * _ONE).long()
        inside = weight.cumsum(-1) - weight < goal[rows]                 # the likelier ones alone do not reach it
        floor[rows] = ordered.gather(-1, (inside.sum(-1, keepdim=True) - 1).clamp(min=0))
        if size < vocabulary:
            rows = rows[inside[:, -1]]                                   # not reached yet: look further
            if not len(rows):
                break
    return floor


def _edit(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The logits after repetition penalties and bans; themselves, if no row has any."""
    penalised = [i for i, row in enumerate(rows) if row.params.repetition_penalty != 1 and row.seen]
    banned = [(i, token) for i, row in enumerate(rows) for token in row.banned]
    if not penalised and not banned:
        return logits
    logits = logits.to(torch.float32, copy=True)
    if penalised:
        lengths = torch.tensor([len(rows[i].seen) for i in penalised])
        at = to_device(torch.tensor(penalised).repeat_interleave(lengths), torch.int64, logits.device)
        seen = to_device(list(chain.from_iterable(rows[i].seen for i in penalised)), torch.int64, logits.device)
        penalty = torch.tensor([rows[i].params.repetition_penalty for i in penalised]).repeat_interleave(lengths)
        penalty, values = to_device(penalty, torch.float32, logits.device), logits[at, seen]
        logits[at, seen] = torch.where(values < 0, values * penalty, values / penalty)   # twice seen: written twice, the same
    if banned:
        at = to_device(list(zip(*banned)), torch.int64, logits.device).unbind()
        logits.index_put_(at, logits.new_full((), -torch.inf))           # logits[at] = -inf waits for a GPU to copy the number
    return logits


def _report(logits: Tensor, ids: Tensor, told: Tensor, most: int) -> Tensor:
    """[rows told, 2 + 2·most]: the choice's log-probability and rank; ids and log-probabilities of the likeliest."""
    logprobs = logits[told].float().log_softmax(-1)
    chosen = logprobs.gather(-1, ids[told, None])
    rank = (logprobs > chosen).sum(-1, keepdim=True) + 1
    top = logprobs.topk(most)
    return torch.cat([part.double() for part in (chosen, rank, top.indices, top.values)], -1)


def _read(token: int, row: list[float], wanted: int) -> dict[int, Logprob]:
    """A row of `_report` as a dictionary, the chosen token first."""
    (logprob, rank), most = row[:2], (len(row) - 2) // 2
    found = {token: Logprob(logprob, int(rank))}
    for place in range(min(wanted, most)):
        found.setdefault(int(row[2 + place]), Logprob(row[2 + most + place], place + 1))
    return found
