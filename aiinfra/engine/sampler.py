"""From logits to the next token: temperature, then top-k, then top-p, then one draw.

    logits [V] ─ /temperature ─ keep k ─ keep mass p ─ softmax ─ draw ─> id

Each request draws from a generator of its own, so its tokens do not depend on who else is being served.
"""

import torch
from torch import Tensor

from aiinfra.engine.sampling_params import SamplingParams


NOT_FINITE = ("the model's logits are not finite numbers: its weights are damaged, or float16 overflowed. "
              "Load it with dtype='float32' or 'bfloat16'.")


class Sampler:
    """Chooses tokens for one request; keeps that request's random state."""

    def __init__(self, params: SamplingParams, device: torch.device) -> None:
        self.params = params
        self.generator = torch.Generator(device)
        if params.seed is not None:
            self.generator.manual_seed(params.seed)
        elif not params.greedy:
            self.generator.seed()

    def __call__(self, logits: Tensor) -> int:
        """logits: [V] -> a token id. Raises ValueError if they are not numbers."""
        if not torch.isfinite(logits.max()):               # before drawing: on a GPU a draw from NaN ends the process
            raise ValueError(NOT_FINITE)
        if self.params.greedy:
            token = logits.argmax()
        else:
            token = torch.multinomial(probabilities(logits, self.params), 1, generator=self.generator)
        return int(token)


def probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """The distribution [V] in float32 that a draw is taken from; it sums to 1."""
    logits = logits.float()
    logits = (logits - logits.max()) / params.temperature    # so that a tiny temperature cannot overflow
    if 0 < params.top_k < len(logits):
        smallest_kept = logits.topk(params.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    probs = logits.softmax(-1)
    if params.top_p < 1:
        ordered, ids = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered                # mass of the likelier ones; the first is always kept
        probs = probs.index_fill(-1, ids[before >= params.top_p], 0.0)
        probs = probs / probs.sum()
    return probs
