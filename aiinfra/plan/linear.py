"""The simplest price of a step: straight in what it does.

    seconds = a step + each token that it runs + each token whose keys and values it reads

Three numbers that can be read off a plot of measured steps. Beside a batch that decodes, the first is what
reading the weights takes, the second arithmetic, the third the cache. Notebook 18.
"""

from aiinfra.config import config
from aiinfra.engine.scheduler import Plan


@config
class LinearCost:
    """Seconds of a step; a `plan.leap.DecodeCost`."""

    step_seconds: float
    token_seconds: float = 0.0
    context_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.step_seconds <= 0 or self.token_seconds < 0 or self.context_seconds < 0:
            raise ValueError(f"{self}; a step takes time, and tokens and context none or more.")

    def __call__(self, plan: Plan) -> float:
        """Of the plan's step. A piece of a prompt reads what is before it once."""
        return self._seconds(plan.tokens, sum(work.end for work in plan.work))

    def decode(self, requests: int, context: int) -> float:
        """See `plan.leap.DecodeCost`."""
        return self._seconds(requests, context)

    def _seconds(self, tokens: int, context: int) -> float:
        return self.step_seconds + tokens * self.token_seconds + context * self.context_seconds
