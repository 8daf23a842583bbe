"""A model cut between its layers: each rank of a pipeline keeps some of them, under the names they had.

    Transformer        embed   layers.0   layers.1   layers.2   layers.3   norm   lm_head
    on 2 ranks         rank 0: embed, layers.0, layers.1     rank 1: layers.2, layers.3, norm, lm_head

A stage is a run of layers; a rank has one, or several under an interleaved schedule. A table that is input
and output at once (tied) is needed at both ends: the first and the last stage keep a copy each, start with
the same values, and add their gradients up, so that the copies stay one. The cut makes the stages as even as
can be, in multiplications: the last layer over the vocabulary often weighs as much as several others, and an
embedding, which only looks up, nothing. Notebook 06.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.mesh import mesh_rank
from aiinfra.parallel.schedule import PipelineTable, ScheduleError


class StageLoss(Protocol):
    """A loss in two halves, as a pipeline needs it: the batch is known everywhere, the rest at the end."""

    def prepare(self, batch: Any) -> Any:
        """The batch as the layers shall see it."""
        ...

    def from_hidden(self, model: nn.Module, hidden: Tensor, batch: Any, total: int) -> Tensor:
        """From the last hidden states [N, D] and `model.lm_head`: the sum over targets, over `total`."""
        ...


class NextTokenLoss:
    """Cross-entropy of what follows each token, where each rank has whole layers."""

    def prepare(self, batch: Any) -> Any:
        """As it is."""
        return batch

    def from_hidden(self, model: nn.Module, hidden: Tensor, batch: Any, total: int) -> Tensor:
        """See StageLoss."""
        return linear_cross_entropy(hidden, model.lm_head.weight, batch.targets, total=total)


class StageLayers(nn.Module):
    """A run of layers; with the embedding if it is the first, with norm, last layer and loss if the last."""

    def __init__(self, model: Transformer, layers: range, loss: StageLoss) -> None:
        super().__init__()
        self.embed = self.norm = self.lm_head = None
        if layers.start == 0:
            self.embed = model.embed
        if layers.stop == len(model.layers):
            self.norm, self.lm_head = model.norm, model.lm_head
        self.rotary = model.rotary
        self.layers = nn.ModuleDict({str(number): model.layers[number] for number in layers})
        self.loss = loss

    def forward(self, *arrived: Tensor, batch: Any, total: int) -> Tensor:
        """What the stage before gives, [N, D], nothing for the first -> [N, D]; from the last, its part of
        the loss."""
        if self.embed is None:
            x, = arrived
        else:
            x = self.embed(batch.tokens)
        angles = self.rotary(batch.positions, x.dtype)
        for layer in self.layers.values():
            x, y = layer(x, None, angles, batch.documents)
            x = x + y
        if self.lm_head is None:
            return x
        return self.loss.from_hidden(self, self.norm(x), batch, total)


class RankLayers(nn.Module):
    """What one rank of a pipeline keeps of a model: `stages`, by number. Parameters have the names that they
    have in the whole model, so that checkpoints do not depend on the cut.

    of_stages: how many there are on all ranks. pair: the two ranks that have a copy each of a table that is
    input and output, if this is one of them.
    """

    def __init__(self, model: Transformer, cuts: Sequence[range], mine: Sequence[int],
                 loss: StageLoss) -> None:
        super().__init__()
        self.config = model.config
        self.of_stages = len(cuts)
        # A plain dictionary: what is in the stages stands below under its own name.
        self.stages = {number: StageLayers(model, cuts[number], loss) for number in mine}
        self.layers = nn.ModuleDict()
        self.embed = self.norm = self.lm_head = None
        for stage in self.stages.values():
            self.layers.update(stage.layers)
            if stage.embed is not None:
                self.embed = stage.embed
            if stage.lm_head is not None:
                self.norm, self.lm_head = stage.norm, stage.lm_head
        self.pair: dist.ProcessGroup | None = None

    @property
    def tied(self) -> dict[nn.Parameter, dist.ProcessGroup]:
        """The table of which another rank has a copy, with `pair`; empty where there is none."""
        if self.pair is None:
            return {}
        end = self.embed or self.lm_head
        return {end.weight: self.pair}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, and of the activations without autocast."""
        return next(self.parameters()).dtype


def cut_stages(model: Transformer, mesh: DeviceMesh, table: PipelineTable,
               loss: StageLoss | None = None) -> RankLayers:
    """This rank's stages of `model`, which every rank of the mesh has alike; its other layers can be dropped.

    All ranks of `mesh`, which has a dimension pp, call it together. Raises ScheduleError if there are too few
    layers or the table is for another number of ranks, ValueError if a tied table is no longer one.
    """
    ranks = mesh["pp"].size()
    if table.ranks != ranks:
        raise ScheduleError(f"{table.name} is a table for {table.ranks} ranks, and pp={ranks}.")
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.embed.weight:
        raise ValueError("the config ties the embedding to the last layer, and they are two tables here: "
                         "something (to_empty, a copy) has parted them. Set lm_head.weight = embed.weight.")
    costs = [multiplications(layer, model) for layer in model.layers]
    head = model.lm_head.weight.numel()
    cuts = balanced(costs, table.stages, last=head)
    mine = table.stages_of(mesh_rank(mesh, "pp"))
    kept = RankLayers(model, cuts, mine, loss or NextTokenLoss())
    if model.config.tie_word_embeddings:
        kept.pair = _pair(mesh, table)
    return kept


def multiplications(layer: nn.Module, model: Transformer) -> float:
    """Of one token with the weights of a layer; of stacked experts, those that it takes."""
    count = 0.0
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            count += parameter.numel()
        if parameter.ndim == 3:
            count += parameter.numel() * _taken(model) / len(parameter)
    return count


def _taken(model: Transformer) -> int:
    """Experts a token."""
    return model.config.moe.num_experts_per_tok


def balanced(costs: Sequence[float], stages: int, first: float = 0.0, last: float = 0.0) -> list[range]:
    """Cut a row of layers into runs whose dearest is as cheap as can be, and, among such cuts, the most even.

    costs: of each layer. first, last: what the first and the last stage have to do besides. Raises
    ScheduleError if there are fewer layers than stages.
    """
    if len(costs) < stages:
        raise ScheduleError(f"the model has {len(costs)} layers, and {stages} stages need at least one each: "
                            "take fewer ranks of pp, or fewer stages a rank.")
    before = list(accumulate(costs, initial=0.0))
    # number of layers -> of all ways to give that many to the stages so far: (dearest, squares, cuts)
    ways: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for stage in range(stages):
        extra = first * (stage == 0) + last * (stage == stages - 1)
        better: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for start, (dearest, squares, cuts) in ways.items():
            for stop in range(start + 1, len(costs) + 1):
                cost = before[stop] - before[start] + extra
                way = (max(dearest, cost), squares + cost ** 2, (*cuts, stop))
                better[stop] = min(way, better.get(stop, way))
        ways = better
    cuts = ways[len(costs)][2]
    return [range(start, stop) for start, stop in zip((0, *cuts), cuts)]


def _pair(mesh: DeviceMesh, table: PipelineTable) -> dist.ProcessGroup | None:
    """This rank and the one at the other end, if they are two."""
    first, last = table.rank_of[0], table.rank_of[table.stages - 1]
    if first == last:
        return None
    along = mesh.mesh_dim_names.index("pp")
    pipelines = mesh.mesh.movedim(along, -1).reshape(-1, table.ranks).tolist()
    mine = None
    for ranks in pipelines:                                # every rank makes every group: that is the rule
        ends = [ranks[first], ranks[last]]
        group = dist.new_group(ends)
        if dist.get_rank() in ends:
            mine = group
    return mine
