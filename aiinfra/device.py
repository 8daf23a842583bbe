"""CPU or GPU? This is the only file that asks, and the only one that reads the environment.

Everything else receives a device, a dtype or a path as an argument. So a cell, a test
and a server can each choose their own, and nothing depends on who was imported first.
Taught in notebook 00.
"""

import ctypes
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

_DTYPES = {"float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16,
           "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}


def default_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_device(device: str | torch.device | None) -> torch.device:
    """`device`, or the default for None. Raises ValueError if CUDA is asked for and absent."""
    if device is None:
        return default_device()
    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not known. Use 'cpu', 'cuda' or 'cuda:0'.")
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} was asked for. {gpu_report()} Use device='cpu'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r}; this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0.")
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        raise ValueError(f"device={str(device)!r} is not the current GPU, where Triton starts its kernels. Call "
                         f"torch.cuda.set_device({device.index}) first, or start with CUDA_VISIBLE_DEVICES={device.index}.")
    return device


def as_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """`dtype` by name or as it is; None means bfloat16 on a GPU and float32 on a CPU."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype in _DTYPES.values():
        return dtype
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is not known. Use one of: {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done all that was asked of it. A CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device | str) -> int | None:
    """Memory that is free on a GPU, and what PyTorch keeps in reserve there; None for a CPU, where memory is
    everybody's and a budget must be stated."""
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def seed_everything(seed: int) -> None:
    """Seed Python's and PyTorch's random numbers, the GPU's included."""
    random.seed(seed)
    torch.manual_seed(seed)


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


def gpu_report() -> str:
    """One sentence: which GPU is used, or why none is and what to do about it."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"GPU: {torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free."
    seen = Path("/proc/driver/nvidia/version").exists()
    if torch.version.cuda is None:
        why = "this PyTorch is a CPU build" + ("; install a CUDA build to use your NVIDIA GPU" if seen else "")
    else:
        why = "NVIDIA's driver is installed but PyTorch cannot start it; run nvidia-smi to see why" if seen else \
            "no NVIDIA driver is installed on this machine; install one if it has a GPU"
    return f"No GPU: {why}. Everything runs on the CPU; what only a GPU can show is drawn from recorded results."


def device_name(device: torch.device | str | None = None) -> str:
    """A human's name for the device: the GPU's product name, or the CPU's and its thread count."""
    if as_device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:                       # macOS has no /proc
        import platform
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def to_device(values: Sequence | torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor of the values there. The CPU does not wait for a GPU: the copy is from pinned memory, which
    PyTorch's host allocator takes back when the copy is done."""
    made = torch.as_tensor(values, dtype=dtype)
    return (made.pin_memory() if device.type == "cuda" and not made.is_cuda else made).to(device, non_blocking=True)


def triton_interpreted() -> bool:
    """True if Triton kernels are interpreted on the CPU (TRITON_INTERPRET=1 in the environment).

    Triton reads the variable when a kernel's module is imported: set it before.
    """
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def cache_dir(override: str | Path | None = None) -> Path:
    """Where models are kept: `override`, else $AIINFRA_CACHE, else the user's cache folder."""
    if override is not None:
        return Path(override).expanduser()
    if "AIINFRA_CACHE" in os.environ:
        return Path(os.environ["AIINFRA_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "aiinfra"


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment, with changes, for a program that it starts."""
    return {**os.environ, **changes}


def data_dir() -> Path:
    """Where a reader's progress is kept: $AIINFRA_DATA, else the user's data folder."""
    if "AIINFRA_DATA" in os.environ:
        return Path(os.environ["AIINFRA_DATA"]).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "aiinfra"
