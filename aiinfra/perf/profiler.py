"""Watch one call, a step of training or of the engine, with `torch.profiler`.

    records = loop(model, batches, …)
    seen = profile_call(lambda: next(records), model, trace="step.json")      # or engine.step, engine.model
    seen.idle_share, seen.by_operation(), seen.by_layer()                      # see profile.py

Every module of the model puts its name around its own forward pass, so that the trace says who asked for
what. Notebook 04.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from aiinfra.device import synchronize
from aiinfra.environment import silence_profiler
from aiinfra.files import replace_whole
from aiinfra.perf.profile import WHOLE, Profile, read_trace


def profile_call(work: Callable[[], object], model: nn.Module | None = None,
                 device: torch.device | str = "cpu", trace: str | Path | None = None,
                 warmup: int = 1) -> Profile:
    """Call `work` `warmup` times, then once under the profiler; returns what the device did meanwhile.

    model: its modules are named in the result. What `torch.compile` has compiled is one operation, and a CUDA
    graph has kernels that nobody asked for. trace: also keep the file there, for ui.perfetto.dev.
    `plain_seconds` is the time of the last warm-up: what the profiler adds. Raises what `work` raises, and
    OSError if the trace cannot be written.
    """
    plain_seconds = None
    for _ in range(warmup):
        plain_seconds = _seconds(work, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        _watch(work, model, torch.device(device), path)
        if trace is not None:
            replace_whole(trace, lambda temporary: temporary.write_bytes(path.read_bytes()))
        return replace(read_trace(path), plain_seconds=plain_seconds)


def _seconds(work: Callable[[], object], device: torch.device | str) -> float:
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def _watch(work: Callable[[], object], model: nn.Module | None, device: torch.device, path: Path) -> None:
    """Run `work` once and have PyTorch write its trace to `path`."""
    silence_profiler()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _named(model), profile(activities=activities) as seen:
        with record_function(WHOLE):
            work()
            synchronize(device)
    seen.export_chrome_trace(str(path))


@contextmanager
def _named(model: nn.Module | None) -> Iterator[None]:
    """Have the modules of `model` write their names around their forward passes."""
    modules = {} if model is None else dict(model.named_modules())
    modules.pop("", None)                       # the whole model asks for everything
    running: list[record_function] = []
    handles = []

    def leave(*_: Any) -> None:
        running.pop().__exit__(None, None, None)
    for name, module in modules.items():
        def enter(*_: Any, name: str = name) -> None:
            running.append(record_function(name))
            running[-1].__enter__()
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
