"""How a model is spread over GPUs, and what one of them then holds.

    tp    ranks that share every matrix by heads or columns, and see the same tokens
    dp    groups of such ranks, each with requests and a KV cache of its own
    ep    ranks that experts are spread over, whole; with dp > 1 tokens travel to them (all-to-all)

    llama, 8 GPUs       tp=8                  each: 1/8 of the weights, 1/8 of the KV heads
    deepseek, 8 GPUs    tp=8                  each: 1/8 of the weights, but *all* of the latent KV cache
                        tp=1 dp=8 ep=8        attention copied, experts divided, caches of 8 times the room

With dp > 1 and ep = 1 nothing is shared: these are replicas. Latent attention keeps one vector for all heads,
so tensor parallelism has nothing to divide: every rank keeps a copy. Notebook 18.
"""

from dataclasses import dataclass
from math import inf

from aiinfra.config import config
from aiinfra.errors import nearest
from aiinfra.model import ModelConfig
from aiinfra.plan.machine import Machine
from aiinfra.plan.models import ServedModel

_SCALES = 0.25                              # bits of scales and offsets that each 4-bit weight brings along


@config
class Precision:
    """Bits of a weight: of matrices, and of experts'; and of the numbers that are multiplied."""

    matrix_bits: float
    expert_bits: float
    compute_bits: int

    def computing(self, bits: float) -> int:
        """Bits of the numbers that a weight of `bits` is multiplied with: 8 only where the weight has 8."""
        return self.compute_bits if bits < 16 else max(16, self.compute_bits)

    @property
    def rounds_inputs(self) -> bool:
        """True if inputs are rounded to 8 bits before each product, by a kernel of its own."""
        return self.compute_bits == 8


PRECISIONS = {
    "fp32": Precision(matrix_bits=32, expert_bits=32, compute_bits=32),
    "bf16": Precision(matrix_bits=16, expert_bits=16, compute_bits=16),
    "fp8": Precision(matrix_bits=8, expert_bits=8, compute_bits=8),
    "int4": Precision(matrix_bits=4 + _SCALES, expert_bits=4 + _SCALES, compute_bits=16),
    "mxfp4": Precision(matrix_bits=16, expert_bits=4 + _SCALES, compute_bits=16),       # of gpt-oss
}
KV_BITS = {"bf16": 16, "fp8": 8, "fp32": 32}


def precision_of(name: str) -> Precision:
    """By name. Raises ValueError for an unknown one."""
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r} is not known.{nearest(name, PRECISIONS)} Known: "
                         f"{', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def kv_bits_of(name: str) -> int:
    """Bits of a kept key or value, by name. Raises ValueError for an unknown one."""
    if name not in KV_BITS:
        raise ValueError(f"kv={name!r} is not known.{nearest(name, KV_BITS)} Known: {', '.join(KV_BITS)}.")
    return KV_BITS[name]


@config
class ServingSplit:
    """Of one replica. Raises ValueError for numbers that cannot be together."""

    tp: int = 1
    dp: int = 1
    ep: int = 1
    redundant_experts: int = 0              # copies of the busiest, so that all ranks have equally many
    imbalance: float = 1.15                 # with ep > 1: what the busiest rank has, over the mean
    two_batches: bool = False               # one half's transfers overlap the other half's products

    def __post_init__(self) -> None:
        for name in ("tp", "dp", "ep"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; it must be a whole number of at least 1.")
        if self.redundant_experts < 0:
            raise ValueError(f"redundant_experts={self.redundant_experts}; it must be at least 0.")
        if not 1 <= self.imbalance < inf:
            raise ValueError(f"imbalance={self.imbalance:g}; it must be a number of at least 1: the busiest "
                             "over the mean.")
        self._check_groups()

    def _check_groups(self) -> None:
        if self.ep > 1 and (self.tp * self.dp) % self.ep:
            raise ValueError(f"ep={self.ep} does not divide tp · dp = {self.tp * self.dp} ranks. Choose "
                             f"ep={self.tp * self.dp}.")
        if self.redundant_experts and self.ep == 1:
            raise ValueError(f"redundant_experts={self.redundant_experts}, but ep=1: nothing is spread that "
                             "copies could even out. Leave it at 0, or raise ep.")
        if self.two_batches and self.groups == 1:
            raise ValueError(f"two_batches, but dp={self.dp} and ep={self.ep}: no tokens travel to experts "
                             "that products could overlap. Leave it out, or raise dp and ep.")

    @property
    def gpus(self) -> int:
        """Ranks of a replica. With dp > 1 and ep = 1 each dp group is a replica of its own."""
        return self.tp * self.groups

    @property
    def groups(self) -> int:
        """How many groups with requests of their own share experts."""
        return self.dp if self.ep > 1 else 1

    @property
    def expert_ways(self) -> int:
        """So many ranks share one expert by columns."""
        return self.gpus // self.ep

    def check(self, model: ServedModel) -> None:
        """Raise ValueError if this model cannot be spread so."""
        shape = model.config
        heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        if heads % self.tp:
            raise ValueError(f"tp={self.tp} does not divide {model.name}'s {heads} heads. Choose one of "
                             f"{_divisors(heads)}.")
        if shape.mla is None and kv_heads % self.tp and self.tp % kv_heads:
            raise ValueError(f"tp={self.tp} neither divides {model.name}'s {kv_heads} KV heads nor is a "
                             "multiple of them. Choose a power of two.")
        if self.ep == 1:
            return
        if shape.moe is None:
            raise ValueError(f"ep={self.ep}, but {model.name} has no experts. Leave ep at 1.")
        slots = shape.moe.num_experts + self.redundant_experts
        if slots % self.ep:
            missing = -slots % self.ep
            raise ValueError(f"ep={self.ep} does not divide {slots} experts. Add "
                             f"redundant_experts={self.redundant_experts + missing}, or choose another ep.")


def _divisors(number: int) -> str:
    return ", ".join(str(one) for one in range(1, number + 1) if number % one == 0)


@dataclass(frozen=True)
class RankMatrix:
    """A matrix as one rank has it, in so many layers."""

    part: str
    inputs: int
    outputs: int
    layers: int
    bits: float
    compute_bits: int

    @property
    def nbytes(self) -> float:
        """Of one layer."""
        return self.inputs * self.outputs * self.bits / 8


@dataclass(frozen=True)
class RankExperts:
    """The routed experts of a rank: `slots` of them, up and down, in so many layers."""

    slots: int
    width: int                              # of the model
    inner: int                              # of the rank's part of an expert
    layers: int
    bits: float
    compute_bits: int

    @property
    def nbytes(self) -> float:
        """Of one expert's part, in one layer: gate, up and down."""
        return 3 * self.width * self.inner * self.bits / 8


def matrices_of(model: ServedModel, split: ServingSplit, precision: Precision) -> list[RankMatrix]:
    """All matrices of a rank but the routed experts; the last one is over the vocabulary, in 16 bits, and all
    ranks of a replica share it, whichever group a row comes from."""
    shape = model.config
    sparse = sum(shape.is_sparse(layer) for layer in range(shape.num_hidden_layers))
    dense = shape.num_hidden_layers - sparse
    width = shape.hidden_size
    found = []

    def add(part: str, inputs: int, outputs: int, layers: int, bits: float = precision.matrix_bits) -> None:
        if layers:
            found.append(RankMatrix(
                part=part,
                inputs=inputs,
                outputs=outputs,
                layers=layers,
                bits=bits,
                compute_bits=precision.computing(bits)))

    for inputs, outputs in _around_attention(shape, split.tp):
        add("attention matrices", inputs, outputs, shape.num_hidden_layers)
    inner = -(-shape.intermediate_size // split.tp)
    add("feed-forward", width, 2 * inner, dense)
    add("feed-forward", inner, width, dense)
    if shape.moe is not None:
        shared = -(-shape.moe.n_shared_experts * shape.moe.moe_intermediate_size // split.tp)
        add("shared expert and router", width, shape.moe.num_experts, sparse, bits=16)
        if shared:
            add("shared expert and router", width, 2 * shared, sparse)
            add("shared expert and router", shared, width, sparse)
    add("vocabulary", width, -(-shape.vocab_size // split.gpus), 1, bits=16)
    return found


def _around_attention(shape: ModelConfig, tp: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of a rank's matrices around attention; latent attention's short rows are copied."""
    width, mla = shape.hidden_size, shape.mla
    heads = shape.num_attention_heads // tp
    if mla is None:
        kv_heads = max(1, shape.num_key_value_heads // tp)
        joint = (heads + 2 * kv_heads) * shape.head_dim
        return [(width, joint), (heads * shape.head_dim, width)]
    query = heads * mla.qk_head_dim
    found = [(mla.qk_nope_head_dim, heads * mla.kv_lora_rank), (mla.kv_lora_rank, heads * mla.v_head_dim),
             (heads * mla.v_head_dim, width)]
    if mla.q_lora_rank is None:
        return [(width, query + mla.kept_size), *found]
    return [(width, mla.q_lora_rank + mla.kept_size), (mla.q_lora_rank, query), *found]


def experts_of(model: ServedModel, split: ServingSplit, precision: Precision) -> RankExperts | None:
    """The routed experts of a rank, or None for a dense model."""
    shape = model.config
    if shape.moe is None:
        return None
    return RankExperts(
        slots=(shape.moe.num_experts + split.redundant_experts) // split.ep,
        width=shape.hidden_size,
        inner=-(-shape.moe.moe_intermediate_size // split.expert_ways),
        layers=sum(shape.is_sparse(layer) for layer in range(shape.num_hidden_layers)),
        bits=precision.expert_bits,
        compute_bits=precision.computing(precision.expert_bits))


def kv_bytes_per_token(model: ServedModel, tp: int, bits: int) -> float:
    """That one rank keeps of a token. KV heads are divided while there are as many as ranks; the vector of
    latent attention is copied. Layers with a window keep no more than it, which is not counted."""
    shape = model.config
    layers = shape.num_hidden_layers - model.windowed_layers
    if shape.mla is not None:
        return layers * shape.mla.kept_size * bits / 8
    kv_heads = max(1, shape.num_key_value_heads / tp)
    return 2 * layers * kv_heads * shape.head_dim * bits / 8


@dataclass(frozen=True)
class Holding:
    """What one rank holds, in bytes, and the tokens of KV cache that are left to its group."""

    weight_bytes: float
    kv_bytes: float                         # of one token
    usable_bytes: float                     # of the GPU, for weights and cache

    @property
    def free_bytes(self) -> float:
        """For the cache; below 0 if not even the weights fit."""
        return self.usable_bytes - self.weight_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return max(0, int(self.free_bytes // self.kv_bytes))


def holding_of(model: ServedModel, machine: Machine, split: ServingSplit, precision: str = "bf16",
               kv: str = "bf16", utilization: float = 0.9, workspace_bytes: float = 2e9) -> Holding:
    """What a rank of this split holds. utilization: share of the GPU's memory that may be used;
    workspace_bytes: of it, for activations and recorded graphs. Raises ValueError as `check` does."""
    split.check(model)
    bits = precision_of(precision)
    weights = sum(matrix.nbytes * matrix.layers for matrix in matrices_of(model, split, bits))
    experts = experts_of(model, split, bits)
    if experts is not None:
        weights += experts.slots * experts.nbytes * experts.layers
    shape = model.config
    if not shape.tie_word_embeddings:
        weights += 2 * shape.hidden_size * shape.vocab_size / split.gpus
    return Holding(
        weight_bytes=weights,
        kv_bytes=kv_bytes_per_token(model, split.tp, kv_bits_of(kv)),
        usable_bytes=machine.memory_bytes * utilization - workspace_bytes)
