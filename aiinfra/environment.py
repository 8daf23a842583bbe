"""The machine and the user's settings around a process. This is the only file that reads environment
variables.

Everything else receives a path or a flag as an argument. Needs no torch.
"""

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:                       # Windows
    resource = None


# OpenMP's threads wait at the end of every operation by spinning, and so take the core from whoever has work.
# Beside one busy process decoding all but stops. After this many turns they sleep.
_SPIN_TURNS = "3000"
_OPENMP_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def calm_threads() -> str:
    """Have OpenMP's idle threads sleep soon instead of spinning, unless the user has chosen; says what holds.

    PyTorch reads the setting when it is imported: call this before. Processes started from here inherit it.
    """
    chosen = [f"{name}={os.environ[name]}" for name in _OPENMP_CHOICES if os.environ.get(name)]
    if chosen:
        return f"OpenMP: {', '.join(chosen)}"
    if "torch" in sys.modules:
        return "OpenMP: PyTorch's defaults; it was imported before they could be changed"
    os.environ["GOMP_SPINCOUNT"] = _SPIN_TURNS
    return f"OpenMP: GOMP_SPINCOUNT={_SPIN_TURNS}, so that idle threads leave the cores to others"


def cache_dir(override: str | Path | None = None) -> Path:
    """Where models are kept: `override`, else $AIINFRA_CACHE, else the user's cache folder.

    Raises OSError if there is neither a setting nor a home folder.
    """
    if override is not None:
        return Path(override).expanduser()
    return _folder("AIINFRA_CACHE", "XDG_CACHE_HOME", Path(".cache"))


def data_dir() -> Path:
    """Where a reader's progress is kept: $AIINFRA_DATA, else the user's data folder. Raises as
    `cache_dir`."""
    return _folder("AIINFRA_DATA", "XDG_DATA_HOME", Path(".local", "share"))


def api_key() -> str | None:
    """$AIINFRA_API_KEY, of a server or for one: unlike an argument, other users of the machine cannot see it.
    An empty variable counts as unset."""
    return os.environ.get("AIINFRA_API_KEY") or None


def _folder(ours: str, system: str, usual: Path) -> Path:
    """Our variable, or the system's, or the usual place below the home folder. An empty variable counts as
    unset."""
    if os.environ.get(ours):
        return Path(os.environ[ours]).expanduser()
    if os.environ.get(system):
        return Path(os.environ[system]) / "aiinfra"
    try:
        return Path.home() / usual / "aiinfra"
    except RuntimeError as error:
        raise OSError(f"this account has no home folder ({error}). "
                      f"Set {ours} to a folder that you can write.") from error


def build_tools_missing() -> str:
    """What Triton would miss to build its launcher, a small C file, and how to get it; "" if nothing."""
    chosen = os.environ.get("CC")
    compilers = [chosen] if chosen else ["gcc", "clang"]
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing = []
    if not any(map(shutil.which, compilers)):
        missing.append(f"a C compiler ({' or '.join(compilers)})")
    if not header.exists():
        missing.append(f"Python's headers ({header.name})")
    if not missing:
        return ""
    return (f"Triton needs {' and '.join(missing)} to start a kernel: on Debian or Ubuntu, apt install gcc "
            "python3-dev.")


def child_environment(**changes: str | None) -> dict[str, str]:
    """This process's environment, with changes, for a program that it starts. None takes a variable out."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


class TorchrunPlace(NamedTuple):
    """What `torchrun` tells a process about its place among the others."""

    rank: int                # of `ranks`, on all machines together
    ranks: int
    local_rank: int          # of `local_ranks`, on this machine
    local_ranks: int
    host: str                # where the store is that all can read
    port: int
    attempt: int             # how often torchrun has started this job again
    store_is_there: bool     # torchrun's own process serves the store; else rank 0 does


def torchrun_place() -> TorchrunPlace | None:
    """This process's place if it was started by `torchrun`, else None. Raises ValueError if only a part of
    what it sets is there, or if that is not a number."""
    known = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if not any(known.values()):
        return None
    if missing := [name for name, value in known.items() if not value]:
        raise ValueError(f"the environment has a part of what torchrun sets, but not {', '.join(missing)}: "
                         "start with torchrun, or take the rest out.")
    return TorchrunPlace(
        rank=_number("RANK"),
        ranks=_number("WORLD_SIZE"),
        local_rank=_number("LOCAL_RANK", known["RANK"]),
        local_ranks=_number("LOCAL_WORLD_SIZE", known["WORLD_SIZE"]),
        host=known["MASTER_ADDR"],
        port=_number("MASTER_PORT"),
        attempt=_number("TORCHELASTIC_RESTART_COUNT", "0"),
        store_is_there=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _number(name: str, default: str = "") -> int:
    value = os.environ.get(name) or default
    if not value.isdigit():
        raise ValueError(f"{name}={value!r} in the environment is not a number: start with torchrun.")
    return int(value)


def triton_interpreted() -> bool:
    """True if Triton kernels are interpreted on the CPU (TRITON_INTERPRET=1 in the environment).

    Triton reads the variable when a kernel's module is imported: set it before.
    """
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def interpret_triton() -> None:
    """Let Triton kernels whose modules are imported from now on run on the CPU, in Triton's interpreter.

    Raises RuntimeError if Triton has been imported without it: its own functions would stay compiled.
    """
    if "triton" in sys.modules and not triton_interpreted():
        raise RuntimeError("Triton was imported before its interpreter was chosen, and cannot change. "
                           "Restart the kernel and run the first cell first.")
    os.environ["TRITON_INTERPRET"] = "1"


def silence_profiler() -> None:
    """Keep the notes that PyTorch's profiler writes to stderr to itself, unless the user has chosen a
    level."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


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
