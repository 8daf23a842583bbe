"""`torch.compile` applied from outside: parts of a layer that are many small operations become few loops.

    attention norm · q, k, v and their rotation  │  attention  │  residual sum and norm · feed-forward
    └──────────────── compiled ────────────────┘    as it is    └────────────── compiled ───────────┘

Attention over packed texts depends on where they end, which differs with every micro-batch: to compile it
would be to compile at every step. Its neighbours do not know of texts. All layers share what is compiled, and
sizes are variables from the start: a run that is resumed runs the same code, to the last bit. Notebook 04.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiinfra.model.layers import SwiGLU
from aiinfra.model.transformer import Transformer


def compile_layers(model: Transformer) -> None:
    """Have every layer's parts compiled at their first call, which takes a minute or two.

    Raises RuntimeError if nothing can be compiled here: on a CPU that needs a C++ compiler.
    """
    _check_compiler(model.device)
    for layer in model.layers:
        layer.attention_norm.forward = _compiled(layer.attention_norm.forward)
        layer.attention.project = _compiled(layer.attention.project)
        layer.mlp_norm.add = _compiled(layer.mlp_norm.add)
        if isinstance(layer.mlp, SwiGLU):                  # experts are chosen row by row: nothing to fuse
            layer.mlp.forward = _compiled(layer.mlp.forward)
    model.norm.forward = _compiled(model.norm.forward)


def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(part, dynamic=True)


def _check_compiler(device: torch.device) -> None:
    """Compile as little as there is, so that what is missing is told now and in words."""
    def twice(x: Tensor) -> Tensor:
        return x + x
    try:
        torch.compile(twice)(torch.ones(8, device=device))
    except (RuntimeError, OSError) as error:
        reason, *_ = str(error).strip().splitlines()
        raise RuntimeError(f"nothing can be compiled here ({reason}). On a CPU that needs a C++ compiler, "
                           "such as g++: install one, or train without --compile.") from error
