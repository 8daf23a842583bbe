"""What a step did, for everybody who wants to know: answers, progress bars, plots, metrics and tests read the same.

    step ──> StepRecord: who ran, who came, who was pushed out, what that cost
                └─ made: (Made, Made, …), a new token each

The engine prints nothing and keeps no records: whoever steps it has them. Notebook 12.
"""

from dataclasses import dataclass

from aiinfra.engine.sampler import Logprob


@dataclass(frozen=True)
class Made:
    """A token made for answer `index` of a request, and why it was its last, if it was: "stop", "length" or
    "error". logprobs: as `Choice` has them, if asked for."""

    request_id: str
    token_id: int | None
    finish_reason: str | None
    index: int = 0
    logprobs: dict[int, Logprob] | None = None


@dataclass(frozen=True)
class StepRecord:
    """What one step did. Blocks are counted after it; the three times add up to the step's. Guessing is planning.
    One step ahead, plan_seconds are for planning the next step and asking for it, and model_seconds what was then
    left to wait for this one; the blocks of the next step are counted with the used ones, and who was admitted to it
    is not waiting any more."""

    ran: tuple[tuple[str, int, int], ...]         # (request id, first token, tokens run, guesses among them)
    made: tuple[Made, ...]
    admitted: tuple[str, ...]
    preempted: tuple[str, ...]
    waiting: int
    free_blocks: int
    cached_blocks: int
    used_blocks: int
    plan_seconds: float
    model_seconds: float
    sample_seconds: float
    guessed: tuple[tuple[str, int, int], ...] = ()          # (request id, guesses run, guesses that came true)
