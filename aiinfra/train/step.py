"""What a training step tells: one frozen record, read by progress bars, plots, metrics files and tests
alike."""

import math
from dataclasses import asdict, dataclass


class Diverged(RuntimeError):
    """Loss or gradient norm left the range in which training can go on. The step was not taken."""

    def __init__(self, step: int, loss: float, gradient_norm: float, limit: str) -> None:
        found = f"step {step}: loss {loss:.4g}, gradient norm {gradient_norm:.4g}; {limit}"
        super().__init__(f"{found}. The step was not taken. Go back to the last checkpoint with a lower "
                         "learning rate, or a longer warm-up.")
        self.step = step
        self.loss = loss
        self.gradient_norm = gradient_norm


@dataclass(frozen=True)
class PhaseSeconds:
    """Where a step's time went. They add up to a little less than the step."""

    data: float = 0.0          # making the micro-batches and bringing them to the device
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0     # clipping and the update


@dataclass(frozen=True)
class TrainStep:
    """One step of the optimizer.

    `loss` is the mean over the step's valid tokens, before the update, in nats; nan if there was no valid
    token, and then nothing was updated. MFU is model FLOPs utilisation: the FLOPs that the model's formula
    asks for (recomputation not counted), divided by the seconds, divided by the peak FLOP/s of the device.
    """

    step: int                         # 1 for the first
    loss: float                       # nats a token
    bits_per_byte: float | None       # loss * tokens / ln 2 / bytes of text; None where the batch has no text
    learning_rate: float
    gradient_norm: float              # of the whole step, before clipping
    tokens: int                       # valid targets of this step
    tokens_seen: int                  # of this and of all steps before
    seconds: float
    phases: PhaseSeconds
    peak_bytes: int | None            # most memory in use so far; on a CPU the process's; None if unknown
    flops: float | None = None        # of the model's formula for this step
    peak_flops: float | None = None   # FLOP/s of the device

    @property
    def tokens_per_second(self) -> float:
        """Valid targets a second."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float | None:
        """flops / seconds / peak_flops; None where one of them is not known."""
        if self.flops is None or self.peak_flops is None:
            return None
        return self.flops / self.seconds / self.peak_flops

    def as_json(self) -> dict:
        """A flat dictionary of numbers; what is not finite becomes None, which JSON has."""
        flat = asdict(self)
        phases = flat.pop("phases")
        flat |= {f"{name}_seconds": value for name, value in phases.items()}
        flat |= {"tokens_per_second": self.tokens_per_second, "mfu": self.mfu}
        return {name: _finite(value) for name, value in flat.items()}


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return value
