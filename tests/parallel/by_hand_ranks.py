"""What each rank of tests/parallel/test_by_hand.py does: the same by hand and by PyTorch. Returns both."""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from aiinfra.parallel.by_hand import HandStage, all_gather, all_reduce, column_linear, cut, gpipe, one_f_one_b
from aiinfra.parallel.by_hand import reduce_scatter, row_linear, sharded_linear, zero_step
from aiinfra.parallel.communicator import Communicator
from aiinfra.parallel.timing import most_held

WIDTH = 12
ROWS = 8
DTYPE = torch.float64


def rows_of(rank: int) -> Tensor:
    """The rows that a data-parallel rank sees."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(ROWS, WIDTH, generator=generator, dtype=DTYPE)


def network(layers: int) -> nn.Sequential:
    """The same on every rank: layer after layer, tanh(x Wᵀ)."""
    torch.manual_seed(7)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(WIDTH, WIDTH, bias=False, dtype=DTYPE), nn.Tanh()]
    return nn.Sequential(*parts)


def everything_at_once(model: nn.Module, ranks: int) -> nn.Module:
    """The same model after backward over all ranks' rows in one process."""
    alone = copy.deepcopy(model)
    alone(torch.cat([rows_of(rank) for rank in range(ranks)])).square().sum().backward()
    return alone


def sums(comm: Communicator, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """All-reduce, and my part of it, by hand and by PyTorch."""
    torch.manual_seed(comm.rank)
    mine = torch.randn(shape, dtype=DTYPE)
    before = mine.clone()
    theirs = mine.clone()
    dist.all_reduce(theirs)
    whole = all_reduce(mine, comm)
    part = reduce_scatter(mine, comm)
    assert torch.equal(mine, before), "what was handed in has changed"
    again = all_gather(part, mine, comm)
    return whole, again, theirs


def tensor_parallel(comm: Communicator) -> list[tuple[Tensor, Tensor]]:
    """Two linear layers: output, gradient of the input and of each weight's part; by hand and by DTensor."""
    model = nn.Sequential(network(1), nn.Linear(WIDTH, 4, bias=False, dtype=DTYPE))
    up, down = model[0][0].weight.detach(), model[1].weight.detach()
    rows = up.chunk(comm.size)[comm.rank].clone().requires_grad_()
    columns = down.chunk(comm.size, 1)[comm.rank].clone().requires_grad_()
    x, theirs_x = rows_of(0).requires_grad_(), rows_of(0).requires_grad_()
    y = row_linear(column_linear(x, rows, comm).tanh(), columns, comm)
    y.square().sum().backward()
    mesh = init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"0.0": ColwiseParallel(), "1": RowwiseParallel()})
    theirs = model(theirs_x)
    theirs.square().sum().backward()
    parts = [model[0][0].weight.grad.to_local(), model[1].weight.grad.to_local()]
    return [(y, theirs), (x.grad, theirs_x.grad), (rows.grad, parts[0]), (columns.grad, parts[1])]


def sharded(comm: Communicator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each layer's weight gradient: by hand from pieces, FSDP2's, one process'."""
    model = network(3)
    alone = everything_at_once(model, comm.size)
    likes = [torch.empty_like(layer.weight, device="meta") for layer in model[::2]]
    pieces = [cut(layer.weight.detach(), comm).requires_grad_() for layer in model[::2]]
    x = rows_of(comm.rank)
    for piece, like in zip(pieces, likes):
        x = sharded_linear(x, piece, like, comm).tanh()
    x.square().sum().backward()
    by_hand = [all_gather(piece.grad, torch.empty(like.shape, dtype=DTYPE), comm)
               for piece, like in zip(pieces, likes)]
    mesh = init_device_mesh("cpu", (comm.size,), mesh_dim_names=("fsdp",))
    for layer in model[::2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for layer in (*model[::2], model):
        layer.set_gradient_divide_factor(1.0)
    model(rows_of(comm.rank)).square().sum().backward()
    theirs = [layer.weight.grad.full_tensor() for layer in model[::2]]
    ones = [layer.weight.grad for layer in alone[::2]]
    return list(zip(by_hand, theirs, ones))


def zero(comm: Communicator) -> list[tuple[Tensor, Tensor]]:
    """Parameters after three steps of AdamW: whose moments are divided, and one process' whole ones."""
    model = network(2)
    alone = copy.deepcopy(model)
    whole = torch.optim.AdamW(alone.parameters(), lr=0.1)
    parameters = list(model.parameters())
    pieces = [nn.Parameter(cut(parameter.detach(), comm)) for parameter in parameters]
    mine = torch.optim.AdamW(pieces, lr=0.1)
    everybody = torch.cat([rows_of(rank) for rank in range(comm.size)])
    for _ in range(3):
        model.zero_grad()
        model(rows_of(comm.rank)).square().sum().backward()
        zero_step(parameters, pieces, mine, comm)
        whole.zero_grad()
        alone(everybody).square().sum().backward()
        whole.step()
    return list(zip(parameters, alone.parameters()))


def pipeline(comm: Communicator, schedule: str, micro_batches: int) -> dict[str, list]:
    """A step of a pipeline by hand and by torch.distributed.pipelining: gradients, losses, what was held."""
    row = {"gpipe": gpipe, "1f1b": one_f_one_b}[schedule](comm.rank, comm.size, micro_batches)
    model = network(comm.size)
    alone = copy.deepcopy(model)
    rows = torch.cat([rows_of(i) for i in range(micro_batches)])
    mine = model[2 * comm.rank:2 * comm.rank + 2]
    theirs = copy.deepcopy(mine)
    hand = HandStage(mine, lambda y, i: y.square().sum(), comm)
    hand.run(row, list(rows.chunk(micro_batches)))
    stage = PipelineStage(theirs, comm.rank, comm.size, torch.device("cpu"))
    engine = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule]
    run = engine(stage, micro_batches, loss_fn=lambda y, _: y.square().sum(), scale_grads=False)
    losses: list[Tensor] = []
    if comm.rank == 0:
        run.step(rows)
    elif hand.is_last:
        run.step(target=rows, losses=losses)
    else:
        run.step()
    alone(rows).square().sum().backward()
    whole = alone[2 * comm.rank].weight.grad
    return {
        "gradients": [mine[0].weight.grad, theirs[0].weight.grad, whole],
        "losses": [hand.losses, [loss.item() for loss in losses]],
        "held": most_held([span.action for span in hand.spans]),
    }
