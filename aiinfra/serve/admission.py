"""Who may wait? A bound on queued requests and on queued tokens, checked and counted in one place.

    enter ──> Place ── weigh(tokens) ── leave          429, at once, for who finds no place
               └ counted from the check on, so that two who arrive together do not both take the last one

A queue without a bound turns every overload into time-outs: each answer comes, and all of them too late.
Before a prompt is turned into tokens its length is guessed, so that a refusal costs nothing; then the place
is weighed. Lives on one thread, the event loop's. Notebook 15.
"""

from aiinfra.serve.refusal import Refusal

_AGAIN_SECONDS = 1
_FULL = "queue_full"


class Place:
    """Of one prompt in the queue, until the engine begins with it."""

    def __init__(self, admission: "Admission", requests: int) -> None:
        self.admission = admission
        self.requests = requests
        self.tokens = 0
        admission.requests += requests

    def weigh(self, tokens: int) -> None:
        """It holds so many tokens, now that this is known better. Raises Refusal if they do not fit."""
        self.admission.tokens -= self.tokens
        self.tokens = 0
        self.admission.check_tokens(tokens)
        self.tokens = tokens
        self.admission.tokens += tokens

    def leave(self) -> None:
        """Give the place back; a second time changes nothing."""
        self.admission.requests -= self.requests
        self.admission.tokens -= self.tokens
        self.requests = 0
        self.tokens = 0


class Admission:
    """At most `max_requests` answers and `max_tokens` tokens of prompts wait at once."""

    def __init__(self, max_requests: int = 256, max_tokens: int = 262_144) -> None:
        for name, value in (("max_requests", max_requests), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}; it must be at least 1: who may not wait is never served.")
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.requests = 0                         # answers that wait: a prompt with n=3 counts three times
        self.tokens = 0                           # of their prompts, each counted once

    def enter(self, n: int, tokens: list[int]) -> list[Place]:
        """A place for each prompt of a request that wants n answers to each; they have about so many tokens.
        Raises Refusal, and counts none, if one finds no place."""
        self.check_requests(n * len(tokens))
        places = []
        try:
            for count in tokens:
                places.append(Place(self, n))
                places[-1].weigh(count)
        except Refusal:
            for place in places:
                place.leave()
            raise
        return places

    def check_requests(self, requests: int) -> None:
        """Raise Refusal if so many answers do not fit beside those that wait."""
        if requests > self.max_requests:
            raise Refusal(400, f"{requests:,} answers at once (prompts times n); this server queues at most "
                               f"{self.max_requests:,}. Send several requests.", param="n")
        if self.requests + requests > self.max_requests:
            raise self._full(f"{self.requests:,} of {self.max_requests:,} requests", requests)

    def check_tokens(self, tokens: int) -> None:
        """Raise Refusal if so many do not fit beside those that wait."""
        if tokens > self.max_tokens:
            raise Refusal(400, f"the prompt has {tokens:,} tokens; this server queues at most "
                               f"{self.max_tokens:,}. Shorten it.", param="prompt")
        if self.tokens + tokens > self.max_tokens:
            raise self._full(f"{self.tokens:,} of {self.max_tokens:,} tokens", tokens)

    def _full(self, said: str, asked: int) -> Refusal:
        message = f"the queue is full: {said} wait, and you ask for {asked:,} more. Try again in a moment."
        return Refusal(429, message, code=_FULL, retry_after=_AGAIN_SECONDS)
