"""What torch.distributed does for a training step, by hand: each piece short enough to be read on a page.

    data parallel    all_reduce = reduce_scatter, then all_gather, around a ring
    ZeRO, FSDP       zero_step: the optimizer between those two; sharded_linear: weights whole while in use
    tensor parallel  column_linear, then row_linear: one all-reduce forward, one backward
    pipeline         one_f_one_b: a stage's order of work as a string; HandStage: does what it says

          rank 0 ──► rank 1 ──► rank 2 ──► rank 3 ──┐       each sends to its right and hears from its left,
            ▲                                       │       a piece at a time, all links busy at once
            └───────────────────────────────────────┘

Invariant: each equals PyTorch's own, forward and backward, and one process. Notebook 06.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aiinfra.parallel.communicator import Communicator
from aiinfra.parallel.schedule import BACKWARD, FORWARD, Action
from aiinfra.parallel.timing import Span


# Data parallel


def cut(tensor: Tensor, comm: Communicator) -> Tensor:
    """My piece of a tensor that all ranks have: flat, a copy; sizes differ by one value at most."""
    return tensor.flatten().tensor_split(comm.size)[comm.rank].clone()


def reduce_scatter(tensor: Tensor, comm: Communicator) -> Tensor:
    """Piece `rank` of the sum over all ranks' tensors. Each sends (N − 1) / N of its tensor, in N − 1
    messages."""
    right, left = _neighbours(comm)
    pieces = list(tensor.flatten().tensor_split(comm.size))
    for step in range(1, comm.size):
        leaving = (comm.rank - step) % comm.size
        growing = (comm.rank - step - 1) % comm.size
        comm.send(pieces[leaving], to=right)
        arrived = comm.receive(pieces[growing], source=left)
        pieces[growing] = pieces[growing] + arrived
    return pieces[comm.rank]


def all_gather(piece: Tensor, like: Tensor, comm: Communicator) -> Tensor:
    """All ranks' pieces as one tensor, shaped like `like`. Each sends (N − 1) / N of it, in N − 1
    messages."""
    right, left = _neighbours(comm)
    pieces = list(torch.empty_like(like).flatten().tensor_split(comm.size))
    pieces[comm.rank] = piece
    for step in range(comm.size - 1):
        leaving = (comm.rank - step) % comm.size
        missing = (comm.rank - step - 1) % comm.size
        comm.send(pieces[leaving], to=right)
        pieces[missing] = comm.receive(pieces[missing], source=left)
    return torch.cat(pieces).view_as(like)


def all_reduce(tensor: Tensor, comm: Communicator) -> Tensor:
    """The sum of all ranks' tensors, on every rank (Patarasuk and Yuan 2009)."""
    piece = reduce_scatter(tensor, comm)
    return all_gather(piece, tensor, comm)


def _neighbours(comm: Communicator) -> tuple[int, int]:
    right = (comm.rank + 1) % comm.size
    left = (comm.rank - 1) % comm.size
    return right, left


# ZeRO and FSDP


def zero_step(parameters: Sequence[nn.Parameter], pieces: Sequence[nn.Parameter],
              optimizer: torch.optim.Optimizer, comm: Communicator) -> None:
    """One update, of which each rank does its part: `optimizer` knows only `pieces`, cut from `parameters`.

    The gradients of all ranks are summed, all parameters changed in place. ZeRO's stages 1 and 2
    (Rajbhandari et al. 2020).
    """
    for parameter, piece in zip(parameters, pieces, strict=True):
        piece.grad = reduce_scatter(parameter.grad, comm)
    optimizer.step()
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.copy_(all_gather(piece, parameter, comm))


class _ShardedLinear(torch.autograd.Function):
    """The whole weight lives while it is used, in the forward pass and again in the backward pass."""

    @staticmethod
    def forward(ctx, x, piece, like, comm):
        weight = all_gather(piece, like, comm)
        ctx.save_for_backward(x, piece)
        ctx.like, ctx.comm = like, comm
        return x @ weight.T

    @staticmethod
    def backward(ctx, dy):
        x, piece = ctx.saved_tensors
        weight = all_gather(piece, ctx.like, ctx.comm)
        dx = dy @ weight
        dweight = dy.T @ x
        return dx, reduce_scatter(dweight, ctx.comm), None, None


def sharded_linear(x: Tensor, piece: Tensor, like: Tensor, comm: Communicator) -> Tensor:
    """x [N, D] @ weightᵀ, where each rank has rows of its own and a `piece` of the weight, cut by `cut`.

    like: a tensor of the weight's shape; one on the meta device has no memory. The gradient of `piece` is its
    part of the sum over all ranks. ZeRO's stage 3, PyTorch's FSDP.
    """
    return _ShardedLinear.apply(x, piece, like, comm)


# Tensor parallel


class _Copy(torch.autograd.Function):
    """Every rank goes on with the same tensor: what comes back are parts of its gradient."""

    @staticmethod
    def forward(ctx, x, comm):
        ctx.comm = comm
        return x

    @staticmethod
    def backward(ctx, dx):
        return all_reduce(dx, ctx.comm), None


class _Add(torch.autograd.Function):
    """Every rank has a part of a sum: each part's gradient is that of the sum."""

    @staticmethod
    def forward(ctx, part, comm):
        return all_reduce(part, comm)

    @staticmethod
    def backward(ctx, dy):
        return dy, None


def column_linear(x: Tensor, rows: Tensor, comm: Communicator) -> Tensor:
    """This rank's part of the outputs: x [N, D], the same on all ranks, and some of the weight's rows
    [F / ranks, D] give [N, F / ranks]. Megatron-LM (Shoeybi et al. 2019) calls them columns: of Wᵀ."""
    return _Copy.apply(x, comm) @ rows.T


def row_linear(h: Tensor, columns: Tensor, comm: Communicator) -> Tensor:
    """All outputs: this rank's part of the inputs, h [N, F / ranks], times its columns of the weight
    [D, F / ranks] is a part of a sum; summed over the ranks [N, D]."""
    return _Add.apply(h @ columns.T, comm)


# Pipeline


def gpipe(stage: int, stages: int, micro_batches: int) -> str:
    """All forward, then all backward (Huang et al. 2019): the same for every stage."""
    return "F" * micro_batches + "B" * micro_batches


def one_f_one_b(stage: int, stages: int, micro_batches: int) -> str:
    """Enough forward to give all stages behind this one work, then one backward after each forward, and the
    rest of the backwards (Narayanan et al. 2019, PipeDream; as flushed each step in Megatron-LM)."""
    ahead = min(stages - 1 - stage, micro_batches)
    return "F" * ahead + "FB" * (micro_batches - ahead) + "B" * ahead


class HandStage:
    """One rank's part of a model that is cut into `comm.size` stages; gradients add up in `module`.

    loss(y, i): of the last stage's output for micro-batch i, divided so that these losses add up to the
    step's. pace: the seconds of a forward pass on an emulated device, half of those of a backward pass; this
    process sleeps through what is left of them, as one waits for a GPU.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Tensor, int], Tensor], comm: Communicator,
                 pace: float = 0.0) -> None:
        self.module = module
        self.loss = loss
        self.comm = comm
        self.pace = pace
        self.is_last = comm.rank == comm.size - 1
        self.losses: list[float] = []                        # on the last stage
        self.spans: list[Span] = []                          # what was done when, on the machine's clock
        self._held: deque[tuple[Tensor, Tensor]] = deque()   # what went in and came out, oldest first

    def run(self, row: str, inputs: Sequence[Tensor]) -> None:
        """Do what `row` says, such as "FFBFBB". inputs: micro-batches of the first stage; what travels
        between stages has their shape. Raises ValueError, before anything is sent, for a row that cannot be
        run."""
        _check_row(row, len(inputs))
        done = {FORWARD: 0, BACKWARD: 0}
        for work in row:
            i = done[work]
            if work == FORWARD:
                self._forward(i, inputs[i])
            else:
                self._backward(i)
            done[work] += 1

    def _forward(self, i: int, x: Tensor) -> None:
        rank = self.comm.rank
        if rank > 0:
            x = self.comm.receive(x, source=rank - 1).requires_grad_()
        with self._timed(FORWARD, i, self.pace):
            y = self.module(x)
            if self.is_last:
                y = self.loss(y, i)
            self._held.append((x, y))
        if self.is_last:
            self.losses.append(y.item())
        else:
            self.comm.send(y, to=rank + 1)

    def _backward(self, i: int) -> None:
        rank = self.comm.rank
        x, y = self._held[0]
        dy = None
        if not self.is_last:
            dy = self.comm.receive(y, source=rank + 1)
        with self._timed(BACKWARD, i, 2 * self.pace):
            y.backward(dy)
        self._held.popleft()
        if rank > 0:
            self.comm.send(x.grad, to=rank - 1)

    @contextmanager
    def _timed(self, work: str, i: int, seconds: float) -> Iterator[None]:
        """Note when the block began and ended; it lasts at least `seconds`."""
        start = time.perf_counter()
        yield
        rest = start + seconds - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        rank = self.comm.rank
        action = Action(stage=rank, kind=work, microbatch=i)
        self.spans.append(Span(rank, action, start=start, end=time.perf_counter()))


def _check_row(row: str, micro_batches: int) -> None:
    """Raise ValueError unless each micro-batch goes forward once, and later backward once."""
    wanted = f"{micro_batches} F and {micro_batches} B, each B after its F"
    ahead = 0
    for work in row:
        ahead += {FORWARD: 1, BACKWARD: -1}.get(work, -len(row))
        if ahead < 0:
            raise ValueError(f"the row {row!r} cannot be run: it needs {wanted}.")
    if ahead or row.count(FORWARD) != micro_batches:
        raise ValueError(f"the row {row!r} cannot be run: it needs {wanted}.")
