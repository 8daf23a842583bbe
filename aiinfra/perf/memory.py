"""The memory of a training step before it is taken: bytes by kind, and the peak of each phase.

    bytes ▲                 ╱╲ loss
          │              ╱╱╱  ╲╲
          │           ╱╱╱       ╲╲╲                 activations grow through the forward pass, layer by layer,
          │        ╱╱╱             ╲╲╲              and are let go through the backward pass, while gradients
          │ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒      come into being
          │ ████████████████████████████████████    parameters, and AdamW's two moments of each
          └──forward───────┴loss┴─backward──┴optimizer►

Counted is what PyTorch's operations keep, one by one, on the path that a CPU takes; `memory_recorder`
measures the same, and the tests hold one against the other. Notebook 05.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aiinfra.perf.training import DecoderShape

_WIDE = 4                    # bytes of a float32
_CHUNK_ROWS = 256            # of logits at once, at least: kernels/cross_entropy.py

# What each policy of activation checkpointing keeps of a layer; see train/recompute.py.
_KEPT = {
    "block": ("input",),
    "operation": ("input", "qkv", "attention", "attention sums", "attention out", "gate and up", "down out"),
}
_LAST_MADE = ("sum", "gate and up", "gate open", "gated")      # what a layer's last operations have made


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by kind, and the most that lives in each phase of a step that is not the first."""

    parameters: int
    gradients: int
    optimizer: int
    activations: dict[str, int]      # at the end of forward, by operation, all layers together
    loss: int                        # the gradients that are made with the loss
    phases: dict[str, int]           # peak of each

    @property
    def peak(self) -> int:
        """The most that lives at once."""
        return max(self.phases.values())

    @property
    def temporary(self) -> int:
        """What the peak has beyond parameters, optimizer, activations and loss."""
        kept = self.parameters + self.optimizer + sum(self.activations.values()) + self.loss
        return max(0, self.peak - kept)


def parameter_count(shape: DecoderShape, qkv_bias: bool = False, qk_norm: bool = False) -> int:
    """Weights of the decoder; a tied table counts once."""
    extra = 0
    if qkv_bias:
        extra += (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    if qk_norm:
        extra += 2 * shape.head_dim
    table = shape.vocab_size * shape.hidden_size
    untied = 0 if shape.tie_word_embeddings else table
    layers = shape.num_hidden_layers * (_layer_weights(shape) + extra)
    return layers + table + untied + shape.hidden_size


def _layer_weights(shape: DecoderShape) -> int:
    """Of a layer: qkv and out, gate, up and down, and two norms."""
    D = shape.hidden_size
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    return D * heads * shape.head_dim + 3 * D * shape.intermediate_size + 2 * D


def layer_activations(shape: DecoderShape, ragged: bool = False, narrow: bool = False) -> dict[str, int]:
    """Bytes a token that one layer keeps for the backward pass, by what made them.

    ragged: documents of different lengths are attended to one by one, and the results copied into one row.
    narrow: matrix products and attention in 16 bits (autocast); norms and the gate stay in float32.
    """
    D, F, Dh = shape.hidden_size, shape.intermediate_size, shape.head_dim
    H, K = shape.num_attention_heads, shape.num_key_value_heads
    value = 2 if narrow else _WIDE
    norm = (_WIDE + value) * D + _WIDE               # rows of unit length, the result, a factor a row
    kept = {
        "input": _WIDE * D,
        "attention norm": norm,
        "qkv": value * (H + 2 * K) * Dh,
        "rotation": value * (H + K) * Dh,
        "attention": value * H * Dh,
        "attention sums": _WIDE * H,
        "sum": _WIDE * D,                            # the stream after attention
        "mlp norm": norm,
        "gate and up": _WIDE * 2 * F,
        "gate open": _WIDE * F,
        "gated": value * F,
    }
    if ragged:
        kept["attention copy"] = value * H * Dh
    return kept


def predict_memory(shape: DecoderShape, lengths: Sequence[int], policy: str = "none", accumulate: int = 1,
                   narrow: bool = False) -> MemoryPlan:
    """A step over micro-batches of documents of these lengths, float32 weights, AdamW (fused).

    policy: activation checkpointing, "none", "operation" or "block". accumulate: micro-batches a step.
    narrow: autocast to 16 bits.
    """
    step = _Step(shape, lengths, policy=policy, narrow=narrow)
    weights = parameter_count(shape) * _WIDE
    held = 3 * weights                               # parameters and two moments
    if accumulate > 1:
        held += weights                              # gradients of the micro-batches before
    made = held + sum(step.activations().values())   # at the end of forward
    return MemoryPlan(
        parameters=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=step.activations(),
        loss=step.loss,
        phases={
            "forward": made + max(0, step.in_forward()),
            "loss": made + step.loss + step.in_loss(),
            "backward": max(
                made - step.hidden + 2 * step.loss,
                made + step.in_layer_backward(first=accumulate == 1),
                held + weights + step.table + step.hidden),
            "optimizer": 4 * weights})


class _Step:
    """The sizes, in bytes, of one micro-batch's pass."""

    def __init__(self, shape: DecoderShape, lengths: Sequence[int], policy: str, narrow: bool) -> None:
        self.shape = shape
        self.narrow = narrow
        self.tokens = sum(lengths)
        self.value = 2 if narrow else _WIDE
        self.stream = self.tokens * shape.hidden_size * _WIDE
        self.hidden = self.tokens * shape.hidden_size * self.value
        self.table = shape.vocab_size * shape.hidden_size * _WIDE
        self.loss = self.hidden + self.table
        each = layer_activations(shape, ragged=len(set(lengths)) > 1, narrow=narrow)
        self.layer = {name: nbytes * self.tokens for name, nbytes in each.items()}
        self.kept = self._kept(policy)

    def _kept(self, policy: str) -> dict[str, int]:
        if policy == "none":
            return self.layer
        products = {"attention out": self.hidden, "down out": self.hidden}       # kept although nobody asks
        made = self.layer | products | {"input": self.hidden}
        return {name: made[name] for name in _KEPT[policy]}

    def activations(self) -> dict[str, int]:
        """At the end of forward, all layers together."""
        layers = self.shape.num_hidden_layers
        found = {name: nbytes * layers for name, nbytes in self.kept.items()}
        found["angles"] = 2 * self.tokens * self.shape.head_dim * self.value
        found["last norm"] = 2 * self.stream + self.hidden + _WIDE * self.tokens
        if self.narrow:
            found["weights in 16 bits"] = layers * 2 * _layer_weights(self.shape)
        return found

    def in_forward(self) -> int:
        """What the last layer has in hand, and will let go, beyond what is there at the end."""
        in_hand = sum(self.layer[name] for name in _LAST_MADE if name not in self.kept)
        return in_hand - 2 * self.stream - self.kept.get("down out", 0)

    def in_loss(self) -> int:
        """A chunk of logits and three of its size, or a gradient of the table beside it."""
        V = self.shape.vocab_size
        rows = min(self.tokens, max(_CHUNK_ROWS, self.tokens * self.shape.hidden_size // V))
        chunk = rows * V * _WIDE
        if self.narrow:
            return chunk // 2 + 4 * chunk + self.table // 2
        return max(4 * chunk, chunk + self.table)

    def in_layer_backward(self, first: bool) -> int:
        """Beyond the end of forward: the last norm has gone, the table's gradient and the layer's input have
        come, and the gate has three gradients at once. Layers that are done let activations go, and leave
        gradients."""
        D, F = self.shape.hidden_size, self.shape.intermediate_size
        gate = self.tokens * F * (3 * _WIDE - self.value)
        again = sum(nbytes for name, nbytes in self.layer.items() if name not in self.kept)
        layer_weights = _layer_weights(self.shape) * _WIDE
        done = layer_weights - sum(self.kept.values()) if first else 0
        others = max(0, done) * (self.shape.num_hidden_layers - 1)
        came = self.table + self.hidden + D * F * _WIDE
        return came - 2 * self.stream - self.hidden + gate + again + others
