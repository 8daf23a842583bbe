"""Expert parallel: each rank keeps some experts whole, and tokens travel to the experts that they chose.

    rank 0   a b c d      sort by expert    a c │ b d │            ┌─ all-to-all ─► a c e f ─ experts 0, 1 ─┐
    rank 1   e f g h        ──────►         e f │ g │ h            └─────────────► b d g h ─ experts 2, 3 ─┤
                                            to 0  to 1                             home again ◄─ all-to-all┘

How many rows go where is the router's choice: ranks tell one another first, so parts are uneven, and may be
empty, or all of them. Every rank joins every exchange, a rank without tokens too: `join_exchanges`.

An expert's gradient is made by all ranks' tokens where the expert is, so it is whole: nobody adds it over ep
again, which would double it. A router is on every rank, and its gradient is a sum over them. Invariant: one
process's numbers. Lepikhin et al. 2020 (GShard), arXiv 2006.16668. Notebook 17.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from aiinfra.kernels.grouped_matmul import grouped_matmul
from aiinfra.kernels.swiglu import swiglu
from aiinfra.model.balance import routers_of
from aiinfra.model.moe import Experts, GroupedLinear, Routing, combine, sort_by_expert


class _Exchange(torch.autograd.Function):
    """Rows to other ranks and from them; their gradients the same way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int],
                group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        arrived = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
        return arrived

    @staticmethod
    def backward(ctx: Any, arrived: Tensor) -> tuple[Tensor | None, ...]:
        return _Exchange.apply(arrived, ctx.received, ctx.sent, ctx.group), None, None, None


def exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """All-to-all: the first sent[0] rows go to rank 0, the next sent[1] to rank 1, …; received[r] come from
    rank r, in the order of ranks. Differentiable. All ranks of the group call it together."""
    return _Exchange.apply(rows, sent, received, group)


class ExpertParallel(nn.Module):
    """Takes the place of `Experts`: this rank's share of them, and the way to all others.

    Its parameters have the names and shapes of all experts, as DTensors of which this rank holds a part.
    """

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        self.group = mesh.get_group()
        self.ranks = mesh.size()
        self.count = experts.count
        self.own = self.count // self.ranks                    # experts of each rank
        self.gate_up = _share(experts.gate_up, mesh)
        self.down = _share(experts.down, mesh)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """As `Experts`: x [N, D] -> [N, D]. All ranks of the group call it together."""
        order, offsets = sort_by_expert(routing.experts, self.count)
        leaving = offsets.diff().view(self.ranks, self.own)                  # [to rank, its expert]
        arriving = torch.empty_like(leaving)                                 # [from rank, my expert]
        dist.all_to_all_single(arriving, leaving, group=self.group)
        # The sizes of what is sent must be known here: this waits for the device.
        sent, received = leaving.sum(1).tolist(), arriving.sum(1).tolist()
        rows = x.index_select(0, order // routing.experts.shape[1])          # [N · k, D], by expert: by rank
        there = exchange(rows, sent, received, self.group)
        home = exchange(self.run(there, arriving), received, sent, self.group)
        return combine(home, order, routing)

    def run(self, rows: Tensor, arriving: Tensor) -> Tensor:
        """Rows as they arrived, from one rank after another, through my experts: in the same order again."""
        numbers = torch.arange(self.own, device=rows.device).repeat(self.ranks)
        of_row = numbers.repeat_interleave(arriving.flatten())               # my expert of each row
        order, offsets = sort_by_expert(of_row, self.own)
        y = rows.index_select(0, order)
        y = swiglu(grouped_matmul(y, _local(self.gate_up), offsets))
        y = grouped_matmul(y, _local(self.down), offsets)
        return y.index_select(0, order.argsort())

    def join(self, like: Tensor) -> None:
        """Take part in the exchanges of one forward pass without a token of my own. like: any tensor [..., D]
        with the type and device of tokens."""
        none = like.new_empty(0, like.shape[-1])
        nobody = torch.empty(0, 1, dtype=torch.int64, device=like.device)
        self(none, Routing(experts=nobody, weights=none[:, :1]))


def shard_experts(model: nn.Module, mesh: DeviceMesh) -> int:
    """Leave of each layer's experts to this rank its share, in place; returns how many layers have some.
    mesh: one dimension, ep.

    Raises ValueError if the experts cannot be divided, if they are packed or quantised, or if there are none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, Experts)}
    if not found:
        raise ValueError(f"a mesh with ep={mesh.size()} and a model without experts: give those ranks to dp.")
    for name, experts in found.items():
        if experts.count % mesh.size():
            raise ValueError(f"{experts.count} experts cannot be divided among ep={mesh.size()} ranks. "
                             "Choose a number that divides them.")
        for part in (experts.gate_up, experts.down):
            if type(part) is not GroupedLinear:
                raise ValueError(f"{name} is a {type(part).__name__}, which cannot be divided: load the "
                                 "model without quantize.")
    for name, experts in found.items():
        model.set_submodule(name, ExpertParallel(experts, mesh))
    return len(found)


def join_parts(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Ranks of `group` have parts of the same sequences (cp): their balance loss is that of the whole."""
    def add(counts: Tensor) -> Tensor:
        whole = counts.clone()
        dist.all_reduce(whole, group=group)
        return whole
    for router in routers_of(model):
        router.balance.add_parts = add


@torch.no_grad()
def join_exchanges(model: nn.Module) -> None:
    """A forward pass of a rank that has nothing to compute: the others may have sent it tokens, and wait for
    its word. Layer by layer in the model's order."""
    like = next(parameter for parameter in model.parameters() if not isinstance(parameter, DTensor))
    width = model.config.hidden_size
    for module in model.modules():
        if isinstance(module, ExpertParallel):
            module.join(like.new_empty(0, width))


def serve_together(has_work: Callable[[], bool], step: Callable[[], Any], model: nn.Module,
                   group: dist.ProcessGroup | None = None) -> int:
    """Call `step`, which runs the model once, until no rank has work; returns how often this one only joined.

    Each rank serves requests of its own (attention is data parallel), and experts are shared. A rank that has
    nothing to do, while others have, takes part in their exchanges; without it they would wait for ever.
    """
    joined = 0
    while True:
        busy = torch.tensor(int(has_work()), device=model.device)
        mine = bool(busy)
        dist.all_reduce(busy, group=group)
        if not busy:
            return joined
        if mine:
            step()
        else:
            join_exchanges(model)
            joined += 1


def _share(layer: GroupedLinear, mesh: DeviceMesh) -> GroupedLinear:
    """The layer with a weight of which only this rank's experts are here."""
    weight = layer.weight.detach()
    mine = weight.chunk(mesh.size())[mesh.get_local_rank()].clone()
    placed = DTensor.from_local(mine, mesh, [Shard(0)], run_check=False)
    experts, outputs, inputs = weight.shape
    with torch.device("meta"):
        share = GroupedLinear(experts, inputs, outputs, layer.chosen)
    share.weight = nn.Parameter(placed, requires_grad=layer.weight.requires_grad)
    return share


def _local(layer: GroupedLinear) -> Tensor:
    weight = layer.weight
    return weight.to_local() if isinstance(weight, DTensor) else weight
