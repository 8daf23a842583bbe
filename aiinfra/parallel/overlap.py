"""A batch's way to the model, while the model is busy with the batches before it.

    step             i          i + 1       i + 2
    copy         batch i+2   batch i+3   batch i+4      from the source to the device
    distribute   batch i+1   batch i+2   batch i+3      ids to the ranks that have their rows
    compute      batch i     batch i+1   batch i+2      the caller's

On a CPU the first two run on a thread each, on a GPU on a stream each. Before a batch is distributed, all
ranks agree that everybody has one, by an all-reduce of one number; so whoever runs dry or fails first ends
all of them at the same step, and nobody waits for a partner who has gone. Invariants: batches come in the
source's order, the same as without overlap; after k batches, exactly k + 1 agreements have begun on every
rank; when the pipeline is closed, its threads have ended.

After TorchRec's TrainPipelineSparseDist. Notebook 07.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

HOW = ("auto", "threads", "streams", "serial")
_FAILED = -1               # what a rank has to say of its next batch
_DRY = 0
_HAS_ONE = 1


class OtherRankFailed(RuntimeError):
    """Another rank could not make or copy its next batch. Its own error tells why; this rank is well."""


class Stages(Protocol):
    """What happens to a batch on its way."""

    def copy(self, item: Any) -> Any:
        """The source's item as a batch on the device. It talks to nobody."""
        ...

    def distribute(self, batch: Any) -> Any:
        """The batch as the model takes it. Its collectives need a group that nobody else uses meanwhile."""
        ...


@dataclass(frozen=True)
class StageSpan:
    """When a stage had a batch; seconds of `time.perf_counter`, on which all processes of a machine agree."""

    stage: str                 # "copy", "agree", "distribute", or "wait": the caller's, for its batch
    number: int                # of the batch, from 0
    start: float
    end: float


class InputPipeline:
    """Iterate over `batches` with two of them on their way. Each iteration is a pass over all of them.

        with InputPipeline(loader, stages, group=votes) as pipeline:
            for batch in pipeline:
                train_on(batch)

    group: of CPU tensors (gloo), of the ranks that take steps together, and used by nobody else; None: this
    rank is alone. how: "threads", "streams", or "serial": one after another, for comparison; "auto" takes
    streams where `device` is a GPU. `unused` has the source's items that were taken and that no step had,
    because another rank ran dry or the caller left early. `spans` tells when what was done; on streams, when
    it was asked for.

    Raises ValueError for a group that others use, and for a second pass over what gives only one. In a pass:
    what the source or a stage raises, in its batch's turn; OtherRankFailed if that happened elsewhere.
    """

    def __init__(self, batches: Iterable[Any], stages: Stages, group: dist.ProcessGroup | None = None,
                 device: torch.device | str = "cpu", how: str = "auto") -> None:
        if how not in HOW:
            raise ValueError(f"how={how!r} is not known. Use one of: {', '.join(HOW)}.")
        _check_group(group)
        self.stages = stages
        self.group = group
        self.device = torch.device(device)
        self.how = how
        if how == "auto":
            self.how = "streams" if self.device.type == "cuda" else "threads"
        self.unused: list[Any] = []
        self.spans: list[StageSpan] = []
        self._batches = batches
        self._pass: _Pass | None = None

    def __iter__(self) -> Iterator[Any]:
        source = iter(self._batches)
        if self._pass is not None and source is self._batches:
            raise ValueError("batches is an iterator, and one pass has used it up: a second would be empty. "
                             "Give what can be iterated again, such as a list or a DataLoader.")
        self.close()
        self._pass = _Pass(self, source)
        return self._pass

    def close(self) -> None:
        """End the pass and its threads; what is under way on them is finished first."""
        if self._pass is not None:
            self._pass.close()

    def __enter__(self) -> "InputPipeline":
        return self

    def __exit__(self, *trouble: object) -> None:
        self.close()


def _check_group(group: dist.ProcessGroup | None) -> None:
    together = dist.is_initialized() and dist.get_world_size() > 1
    if together and group is None:
        raise ValueError(f"{dist.get_world_size()} ranks, and no group to agree in. "
                         'Give group=dist.new_group(backend="gloo").')
    if together and group is dist.group.WORLD:
        raise ValueError("the group of all ranks is everybody's: collectives of two threads would meet in "
                         'it. Give group=dist.new_group(backend="gloo").')


@dataclass
class _Taken:
    """One item of the source, and what has become of it so far."""

    number: int
    item: Any
    batch: Any


class _Pass:
    """One iteration over the source."""

    def __init__(self, pipeline: InputPipeline, source: Iterator[Any]) -> None:
        self._pipeline = pipeline
        self._source = enumerate(source)
        self._turn = 0
        self._ended = False
        make_worker = _WORKERS[pipeline.how]
        self._copying = make_worker("copy", pipeline.device)
        self._distributing = make_worker("distribute", pipeline.device)
        self._copied = self._copying.submit(self._copy)
        self._go_on()

    def __iter__(self) -> "_Pass":
        return self

    def __next__(self) -> Any:
        if self._ended:                             # and stays so: nobody is asked again
            raise StopIteration
        start = time.perf_counter()
        try:
            taken = self._ready.result()
        except BaseException:
            self.close()
            raise
        if taken is None:
            self.close()
            raise StopIteration
        self._tell("wait", taken.number, start)
        self._go_on()
        return taken.batch

    def close(self) -> None:
        """Wait for what is under way, and end the threads. What no step will have is unused."""
        if self._ended:
            return
        self._ended = True
        self._distributing.close()
        self._copying.close()
        for job in (self._ready, self._copied):
            if job.done() and job.exception() is None:
                self._leave(job.result())

    def _go_on(self) -> None:
        """The next batch is distributed, and the one after it copied."""
        copied = self._copied
        self._ready = self._distributing.submit(lambda: self._distribute(copied))
        self._copied = self._copying.submit(self._copy)

    def _copy(self) -> _Taken | None:
        start = time.perf_counter()
        for number, item in self._source:
            batch = self._pipeline.stages.copy(item)
            self._tell("copy", number, start)
            return _Taken(number, item, batch)
        return None

    def _distribute(self, copied: "_Job") -> _Taken | None:
        taken, trouble = None, None
        try:
            taken = copied.result()
            mine = _DRY if taken is None else _HAS_ONE
        except Exception as error:
            mine, trouble = _FAILED, error
        least = self._agree(mine)
        if trouble is not None:
            raise trouble
        if least == _HAS_ONE:
            return self._sent_around(taken)
        self._leave(taken)
        if least == _FAILED:
            raise OtherRankFailed("another rank could not make its next batch: all stop here. Its own error "
                                  "tells why.")
        return None

    def _agree(self, mine: int) -> int:
        """The least of what all ranks have to say."""
        number = self._turn
        self._turn += 1
        group = self._pipeline.group
        if group is None:
            return mine
        votes, start = torch.tensor([mine]), time.perf_counter()
        dist.all_reduce(votes, dist.ReduceOp.MIN, group=group)
        self._tell("agree", number, start)
        return int(votes)

    def _sent_around(self, taken: _Taken) -> _Taken:
        start = time.perf_counter()
        try:
            taken.batch = self._pipeline.stages.distribute(taken.batch)
        except BaseException:
            self._leave(taken)
            raise
        self._tell("distribute", taken.number, start)
        return taken

    def _leave(self, taken: _Taken | None) -> None:
        if taken is not None:
            self._pipeline.unused.append(taken.item)

    def _tell(self, stage: str, number: int, start: float) -> None:
        span = StageSpan(stage=stage, number=number, start=start, end=time.perf_counter())
        self._pipeline.spans.append(span)


class _Job(Protocol):
    """Work that a worker has been given, as `concurrent.futures` has it."""

    def result(self) -> Any:
        """Its value, waited for; raises what it raised."""
        ...

    def done(self) -> bool:
        """Whether it has a value, or an exception."""
        ...

    def exception(self) -> BaseException | None:
        """What it raised, if it is done."""
        ...


class _Threads:
    """A thread that does one job after another."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"input pipeline: {name}")

    def submit(self, work: Callable[[], Any]) -> _Job:
        """A job for the thread."""
        return self._executor.submit(work)

    def close(self) -> None:
        """Finish what is there, and end the thread."""
        self._executor.shutdown()


class _Streams:
    """A stream of the device. The caller's thread asks for the work at once, and the device does it later."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = torch.get_device_module(device)
        self._stream = self._device.Stream()

    def submit(self, work: Callable[[], Any]) -> _Job:
        """A job that the stream has in its queue."""
        job: Future = _OnStream(self._device)
        try:
            with self._device.stream(self._stream):
                value = work()
                job.event = self._stream.record_event()
            job.set_result(value)
        except Exception as error:
            job.set_exception(error)
        return job

    def close(self) -> None:
        """A stream needs no end."""


class _OnStream(Future):
    """Its tensors may be used on the stream on which the result is asked for."""

    def __init__(self, device: Any) -> None:
        super().__init__()
        self.event: Any = None
        self._device = device

    def result(self, timeout: float | None = None) -> Any:
        """The value: work that is asked for from now on waits for it on the device, the caller does not."""
        value = super().result(timeout)
        stream = self._device.current_stream()
        stream.wait_event(self.event)
        for tensor in _tensors(value):
            if tensor.is_cuda:                      # or its memory would be free for the stream that made it
                tensor.record_stream(stream)
        return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those in records, lists and dictionaries."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf):
            yield from _tensors([getattr(leaf, field.name) for field in fields(leaf)])


class _Serial:
    """Does a job when its result is asked for, and not before."""

    def __init__(self, name: str, device: torch.device) -> None:
        pass

    def submit(self, work: Callable[[], Any]) -> _Job:
        """A job for later."""
        return _Later(work)

    def close(self) -> None:
        """What nobody has asked for is not done."""


class _Later(Future):
    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        """Done now, the first time."""
        if not self.done():
            try:
                self.set_result(self._work())
            except Exception as error:
                self.set_exception(error)
        return super().result(timeout)


_WORKERS = {"threads": _Threads, "streams": _Streams, "serial": _Serial}
