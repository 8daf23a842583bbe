"""The machine and the user's settings around a process. This is the only file that reads environment variables.

Everything else receives a path or a flag as an argument. Needs no torch.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

try:
    import resource
except ImportError:                       # Windows
    resource = None


def cache_dir(override: str | Path | None = None) -> Path:
    """Where models are kept: `override`, else $AIINFRA_CACHE, else the user's cache folder."""
    if override is not None:
        return Path(override).expanduser()
    if "AIINFRA_CACHE" in os.environ:
        return Path(os.environ["AIINFRA_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "aiinfra"


def data_dir() -> Path:
    """Where a reader's progress is kept: $AIINFRA_DATA, else the user's data folder."""
    if "AIINFRA_DATA" in os.environ:
        return Path(os.environ["AIINFRA_DATA"]).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "aiinfra"


def child_environment(**changes: str | None) -> dict[str, str]:
    """This process's environment, with changes, for a program that it starts. None takes a variable out."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def triton_interpreted() -> bool:
    """True if Triton kernels are interpreted on the CPU (TRITON_INTERPRET=1 in the environment).

    Triton reads the variable when a kernel's module is imported: set it before.
    """
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def cpu_name() -> str:
    """The processor's product name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:                       # macOS has no /proc
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def process_peak_bytes() -> int | None:
    """The most memory that this process has had at once; None on Windows, which counts otherwise."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024          # Linux counts in kilobytes


def use_huge_pages(address: int, nbytes: int) -> bool:
    """Ask Linux to move the memory at `address` to pages of 2 MB, now; True if it did.

    Reading weights in 4 kB pages costs an address translation every 4 kB. Only whole huge pages inside the
    range are moved, so no memory is added. Anywhere else than on Linux 6.1 and later nothing happens.
    """
    size, collapse = 2 << 20, 25                                   # MADV_COLLAPSE
    first, last = -(-address // size) * size, (address + nbytes) // size * size
    if sys.platform != "linux" or last <= first:
        return False
    return ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), collapse) == 0
