"""How each layer is cut among ranks, and the fused matrices split from outside into what is cut.

    layer             cut          a rank of T has
    embed, lm_head    vocabulary   V/T rows: some words of the vocabulary
    attention.qkv     column       of q, of k and of v each 1/T of the rows: whole heads
    attention.out     row          1/T of the columns: those that its heads are multiplied by
    mlp.gate_up       column       of gate and of up each F/T rows
    mlp.down          row          F/T columns
    mlp.experts.…     column, row  of every expert the same as of a feed-forward
    norms, routers    whole        all; of latent attention also the matrices down to it

A cut of the stack [q | k | v] would give one rank queries only, and another one values. So a model on a
mesh has `attention.qkv.q`, `.k` and `.v`, and `mlp.gate_up.gate` and `.up`, each a matrix of its own: on
every mesh alike, so that names in a checkpoint do not depend on it. The rows of the table are named as in
checkpoint/names.py: reading a rank's share from a file and placing it use the same ones. Notebook 06.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from aiinfra.checkpoint.names import part_rows
from aiinfra.errors import nearest
from aiinfra.model.config import ModelConfig
from aiinfra.model.layers import Linear

CutKind = Literal["column", "row", "vocabulary", "whole"]


@dataclass(frozen=True)
class Cut:
    """How one kind of layer is cut. parts: what its matrix is split into, in the order of its rows; none: it
    is one."""

    layer: str                                 # as in checkpoint/names.py, without `layers.{}.`
    kind: CutKind
    parts: tuple[str, ...] = ()

    def dimension(self, leaf: str) -> int | None:
        """Along which dimension a parameter (weight or bias) is cut; None: each rank has all of it."""
        if self.kind == "whole":
            return None
        if self.kind == "row":
            return 1 if leaf == "weight" else None        # a sum over ranks, to which its bias is added once
        return 0


CUTS = (
    Cut("embed", "vocabulary"),
    Cut("attention_norm", "whole"),
    Cut("attention.qkv", "column", ("q", "k", "v")),
    Cut("attention.q_norm", "whole"),
    Cut("attention.k_norm", "whole"),
    Cut("attention.q", "column"),                              # of latent attention; see model/mla.py
    Cut("attention.q_a", "whole"),
    Cut("attention.q_a_norm", "whole"),
    Cut("attention.q_b", "column"),
    Cut("attention.kv_a", "whole"),
    Cut("attention.kv_a_norm", "whole"),
    Cut("attention.kv_b", "column"),
    Cut("attention.out", "row"),
    Cut("mlp_norm", "whole"),
    Cut("mlp.gate_up", "column", ("gate", "up")),
    Cut("mlp.down", "row"),
    Cut("mlp.router", "whole"),
    Cut("mlp.experts.gate_up", "column"),                      # a stack that is never split: see tensor.py
    Cut("mlp.experts.down", "row"),
    Cut("mlp.shared.gate_up", "column", ("gate", "up")),
    Cut("mlp.shared.down", "row"),
    Cut("norm", "whole"),
    Cut("lm_head", "vocabulary"),
)
_CUT_OF = {cut.layer: cut for cut in CUTS}


def cut_of(layer: str) -> Cut:
    """The row of `layers.3.attention.qkv`, or of a part of it, as `layers.3.attention.qkv.q`.

    Raises ValueError for a layer that the table does not have: nobody knows how to cut it.
    """
    name = re.sub(r"^layers\.\d+\.", "", layer)
    stack, _, part = name.rpartition(".")
    if stack in _CUT_OF and part in _CUT_OF[stack].parts:
        return _CUT_OF[stack]
    if name not in _CUT_OF:
        raise ValueError(f"layer {layer!r} is in no row of parallel/parts.py, so nobody knows how to cut it."
                         f"{nearest(name, _CUT_OF)}")
    return _CUT_OF[name]


class Parts(nn.Module):
    """Layers that read the same input, each under a name of its own; their outputs side by side, as their
    stack gives them."""

    def __init__(self, parts: dict[str, Linear]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., the sum of the parts' outputs]."""
        return torch.cat([part(x) for part in self.children()], -1)


def split_parts(model: nn.Module) -> None:
    """Replace each stack of matrices in `model` (a Transformer, with its config) by its parts, in new memory.

    What is split already stays. Raises ValueError for a stack that is packed or quantised.
    """
    for name, module in list(model.named_modules()):
        parts = _parts_of(name)
        if not parts or isinstance(module, Parts):
            continue
        if type(module) is not Linear:
            raise ValueError(f"{name} is a {type(module).__name__}, which cannot be split: load the model "
                             "with packed=False and without quantize.")
        model.set_submodule(name, _split(name, module, model.config))


def join_parts(model: nn.Module) -> None:
    """Undo `split_parts`: the stacks again, as `aiinfra.checkpoint.save` writes them. The parts must be
    whole, as they are on one rank."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Parts):
            model.set_submodule(name, _join(module))


def _parts_of(name: str) -> tuple[str, ...]:
    """The parts of a layer; none for a module that is in no row."""
    layer = re.sub(r"^layers\.\d+\.", "", name)
    return _CUT_OF[layer].parts if layer in _CUT_OF else ()


def _split(name: str, stack: Linear, config: ModelConfig) -> Parts:
    rows = part_rows(f"{name}.weight", config, stack.out_features)
    weights = stack.weight.detach().split(rows)
    biases: list[Tensor | None] = [None] * len(rows)
    if stack.bias is not None:
        biases = list(stack.bias.detach().split(rows))
    layers = [_linear(weight.clone(), bias if bias is None else bias.clone())
              for weight, bias in zip(weights, biases)]
    for layer in layers:
        layer.requires_grad_(stack.weight.requires_grad)
    return Parts(dict(zip(_parts_of(name), layers)))


def _join(parts: Parts) -> Linear:
    layers = list(parts.children())
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = None
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias.detach() for layer in layers])
    stack = _linear(weight, bias)
    return stack.requires_grad_(layers[0].weight.requires_grad)


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """A layer with these values, wherever they are."""
    outputs, inputs = weight.shape
    layer = Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer
