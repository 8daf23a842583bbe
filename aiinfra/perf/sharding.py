"""How the memory of a training step is divided among ranks, each with a device of its own.

                       parameters   gradients   optimizer    in flight
    copies             whole        whole       whole        nothing
    stage 1 (ZeRO)     whole        whole       1/N          nothing
    stage 2            whole        1/N         1/N          a layer's gradients, before they are divided
    stage 3 = FSDP     1/N          1/N         1/N          and parameters of two layers, whole
    tensor parallel    1/T of every matrix, of its gradient and moments, and of what lies between two of them

Copies see different rows, and so divide no activations; ranks of one tensor-parallel group see the same ones.
Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054; Shoeybi et al. 2019 (Megatron-LM), arXiv 1909.08053.
Notebook 05.
"""

from dataclasses import replace

from aiinfra.config import config
from aiinfra.perf.training import DecoderShape

STAGES = (0, 1, 2, 3)
_DIVIDED = {"optimizer": 1, "gradients": 2, "parameters": 3}        # from which stage on


@config
class Sharding:
    """`ranks` that see different rows divide what `stage` says; each of them may be `tensor` ranks that
    share every matrix."""

    ranks: int = 1
    stage: int = 0
    tensor: int = 1

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage={self.stage!r}; it must be 0 (nothing is divided), 1 (the optimizer's "
                             "state), 2 (gradients, too) or 3 (parameters, too: FSDP).")
        if self.ranks < 1 or self.tensor < 1:
            given = f"ranks={self.ranks}, tensor={self.tensor}"
            raise ValueError(f"{given}; both must be at least 1.")

    def part(self, kind: str, nbytes: int) -> int:
        """Of so many bytes of parameters, gradients or optimizer, what one rank holds."""
        if self.stage < _DIVIDED[kind]:
            return nbytes
        return -(-nbytes // self.ranks)

    @property
    def divides_gradients(self) -> bool:
        """True if a layer's gradients are summed and divided as soon as they are there."""
        return self.stage >= _DIVIDED["gradients"] and self.ranks > 1

    @property
    def gathers_parameters(self) -> bool:
        """True if a layer's parameters are whole only while it runs."""
        return self.stage >= _DIVIDED["parameters"] and self.ranks > 1


def shape_of_a_rank(shape: DecoderShape, tensor: int) -> DecoderShape:
    """What the largest rank of a tensor-parallel group has of a config: some heads, some of the feed-forward,
    some of the vocabulary. Raises ValueError if heads or feed-forward cannot be divided."""
    divided = {}
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        whole = getattr(shape, name)
        if whole % tensor:
            raise ValueError(f"{name}={whole} cannot be divided among {tensor} tensor-parallel ranks. "
                             "Choose a number that divides it.")
        divided[name] = whole // tensor
    return replace(shape, vocab_size=-(-shape.vocab_size // tensor), **divided)
