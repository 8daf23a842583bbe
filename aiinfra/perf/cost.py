"""What an operation costs before anyone has timed it: arithmetic and traffic.

    cost = linear(tokens=1, inputs=576, outputs=1536)      # Cost(flops, bytes)
    cost.intensity                                         # FLOPs per byte: 0.5

Time is at least the larger of `flops / peak FLOP/s` and `bytes / bandwidth`; `roofline`
says which one binds. A multiply-add counts as two FLOPs. Bytes are the least that must
cross the memory bus: every input read once, every output written once. Notebook 00.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Arithmetic (`flops`) and memory traffic (`bytes`) of a piece of work; they add up."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times)

    __rmul__ = __mul__

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0 for work that moves nothing."""
        return self.flops / self.bytes if self.bytes else 0.0


def linear(tokens: int, inputs: int, outputs: int, bytes_per_value: float = 4,
           bytes_per_weight: float | None = None) -> Cost:
    """Cost of y[tokens, outputs] = x[tokens, inputs] @ w[outputs, inputs].T, each touched once."""
    weight_bytes = inputs * outputs * (bytes_per_weight or bytes_per_value)
    return Cost(2.0 * tokens * inputs * outputs,
                weight_bytes + tokens * (inputs + outputs) * bytes_per_value)
