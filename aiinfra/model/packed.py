"""Linear layers whose weights are laid out once for the CPU's matrix kernels.

`nn.Linear` hands oneDNN a row-major weight, which it re-arranges or does without at every call.
Here it is re-arranged once. `python -m aiinfra bench decode` measures what that wins: same weights, same sums, other order.

Applied from outside to a finished model, like parallelism and quantisation. Where it does not
apply (a GPU, bfloat16, a PyTorch without oneDNN) the model stays as it is. Inductor's freezing
uses the same two operators. Notebook 00 shows the effect.
"""

import torch
from torch import Tensor, nn

from aiinfra.device import use_huge_pages


_ROWS = 6        # what oneDNN's AVX2 kernel works on at a time


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b on a packed float32 weight; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        use_huge_pages(torch.ops.mkldnn.data_ptr(self.packed_weight), self.nbytes)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features], float32."""
        if x.requires_grad:
            raise RuntimeError("packed weights cannot be trained: load the model with packed=False.")
        if x.dim() > 1 and x.numel() == self.in_features:
            # One row alone waits for every load of the weights; six rows of registers keep the memory busy.
            return self._multiply(x.expand(_ROWS, *x.shape[1:]).contiguous())[:1]
        return self._multiply(x)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed_weight, self.bias, "none", [], "")

    def unpacked_weight(self) -> Tensor:
        """The plain weight [out_features, in_features], bit for bit."""
        return self.packed_weight.to_dense()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return self.in_features * self.out_features * 4


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """True for float32 on a CPU whose PyTorch has oneDNN."""
    return (device.type == "cpu" and dtype == torch.float32
            and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def pack(model: nn.Module) -> nn.Module:
    """Replace, in place, every linear layer that can be packed; returns the same model.

    A tied embedding table stays, for look-ups, beside the packed copy that the last layer reads.
    """
    for name in [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]:
        pack_one(model, name)
    return model


def pack_one(model: nn.Module, name: str) -> None:
    """Pack the layer of that name, if it is one that can be packed; its plain weight is let go."""
    layer = model.get_submodule(name)
    if isinstance(layer, nn.Linear) and can_pack(layer.weight.dtype, layer.weight.device):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, PackedLinear(layer))
