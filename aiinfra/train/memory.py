"""The memory of one training step as it is: the loop's own operations, under the recorder."""

from contextlib import AbstractContextManager, nullcontext

import torch

from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model.transformer import Transformer
from aiinfra.perf.memory_recorder import MemoryRecorder
from aiinfra.train.data import IGNORED, MicroBatch


def record_step(model: Transformer, optimizer: torch.optim.Optimizer, window: list[MicroBatch],
                autocast: torch.dtype | None = None, limit: int | None = None) -> MemoryRecorder:
    """Take one step over the micro-batches of `window`, and return what lived in its phases.

    Phases: forward, loss, backward, optimizer. Kinds: parameters, gradients, optimizer, activations, loss,
    inputs, temporary. The optimizer has made its state if this is not its first step. limit: bytes that may
    live at once; raises OutOfBudget beyond, with the weights as they were.
    """
    total = sum(batch.valid for batch in window)
    optimizer.zero_grad()
    recorder = MemoryRecorder(limit)
    recorder.mark(model.parameters(), "parameters")
    recorder.mark(model.buffers(), "parameters")
    recorder.mark(_states(optimizer), "optimizer")
    hooks = [parameter.register_post_accumulate_grad_hook(
        lambda parameter: recorder.mark([parameter.grad], "gradients")) for parameter in model.parameters()]
    try:
        with recorder:
            for batch in window:
                _record_batch(model, batch, total, recorder, autocast)
            with recorder.phase("optimizer"):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder


def _record_batch(model: Transformer, batch: MicroBatch, total: int, recorder: MemoryRecorder,
                  autocast: torch.dtype | None) -> None:
    recorder.mark([batch.tokens, batch.targets, batch.positions, batch.documents.cu_seqlens], "inputs")
    with _precision(batch.tokens.device.type, autocast):
        with recorder.phase("forward"):
            hidden = model.hidden(batch.tokens, batch.positions, batch.documents)
        recorder.mark_temporary("activations")
        with recorder.phase("loss"):
            loss = linear_cross_entropy(hidden, model.lm_head.weight, batch.targets, IGNORED, total=total)
            del hidden
    recorder.mark_temporary("loss")                    # without autocast's copy of the table, which has gone
    with recorder.phase("backward"):
        loss.backward()


def _precision(kind: str, autocast: torch.dtype | None) -> AbstractContextManager:
    return nullcontext() if autocast is None else torch.autocast(kind, autocast)


def _states(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]
