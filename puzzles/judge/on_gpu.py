"""In the learner's process: launch the compiled kernel on what the judge prepared, hand the memory back, time
it.

    before.safetensors ──► zones on the GPU ──► kernel[grid](...) ──► after.safetensors
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from aiinfra.device import synchronize
from puzzles.judge.memory import inside


def launch(kernel: Any, grid: tuple[int, ...], before: Path, after: Path, views: Mapping[str, dict[str, Any]],
           numbers: Mapping[str, float], device: torch.device) -> Callable[[], None]:
    """Launch once on the tensors in the file `before`, and write what is there then to the file `after`.

    Returns what launches again. Raises whatever the kernel raises.
    """
    zones = {name: zone.to(device) for name, zone in load_file(before).items()}
    arguments: dict[str, Any] = dict(numbers)
    for name, view in views.items():
        arguments[f"{name}_ptr"] = inside(zones[name], **view)

    def again() -> None:
        kernel[grid](**arguments)

    again()
    synchronize(device)
    save_file({name: zone.cpu() for name, zone in zones.items()}, after)
    return again
