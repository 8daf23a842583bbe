"""`triton` and `tl` for the kernel files; on a machine without Triton, a stand-in that only explains.

Triton ships for Linux. A kernel file must still import on a Mac or on Windows, because the
torch reference beside the kernel runs everywhere. So there the decorator keeps the function,
and a launch raises one clear sentence. Where kernels are interpreted, the interpreter learns bfloat16 first.
"""

from torch import Tensor

from aiinfra.environment import triton_interpreted

try:
    import triton
    import triton.language as tl
except ImportError:
    class _NoKernel:
        def __init__(self, fn):
            self.fn, self.__name__ = fn, getattr(fn, "__name__", "kernel")

        def __getitem__(self, grid):
            raise RuntimeError(f"Kernel {self.__name__} needs Triton, which is not installed here "
                               "(it ships for Linux). Use the torch path: backend='torch'.")

    class _NoTriton:
        jit = staticmethod(lambda fn=None, **_: _NoKernel(fn) if fn else _NoKernel)
        cdiv = staticmethod(lambda a, b: -(-a // b))
        next_power_of_2 = staticmethod(lambda n: 1 << max(n - 1, 0).bit_length())

    class _NoLanguage:
        constexpr = int

    triton, tl = _NoTriton(), _NoLanguage()
else:
    if triton_interpreted():
        from aiinfra.kernels.interpreted import mend_bfloat16
        mend_bfloat16()


def pick_backend(tensor: Tensor, backend: str | None) -> str:
    """"triton" or "torch": as asked, or by where `tensor` lives when `backend` is None.

    Every kernel's wrapper has it as its last keyword. "triton" on a CPU tensor works only under
    TRITON_INTERPRET=1. Raises ValueError for any other name.
    """
    if backend is None:
        return "triton" if tensor.is_cuda else "torch"
    if backend not in ("torch", "triton"):
        raise ValueError(f"backend={backend!r} is not known. Use 'torch', 'triton', or None "
                         "to pick by device.")
    return backend


__all__ = ["triton", "tl", "pick_backend"]
