"""What was asked, and the n answers that grow from it: who gets the next tokens, who branches off, who has
ended.

    Asked "a", n=3 ─┬─ GrowingAnswer 0 ── Request "a"      its prompt is run once, and the last row of logits
                    ├─ GrowingAnswer 1 ── Request "a#1"    is drawn from n times; each answer then goes on by
                    └─ GrowingAnswer 2 ── Request "a#2"    itself, on the same blocks until it writes into one

    a step, as answers see it:   plan ─> (run) ─> draw ─> take ─> commit ─> hand out

Invariant: an answer is in `by_request` from the moment when the scheduler has its request until it ends. So
if a step is broken off anywhere, those in there start again, from the tokens that were handed out. Notebook
12.
"""

from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.sampler import Choice, Draws, Sampler, start_choosing
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.engine.speculative import Proposer, accept, rows_ahead


@dataclass(eq=False)
class Asked:
    """A request as its user wrote it, and those of its answers that have not ended."""

    id: str
    params: SamplingParams
    stop_ids: frozenset[int]                                                     # ids that end an answer
    answers: "dict[int, GrowingAnswer]" = field(default_factory=dict)            # by index


@dataclass(eq=False)
class GrowingAnswer:
    """One of the n: a request of its own to the scheduler."""

    asked: Asked
    index: int
    request: Request
    sampler: Sampler
    proposer: Proposer | None
    handed_out: int = 0                           # tokens that are in records which `step` has returned

    @property
    def wanted(self) -> bool:
        """False once it was aborted or has ended."""
        return self.asked.answers.get(self.index) is self

    def take(self, guesses: list[int], choices: list[Choice], had: int) -> list[Made]:
        """What it gets, having `had` so many tokens, of the choices for its rows: up to the first that was
        guessed wrongly or ends it."""
        chosen = [choice.token_id for choice in choices]
        count = len(accept(chosen, guesses, self.asked.stop_ids))
        made = []
        for place, (token, logprobs) in enumerate(choices[:count], had + 1):
            made.append(Made(
                request_id=self.asked.id,
                token_id=token,
                finish_reason=self.ending(token, place),
                index=self.index,
                logprobs=logprobs,
            ))
        return made

    def ending(self, token: int | None, made: int) -> str | None:
        """Why it ends with this token, its `made`-th; None if it goes on."""
        if token is None:
            return "error"
        if token in self.asked.stop_ids:
            return "stop"
        if made >= self.request.max_tokens:
            return "length"
        return None


MadeBy = dict[GrowingAnswer, list[Made]]


class Drawn(NamedTuple):
    """Tokens on their way: who gets them, each with the guesses that they may follow, and the choices in that
    order."""

    takers: list[tuple[GrowingAnswer, list[int]]]
    draws: Draws | None                           # None: nobody takes any

    def read(self) -> list[Choice]:
        """The choices, once the device has made them."""
        return [] if self.draws is None else self.draws.read()


class Clock(NamedTuple):
    """When a step began, was planned, had its model's logits and was done; in seconds."""

    begun: float
    planned: float
    ran: float
    ended: float


class Answers:
    """All answers that are being made, on one scheduler. proposer: who guesses for them, each with its
    own."""

    def __init__(self, scheduler: Scheduler, proposer: Proposer | None) -> None:
        self.scheduler = scheduler
        self.proposer = proposer
        self.asked: dict[str, Asked] = {}
        self.by_request: dict[Request, GrowingAnswer] = {}       # those that the scheduler has

    def add(self, asked: Asked, request: Request) -> None:
        """Queue the first answer, for all n. Raises ValueError, and leaves nothing behind, if it can never
        fit."""
        first = self._new(asked, 0, request)
        try:
            self.scheduler.add(request, places=asked.params.n)
            self.by_request[request] = first
            self.asked[asked.id] = asked
        except BaseException:                # it was refused; or Ctrl-C came, and nothing may be half there
            if request in self.scheduler.waiting:
                self.scheduler.finish(request)
            self.by_request.pop(request, None)
            self.asked.pop(asked.id, None)
            raise

    def plan(self) -> Plan:
        """The next step, with guesses behind its decodes if somebody guesses."""
        plan = self.scheduler.plan()
        if self.proposer is not None:
            plan = self.scheduler.guess(plan, self._propose)
        return plan

    def draw(self, plan: Plan, logits: Tensor | None) -> Drawn:
        """Begin to choose from logits [R, V], the plan's rows in order: the next token of each request that
        is up to date, more if it had guesses; and n first tokens where a prompt was just read."""
        takers, rows, row_of = [], [], []
        first = 0
        for work in plan.work:
            if not work.last:
                continue
            guesses = list(work.guesses)
            after = first + 1 + len(guesses)              # a row for each guess, and one for what comes next
            for answer in self._open_all(self.by_request[work.request]):
                asked = answer.asked
                takers.append((answer, guesses))
                rows += rows_ahead(answer.sampler, guesses, asked.stop_ids, asked.params.min_tokens)
                row_of += range(first, after)
            first = after
        if not takers:
            return Drawn(takers, None)
        if len(row_of) > first:                              # some rows are drawn from several times
            logits = logits.index_select(0, to_device(row_of, torch.int64, logits.device))
        return Drawn(takers, start_choosing(logits, rows))

    def take(self, drawn: Drawn, choices: list[Choice], ahead: int = 0) -> MadeBy:
        """The tokens of every answer that still wants them. ahead: tokens that they count already,
        UNKNOWN."""
        made = {}
        choices = iter(choices)
        for answer, guesses in drawn.takers:
            mine = list(islice(choices, 1 + len(guesses)))
            if answer.wanted:
                made[answer] = answer.take(guesses, mine, answer.request.made - ahead)
        return made

    def commit(self, plan: Plan, made: MadeBy) -> None:
        """Append the tokens, let the answers that have just begun run by themselves, and those that ended
        go."""
        for answer, some in made.items():
            if some[-1].finish_reason == "error":
                self.finish(answer, failed=True)
        sound = {answer: some for answer, some in made.items() if some[-1].finish_reason != "error"}
        last = {answer.request: some[-1].token_id for answer, some in sound.items()}
        right = {answer.request: len(some) - 1 for answer, some in sound.items()}
        self.scheduler.commit(plan, last, right)
        for answer, some in sound.items():
            if answer.request not in self.by_request and not some[-1].finish_reason:
                self.branch(answer, some[-1].token_id)
        for answer, some in sound.items():
            for new in some:
                answer.sampler.took(new.token_id)
            if some[-1].finish_reason:
                self.finish(answer)

    def branch(self, answer: GrowingAnswer, token: int) -> None:
        """Start an answer beside the first one: on its blocks if there is a place to run in, else in the
        queue."""
        parent = answer.asked.answers[0].request
        self.scheduler.branch(parent, answer.request, answer.index, token)
        self.by_request[answer.request] = answer

    def finish(self, answer: GrowingAnswer, failed: bool = False) -> None:
        """Let an answer go; `failed`: nobody is to find what is in its blocks."""
        # It leaves `by_request` first: whoever is in there would start again if this is broken off.
        if self.by_request.pop(answer.request, None):
            self.scheduler.finish(answer.request, failed)
        asked = answer.asked
        del asked.answers[answer.index]
        if not asked.answers:
            del self.asked[asked.id]

    def hand_out(self, plan: Plan, drawn: Drawn, made: MadeBy, clock: Clock) -> StepRecord:
        """The step's record. From now on its tokens are in the world: who starts again has them."""
        pool = self.scheduler.pool
        record = StepRecord(
            ran=tuple((work.request.id, work.start, work.count) for work in plan.work),
            made=tuple(chain.from_iterable(made.values())),
            admitted=tuple(request.id for request in plan.admitted),
            preempted=tuple(request.id for request in plan.preempted),
            waiting=len(self.scheduler.waiting),
            free_blocks=pool.free,
            cached_blocks=pool.cached,
            used_blocks=pool.used,
            plan_seconds=clock.planned - clock.begun,
            model_seconds=clock.ran - clock.planned,
            sample_seconds=clock.ended - clock.ran,
            guessed=tuple(_came_true(drawn, made)),
        )
        for answer, _ in drawn.takers:
            answer.handed_out = answer.request.made
        return record

    def start_again(self) -> None:
        """Forget half a step: what blocks hold is unknown, and answers that had only begun to branch off are
        gone."""
        for request, answer in self.by_request.items():
            del request.tokens[request.prompt_tokens + answer.handed_out:]
        self.by_request = {r: answer for r, answer in self.by_request.items() if answer.index == 0 or r.made}
        self.scheduler.start_again(list(self.by_request))
        for request, answer in self.by_request.items():
            answer.sampler.rewind(request.tokens, request.made)
            left = {i: other for i, other in answer.asked.answers.items() if other.request in self.by_request}
            answer.asked.answers = left
        self.asked = {answer.asked.id: answer.asked for answer in self.by_request.values()}

    def _new(self, asked: Asked, index: int, request: Request) -> GrowingAnswer:
        answer = GrowingAnswer(
            asked=asked,
            index=index,
            request=request,
            sampler=Sampler(asked.params, request.tokens, index),
            proposer=None if self.proposer is None else self.proposer.fresh(),
        )
        asked.answers[index] = answer
        return answer

    def _open_all(self, answer: GrowingAnswer) -> list[GrowingAnswer]:
        """The answers whose next token comes from this one's logits: itself, or all n, made here, when their
        prompt was just read."""
        asked = answer.asked
        prompt = answer.request
        if prompt.made or asked.params.n == 1:
            return [answer]
        for index in range(1, asked.params.n):
            other = Request(
                id=f"{asked.id}#{index}",
                tokens=prompt.prompt,
                max_tokens=prompt.max_tokens,
                priority=prompt.priority,
            )
            self._new(asked, index, other)
        return list(asked.answers.values())

    def _propose(self, request: Request, most: int) -> list[int]:
        proposer = self.by_request[request].proposer
        most = min(most, proposer.k)
        return proposer.propose(request.tokens, most)[:most]


def _came_true(drawn: Drawn, made: MadeBy) -> list[tuple[str, int, int]]:
    """For each answer that had guesses: how many were run, and how many of them came true."""
    found = []
    for answer, guesses in drawn.takers:
        if guesses and answer in made:
            right = sum(new.token_id == guess for new, guess in zip(made[answer], guesses))
            found.append((answer.request.id, len(guesses), right))
    return found
