"""What would a GPU be asked to do? GPU code, run on a machine without one, on tensors without numbers.

    with dry_run() as asked:
        model.to("meta")(torch.zeros(1, dtype=torch.int64, device="meta"))
    asked        [Launch("embedding", …), Launch("rmsnorm._forward_kernel", …), Launch("linear", …), …]

PyTorch's meta tensors have shapes and strides and no memory; in here they say that they are on a GPU. So an
8B model costs nothing, and all Python is run. What looks at a number (.item(), .tolist(), an `if` on a
tensor, x[x > 0]) has nothing to look at and raises. That is the very code that makes a CPU wait for its GPU,
and that no CUDA graph can hold. Notebook 14.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aiinfra.gpu.replaced import replaced
from aiinfra.gpu.variants import launchers
from aiinfra.kernels import chip, operators

_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh", "detach"}
_ROWS_ONLY = {"embedding", "index", "index_select"}       # these read rows of a table, not the table


class Launch(NamedTuple):
    """One kernel: its name, and the bytes of the tensors that it is handed and returns, each once."""

    name: str
    bytes: int


class _SaysGPU(TorchFunctionMode):
    """Lets meta tensors answer is_cuda with True: that is what the kernels' wrappers ask."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__:
            return args[0].is_meta
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Writes down every operation that would start a kernel."""

    def __init__(self, asked: list[Launch]) -> None:
        super().__init__()
        self.asked = asked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        read, made = _tensors((args, kwargs)), _tensors(out)
        ours = func.namespace == "aiinfra"           # an operator of ours says itself what it launches
        starts_a_kernel = not ours and name not in _NO_KERNEL and not _is_view(func, read, made)
        if starts_a_kernel and any(x.is_meta for x in made):
            moved = made if name in _ROWS_ONLY else made + read
            self.asked.append(Launch(name, _bytes(moved)))
        return out


def _is_view(func: Any, read: list[Tensor], made: list[Tensor]) -> bool:
    """to, reshape and contiguous count as views, and copy all the same when they must."""
    memory = {_memory(x) for x in read}
    return func.is_view and any(_memory(x) in memory for x in made)


@contextmanager
def dry_run(arch: int = 90, multiprocessors: int = 132) -> Iterator[list[Launch]]:
    """Within it, code on meta tensors takes the way that it takes on a GPU; yields the kernels asked for so
    far.

    arch and multiprocessors: the chip that tile sizes are picked for (default: an H100). Triton kernels are
    noted and not run. Reading a value raises RuntimeError or one of its kind; so does a machine without
    Triton.
    """
    asked: list[Launch] = []

    def note(kernel: Any, grid: Any, arguments: Any, options: Any) -> None:
        name = f"{kernel.fn.__module__.split('.')[-1]}.{kernel.fn.__name__}"
        asked.append(Launch(name, _bytes(_tensors((arguments, options)))))

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        note(kernel, grid, arguments, options)

    with ExitStack() as stack:
        stack.enter_context(replaced(chip, _properties=lambda device: (arch, multiprocessors)))
        stack.enter_context(replaced(operators, not_started=note))
        for kind in launchers():
            stack.enter_context(replaced(kind, run=run))
        stack.enter_context(_SaysGPU())
        stack.enter_context(_Watch(asked))
        yield asked


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: list[Tensor]) -> int:
    return sum({id(x): x.numel() * x.itemsize for x in tensors}.values())
