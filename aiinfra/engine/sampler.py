"""From logits to the next token: all rows of a step at once, and one wait for the device.

    logits [R, V] ─ penalty, bans ─┬─ greedy rows: argmax ───────────────────────────────────┐
                                   └─ others: temperature ─ top-k ─ top-p ─ min-p ─ one draw ┴─> ids [R]

Invariant: a token depends on its own row of logits, its request's seed and its place in the answer, and on
nothing else in the batch (likelihood.py tells how). So a preempted request has no state to save, and any
place can be drawn again. The logits themselves are rounded differently in other company; that seldom changes
a draw. The order of penalty and cuts is transformers'. Notebook 12.

    Choosing   how one row becomes a token      Draws    the tokens of all rows, perhaps still on their way
    Choice     the token that a row became      Sampler  what one answer remembers from token to token
    draw       likelihood.py: one at random     Drawn    answers.py: Draws, and who gets which
"""

import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.likelihood import draw, draw_key, likelihoods
from aiinfra.engine.record import Logprob
from aiinfra.engine.sampling_params import SamplingParams

NOT_FINITE = ("the model's logits are not finite numbers: its weights are damaged, or float16 overflowed. "
              "Load it with dtype='float32' or 'bfloat16'.")


class Choosing(NamedTuple):
    """How one row of logits becomes a token."""

    params: SamplingParams
    key: int = 0                            # what is drawn with, from `draw_key`; greedy rows need none
    seen: Collection[int] = ()              # prompt and made so far: what repetition_penalty bears on
    banned: Collection[int] = ()            # ids that must not be chosen


class Choice(NamedTuple):
    """The token of a row, None if its logits were not numbers; and, if asked for, the log-probabilities of
    this token (first) and of the `params.logprobs` likeliest."""

    token_id: int | None
    logprobs: dict[int, Logprob] | None = None


class Sampler:
    """One answer's part in it: the parameters, how many tokens it has and, for the penalty, which. Nothing
    random is kept."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int] = (), answer: int = 0) -> None:
        self.params = params
        self.answer = answer
        self.place = 0
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._prompt = prompt
        self._seen: set[int] | None = None               # made only once it is needed: many requests may wait

    def choosing(self, banned: Collection[int] = (), ahead: Sequence[int] = ()) -> Choosing:
        """How to choose the next token; or the one after `ahead`, if the tokens there are guesses yet to be
        made."""
        key = 0
        if not self.params.greedy:
            key = draw_key(self.seed, self.answer, self.place + len(ahead))
        seen = ()
        if self.params.repetition_penalty != 1:
            seen = self._ids().union(ahead) if ahead else self._ids()
        return Choosing(params=self.params, key=key, seen=seen, banned=banned)

    def took(self, token: int) -> None:
        """The answer has grown by this token."""
        self.place += 1
        if self.params.repetition_penalty != 1:
            self._ids().add(token)

    def rewind(self, tokens: Sequence[int], made: int) -> None:
        """Begin again where the answer has `made` tokens, the last of `tokens`."""
        self._prompt = tokens
        self._seen = None
        self.place = made

    def choose(self, logits: Tensor, banned: Collection[int] = ()) -> Choice:
        """The next token, from logits [V]. Raises ValueError if they are not numbers."""
        [choice] = choose(logits[None], [self.choosing(banned)])
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


class Report(NamedTuple):
    """Log-probabilities for M rows: of the token chosen, and of the `most` likeliest."""

    logprob: Tensor                         # float32 [M]
    rank: Tensor                            # int64 [M]: 1 for the likeliest
    top_ids: Tensor                         # int64 [M, most]
    top_logprobs: Tensor                    # float32 [M, most]


@dataclass(frozen=True)
class Draws:
    """Choices that have been made, but on the device: `read` waits for them, `ids` can be worked with
    before."""

    ids: Tensor                             # int64 [R]: where `read` will have None, any id
    best: Tensor                            # [R], on the CPU once `arrived`: the largest logit of each row
    chosen: Tensor                          # int64 [R], there too: the ids
    report: Report | None                   # there too: of those rows whose parameters ask for it
    arrived: torch.cuda.Event | None        # None: everything is there
    rows: Sequence[Choosing]

    def read(self) -> list[Choice]:
        """A choice for each row."""
        if self.arrived is not None:
            self.arrived.synchronize()      # waits for these copies, not for what was asked for since
        tokens = []
        for best, token in zip(self.best.tolist(), self.chosen.tolist()):
            tokens.append(token if math.isfinite(best) else None)
        choices = [Choice(token) for token in tokens]
        if self.report is not None:
            told = zip(*[part.tolist() for part in self.report])
            for row, (logprob, rank, top_ids, top_logprobs) in zip(_reported(self.rows), told):
                if tokens[row] is not None:
                    top = list(zip(top_ids, top_logprobs))[:self.rows[row].params.logprobs]
                    choices[row] = Choice(tokens[row], _told(tokens[row], logprob, rank, top))
        return choices


def choose(logits: Tensor, rows: Sequence[Choosing]) -> list[Choice]:
    """logits [R, V], on any device, and how to read each row -> a choice each. The logits are not changed."""
    return start_choosing(logits, rows).read()


@torch.inference_mode()
def start_choosing(logits: Tensor, rows: Sequence[Choosing]) -> Draws:
    """As `choose`, without waiting for a GPU."""
    edited = _edit(logits, rows)
    best, ids = edited.max(-1)                                           # NaN counts as the largest
    drawn = [i for i, row in enumerate(rows) if not row.params.greedy]
    for group in _groups(drawn, logits):
        at = to_device(group, torch.int64, logits.device)
        likelihood = likelihoods(edited.index_select(0, at), [rows[i].params for i in group])
        ids.index_copy_(0, at, draw(likelihood, [rows[i].key for i in group]))
    report = _report(logits, ids, rows)
    if not logits.is_cuda:
        return Draws(ids=ids, best=best, chosen=ids, report=report, arrived=None, rows=rows)
    return Draws(
        ids=ids,
        best=_send(best),
        chosen=_send(ids),
        report=None if report is None else Report(*map(_send, report)),
        arrived=torch.cuda.current_stream(logits.device).record_event(),   # one event is behind all copies
        rows=rows,
    )


def _reported(rows: Sequence[Choosing]) -> list[int]:
    return [i for i, row in enumerate(rows) if row.params.logprobs is not None]


def _send(values: Tensor) -> Tensor:
    """Where the values will be on the CPU: memory that a GPU copies to while Python goes on."""
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _groups(rows: list[int], logits: Tensor) -> list[list[int]]:
    """Rows that are worked on together: a GPU takes all at once; a CPU's cache holds one row, not a batch of
    them."""
    if logits.is_cuda and rows:
        return [rows]
    return [[row] for row in rows]


def _edit(logits: Tensor, rows: Sequence[Choosing]) -> Tensor:
    """The logits after repetition penalties and bans; themselves, if no row has any."""
    penalised = [i for i, row in enumerate(rows) if row.params.repetition_penalty != 1 and row.seen]
    banned = [(i, token) for i, row in enumerate(rows) for token in row.banned]
    if not penalised and not banned:
        return logits
    logits = logits.to(torch.float32, copy=True)
    if penalised:
        _penalise(logits, rows, penalised)
    if banned:
        at = to_device(list(zip(*banned)), torch.int64, logits.device).unbind()
        # logits[at] = -inf, but that would wait for a GPU to copy the number.
        logits.index_put_(at, logits.new_full((), -torch.inf))
    return logits


def _penalise(logits: Tensor, rows: Sequence[Choosing], penalised: list[int]) -> None:
    """Divide or multiply, in place, the logits of what those rows have seen."""
    seen = [rows[i].seen for i in penalised]
    lengths = torch.tensor([len(tokens) for tokens in seen])
    factors = torch.tensor([rows[i].params.repetition_penalty for i in penalised])
    row = to_device(torch.tensor(penalised).repeat_interleave(lengths), torch.int64, logits.device)
    token = to_device(list(chain.from_iterable(seen)), torch.int64, logits.device)
    penalty = to_device(factors.repeat_interleave(lengths), torch.float32, logits.device)
    values = logits[row, token]
    # A token that was seen twice is written twice, with the same value.
    logits[row, token] = torch.where(values < 0, values * penalty, values / penalty)


def _report(logits: Tensor, ids: Tensor, rows: Sequence[Choosing]) -> Report | None:
    """What the rows that ask for log-probabilities are told; None if there are no such rows."""
    asking = _reported(rows)
    if not asking:
        return None
    most = min(max(rows[i].params.logprobs for i in asking), logits.shape[-1])
    parts = []
    for group in _groups(asking, logits):
        at = to_device(group, torch.int64, logits.device)
        logprobs = logits[at].float().log_softmax(-1)
        chosen = logprobs.gather(-1, ids[at, None])
        rank = (logprobs > chosen).sum(-1) + 1
        top = logprobs.topk(most)
        parts.append(Report(logprob=chosen[:, 0], rank=rank, top_ids=top.indices, top_logprobs=top.values))
    return Report(*map(torch.cat, zip(*parts)))


def _told(token: int, logprob: float, rank: int, top: list[tuple[int, float]]) -> dict[int, Logprob]:
    """Log-probabilities as a dictionary: the chosen token first, then the likeliest, in order."""
    found = {token: Logprob(logprob, rank)}
    for place, (other, other_logprob) in enumerate(top, 1):
        found.setdefault(other, Logprob(other_logprob, place))
    return found
