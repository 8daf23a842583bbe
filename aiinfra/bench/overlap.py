"""`python -m aiinfra bench overlap`: what of communication is hidden behind computation.

    gradients   a step that sends buckets during the backward pass ÷ one that sends them after it
    batches     a step with two batches on their way ÷ one that makes each when it is needed
    copies      on a GPU: what is exposed of the time to copy batches there (G12)

Between the processes is an emulated link, on which communication takes as long as computation. Each way takes
its steps by turns, and all must have computed the same.
"""

from collections.abc import Iterator
from statistics import median

import torch

from aiinfra.bench.overlapped_input import measure_batches
from aiinfra.bench.overlapped_sums import Way, measure_sums
from aiinfra.bench.row import Row
from aiinfra.device import as_device
from aiinfra.parallel.overlap import InputPipeline
from aiinfra.perf.timing import time_call

AFTER = Way(bucket_bytes=1 << 30, overlapped=False)          # one bucket, after the backward pass
DURING = Way(bucket_bytes=1 << 20)
_EMULATED = "link emulated: as long as computation"


def bench_overlap(ranks: int = 2, steps: int = 8) -> Iterator[Row]:
    """Rows for gradients, batches and, on a GPU, copies. Raises RuntimeError if two ways differ in what they
    computed."""
    yield from _gradients(ranks, steps)
    yield from _batches(ranks, steps)
    yield copies_row(as_device(None))


def _gradients(ranks: int, steps: int) -> Iterator[Row]:
    found = measure_sums([AFTER, DURING], ranks, steps)
    if not all(rank.equal for rank in found):
        raise RuntimeError("gradients differ with and without overlap: not the same work.")
    first = found[0]
    pairs = zip(first.steps[DURING], first.steps[AFTER])
    share = median(during.seconds / after.seconds for during, after in pairs)
    during, after = first.median_step(DURING), first.median_step(AFTER)
    yield Row(
        name="step, sums during the backward pass",
        ours=1e3 * during.seconds,
        unit="ms",
        peer=1e3 * after.seconds,
        peer_name="after it",
        note=f"{ranks} ranks; {_EMULATED}")
    yield Row("   of the step with sums after it", 100 * share, "%", note="at most 75 is wanted")
    exposed = 100 * during.exposed_seconds / during.link_seconds
    yield Row("   of communication exposed", exposed, "%", note=f"{len(during.transfers)} buckets")


def _batches(ranks: int, steps: int) -> Iterator[Row]:
    found = measure_batches(ranks=ranks, steps=steps + 2)
    first = found[0]
    serial, ahead = first["serial"], first["threads"]
    if serial.losses != ahead.losses:
        raise RuntimeError("losses differ with and without overlap: not the same work.")
    yield Row(
        name="step, the next two batches on their way",
        ours=1e3 * ahead.step_seconds,
        unit="ms",
        peer=1e3 * serial.step_seconds,
        peer_name="each when it is needed",
        note=f"{ranks} ranks; {_EMULATED}")
    made = serial.seconds_of("copy", "agree", "distribute")
    exposed = 100 * ahead.seconds_of("wait") / made
    yield Row("   of copying and distributing exposed", exposed, "%", note="what a step still waits for")


class _Copied:
    """Batches in pinned memory that go to the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copy(self, item: torch.Tensor) -> torch.Tensor:
        """It arrives while others work."""
        return item.to(self.device, non_blocking=True)

    def distribute(self, batch: torch.Tensor) -> torch.Tensor:
        """There is one device."""
        return batch


def copies_row(device: torch.device, batches: int = 32, nbytes: int = 64 << 20) -> Row:
    """G12: (the step with the pipeline - its computation) ÷ the copy, each measured alone."""
    name = "copies to the GPU exposed"
    if device.type != "cuda":
        return Row(name, None, "%", note="needs a GPU", target="G12")
    host = torch.ones(nbytes // 4).pin_memory()
    there = host.to(device)

    def compute(batch: torch.Tensor) -> None:
        for _ in range(25):                          # about as long as the copy
            batch = batch.sin()

    def train() -> None:
        with InputPipeline([host] * batches, _Copied(device), device=device) as pipeline:
            for batch in pipeline:
                compute(batch)
    copy_seconds = time_call(lambda: host.to(device, non_blocking=True), device).median_seconds
    compute_seconds = time_call(lambda: compute(there), device).median_seconds
    step_seconds = time_call(train, device, warmup=1, at_most=5).median_seconds / batches
    exposed = (step_seconds - compute_seconds) / copy_seconds
    ratio = copy_seconds / compute_seconds
    note = f"copy ÷ computation {ratio:.2f}"
    return Row(name, 100 * max(0.0, exposed), "%", note=note, target="G12")
