"""What a step did, for everybody who wants to know: answers, progress bars, plots, metrics and tests read
the same.

    step ──> StepRecord: who ran, who came, who was pushed out, what that cost
                └─ made: (Made, Made, …), a new token each

The engine prints nothing and keeps no records: whoever steps it has them. Notebook 12.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability under the model alone (before penalties, temperature and cuts, as in vLLM),
    and its rank: 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(frozen=True)
class Made:
    """A new token of an answer."""

    request_id: str
    token_id: int | None                            # None: the logits were not numbers
    finish_reason: str | None                       # why it is the last: "stop", "length" or "error"
    index: int = 0                                  # which of the request's n answers has it
    logprobs: dict[int, Logprob] | None = None      # as `Choice` has them, if asked for


@dataclass(frozen=True)
class StepRecord:
    """What one step did. Blocks are counted after it; its three times add up to the step's.

    One step ahead, "this step" is the one whose tokens are handed out: the next one has been asked for
    already, so its blocks are counted with the used ones, and who was admitted to it is not waiting any
    more."""

    ran: tuple[tuple[str, int, int], ...]     # (request id, first token, tokens run, guesses included)
    made: tuple[Made, ...]                    # the new tokens
    admitted: tuple[str, ...]                 # ids of who began, or began again
    preempted: tuple[str, ...]                # ids of who was pushed out
    waiting: int                              # requests in the queue
    free_blocks: int                          # without content
    cached_blocks: int                        # owned by nobody, content kept
    used_blocks: int                          # owned by somebody
    plan_seconds: float                       # to plan and to guess; ahead: to plan and ask for the next step
    model_seconds: float                      # to run the model; ahead: to wait for what was left of it
    sample_seconds: float                     # to choose the tokens and settle who has ended
    guessed: tuple[tuple[str, int, int], ...] = ()       # (request id, guesses run, guesses that came true)
