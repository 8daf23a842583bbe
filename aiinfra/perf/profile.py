"""Where the time of a step went, read from a profiler's trace: by operation, by layer, and not at all.

    annotation   │ forward                                    │ backward …
    module       │ layers.0 ┌ layers.0.attention ─┐           │                    who asked for it
    operation    │ aten::mm │ aten::mm  aten::…   │  aten::…  │ MmBackward0 ─ aten::mm
    device       │ ████████   ██████   ███          ████        ██████             ░ idle between

A trace is Chrome's JSON, as `torch.profiler` writes it and Perfetto (ui.perfetto.dev) opens it. An operation
of the backward pass belongs to the module whose forward pass it follows: the trace has an arrow from one to
the other. Invariant: on one thread, the operations' own seconds add up to the time in which the device was
busy. Notebook 04.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiinfra.perf.timing import gaps

WHOLE = "profiled"            # the annotation around everything that is looked at
ELSEWHERE = "elsewhere"       # the part of what nothing with a name asked for
ON_A_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_ENGINE = "autograd::engine"
_COMPILED = "## Call CompiledFxGraph"         # what torch.compile has made is one operation

Event = dict[str, Any]


@dataclass(frozen=True)
class DeviceWork:
    """One operation on a CPU, or one kernel or copy on a GPU."""

    name: str
    start: float               # seconds since the profile's start
    end: float
    own_seconds: float         # without the operations inside it
    part: str                  # the module or annotation that asked for it: "layers.0.attention", "loss", …
    backward: bool             # in the backward pass


@dataclass(frozen=True)
class TimeSpent:
    """The device's seconds for one operation, layer or part."""

    name: str
    forward_seconds: float     # all that is not in a backward pass
    backward_seconds: float
    calls: int

    @property
    def seconds(self) -> float:
        """In both passes."""
        return self.forward_seconds + self.backward_seconds


@dataclass(frozen=True)
class Profile:
    """What the device did, and when. `by_…`: the longest first; their seconds add up to the busy ones."""

    seconds: float                     # from begin to end, under the profiler, which slows a CPU down
    work: tuple[DeviceWork, ...]
    plain_seconds: float | None = None     # the same without the profiler, where it was measured

    @property
    def idle_spans(self) -> list[tuple[float, float]]:
        """When no operation ran: (start, end) in seconds."""
        ends = [(0.0, 0.0), (self.seconds, self.seconds)]
        return gaps([(one.start, one.end) for one in self.work] + ends)

    @property
    def idle_share(self) -> float:
        """The share of the wall time in which no operation ran, from 0 to 1. On a CPU that is Python, and the
        profiler itself."""
        return sum(end - start for start, end in self.idle_spans) / self.seconds

    def by_operation(self) -> list[TimeSpent]:
        """Time by the operation's name."""
        return _grouped((one.name, one) for one in self.work)

    def by_layer(self) -> list[TimeSpent]:
        """Time by layer: "layers.0", "embed", "loss", …"""
        return _grouped((_layer(one.part), one) for one in self.work)

    def by_part(self) -> list[TimeSpent]:
        """Time by kind of module, all layers together: "layers.attention", "layers.mlp", "loss", …"""
        return _grouped((re.sub(r"\.\d+", "", one.part), one) for one in self.work)


def _layer(part: str) -> str:
    found = re.match(r"\w+\.\d+", part)
    return found.group() if found else part


def _grouped(named: Iterable[tuple[str, DeviceWork]]) -> list[TimeSpent]:
    groups: dict[str, list[DeviceWork]] = defaultdict(list)
    for name, one in named:
        groups[name].append(one)
    found = []
    for name, members in groups.items():
        backward = sum(one.own_seconds for one in members if one.backward)
        both = sum(one.own_seconds for one in members)
        found.append(TimeSpent(
            name=name,
            forward_seconds=both - backward,
            backward_seconds=backward,
            calls=len(members)))
    return sorted(found, key=lambda spent: -spent.seconds)


def read_trace(path: str | Path) -> Profile:
    """The profile in a trace that `profile_call` has written. Raises ValueError for another file."""
    path = Path(path)
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path.name} is no trace: JSON with traceEvents is expected.") from error
    notes = [event for event in events if event.get("cat") == "user_annotation"]
    whole = [event for event in notes if event["name"] == WHOLE]
    if not whole:
        raise ValueError(f"{path.name} was not written by profile_call: nothing in it is called {WHOLE!r}.")
    begin = whole[0]["ts"]
    work = [one for one in _work(events, begin) if one.start >= 0]
    return Profile(seconds=1e-6 * whole[0]["dur"], work=tuple(work))


def _work(events: list[Event], begin: float) -> Iterator[DeviceWork]:
    """What ran on the device: kernels if there are any, else the CPU's operations."""
    calls = _calls(events)
    kernels = [event for event in events if event.get("cat") in ON_A_GPU]
    if not kernels:
        for call in calls.values():
            if call.is_operation:
                yield _device_work(call.event, call, begin, own=call.own)
        return
    by_id = {call.event["args"].get("External id"): call for call in calls.values()}
    for kernel in kernels:
        asked = by_id.get(kernel.get("args", {}).get("External id"))
        yield _device_work(kernel, asked, begin, own=kernel["dur"])


def _device_work(event: Event, asked: "_Call | None", begin: float, own: float) -> DeviceWork:
    asked = asked or _Call(event, outer=None, own=own)
    start = event["ts"] - begin
    return DeviceWork(
        name=asked.name if asked.is_operation else event["name"],
        start=1e-6 * start,
        end=1e-6 * (start + event["dur"]),
        own_seconds=1e-6 * own,
        part=asked.part(),
        backward=asked.in_backward())


@dataclass(eq=False)
class _Call:
    """An operation or an annotation on a thread of the CPU, and what it is inside of."""

    event: Event
    outer: "_Call | None"
    own: float                          # microseconds in no operation inside it
    follows: "_Call | None" = field(default=None)      # the forward call whose gradient this is

    @property
    def name(self) -> str:
        return self.event["name"]

    @property
    def is_operation(self) -> bool:
        """Not a node of autograd, nor a function of Python's, which only contain operations."""
        if self.event["cat"] != "cpu_op":
            return False
        container = self.name.startswith((_ENGINE, "torch::autograd"))
        return self.name.startswith(_COMPILED) or "::" in self.name and not container

    def outers(self) -> Iterator["_Call"]:
        """This call, what it is in, and so on."""
        call = self
        while call is not None:
            yield call
            call = call.outer

    def in_backward(self) -> bool:
        """Whether autograd called it."""
        return any(call.name.startswith(_ENGINE) for call in self.outers())

    def part(self) -> str:
        """The name of what asked for it: the nearest annotation, or the forward call's that it follows."""
        for call in self.outers():
            if call.follows is not None:
                return call.follows.part()
            if call.event["cat"] == "user_annotation" and call.name != WHOLE:
                return call.name.rpartition("#")[2]
        return ELSEWHERE


def _calls(events: list[Event]) -> dict[tuple[int, float], _Call]:
    """The calls on the CPU by thread and start, each with what it is inside of."""
    kinds = ("cpu_op", "user_annotation")
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat") in kinds]
    spans.sort(key=lambda event: (event["tid"], event["ts"], -event["dur"]))
    calls: dict[tuple[int, float], _Call] = {}
    outer: _Call | None = None
    for event in spans:
        while outer is not None and not _inside(event, outer.event):
            outer = outer.outer
        outer = _Call(event, outer, own=event["dur"])
        calls[event["tid"], event["ts"]] = outer
        if outer.is_operation:
            _take_off(outer)
    _follow(events, calls)
    return calls


def _inside(inner: Event, outer: Event) -> bool:
    same_thread = inner["tid"] == outer["tid"]
    return same_thread and inner["ts"] < outer["ts"] + outer["dur"]


def _take_off(call: _Call) -> None:
    """Time of this operation is not the own time of the one around it."""
    for around in call.outers():
        if around is not call and around.is_operation:
            around.own -= call.event["dur"]
            return


def _follow(events: list[Event], calls: dict[tuple[int, float], _Call]) -> None:
    """Read the arrows from the forward calls to those that compute their gradients."""
    begins = {event["id"]: event for event in events if event.get("cat") == "fwdbwd" and event["ph"] == "s"}
    for event in events:
        if event.get("cat") == "fwdbwd" and event["ph"] == "f" and event["id"] in begins:
            begin = begins[event["id"]]
            forward = calls.get((begin["tid"], begin["ts"]))
            backward = calls.get((event["tid"], event["ts"]))
            if backward is not None and forward is not backward:
                backward.follows = forward
