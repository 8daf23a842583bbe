"""Linear layers whose weights are laid out once for the CPU's matrix kernels.

`nn.Linear` hands oneDNN a row-major weight, which it re-arranges or does without at every call.
Here it is re-arranged once. On the 2-core machine of the README that makes a decode step of
SmolLM2 about twice as fast, and prefill about 1.4 times: same weights, same sums, other order.

Applied from outside to a finished model, like parallelism and quantisation. Where it does not
apply (a GPU, bfloat16, a PyTorch without oneDNN) the model stays as it is. Inductor's freezing
uses the same two operators. Notebook 00 shows the effect.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b on a packed float32 weight; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features], float32."""
        if x.requires_grad:
            raise RuntimeError("packed weights cannot be trained: load the model with packed=False.")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed_weight, self.bias, "none", [], "")

    def unpacked_weight(self) -> Tensor:
        """The plain weight [out_features, in_features], bit for bit."""
        return self.packed_weight.to_dense()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return self.in_features * self.out_features * 4


def can_pack(linear: nn.Linear) -> bool:
    """True if `linear` is float32 on a CPU whose PyTorch has oneDNN."""
    return (linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32
            and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def pack(model: nn.Module) -> nn.Module:
    """Replace, in place, every linear layer that can be packed; returns the same model.

    One layer at a time, its plain weight let go at once: the peak is one layer above the model,
    plus a tied embedding table, which stays for look-ups.
    """
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and can_pack(child):
                    setattr(parent, name, PackedLinear(child))
                    del child
    return model
