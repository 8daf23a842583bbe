"""What a mixture of experts has, and what it uses: two numbers where a dense model has one.

    total     every weight: what memory must hold, and an optimizer must move
    active    those of the k experts that a token takes: what it is multiplied with

At batch 1 a step reads the active ones; at batch b those of the E(1 − (1 − k/E)^b) experts that are hit.
Notebook 17.
"""

from dataclasses import dataclass
from typing import Protocol


class MixtureShape(Protocol):
    """What the formulas ask of a mixture; `aiinfra.model.MoEConfig` is one."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int

    def is_sparse(self, layer: int) -> bool:
        """True if the layer of that number has experts."""
        ...


class FeedForwardShape(Protocol):
    """What the formulas ask of a decoder's config. `moe`: a MixtureShape, or None, or not there."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int


@dataclass(frozen=True)
class FeedForwardWeights:
    """Weights of all layers' feed-forward matrices, routers included."""

    active: int
    total: int


def experts_hit(experts: int, chosen: int, tokens: float) -> float:
    """How many of `experts` have a row on average, when each token chooses `chosen` of them by chance:
    E · (1 − (1 − k/E)^tokens). A router with favourites hits fewer."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def feed_forward_weights(shape: FeedForwardShape) -> FeedForwardWeights:
    """Of all layers together; the same number twice for a dense model."""
    layers, dense = shape.num_hidden_layers, 3 * shape.hidden_size * shape.intermediate_size
    moe: MixtureShape | None = getattr(shape, "moe", None)
    if moe is None:
        return FeedForwardWeights(active=layers * dense, total=layers * dense)
    sparse = sum(moe.is_sparse(layer) for layer in range(layers))
    expert = 3 * shape.hidden_size * moe.moe_intermediate_size
    router = shape.hidden_size * moe.num_experts
    in_all_layers = (layers - sparse) * dense
    each_time = expert * moe.n_shared_experts + router
    return FeedForwardWeights(
        active=in_all_layers + sparse * (each_time + expert * moe.num_experts_per_tok),
        total=in_all_layers + sparse * (each_time + expert * moe.num_experts))
