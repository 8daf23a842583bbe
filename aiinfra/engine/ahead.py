"""The engine's other way to take a step: ask for the next one before this one's tokens have been read.

    CPU   plan n │ plan n+1 │ read n, hand out │ plan n+2 │ read n+1 …
    GPU          │ step n ········· │ step n+1 ·········· │ step n+2 …

While step n runs on a GPU, the CPU lets every request of it have its token, UNKNOWN, plans step n + 1 with
these and asks for it: only the GPU has to know them (`runner.Newest`). Then it reads n. Who turns out to
have ended at n has run once too often, which nobody sees. Where the next plan depends on which tokens they
are, with a repetition penalty or with guesses, a step waits for its turn as in engine.py.

Invariant: the tokens are those of engine.py's own step, and so is what is left if a step is broken off.
Notebook 14.
"""

import time
from dataclasses import dataclass

from aiinfra.engine.answers import Answers, Clock, Drawn, MadeBy
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import UNKNOWN
from aiinfra.engine.runner import Newest, Runner
from aiinfra.engine.scheduler import Plan


@dataclass(eq=False)
class _Flight:
    """A step that was asked for, and whose tokens are on their way."""

    plan: Plan
    drawn: Drawn
    foreseen: bool = False                        # its requests have their tokens already, UNKNOWN


class OneAhead:
    """Takes steps of `answers` with `runner`, and has one more in flight wherever that is possible."""

    def __init__(self, answers: Answers, runner: Runner) -> None:
        self.answers = answers
        self.runner = runner
        self.flight: _Flight | None = None         # asked for ahead of its turn

    def step(self) -> StepRecord:
        """Ask for the next step; then wait for this one's tokens, commit them and hand them out."""
        begun = time.perf_counter()
        this = self.flight or self.launch()
        self.flight = self.launch(after=this) if self.foresee(this) else None
        planned = time.perf_counter()
        choices = this.drawn.read()
        ran = time.perf_counter()
        if this.foreseen:
            made = self.answers.take(this.drawn, choices, ahead=1)
            self.reveal(this.plan, made)
        else:
            made = self.answers.take(this.drawn, choices)
            self.answers.commit(this.plan, made)
        self.drop_if_useless()
        clock = Clock(begun=begun, planned=planned, ran=ran, ended=time.perf_counter())
        return self.answers.hand_out(this.plan, this.drawn, made, clock)

    def launch(self, after: _Flight | None = None) -> _Flight:
        """Plan a step and ask for it. after: the one whose tokens it may need before we have them."""
        plan = self.answers.plan()
        newest = None
        if after is not None and after.drawn.draws is not None:
            row_of = {answer.request: row for row, (answer, _) in enumerate(after.drawn.takers)}
            newest = Newest(after.drawn.draws.ids, row_of)
        logits = self.runner.run(plan, newest) if plan.work else None
        return _Flight(plan, self.answers.draw(plan, logits))

    def foresee(self, flight: _Flight) -> bool:
        """Let every answer of the step have its token, UNKNOWN, so that the next one can be planned. False,
        and nothing changed, if that needs to know which."""
        takers = [answer for answer, _ in flight.drawn.takers if answer.wanted]
        penalised = any(answer.asked.params.repetition_penalty != 1 for answer in takers)
        if not flight.plan.work or self.answers.proposer is not None or penalised:
            return False
        flight.foreseen = True
        known = self.answers.by_request
        new = {answer.request: UNKNOWN for answer in takers if answer.request in known}
        self.answers.scheduler.commit(flight.plan, new, seal=False)
        for answer in takers:
            if answer.request not in known:
                self.answers.branch(answer, UNKNOWN)
            answer.sampler.took(UNKNOWN)
        return True

    def reveal(self, plan: Plan, made: MadeBy) -> None:
        """Let the requests of a step that was foreseen know their tokens, and those that ended go."""
        for answer, [new] in made.items():
            if new.token_id is None:
                self.answers.finish(answer, failed=True)
            else:
                answer.request.tokens[-1] = new.token_id
        self.answers.scheduler.seal(plan)         # now that it is known whose blocks are sound
        for answer, [new] in made.items():
            if new.finish_reason and answer.wanted:
                self.answers.finish(answer)

    def drop_if_useless(self) -> None:
        """Forget the step in flight if all who ran in it have ended, or if nobody ran or moved."""
        if self.flight is None:
            return
        plan = self.flight.plan
        if not self.answers.asked or not (plan.work or plan.preempted):
            self.flight = None
