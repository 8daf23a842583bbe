"""Shared by all tests. Without a GPU, Triton kernels run in its interpreter.

Triton reads TRITON_INTERPRET when a kernel's module is imported, so it is set here, first.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
