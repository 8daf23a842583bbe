"""How much memory there is: a number, a GPU by its name, or this machine.

    "80e9"  "80 GB"  "64GiB"      bytes; GB are 10⁹, GiB are 2³⁰
    "H100"                        a data sheet of perf/hardware, by its first word or its whole name
    "this machine"                the GPU here, or the memory of this machine or container
"""

import re
from dataclasses import dataclass
from math import inf

from aiinfra.device import default_device, device_name
from aiinfra.errors import nearest
from aiinfra.perf.hardware import SHEETS, device_memory_bytes

HERE = "this machine"
_UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_NUMBER = re.compile(r"(\d+\.?\d*(?:e\d+)?|\.\d+)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Budget:
    """Memory of one device."""

    name: str
    nbytes: float
    gpu: bool                     # our kernels run there


def read_budget(text: str) -> Budget:
    """Raises ValueError for what is neither bytes, nor a known GPU, nor "this machine"."""
    number = _NUMBER.fullmatch(text.strip())
    if number and number[2].upper() in _UNITS:
        nbytes = float(number[1]) * _UNITS[number[2].upper()]
        if not 0 < nbytes < inf:
            raise ValueError(f"memory={text!r}; it must be above 0, and finite.")
        return Budget(f"{nbytes / 1e9:,.1f} GB", nbytes, default_device().type == "cuda")
    if text.strip().lower() == HERE:
        here = default_device()
        return Budget(device_name(here), device_memory_bytes(here), here.type == "cuda")
    word = text.strip().lower()
    known = [name for name in SHEETS if name.lower().split()[0] == word or name.lower() == word]
    if known:
        return Budget(known[0], SHEETS[known[0]].memory_bytes, gpu=True)
    raise ValueError(f"memory={text!r} is not known.{nearest(text, SHEETS)} Give bytes (80e9, 80GB, 64GiB), "
                     f"{HERE!r}, or one of {', '.join(SHEETS)}.")
