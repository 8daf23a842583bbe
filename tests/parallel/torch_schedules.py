"""The tables that PyTorch's own schedules make, without a process group or a model.

GPipe and 1F1B are loops in PyTorch; what they do is written down by a stage. The table that Schedule1F1B
prints of itself (2.13) begins with micro-batch 1 on the last rank, which is not what it runs.
"""

from torch.distributed.pipelining import ScheduleGPipe, ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble
from torch.distributed.pipelining import Schedule1F1B, ScheduleLoopedBFS, ScheduleZBVZeroBubble
from torch.distributed.pipelining.stage import _PipelineStageBase

THEIRS = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved_1f1b": ScheduleInterleaved1F1B,
    "looped_bfs": ScheduleLoopedBFS,
    "zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv": ScheduleZBVZeroBubble,
}


class Named(_PipelineStageBase):
    """A stage that has its numbers, and nothing to compute with."""

    def __init__(self, ranks: int, stages: int) -> None:
        self.submod, self.stage_index_to_group_rank = None, {}
        self.stage_index = self.group_rank = 0
        self.group_size, self.num_stages = ranks, stages

    def _prepare_forward_infra(self, *args, **kwargs):
        raise NotImplementedError

    _prepare_backward_infra = _create_grad_recv_info = _prepare_forward_infra


class Writing(Named):
    """Writes down what it is asked to do."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__(ranks, ranks)
        self.stage_index = self.group_rank = rank
        self.done: list[str] = []

    def forward_one_chunk(self, microbatch: int, *args, **more) -> None:
        self.done.append(f"{self.stage_index}F{microbatch}")

    def backward_one_chunk(self, microbatch: int, *args, **more) -> None:
        self.done.append(f"{self.stage_index}B{microbatch}")

    def nothing(self, *args) -> list:
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = perform_reduce_grad = nothing


def their_schedule(name: str, ranks: int, microbatches: int, chunks: int):
    """PyTorch's schedule object; its `pipeline_order` is the table."""
    return THEIRS[name]([Named(ranks, ranks * chunks)] * chunks, microbatches)


def their_rows(name: str, ranks: int, microbatches: int, chunks: int) -> list[list[str]]:
    """Their actions by rank, without idle times."""
    if name in ("gpipe", "1f1b"):
        return [_written(name, rank, ranks, microbatches) for rank in range(ranks)]
    order = their_schedule(name, ranks, microbatches, chunks).pipeline_order
    return [[str(action) for action in order[rank] if action is not None] for rank in range(ranks)]


def _written(name: str, rank: int, ranks: int, microbatches: int) -> list[str]:
    stage = Writing(rank, ranks)
    schedule = THEIRS[name](stage, microbatches)
    schedule._initialize_stage = stage.nothing
    schedule._step_microbatches()
    return stage.done
