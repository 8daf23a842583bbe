"""How much was asked for, and how fast tokens came: what pages count again and again.

    count_operations(call)            every operation that PyTorch is asked for while `call` runs
    decode(engine, prompt, users)     users who ask for the same, step by step: tokens/s outside of prefill

Page 00 builds such a counter by hand; later pages use this one. Pages: 14 and 16.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.engine.engine import Engine
from aiinfra.engine.sampling_params import SamplingParams


class _Counter(TorchDispatchMode):
    asked = 0

    def __torch_dispatch__(self, operation: Callable[..., Any], types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        self.asked += 1
        return operation(*args, **(kwargs or {}))


def count_operations(call: Callable[[], Any]) -> int:
    """How many operations PyTorch is asked for by `call()`, views included."""
    with _Counter() as counter:
        call()
    return counter.asked


@dataclass
class Decoded:
    """What a batch of users got in the steps in which nobody's prompt was read."""

    answers: dict[str, list[int]] = field(default_factory=dict)      # by user, every token
    tokens: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    other_seconds: float = 0.0                                       # planning, guessing, choosing

    @property
    def rate(self) -> float:
        """Tokens per second of all users together."""
        return self.tokens / (self.model_seconds + self.other_seconds)

    @property
    def model_ms(self) -> float:
        """Milliseconds a step in the model."""
        return 1e3 * self.model_seconds / self.steps

    @property
    def other_ms(self) -> float:
        """Milliseconds a step outside of the model."""
        return 1e3 * self.other_seconds / self.steps


def decode(engine: Engine, prompt: list[int], users: int, params: SamplingParams,
           eos_ids: tuple[int, ...] = ()) -> Decoded:
    """Let `users` ask for the same at once, and run the engine until all have their answers."""
    for user in range(users):
        engine.add(f"{user} of {users}", prompt, params, eos_ids)
    seen = Decoded()
    for record in engine.stream():
        for made in record.made:
            seen.answers.setdefault(made.request_id, []).append(made.token_id)
        if all(start >= len(prompt) for _, start, _ in record.ran):
            seen.steps += 1
            seen.tokens += len(record.made)
            seen.model_seconds += record.model_seconds
            seen.other_seconds += record.plan_seconds + record.sample_seconds
    return seen
