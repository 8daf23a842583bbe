"""Does every mix of parallelism compute what one process does? A table that says by how much they differ.

    mix                  one process    ┐  three steps of the real loop, from the same seed, over the same
    mesh dp=2,tp=2       4 ranks        ┘  uneven micro-batches; compared: loss, gradient norm, every
                                           gradient, every parameter after the third step

The differences are of rounding only: sums over ranks have another order. In float64 they are near 1e-16, and
a fault of any kind is near 1. Notebook 06.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aiinfra.model.balance import routers_of
from aiinfra.model.config import ModelConfig
from aiinfra.model.mla_config import MLAConfig
from aiinfra.model.moe_config import MoEConfig
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.launch import RankFailed, launch, rank_device
from aiinfra.parallel.mesh import make_mesh, parse_mesh
from aiinfra.parallel.mixes import Mix
from aiinfra.parallel.parallelize import parallelize, whole_name
from aiinfra.parallel.parts import split_parts
from aiinfra.train.data import IGNORED, MicroBatch
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw

STEPS = 3
MICRO_BATCHES = 8            # a step
TOKENS = 24                  # a micro-batch
_CLIP = 0.5                  # shorter than the gradients are, so that clipping counts
# In float32 gradients differ by some 1e-6. Adam divides each by its own size: where one is nearly 0, its
# parameter differs by ten times as much.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


@dataclass(frozen=True)
class Differences:
    """The largest differences from one process, over all steps and ranks."""

    loss: float
    gradient_norm: float
    gradients: float
    parameters: float

    @property
    def worst(self) -> float:
        """The largest of them; nan if one is not a number."""
        values = list(asdict(self).values())
        return math.nan if any(map(math.isnan, values)) else max(values)


@dataclass(frozen=True)
class Trajectory:
    """Three steps of training: what is compared."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]       # of each step, by the names that a mesh has
    parameters: dict[str, Tensor]            # after the last


_SMALL_LATENT = MLAConfig(
    kv_lora_rank=8,
    q_lora_rank=12,
    qk_nope_head_dim=4,
    qk_rope_head_dim=4,
    v_head_dim=6)


def small_config(mix: Mix) -> ModelConfig:
    """A decoder small enough for eight processes on two cores, whose sizes 2 and 4 divide."""
    return ModelConfig(
        vocab_size=50,                       # no multiple of 4: shards are uneven
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=4,
        intermediate_size=24,
        max_position_embeddings=64,
        tie_word_embeddings=mix.tied,
        moe=_small_experts(mix.experts),
        mla=_SMALL_LATENT if mix.latent else None)


def _small_experts(kind: str) -> MoEConfig | None:
    """Eight experts in all layers but the first, with a loss and a bias that move the router fast."""
    if not kind:
        return None
    return MoEConfig(
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=6,
        n_shared_experts=1,
        first_k_dense_replace=1,
        scoring_func="softmax" if kind == "softmax" else "sigmoid",
        router_aux_loss_coef=0.3,
        bias_update_speed=0.05)


def small_model(mix: Mix, dtype: torch.dtype) -> Transformer:
    """The same values on every rank, large enough that every gradient counts."""
    torch.manual_seed(0)
    model = Transformer(small_config(mix))
    model.init_weights(std=0.3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    if mix.experts == "overloaded":
        for router in routers_of(model):
            router.bias[:2] = 9.0                # every token takes the first two, and nobody the others
    return model.to(dtype)


def micro_batches(count: int) -> list[MicroBatch]:
    """Uneven ones: documents of any length, ragged masks, and one of eight without a valid token."""
    random = torch.Generator().manual_seed(1)
    return [_micro_batch(number, random) for number in range(count)]


def _micro_batch(number: int, random: torch.Generator) -> MicroBatch:
    tokens = torch.randint(0, 50, (TOKENS + 1,), generator=random)
    border = int(torch.randint(1, TOKENS, (), generator=random))
    kept = torch.rand(TOKENS, generator=random) > number % 4 / 4
    if number % MICRO_BATCHES == 2:
        kept = torch.zeros(TOKENS, dtype=torch.bool)
    lengths = [border, TOKENS - border]
    return MicroBatch(
        tokens=tokens[:-1],
        targets=torch.where(kept, tokens[1:], IGNORED),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        documents=PackedDocuments(torch.tensor([0, border, TOKENS], dtype=torch.int32), longest=max(lengths)),
        valid=int(kept.sum()),
        text_bytes=0)


def one_process(mix: Mix, dtype: torch.dtype) -> Trajectory:
    """The trajectory of the same model without a mesh, under the names that it has on one."""
    model = small_model(mix, dtype)
    optimizer = adamw(model)
    records = loop(model, micro_batches(STEPS * MICRO_BATCHES), optimizer, _schedule(),
                   accumulate=MICRO_BATCHES, clip_norm=_CLIP)
    losses, norms, gradients = [], [], []
    for record in records:
        losses.append(record.loss)
        norms.append(record.gradient_norm)
        gradients.append(_named(model, [parameter.grad for parameter in model.parameters()], mix))
    return Trajectory(
        losses=losses,
        norms=norms,
        gradients=gradients,
        parameters=_named(model, list(model.parameters()), mix))


def _schedule() -> Schedule:
    return Schedule(peak=1e-2, steps=STEPS, warmup=1)


def _named(model: Transformer, values: Sequence[Tensor], mix: Mix) -> dict[str, Tensor]:
    """Values of a model's parameters by the names that its parts have."""
    holder = Transformer(small_config(mix)).to(model.dtype)
    with torch.no_grad():
        for parameter, value in zip(holder.parameters(), values, strict=True):
            parameter.copy_(value)
    split_parts(holder)
    return {name: parameter.detach().clone() for name, parameter in holder.named_parameters()}


def on_a_mesh(mix: Mix, dtype: torch.dtype, trajectory: Trajectory) -> tuple[Differences, set[str]]:
    """What a rank finds: how its part differs from one process, and the parameters that it has a part of."""
    mesh = make_mesh(parse_mesh(mix.mesh))
    model = small_model(mix, dtype).to(rank_device())
    parallel = parallelize(model, mesh, MICRO_BATCHES, mix.options)
    batches = parallel.own_batches(micro_batches(STEPS * MICRO_BATCHES))
    records = loop(parallel.model, batches, parallel.optimizer(), _schedule(), accumulate=parallel.accumulate,
                   clip_norm=_CLIP, ranks=parallel.ranks, passes=parallel.passes)
    found = []
    for step, record in enumerate(records):
        gradients = {name: parameter.grad for name, parameter in parallel.model.named_parameters()}
        found.append(Differences(
            loss=abs(record.loss - trajectory.losses[step]),
            gradient_norm=abs(record.gradient_norm - trajectory.norms[step]),
            gradients=_largest(gradients, trajectory.gradients[step]),
            parameters=0.0))
    parameters = dict(parallel.model.named_parameters())
    last = replace(found[-1], parameters=_largest(parameters, trajectory.parameters))
    return _worst([*found, last]), set(parameters)


def _largest(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any value."""
    return max(_difference(value, theirs[whole_name(name, theirs)]) for name, value in mine.items())


def _difference(mine: Tensor | None, theirs: Tensor) -> float:
    if mine is None:
        return math.nan
    if isinstance(mine, DTensor):
        mine = mine.full_tensor()
    return float((mine.detach().cpu() - theirs).abs().max())


def _worst(found: Iterable[Differences]) -> Differences:
    found = list(found)
    columns = {name: [getattr(one, name) for one in found] for name in asdict(found[0])}
    return Differences(**{name: _maximum(values) for name, values in columns.items()})


def _maximum(values: list[float]) -> float:
    """Python's max overlooks what is not a number."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def check_mixes(mixes: Sequence[Mix], dtype: torch.dtype) -> list[Differences]:
    """How each mix, all of the same number of ranks, differs from one process. Raises RankFailed for a rank
    that raised, ValueError if a parameter is on no rank."""
    trajectories = [one_process(mix, dtype) for mix in mixes]
    ranks, = {mix.ranks for mix in mixes}
    told = launch(_rank_checks, ranks, list(mixes), trajectories, dtype)
    by_mix = zip(mixes, trajectories, *told)
    return [_together(mix, trajectory, list(of_ranks)) for mix, trajectory, *of_ranks in by_mix]


def check_in_turns(mixes: Iterable[Mix],
                   dtype: torch.dtype) -> Iterator[tuple[Mix, Differences | RankFailed]]:
    """Each mix with how it differs, as soon as that is known, or with why it could not be tried."""
    for mix in mixes:
        try:
            found, = check_mixes([mix], dtype)
        except RankFailed as error:
            found = error
        yield mix, found


def _rank_checks(mixes: list[Mix], trajectories: list[Trajectory],
                 dtype: torch.dtype) -> list[tuple[Differences, set[str]]]:
    return [on_a_mesh(mix, dtype, trajectory) for mix, trajectory in zip(mixes, trajectories)]


def _together(mix: Mix, trajectory: Trajectory, of_ranks: list[tuple[Differences, set[str]]]) -> Differences:
    present = set().union(*(names for _, names in of_ranks))
    present = {whole_name(name, trajectory.parameters) for name in present}
    if missing := trajectory.parameters.keys() - present:
        raise ValueError(f"{mix.name} {mix.mesh}: no rank has {min(missing)}.")
    return _worst(differences for differences, _ in of_ranks)
