"""Latent attention (MLA) cut among tensor-parallel ranks: the way down is done by all, the way up by heads.

    x ─ enter ─┬─ q_a ─ norm ─ q_b ──> q of H/T heads ─┐
               └─ kv_a ─ norm ─ kv_b ─> k, v of H/T ───┴─ attention ─ out ─ leave

Every rank works out the whole latents, which are short. But only its own heads send gradients back to them,
so the gradients of all that lies between `enter` and the heads are parts, and are summed over ranks. A weight
that all ranks have still counts once in the norm of all gradients; counted by each rank, that norm was too
large by 1.36 to 1.52 times (ROCm's TransformerEngine #715). Notebook 17.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.functional import linear

from aiinfra.model.layers import Linear
from aiinfra.model.mla import MLA, LatentUp
from aiinfra.parallel.layout import TokenLayout, replicated
from aiinfra.parallel.parts import cut_of


class RankLinear(Linear):
    """A layer of which a rank computes some outputs from whole inputs ("column"), or all ("whole": then the
    gradients of its values are parts). Its values are DTensors; what goes in and out are plain tensors."""

    def __init__(self, layer: nn.Linear, layout: TokenLayout, column: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.column = column
        placement = Shard(0) if column else Replicate()
        for name, values in layer.named_parameters(recurse=False):
            placed = distribute_tensor(values.detach(), layout.mesh, [placement])
            self.register_parameter(name, nn.Parameter(placed, requires_grad=values.requires_grad))

    def forward(self, x: Tensor) -> Tensor:
        weight = replicated(self.weight, partial=not self.column)
        bias = self.bias
        if bias is not None:
            bias = replicated(bias, partial=not self.column)
        return linear(x, weight, bias)


class RankLatentUp(LatentUp):
    """The keys and values of a rank's own heads."""

    def __init__(self, layer: LatentUp, layout: TokenLayout) -> None:
        nn.Module.__init__(self)
        self.sizes = layer.sizes
        placed = distribute_tensor(layer.weight.detach(), layout.mesh, [Shard(0)])
        self.weight = nn.Parameter(placed, requires_grad=layer.weight.requires_grad)

    def values(self) -> Tensor:
        """This rank's rows."""
        return self.weight.to_local()


def cut_latent(name: str, attention: MLA, layout: TokenLayout) -> None:
    """Replace, in place, what stands between `enter` and the heads; norms and `out` are left to tensor.py."""
    attention.register_forward_pre_hook(_entering(layout))
    for part, module in list(attention.named_children()):
        if isinstance(module, LatentUp):
            setattr(attention, part, RankLatentUp(module, layout))
        elif isinstance(module, nn.Linear) and part != "out":
            column = cut_of(f"{name}.{part}").kind == "column"
            setattr(attention, part, RankLinear(module, layout, column))


def _entering(layout: TokenLayout) -> Any:
    """A hook before a module: all tokens for it, whose gradients are summed over ranks."""
    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = inputs
        return layout.enter(x), *others
    return enter
