"""Linear layers of a training on a CPU, multiplied by oneDNN.

    y = x·Wᵀ + b        PyTorch's F.linear asks MKL, or what it was built with
    dx = dy·W           oneDNN's product is faster for both on the processors that were tried:
    dW = dyᵀ·x          here MKL stays, for oneDNN would need both turned first

Applied from outside to a model that is to be trained; the same weights, sums in another order. The gain is
the processor's affair: `python -m aiinfra bench train` shows it. For inference compress/packed.py does more:
there the weights never change, so they are laid out once.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aiinfra.device import has_onednn
from aiinfra.model.layers import Linear


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        rows = dy.reshape(-1, dy.shape[-1])                       # [N, out]
        if ctx.needs_input_grad[0]:
            dx = _multiply(dy, weight.t().contiguous(), None)     # [..., in]
        if ctx.needs_input_grad[1]:
            dweight = rows.t() @ x.reshape(-1, x.shape[-1])       # [out, in]
        if ctx.has_bias:
            dbias = rows.sum(0)
        return dx, dweight, dbias


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class OneDnnLinear(Linear):
    """y = x·Wᵀ + b by oneDNN while it is trained in float32 on a CPU, not compiled; else by PyTorch's own
    product."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        # Inductor takes this product for weights that are laid out for good, and these are trained.
        compiled = torch.compiler.is_compiling()
        mixed = torch.is_autocast_enabled(x.device.type)
        if compiled or mixed or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        return _Product.apply(x, self.weight, self.bias)


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of `model` multiply by oneDNN, where this PyTorch has it. Parameters and names
    stay the same."""
    if not has_onednn():
        return
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = OneDnnLinear
