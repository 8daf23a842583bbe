"""The memory of a training step before it is taken: bytes by kind, from one moment to the next.

    bytes ▲                 ╱╲ loss
          │              ╱╱╱  ╲╲
          │           ╱╱╱       ╲╲╲                 activations grow through the forward pass, layer by layer,
          │        ╱╱╱             ╲╲╲              and are let go through the backward pass, while gradients
          │ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒      come into being
          │ ████████████████████████████████████    parameters, and AdamW's two moments of each
          └──forward───────┴loss┴─backward──┴optimizer►

`memory_recorder` measures the same, as the same records, and the tests hold one against the other. What an
operation uses inside itself is not counted, nor what the allocator keeps in reserve. Notebook 05.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiinfra.perf.activations import WIDE, kept_by, layer_activations, score_bytes
from aiinfra.perf.experts import feed_forward_weights
from aiinfra.perf.sharding import Sharding, shape_of_a_rank
from aiinfra.perf.training import DecoderShape, attention_weights

TEMPORARY = "temporary"
IN_FLIGHT = "in flight"      # between ranks: parameters gathered, gradients not divided yet
_CHUNK_ROWS = 256            # of logits at once, at least: kernels/cross_entropy.py
_LAST_MADE = ("sum", "gate and up", "gate open", "gated")      # what a layer's last operations have made


@dataclass(frozen=True)
class MemoryMoment:
    """What lives at a moment of a step: after one operation, or at the height of a layer."""

    phase: str
    operation: str
    by_kind: dict[str, int]        # bytes

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(self.by_kind.values())


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by kind on one rank, and what lives at each moment of a step that is not the first."""

    parameters: int
    gradients: int
    optimizer: int
    activations: dict[str, int]      # at the end of forward, by operation, all layers together
    loss: int                        # the gradients that are made with the loss
    moments: tuple[MemoryMoment, ...]

    @property
    def highest(self) -> MemoryMoment:
        """The moment in which most lives."""
        return max(self.moments, key=lambda moment: moment.nbytes)

    @property
    def peak(self) -> int:
        """The most that lives at once."""
        return self.highest.nbytes

    @property
    def phases(self) -> dict[str, int]:
        """The peak of each phase: forward, loss, backward, optimizer."""
        peaks: dict[str, int] = {}
        for moment in self.moments:
            peaks[moment.phase] = max(moment.nbytes, peaks.get(moment.phase, 0))
        return peaks

    @property
    def temporary(self) -> int:
        """What the peak has beyond parameters, optimizer, activations and loss."""
        kept = self.parameters + self.optimizer + sum(self.activations.values()) + self.loss
        return max(0, self.peak - kept)


def parameter_count(shape: DecoderShape) -> int:
    """Weights of the decoder, biases and all experts included; a tied table counts once."""
    table = shape.vocab_size * shape.hidden_size
    untied = 0 if shape.tie_word_embeddings else table
    layers = shape.num_hidden_layers * (_attention_weights(shape) + _small_weights(shape))
    return layers + feed_forward_weights(shape).total + table + untied + shape.hidden_size


def _small_weights(shape: DecoderShape) -> int:
    """Of a layer: the biases and the norms of q and k that its config may ask for."""
    D = shape.hidden_size
    mla = getattr(shape, "mla", None)
    found = 0
    if getattr(shape, "qkv_bias", False):
        found += (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    if getattr(shape, "qk_norm", False):
        found += 2 * shape.head_dim
    if getattr(shape, "mlp_bias", False):
        found += 2 * shape.intermediate_size + D
    if getattr(shape, "out_bias", False):
        found += D
        if mla is not None:                     # latent attention has them in front too
            found += mla.kept_size + (mla.q_lora_rank or 0)
    return found


def _attention_weights(shape: DecoderShape) -> int:
    """Of a layer: around attention, and two norms; latent attention has norms within."""
    norms = 2 * shape.hidden_size
    mla = getattr(shape, "mla", None)
    if mla is not None:
        norms += mla.kv_lora_rank + (mla.q_lora_rank or 0)
    return attention_weights(shape) + norms


def _layer_weights(shape: DecoderShape) -> int:
    """Of a dense layer: qkv and out, gate, up and down, norms and biases."""
    matrices = 3 * shape.hidden_size * shape.intermediate_size
    return _attention_weights(shape) + _small_weights(shape) + matrices


def predict_memory(shape: DecoderShape, lengths: Sequence[int], policy: str = "none", accumulate: int = 1,
                   narrow: bool = False, sharding: Sharding = Sharding(), backend: str = "torch",
                   score_matrix: bool = False) -> MemoryPlan:
    """A step over micro-batches of documents of these lengths, float32 weights, AdamW (fused), on one rank.

    policy: activation checkpointing, "none", "operation" or "block". accumulate: micro-batches a step.
    narrow: autocast to 16 bits. sharding: among which ranks it is divided; lengths are those of one rank's
    rows. backend: "torch" as on a CPU, or "triton" as on a GPU. score_matrix: attention keeps a weight for
    each pair of tokens, as the plain formula does. Raises ValueError for a mixture of experts, whose
    activations depend on what its router chooses, and for latent attention, which nobody has counted yet.
    """
    if getattr(shape, "moe", None) is not None:
        raise ValueError("the memory of a training step is not predicted for a mixture of experts: what "
                         "lives depends on the router. Measure it: aiinfra.perf.memory_recorder.")
    if getattr(shape, "mla", None) is not None:
        raise ValueError("the memory of a training step is not predicted for latent attention (kv_lora_rank "
                         "in the config): its parameters and FLOPs are. Measure it: "
                         "aiinfra.perf.memory_recorder.")
    part = shape_of_a_rank(shape, sharding.tensor)
    step = _Step(part, lengths, policy=policy, narrow=narrow, backend=backend, score_matrix=score_matrix)
    weights = parameter_count(part) * WIDE
    states = _States(
        parameters=sharding.part("parameters", weights),
        gradients=sharding.part("gradients", weights),
        optimizer=sharding.part("optimizer", 2 * weights),
        sharding=sharding,
        waiting=accumulate > 1)
    return MemoryPlan(
        parameters=states.parameters,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=step.activations(),
        loss=step.loss,
        moments=tuple(_moments(step, states)))


@dataclass(frozen=True)
class _States:
    """What lives from step to step, on one rank, in bytes."""

    parameters: int
    gradients: int
    optimizer: int
    sharding: Sharding
    waiting: bool                    # gradients of the micro-batches before are there from the start

    def moment(self, phase: str, operation: str, gradients: int = 0, **kinds: int) -> MemoryMoment:
        """These, gradients as far as they have come, and other kinds."""
        if self.waiting:
            gradients = self.gradients
        held = {"parameters": self.parameters, "optimizer": self.optimizer, "gradients": gradients}
        named = {name.replace("_", " "): nbytes for name, nbytes in kinds.items()}
        living = {kind: nbytes for kind, nbytes in (held | named).items() if nbytes > 0}
        return MemoryMoment(phase, operation, living)


def _moments(step: "_Step", states: _States) -> Iterator[MemoryMoment]:
    """From the first layer's forward pass to the update."""
    yield from _forward(step, states)
    kept = sum(step.activations().values())
    root, layer = step.gathered(states.sharding)
    yield states.moment("loss", "chunks of logits", activations=kept, loss=step.loss,
                        temporary=step.in_loss(), in_flight=root + layer)
    yield states.moment("backward", "loss", activations=kept - step.hidden, loss=2 * step.loss,
                        in_flight=root + layer)
    yield from _backward(step, states)
    yield states.moment("optimizer", "update", gradients=states.gradients)


def _forward(step: "_Step", states: _States) -> Iterator[MemoryMoment]:
    root, layer = step.gathered(states.sharding)
    in_hand = step.in_forward()
    for done in range(1, step.layers + 1):
        yield states.moment("forward", f"layer {done}", activations=step.kept_by_layers(done),
                            temporary=in_hand, in_flight=root + 2 * layer)
    yield states.moment("forward", "last norm", activations=sum(step.activations().values()),
                        in_flight=root + layer)


def _backward(step: "_Step", states: _States) -> Iterator[MemoryMoment]:
    """Layers that are done have let their activations go, and left gradients."""
    sharding = states.sharding
    root, layer = step.gathered(sharding)
    own = sharding.part("gradients", step.layer_weights)
    for left in range(step.layers, 0, -1):
        done = step.layers - left
        summing = step.layer_weights if sharding.divides_gradients and done else 0
        in_flight = root + layer + summing
        if left > 1:
            in_flight += layer                   # of the next one, under way
        yield states.moment("backward", f"layer {left}", gradients=done * own,
                            activations=step.kept_by_layers(left), loss=step.table,
                            temporary=step.in_backward(), in_flight=in_flight)
        if sharding.divides_gradients:           # the layer's gradients are whole, the next one's not begun
            yield states.moment("backward", f"gradients of layer {left}", gradients=done * own,
                                activations=step.kept_by_layers(left - 1), loss=step.table,
                                temporary=step.layer_weights + step.hidden, in_flight=in_flight)
    last = step.layer_weights if sharding.divides_gradients else 0
    yield states.moment("backward", "embedding", gradients=states.gradients, loss=step.table,
                        temporary=step.hidden, in_flight=root + last)


class _Step:
    """The sizes, in bytes, of one micro-batch's pass."""

    def __init__(self, shape: DecoderShape, lengths: Sequence[int], policy: str, narrow: bool, backend: str,
                 score_matrix: bool) -> None:
        self.shape = shape
        self.narrow = narrow
        self.backend = backend
        self.layers = shape.num_hidden_layers
        self.tokens = sum(lengths)
        self.value = 2 if narrow else WIDE
        self.wide = self.value if backend == "triton" else WIDE             # of the residual stream
        self.stream = self.tokens * shape.hidden_size * self.wide
        self.hidden = self.tokens * shape.hidden_size * self.value
        self.table = shape.vocab_size * shape.hidden_size * WIDE
        self.layer_weights = _layer_weights(shape) * WIDE
        self.loss = self.hidden + self.table
        each = layer_activations(shape, len(set(lengths)) > 1, narrow, backend)
        self.layer = {name: nbytes * self.tokens for name, nbytes in each.items()}
        if score_matrix:
            self.layer["attention weights"] = score_bytes(shape, lengths)
            del self.layer["attention sums"]
        self.kept = self._kept(policy, backend)

    def _kept(self, policy: str, backend: str) -> dict[str, int]:
        if policy == "none":
            return self.layer
        products = {"attention out": self.hidden, "down out": self.hidden}       # kept although nobody asks
        made = self.layer | products | {"input": self.hidden}
        return {name: made[name] for name in kept_by(policy, backend) if name in made}

    def activations(self) -> dict[str, int]:
        """At the end of forward, all layers together."""
        found = {name: nbytes * self.layers for name, nbytes in self.kept.items()}
        found["angles"] = 2 * self.tokens * self.shape.head_dim * self.value
        unit_rows = self.stream if self.backend == "torch" else 0
        found["last norm"] = unit_rows + self.stream + self.hidden + WIDE * self.tokens
        if self.narrow:
            found["weights in 16 bits"] = self.layers * self.layer_weights // 2
        return found

    def kept_by_layers(self, count: int) -> int:
        """Of so many layers, and what serves all of them."""
        found = self.activations()
        of_all = found["angles"]
        of_layers = sum(found.values()) - of_all - found["last norm"]
        return of_all + of_layers * count // self.layers

    def in_forward(self) -> int:
        """What a layer has in hand at its end, and will let go."""
        in_hand = sum(self.layer.get(name, 0) for name in _LAST_MADE if name not in self.kept)
        return max(0, self.hidden + in_hand - self.kept.get("down out", 0))

    def in_loss(self) -> int:
        """A chunk of logits and one of its size, or a gradient of the table beside it; the kernel writes over
        its chunk."""
        V = self.shape.vocab_size
        rows = min(self.tokens, max(_CHUNK_ROWS, self.tokens * self.shape.hidden_size // V))
        chunk = rows * V * WIDE
        if self.backend == "triton":
            return self.value * rows * V + self.table
        if self.narrow:
            return chunk // 2 + 2 * chunk + self.table // 2
        return 2 * chunk

    def in_backward(self) -> int:
        """What a layer in its backward pass has in hand: the gradient of its output, three of its gate, one
        of a matrix, and what has to be done again."""
        D, F = self.shape.hidden_size, self.shape.intermediate_size
        gate = self.tokens * F * (3 * WIDE - self.value)
        again = sum(nbytes for name, nbytes in self.layer.items() if name not in self.kept)
        return self.hidden + D * F * WIDE + gate + again

    def gathered(self, sharding: Sharding) -> tuple[int, int]:
        """Bytes of parameters that are whole while they are used: of the tables and the last norm, through
        the whole step, and of a layer."""
        if not sharding.gathers_parameters:
            return 0, 0
        root = parameter_count(self.shape) * WIDE - self.layers * self.layer_weights
        return root, self.layer_weights
