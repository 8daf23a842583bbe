"""A GPU that computes nothing: the engine and the trainer's kernels take the GPU's way without one.

    with fake_gpu(arch=90) as gpu:
        model = random_model(config, gpu.device)     tensors there have shapes, a device, and no numbers
        engine = Engine(model, …); engine.step()     tensors on the CPU stay real
    gpu.started        [Started("rmsnorm", "_forward_kernel", …), Started("aten", "mm", …), …]
    gpu.complaints     ["waits for the GPU: aten._to_copy …", …]      what would stop the queue
    gpu.variants()     every Triton kernel that would have been compiled, as the compiler would know it

Tensors of the GPU are PyTorch's FakeTensor: an operation on two devices raises, and so does one whose result
depends on numbers (.item(), x[x > 0]): that is code that waits. What is copied back is made up: small random
integers, and finite numbers. Streams, events and graphs keep books. What a recording must not hold (a copy
from the CPU, a wait) is a complaint. Backward passes are backward.py's. Invariant: outside of the block
nothing of this is left. Notebook 14.
"""

import ctypes
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from aiinfra.gpu.backward import run_backward
from aiinfra.gpu.replaced import replaced
from aiinfra.gpu.variants import Variant, launchers, variant_of
from aiinfra.kernels import chip, operators

_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh", "detach"}
_COPIES = {"copy_", "_to_copy", "to"}
_NUMBERS = {"item", "_local_scalar_dense", "equal"}  # what they give depends on values
_META, _CUDA = 14, 1                     # c10::DeviceType
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_MADE_UP_BELOW = 16                      # integers that come back: 0 … 15, so that a guess is sometimes right


@dataclass(frozen=True)
class Started:
    """A kernel that a GPU was asked for: PyTorch's own ("aten"), or ours, with what Triton would compile."""

    module: str
    name: str
    nbytes: int                          # of the tensors that it is handed and returns, each once
    variant: Variant | None = None
    grid: tuple[int, ...] = ()


@dataclass
class FakeGPU:
    """What was asked of it so far."""

    arch: int
    multiprocessors: int
    memory_bytes: int
    device: torch.device = torch.device("cuda", 0)       # with its number: no guard knows which is current
    started: list[Started] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    recordings: list["Recording"] = field(default_factory=list)
    recording: "Recording | None" = None
    pinned: set[int] = field(default_factory=set)        # addresses
    answers: bool = False                                # who asks for a number is told 1, or 0.0
    numbers: random.Random = field(default_factory=lambda: random.Random(0))

    def variants(self, since: int = 0) -> set[Variant]:
        """The kernels that Triton would have compiled for what was started from number `since` on."""
        return {one.variant for one in self.started[since:] if one.variant is not None}

    def complain(self, what: str) -> None:
        """Note what would stop the queue, and where; in a recording it would end it."""
        where = "in a recording" if self.recording is not None else "waits for the GPU"
        self.complaints.append(f"{where}: {what}")

    def start(self, started: Started) -> None:
        """Note a kernel; while recording, in the recording."""
        into = self.started if self.recording is None else self.recording.kernels
        into.append(started)


class Recording:
    """In place of torch.cuda.CUDAGraph: the kernels that were asked for while it was recorded."""

    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu = gpu
        self.kernels: list[Started] = []
        self.replays = 0

    def replay(self) -> None:
        """Ask for all of them at once."""
        self.replays += 1
        self.gpu.started += self.kernels


class _Stream:
    """In place of torch.cuda.Stream and Event: nothing is ever late."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cuda_stream = id(self)

    def record_event(self, event: Any = None) -> "_Stream":
        return self

    def wait_stream(self, other: Any = None) -> None:
        pass

    wait_event = record = wait = wait_stream

    def synchronize(self) -> None:
        """What a step waits for on purpose: its tokens, or its end."""

    def elapsed_time(self, other: "_Stream") -> float:
        """Milliseconds between two events."""
        return 0.0


@dataclass
class _Operation:
    """One operation that PyTorch is asked for."""

    func: Any
    args: tuple
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """Without its library: "add_", "rmsnorm_forward"."""
        return self.func._schema.name.split("::")[-1]

    @property
    def tensors(self) -> list[Tensor]:
        """Those that it is given."""
        return _tensors((self.args, self.kwargs))

    @property
    def fakes(self) -> list[Tensor]:
        """Those of them that lie on the GPU."""
        return [x for x in self.tensors if isinstance(x, FakeTensor)]

    @property
    def uploads(self) -> list[Tensor]:
        """Those of them that a copy takes from the CPU; a single number travels in the call."""
        if self.name not in _COPIES:
            return []
        return [x for x in self.tensors if not isinstance(x, FakeTensor) and x.dim()]

    @property
    def goes_to(self) -> str:
        """The kind of device that is named, or of what is copied into; "" if neither. "cuda" without a number
        comes as the current device, and whom PyTorch asks for it says meta."""
        if self.name == "copy_":
            return "cuda" if isinstance(self.args[0], FakeTensor) else "cpu"
        device = self.kwargs.get("device")
        if device is None:
            return ""
        kind = torch.device(device).type
        return "cuda" if kind == "meta" else kind

    def run(self) -> Any:
        """Have PyTorch do it."""
        return self.func(*self.args, **self.kwargs)

    def starts_a_kernel(self, results: list[Tensor]) -> bool:
        """Not if it only makes another header; to, reshape and contiguous count as views, but may copy. What
        updates many tensors at once gives none back."""
        does_something = results or self.func._schema.is_mutable
        if self.func.namespace == "aiinfra" or self.name in _NO_KERNEL or not does_something:
            return False
        memory = {_memory(x) for x in self.fakes}
        return not (self.func.is_view and any(_memory(x) in memory for x in results))


class _Split(TorchDispatchMode):
    """Operations on the GPU's tensors are faked and noted, all others are done."""

    def __init__(self, gpu: FakeGPU) -> None:
        super().__init__()
        self.gpu = gpu
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = _Operation(func, args, dict(kwargs or {}))
        if not asked.fakes and asked.goes_to != "cuda":
            return self._really(asked)
        if asked.goes_to == "cpu":
            return self._bring_back(asked)
        if self.gpu.answers and asked.name in _NUMBERS:
            self.gpu.complain(asked.name)
            is_loss = args[0].is_floating_point() and asked.name != "equal"
            return 0.0 if is_loss else True
        return self._fake(asked)

    def _really(self, asked: _Operation) -> Any:
        """On the CPU, where only pinned memory is an idea."""
        if asked.name in ("pin_memory", "_pin_memory"):      # in inference mode, and outside of it
            return self._pin(asked.args[0].clone())
        if asked.name == "is_pinned":
            return _memory(asked.args[0]) in self.gpu.pinned
        pinned = asked.kwargs.pop("pin_memory", False)
        return self._pin(asked.run()) if pinned else asked.run()

    def _fake(self, asked: _Operation) -> Any:
        if asked.goes_to == "cuda" and "device" in asked.kwargs:
            asked.kwargs["device"] = self.gpu.device
        given = asked.tensors
        self._look_at_uploads(asked)
        with self.fakes:
            asked.args, asked.kwargs = tree_map_only(Tensor, _without_numbers, (asked.args, asked.kwargs))
            made = asked.run()
        results = _tensors(made)
        if asked.starts_a_kernel(results):
            self.gpu.start(Started(module="aten", name=asked.name, nbytes=_bytes(results + given)))
        return made

    def _look_at_uploads(self, asked: _Operation) -> None:
        sources = asked.uploads
        if sources and self.gpu.recording is not None:
            self.gpu.complain(f"{asked.name} from the CPU")
        elif any(_memory(x) not in self.gpu.pinned for x in sources):
            self.gpu.complain(f"{asked.name} from memory that is not pinned")

    def _bring_back(self, asked: _Operation) -> Tensor:
        """A copy to the CPU, with numbers that are made up."""
        source = asked.fakes[0]
        target = asked.args[0]
        waits = target is source or _memory(target) not in self.gpu.pinned
        if waits or self.gpu.recording is not None:
            self.gpu.complain(f"{asked.name} to the CPU")
        self.gpu.start(Started(module="aten", name=asked.name, nbytes=_bytes([source])))
        if target is source:
            dtype = asked.kwargs.get("dtype") or source.dtype
            target = torch.empty(source.shape, dtype=dtype)
        if self.gpu.answers:
            return target.fill_(1)
        numbers = [self.gpu.numbers.randrange(_MADE_UP_BELOW) for _ in range(target.numel())]
        return target.copy_(torch.tensor(numbers).view(target.shape))

    def _pin(self, made: Tensor) -> Tensor:
        self.gpu.pinned.add(_memory(made))
        return made


@contextmanager
def fake_gpu(arch: int = 90, multiprocessors: int = 132,
             memory_bytes: int = 80_000_000_000, numbers: bool = False) -> Iterator[FakeGPU]:
    """Within it there is a GPU, `device`, that computes nothing; yields what it was asked for. numbers: do
    not raise where a number is asked for, but say 1, or of an error 0.0: for benchmarks.

    Raises RuntimeError where PyTorch has no place for a device's guard (another system than Linux)."""
    gpu = FakeGPU(arch=arch, multiprocessors=multiprocessors, memory_bytes=memory_bytes, answers=numbers)

    def note(kernel: Any, grid: Any, arguments: Any, options: Any) -> None:
        tensors = _tensors((arguments, options))
        name = kernel.fn.__name__
        if any(x.device.type != "cuda" for x in tensors):
            raise RuntimeError(f"{name} is handed a tensor that is not on the GPU.")
        gpu.start(Started(
            module=kernel.fn.__module__.split(".")[-1],
            name=name,
            nbytes=_bytes(tensors),
            variant=variant_of(kernel, arguments, options),
            grid=tuple(grid),
        ))

    def properties(device: torch.device) -> tuple[int, int]:
        return (arch, multiprocessors) if device.type == "cuda" else (0, 2)

    with ExitStack() as stack:
        stack.enter_context(_a_guard_for_cuda())
        stack.enter_context(replaced(chip, _properties=properties))
        stack.enter_context(replaced(operators, not_started=note))
        for kind in launchers():                            # who launches without an operator of ours
            stack.enter_context(replaced(kind, run=_noting(note, kind.run)))
        stack.enter_context(replaced(torch.cuda, **_answers(gpu)))
        stack.enter_context(replaced(torch.autograd, _engine_run_backward=run_backward))
        stack.enter_context(_lists_become_tensors_on_the_cpu())
        stack.enter_context(_Split(gpu))
        yield gpu


def _noting(note: Callable[..., None], run: Callable[..., Any]) -> Callable[..., None]:
    """A kernel's `run` that notes a launch on the GPU's tensors, and does all others."""
    def noted(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if any(isinstance(x, FakeTensor) for x in _tensors((arguments, options))):
            note(kernel, grid, arguments, options)
        else:
            run(kernel, *arguments, grid=grid, warmup=warmup, **options)
    return noted


def _answers(gpu: FakeGPU) -> dict[str, Any]:
    """torch.cuda's functions that our code calls, as this GPU answers them."""
    @contextmanager
    def recording(graph: Recording, pool: Any = None, stream: Any = None) -> Iterator[None]:
        gpu.recording = graph
        try:
            yield
        finally:
            gpu.recording = None
            gpu.recordings.append(graph)

    @contextmanager
    def nothing(*_: Any) -> Iterator[None]:
        yield

    def synchronize(device: Any = None) -> None:
        if gpu.recording is not None:
            gpu.complain("torch.cuda.synchronize")

    capability = divmod(gpu.arch, 10)
    facts = SimpleNamespace(total_memory=gpu.memory_bytes, multi_processor_count=gpu.multiprocessors,
                            major=capability[0], minor=capability[1], name="a fake GPU")
    constant = {
        "is_available": True,
        "is_bf16_supported": gpu.arch >= 80,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": f"a fake GPU, sm_{gpu.arch}",
        "get_device_capability": capability,
        "get_device_properties": facts,
        "mem_get_info": (gpu.memory_bytes, gpu.memory_bytes),
        "memory_reserved": 0,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "graph_pool_handle": (0, 0),
        "_lazy_init": None,
    }
    answers = {name: lambda *_, value=value, **__: value for name, value in constant.items()}
    current = _Stream()
    return answers | {
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": lambda *_: current,
        "stream": nothing,
        "device": nothing,
        "device_of": nothing,
        "synchronize": synchronize,
        "CUDAGraph": lambda: Recording(gpu),
        "graph": recording,
    }


@contextmanager
def _a_guard_for_cuda() -> Iterator[None]:
    """PyTorch asks a table of C++ which GPU is the current one, also for tensors without memory. A CPU build
    has nobody to ask there: meanwhile, the meta device answers."""
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    try:
        table = (ctypes.c_void_p * (_META + 1)).in_dll(ctypes.CDLL(str(library)), _GUARDS)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"a GPU cannot be imitated on this system ({error}); it works on Linux.") from None
    before = table[_CUDA]
    table[_CUDA] = table[_META]
    try:
        yield
    finally:
        table[_CUDA] = before


def _without_numbers(x: Tensor) -> Tensor:
    """A tensor of the CPU beside the GPU's: its shape. A single number would be remembered."""
    if isinstance(x, FakeTensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)


@contextmanager
def _lists_become_tensors_on_the_cpu() -> Iterator[None]:
    """torch.tensor([…], device="cuda") makes the tensor there and shows nobody the copy, unless told so."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    """What tells one piece of memory from another: an address, or where there is none, its owner."""
    storage = tensor.untyped_storage()
    return storage._cdata if isinstance(tensor, FakeTensor) else storage.data_ptr()


def _bytes(tensors: list[Tensor]) -> int:
    return sum({id(x): x.numel() * x.itemsize for x in tensors}.values())
