"""Stages of one model on several ranks: each sends on what it has computed, and takes the next micro-batch.

    rank 0   embed, layers 0-1   F0 F1 F2       B0 F3 B1 …       activations [N, D] go down,
    rank 1   layers 2-3, head       F0 B0 F1 B1 …                their gradients come back

PyTorch's engine (torch.distributed.pipelining) runs the tables of orders.py: stages, what is sent when,
backwards cut in two (but the first stage's, for whose input's gradient nobody waits: its W does all of it).
Here stands what it does not know. Every rank has the micro-batch at hand, so only activations are sent, and
micro-batches may have any length; a place to receive one is made when it is due and given up after its
backward. Gradients are sums: the loss is divided by the step's valid tokens before, and PyTorch's division by
the number of micro-batches is off. The loss is known on every rank at the end.
Notebook 06.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime

from aiinfra.device import synchronize
from aiinfra.parallel.orders import make_table
from aiinfra.parallel.schedule import BACKWARD, FORWARD, INPUT, WEIGHT, Action, PipelineTable, ScheduleError
from aiinfra.parallel.stages import RankLayers, StageLayers
from aiinfra.parallel.timing import Span, StageCosts, Timeline

Phases = Callable[[str], AbstractContextManager]          # as in the training loop


class Pipeline:
    """The training loop's `passes` on a rank of a pipeline: a step's micro-batches through all stages.

    spans: what this rank did in the last step, and when.
    """

    def __init__(self, layers: RankLayers, mesh: DeviceMesh, schedule: str | PipelineTable, microbatches: int,
                 *, chunks: int | None = None, autocast: torch.dtype | None = None,
                 rows: Callable[[Any], int] | None = None, least: StageCosts | None = None) -> None:
        """layers: of `cut_stages`, by the same schedule. microbatches: of a step; the last of a file may have
        fewer. chunks: stages a rank. autocast: compute in this dtype. rows: tokens of a batch that are sent
        between stages; None: all. least: seconds that actions take at least: a rank that is done earlier
        sleeps, which emulates layers larger than those at hand. Raises ScheduleError for fewer micro-batches
        than ranks.
        """
        self.group = mesh["pp"].get_group()
        self.ranks = mesh["pp"].size()
        self.schedule = schedule
        self.chunks = chunks
        self.least = least
        self.spans: list[Span] = []
        if microbatches < self.ranks:
            raise ScheduleError(f"micro-batches a step: {microbatches}; ranks of the pipeline: {self.ranks}. "
                                "Not all of them would ever work at the same time: accumulate at least "
                                f"{self.ranks} micro-batches a step, better {4 * self.ranks}.")
        _check_whole(self.table(microbatches), layers)
        self.stages = [_RaggedStage(self, number, module, layers.of_stages, autocast, rows or _all_rows)
                       for number, module in layers.stages.items()]
        self._device = layers.device
        self._loss = self.stages[0].submod.loss
        self._engines: dict[int, _PipelineScheduleRuntime] = {}

    def table(self, microbatches: int) -> PipelineTable:
        """The schedule for so many micro-batches. Raises ScheduleError for a table of another number."""
        if isinstance(self.schedule, str):
            return make_table(self.schedule, self.ranks, microbatches, self.chunks)
        if self.schedule.microbatches != microbatches:
            raise ScheduleError(f"{self.schedule.name} is a table for {self.schedule.microbatches} "
                                f"micro-batches, and the step has {microbatches}.")
        return self.schedule

    def __call__(self, window: list[Any], total: int, phase: Phases) -> float:
        """Add the gradients of the whole window; returns its loss, the same on every rank."""
        with phase("data"):
            batches = [self._loss.prepare(batch.to(self._device)) for batch in window]
        engine = self._engine(len(window))
        self.spans = []
        for stage in self.stages:
            stage.begin(batches, total, phase)
        losses: list[Tensor] = []
        # The target only says that there is a loss: the output of the last stage is one already.
        engine.step(target=torch.arange(len(window)), losses=losses, return_outputs=False)
        for stage in self.stages:
            stage.begin([], 0, phase)
        return self._known_to_all(losses)

    def timeline(self) -> Timeline:
        """The last step on all ranks, which call this together. On one machine they have one clock."""
        found: list[list[Span]] = [[] for _ in range(self.ranks)]
        dist.all_gather_object(found, self.spans, group=self.group)
        spans = [span for mine in found for span in mine]
        zero = min(span.start for span in spans)
        moved = [Span(span.rank, span.action, start=span.start - zero, end=span.end - zero) for span in spans]
        return Timeline(tuple(moved), len(self.stages))

    def _engine(self, microbatches: int) -> _PipelineScheduleRuntime:
        """PyTorch's engine for so many micro-batches."""
        if microbatches not in self._engines:
            # scale_grads would divide by the number of micro-batches what is a sum already.
            engine = _PipelineScheduleRuntime(
                self.stages, microbatches, loss_fn=_output_is_loss, scale_grads=False)
            rows = self.table(microbatches).rows
            engine._prepare_schedule_with_comms(
                {rank: [_Action.from_str(str(action)) for action in row] for rank, row in enumerate(rows)})
            self._engines[microbatches] = engine
        for stage in self.stages:
            stage.chunks = microbatches
        return self._engines[microbatches]

    def _known_to_all(self, losses: list[Tensor]) -> float:
        """The sum of what the last stage has computed."""
        box = torch.zeros(1, dtype=torch.float64, device=self._device)
        for loss in losses:
            box += loss.detach()
        dist.all_reduce(box, group=self.group)
        return box.item()


def _check_whole(table: PipelineTable, layers: RankLayers) -> None:
    """FSDP hears of a gradient by autograd's hooks, and a weight's half of a backward goes past them."""
    halves = any(action.kind == WEIGHT for row in table.rows for action in row)
    if halves and any(isinstance(module, FSDPModule) for module in layers.modules()):
        raise ScheduleError(f"{table.name} cuts backwards in two, of which FSDP sees but one: gradients would"
                            " be wrong. With fsdp take gpipe, 1f1b, interleaved_1f1b or looped_bfs.")


def _output_is_loss(output: Tensor, target: Tensor) -> Tensor:
    return output


def _all_rows(batch: Any) -> int:
    return len(batch.tokens)


class _RaggedStage(PipelineStage):
    """PyTorch's stage, whose micro-batches have lengths of their own, and which says when it does what."""

    def __init__(self, pipeline: Pipeline, number: int, layers: StageLayers, stages: int,
                 autocast: torch.dtype | None, rows: Callable[[Any], int]) -> None:
        parameter = next(layers.parameters())
        width = next(iter(layers.layers.values())).attention_norm.weight.shape[0]
        # One row says dtype and width, so that PyTorch need not run the model to find out: it would count a
        # router's tokens twice. How many rows come is known when they come.
        row = torch.empty(1, width, dtype=autocast or parameter.dtype, device="meta", requires_grad=True)
        super().__init__(layers, number, stages, parameter.device, input_args=(row,), output_args=(row,),
                         group=pipeline.group)
        self.pipeline = pipeline
        self.autocast = autocast
        self.rows = rows
        self.row = row
        self.batch: Any = None
        self.begin([], 0, nullcontext)

    def begin(self, batches: list[Any], total: int, phase: Phases) -> None:
        """The micro-batches of the step that comes; none when it is over."""
        self.batches, self.total, self.phase = batches, total, phase

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Make the place for a micro-batch when it is due."""
        for info in self.args_recv_info[fwd_chunk_id]:
            info.buffer = self._place(fwd_chunk_id).requires_grad_()
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Make the place for its gradient."""
        for info in self.grad_recv_info[bwd_chunk_id]:
            info.buffer = self._place(bwd_chunk_id)
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def _place(self, microbatch: int) -> Tensor:
        rows = self.rows(self.batches[microbatch])
        return torch.empty(rows, self.row.shape[1], dtype=self.row.dtype, device=self.device)

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **more: Any) -> Tensor:
        """One micro-batch forward."""
        self.batch = self.batches[fwd_chunk_id]
        narrow = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with self._timed(FORWARD, fwd_chunk_id), narrow:
            return super().forward_one_chunk(fwd_chunk_id, *args, **more)

    def forward_maybe_with_nosync(self, *arrived: Tensor) -> Tensor:
        """What PyTorch calls the layers by: they also get the micro-batch, which no rank needs to send."""
        return super().forward_maybe_with_nosync(*arrived, batch=self.batch, total=self.total)

    def backward_one_chunk(self, bwd_chunk_id: int, loss: Tensor | None = None, full_backward: bool = True,
                           last_backward: bool = False) -> None:
        """One micro-batch backward, or the half of it that the stage before waits for."""
        kind = BACKWARD if full_backward else INPUT
        with self._timed(kind, bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        nothing = self.row.new_empty(0, device=self.device)
        for info in self._received(bwd_chunk_id):
            info.buffer = nothing                       # who still needs it holds it

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """The other half."""
        with self._timed(WEIGHT, bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def _received(self, microbatch: int) -> Iterator[Any]:
        if not self.is_first:
            yield from self.args_recv_info[microbatch]
        if not self.is_last:
            yield from self.grad_recv_info[microbatch]

    def _validate_fwd_input(self, *anything: Any) -> None:
        """PyTorch 2.11 asks whether all micro-batches are alike."""

    def _validate_fwd_outputs(self, *anything: Any) -> None:
        """As above."""

    @contextmanager
    def _timed(self, kind: str, microbatch: int) -> Iterator[None]:
        """Write down an action's span; make it as long as it must be at least."""
        action = Action(self.stage_index, kind, microbatch)
        phase = "forward" if kind == FORWARD else "backward"
        with self.phase(phase):
            start = time.perf_counter()
            yield
            synchronize(self.device)
            self._lengthen(action, start)
            end = time.perf_counter()
        self.pipeline.spans.append(Span(self.group_rank, action, start=start, end=end))

    def _lengthen(self, action: Action, start: float) -> None:
        if self.pipeline.least is None:
            return
        chunks = len(self.pipeline.stages)
        left = start + self.pipeline.least.seconds(action, chunks) - time.perf_counter()
        if left > 0:
            time.sleep(left)
