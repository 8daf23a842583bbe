"""Linear layers whose weights are laid out once for the CPU, and read the fastest way for one row or for
many.

`nn.Linear` hands oneDNN a row-major weight, which it re-arranges or does without at every call.
Here it is re-arranged once, into panels of 64 outputs:

    W [out, in]  ──>  panels [out/64, in, 64]      y[panel] = Σ_k x[k] · panel[k]

Many rows go through oneDNN's matrix product. One row has nothing to reuse: it is a weighted sum of the
64-wide rows of each panel, which is what recommenders call an embedding bag, and PyTorch's kernel for that
fetches ahead, so it reads memory nearly as fast as memory can be read. Both read the same bytes.
`python -m aiinfra bench decode` measures what that wins: same weights, same sums, other order.

Applied from outside to a finished model, like parallelism and quantisation. Where it does not
apply (a GPU, bfloat16, a PyTorch without oneDNN) the model stays as it is. Inductor's freezing
uses the same two oneDNN operators. Notebook 00 shows the effect.
"""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor, nn

from aiinfra.compress.place import Values
from aiinfra.device import has_onednn
from aiinfra.environment import use_huge_pages
from aiinfra.model.layers import Weighed, set_parameters
from aiinfra.model.transformer import Transformer

PANEL = 64      # outputs side by side in oneDNN's layout
BAGS = 64       # sums in one call: the list of what to add stays small enough for the cache


class PackedLinear(Weighed, nn.Module):
    """y = x·Wᵀ + b on a packed float32 weight; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        use_huge_pages(self._address(), self.nbytes)
        self.bias = frozen(linear.bias)
        self.panels = self._see_panels()

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features], float32."""
        if x.requires_grad:
            raise RuntimeError("packed weights cannot be trained: load the model with packed=False.")
        if self.panels is not None and x.numel() == self.in_features:
            return self._sum_panels(x)
        return self._multiply(x)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed_weight, self.bias, "none", [], "")

    def _sum_panels(self, x: Tensor) -> Tensor:
        panels = min(BAGS, self.out_features // PANEL)
        x_again = repeat_row(x.reshape(1, -1), panels)           # the same x for every panel
        y = []
        for rows in self.panels:
            weights = x_again
            if len(rows) < len(x_again):                         # the last piece
                weights = x_again[:len(rows)]
            indices, starts = bags(len(rows) // self.in_features, 1, self.in_features)
            sums = torch.embedding_bag(rows, indices, starts, False, 0, False, weights)[0]
            y.append(sums)
        y = join(y).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _see_panels(self) -> tuple[Tensor, ...] | None:
        """The packed weight where it lies, as rows [out/64 · in, 64]; None if this oneDNN laid it out
        otherwise."""
        if self.out_features % PANEL:
            return None
        self.panels = self.weight_rows().split(BAGS * self.in_features)
        # The layout is oneDNN's own affair, so it is not believed: both ways must give one answer.
        x = torch.linspace(-1, 1, self.in_features)[None]
        known, seen = self._multiply(x), self._sum_panels(x)
        error = (seen - known).abs().max()
        return self.panels if error <= 1e-4 * known.abs().max() else None

    def weight_rows(self) -> Tensor:
        """The memory of the packed weight as [out/64 · in, 64], not a copy."""
        floats = ctypes.c_float * (self.nbytes // 4)
        memory = floats.from_address(self._address())
        memory.owner = self.packed_weight               # the tensor keeps `memory`, and that its owner, alive
        return torch.frombuffer(memory, dtype=torch.float32).view(-1, PANEL)

    def _address(self) -> int:
        return torch.ops.mkldnn.data_ptr(self.packed_weight)

    def unpacked_weight(self) -> Tensor:
        """The plain weight [out_features, in_features], bit for bit."""
        return self.packed_weight.to_dense()

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        raise RuntimeError("packed weights are not saved: save the model's own file, or load it with "
                           "packed=False.")

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        return self.in_features * self.out_features * 4

    def nbytes_read(self, tokens: int = 1) -> int:
        """See Weighed: the packed weight, and the bias."""
        return self.nbytes + super().nbytes_read()


class PackedEmbedding(nn.Module):
    """Looks tokens up in the packed table that a tied model's last layer multiplies with."""

    def __init__(self, head: PackedLinear) -> None:
        super().__init__()
        self.table = head.weight_rows().view(-1, head.in_features, PANEL)       # [V/64, D, 64], where it lies

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., D]."""
        return self.table[tokens // PANEL, :, tokens % PANEL]


@lru_cache(maxsize=64)
def bags(panels: int, rows: int, inputs: int) -> tuple[Tensor, Tensor]:
    """What to add up, int32: for each panel and each row of x all `inputs` rows of the panel; and where each
    sum starts."""
    of_panels = torch.arange(panels * inputs, dtype=torch.int32).view(panels, 1, inputs)
    indices = of_panels.expand(panels, rows, inputs).reshape(-1)
    starts = torch.arange(0, len(indices), inputs, dtype=torch.int32)
    return indices, starts


def repeat_row(x: Tensor, times: int) -> Tensor:
    """All of x's values [1, N], `times` times one after another: [times · N]."""
    return x.expand(times, -1).reshape(-1)


def join(pieces: list[Tensor]) -> Tensor:
    """The pieces in one tensor, without a copy if there is only one."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def frozen(bias: Tensor | None) -> nn.Parameter | None:
    """A layer's bias as a parameter that is not trained, if the layer has one."""
    if bias is None:
        return None
    return nn.Parameter(bias.detach(), requires_grad=False)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """True for float32 on a CPU whose PyTorch has oneDNN."""
    return device.type == "cpu" and dtype == torch.float32 and has_onednn()


def pack(model: nn.Module) -> nn.Module:
    """Replace, in place, every linear layer that can be packed; returns the same model."""
    for name in _linear_layers(model):
        pack_one(model, name)
    return model


def pack_one(model: nn.Module, name: str) -> None:
    """Pack the layer of that name, if it is one that can be packed; its plain weight is let go."""
    layer = model.get_submodule(name)
    if not isinstance(layer, nn.Linear) or not can_pack(layer.weight.dtype, layer.weight.device):
        return
    packed = PackedLinear(layer)
    model.set_submodule(name, packed)
    embed = getattr(model, "embed", None)
    tied = isinstance(embed, nn.Embedding) and embed.weight is layer.weight
    if tied and packed.panels is not None:
        model.embed = PackedEmbedding(packed)            # a tied table is kept once


class PlacePacked:
    """Where to put values that are being read: each linear layer is packed as soon as it has its own."""

    takes_blocks = ()

    def __init__(self, model: Transformer) -> None:
        self.transient = frozenset(_linear_layers(model))          # those whose plain weight does not stay

    def __call__(self, model: Transformer, layer: str, values: Values) -> None:
        """Give the layer of that name its values, and pack it."""
        set_parameters(model.get_submodule(layer), values)
        if layer in self.transient:
            pack_one(model, layer)


def _linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
