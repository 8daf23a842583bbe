"""What the learner's process does: make the kernel of its text, then what the judge asks for, as plain data.

    {"do": "load"}                  ──► the kernel's parameters
    {"do": "grids", "metas": …}     ──► what the learner's own grid function says
    {"do": "launch", …}             ──► accesses, one by one (hooks.py), then {"do": "ended"}
    {"do": "translate", …}          ──► the kernel in Triton's own intermediate language, as text
    {"do": "time", …}               ──► the seconds of a launch on a GPU (on_gpu.py)

Whatever the learner's text does, an answer comes back; if it raises, a finding. Only a crash of the whole
process is runner.py's business. Nothing that is sent from here can make a verdict "passed": see runner.py.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton.language as tl

from aiinfra.gpu.compile import translate
from aiinfra.lab import time_limit
from puzzles.grid import called_grids
from puzzles.judge import on_gpu
from puzzles.judge.compiled import refused
from puzzles.judge.explain import explain, place, root_cause
from puzzles.judge.gpu import AFTER, BEFORE, best_seconds
from puzzles.judge.hooks import LaunchIsOver, elsewhere
from puzzles.judge.job import out_of_memory, out_of_time
from puzzles.judge.runner import MEMORY_BYTES
from puzzles.judge.verdict import Finding
from puzzles.judge.wire import Channel, Closed
from puzzles.rebuild import Rebuilt, load, piece_files
from puzzles.source import BadInput, KernelText

Answer = tuple                                      # a message, and its arrays


class Learner:
    """The learner's kernel, and what can be asked about it."""

    def __init__(self, text: KernelText, folder: Path, channel: Channel, seconds: float):
        self._text = text
        self._folder = folder
        self._channel = channel
        self._seconds = seconds
        self._files = piece_files(text, folder)
        self._rebuilt: Rebuilt | None = None
        self._data = b""                            # arrays that came with the request

    def serve(self) -> None:
        """Answer requests until the other end closes."""
        try:
            time_limit.limited(self._answer_all, seconds=self._seconds)
        except Closed:
            pass
        except time_limit.StillRunning as stopped:
            line, code = place(stopped, self._files) or (None, "")
            self._send_finding(out_of_time(self._seconds, line, code))

    def _answer_all(self) -> None:
        """One request after another."""
        while True:
            request, self._data = self._channel.receive()
            try:
                answer, *arrays = getattr(self, f"_{request.pop('do')}")(**request)
            except (Closed, time_limit.StillRunning):
                raise
            except BadInput as error:
                self._send_finding(Finding("bad_input", str(error)))
            except BaseException as error:          # it is the learner's code: anything may come
                self._send_finding(self._explained(error))
            else:
                self._channel.post(answer, *arrays)
                self._channel.flush()

    def _send_finding(self, finding: Finding) -> None:
        self._channel.post({"do": "ended", "finding": asdict(finding)})
        self._channel.flush()

    def _explained(self, error: BaseException) -> Finding:
        found = explain(error, self._files)
        if isinstance(root_cause(error), MemoryError):
            return out_of_memory(MEMORY_BYTES, found.line, found.code)
        return found

    # --- what can be asked -----------------------------------------------------------------------

    def _load(self) -> Answer:
        self._rebuilt = load(self._text, self._folder)
        kernel = self._rebuilt.kernel
        kinds = kernel.fn.__annotations__
        constants = [name for name, kind in kinds.items() if "constexpr" in str(kind)]
        return ({"do": "loaded", "parameters": list(kernel.arg_names), "constants": constants},)

    def _grids(self, name: str, metas: list[dict]) -> Answer:
        grid = self._rebuilt.namespace.get(f"grid_of_{name}")
        said = [_as_data(one) for one in called_grids(grid, metas)]
        return ({"do": "grids", "grids": said},)

    def _translate(self, types: dict[str, str], constants: dict[str, int], arch: int) -> Answer:
        case = dict(kernel=self._rebuilt.kernel, types=types, constexprs=constants)
        try:
            text = translate(case, arch)
        except Exception as error:                  # whatever the compiler dislikes is a finding
            return ({"do": "ended", "finding": asdict(refused(error, self._files, arch))},)
        return {"do": "translated"}, memoryview(text.encode())

    def _time(self, grid: list[int], views: dict[str, dict], numbers: dict[str, float]) -> Answer:
        """Run the kernel on the GPU, once for its outputs and then for its time."""
        kernel = self._rebuilt.kernel
        before, after = self._folder / BEFORE, self._folder / AFTER
        again = on_gpu.launch(kernel, tuple(grid), before, after, views, numbers, torch.device("cuda"))
        return ({"do": "timed", "seconds": best_seconds(again)},)

    def _launch(self, grid: list[int], arguments: dict[str, Any]) -> Answer:
        """Run the kernel without any memory. `arguments`: numbers, and {"address": …, "type": …}."""
        order = np.frombuffer(self._data, np.int32).reshape(-1, 3)
        passed = {name: _argument(value) for name, value in arguments.items()}
        with elsewhere(self._channel, self._files, order) as hooks, _silent():
            try:
                self._rebuilt.kernel[tuple(grid)](**passed)
            except Exception as error:
                if not isinstance(root_cause(error), LaunchIsOver):
                    raise
        return ({"do": "ended", "used_tf32": hooks.used_tf32},)


@contextmanager
def _silent() -> Iterator[None]:
    """Without NumPy's and Triton's own warnings, which would read as the kernel's words."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _as_data(grid: Any) -> Any:
    """A tuple as a list; anything else as the text that shows it."""
    if isinstance(grid, tuple):
        return list(grid)
    return repr(grid)


def _argument(value: Any) -> Any:
    """A number as it is; a pointer as the interpreter has it."""
    if not isinstance(value, dict):
        return value
    from triton.runtime.interpreter import TensorHandle
    kind = tl.str_to_ty(value["type"], None)
    handle = TensorHandle(np.array([value["address"]], np.uint64), kind)
    return tl.tensor(handle, kind)
