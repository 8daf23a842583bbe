"""CPU or GPU? This is the only file that asks.

Everything else receives a device, a dtype or a path as an argument. So a cell, a test
and a server can each choose their own, and nothing depends on who was imported first.
Taught in notebook 00.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from aiinfra.environment import build_tools_missing, cpu_name, process_peak_bytes
from aiinfra.errors import plural

_DTYPES = {"float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16,
           "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}
# Below it there is no bfloat16 in the matrix units, and Triton uses none of them.
LEAST_CAPABILITY = (8, 0)
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
# The least driver of each CUDA (its release notes, "minor version compatibility").
_LEAST_DRIVER = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


def default_device() -> torch.device:
    """The current CUDA device if there is one that can run our kernels, else the CPU."""
    usable = torch.cuda.is_available() and not _too_old()
    return torch.device("cuda" if usable else "cpu")


def as_device(device: str | torch.device | None) -> torch.device:
    """`device`, or the default for None. Raises ValueError if CUDA is asked for and absent."""
    if device is None:
        return default_device()
    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not known. Use 'cpu', 'cuda' or 'cuda:0'.")
    device = torch.device(device)
    if device.type == "cuda":
        _check_gpu(device)
    return device


def _check_gpu(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} was asked for. {gpu_report()} Use device='cpu'.")
    if (device.index or 0) >= torch.cuda.device_count():
        count = plural(torch.cuda.device_count(), "GPU")
        raise ValueError(f"device={str(device)!r}; this machine has {count}, counted from cuda:0.")
    if _too_old(device):
        raise ValueError(f"device={str(device)!r} was asked for. {_too_old(device)} Use device='cpu'.")
    if device.index not in (None, torch.cuda.current_device()):
        raise ValueError(f"device={str(device)!r} is not the current GPU, where Triton starts its kernels. "
                         f"Call torch.cuda.set_device({device.index}) first, or start with "
                         f"CUDA_VISIBLE_DEVICES={device.index}.")


def has_onednn() -> bool:
    """True where this PyTorch has oneDNN's linear layer, which computes in float32 on a CPU."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def device_of_rank(local_rank: int, local_ranks: int) -> torch.device:
    """Where a rank computes: the GPU of its number, which becomes the current one, or the CPU unless every
    rank of this machine has a GPU of its own."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < local_ranks:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


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
    free, _ = torch.cuda.mem_get_info(device)
    in_reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + in_reserve


def peak_bytes(device: torch.device | str) -> int | None:
    """The most memory in use so far: a GPU's tensors since the last reset, or all of this process on a CPU.
    None where the system does not tell (Windows)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_bytes()


def gpu_report() -> str:
    """One sentence: which GPU is used, or why none is and what to do about it; and what Triton misses."""
    if not torch.cuda.is_available():
        return _without_gpu(_why_no_gpu() + ".")
    if _too_old():
        return _without_gpu(_too_old())
    free, total = torch.cuda.mem_get_info()
    found = f"GPU: {torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free."
    missing = build_tools_missing()
    return f"{found} {missing}" if missing else found


def _without_gpu(why: str) -> str:
    return (f"No GPU: {why} Everything runs on the CPU; what only a GPU can show is drawn from "
            "recorded results.")


def _why_no_gpu() -> str:
    has_driver = _DRIVER_FILE.exists()
    if torch.version.cuda is None and has_driver:
        return "this PyTorch is a CPU build; install a CUDA build to use your NVIDIA GPU"
    if torch.version.cuda is None:
        return "this PyTorch is a CPU build"
    if has_driver:
        return _why_the_driver_does_not_start()
    return "no NVIDIA driver is installed on this machine; install one if it has a GPU"


def _why_the_driver_does_not_start() -> str:
    found = re.search(r"\d{3,}(\.\d+)+", _DRIVER_FILE.read_text())
    driver = found[0] if found else "of an unknown version"
    least = _LEAST_DRIVER.get(torch.version.cuda.split(".")[0])
    if found and least and _numbers(driver) < _numbers(least):
        return (f"NVIDIA's driver {driver} is too old: this PyTorch is built for CUDA {torch.version.cuda}, "
                f"which needs {least} or later. Update the driver, or install a PyTorch for an older CUDA")
    return (f"NVIDIA's driver {driver} is installed but PyTorch, built for CUDA {torch.version.cuda}, cannot "
            "start it; run nvidia-smi to see why")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _too_old(device: torch.device | None = None) -> str:
    """Why this GPU is not used, in a sentence; "" if it is new enough."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= LEAST_CAPABILITY:
        return ""
    has, least = (".".join(map(str, numbers)) for numbers in (capability, LEAST_CAPABILITY))
    return (f"{torch.cuda.get_device_name(device)} has compute capability {has}; the kernels here need "
            f"{least} (an A100, an RTX 30, or newer).")


def device_name(device: torch.device | str | None = None) -> str:
    """A human's name for the device: the GPU's product name, or the CPU's and its thread count."""
    if as_device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {plural(torch.get_num_threads(), 'thread')}"


def to_device(values: Sequence | torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor of the values there. The CPU does not wait for a GPU: the copy is from pinned memory,
    which PyTorch's host allocator takes back when the copy is done."""
    made = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda" and not made.is_cuda:
        made = made.pin_memory()
    return made.to(device, non_blocking=True)
