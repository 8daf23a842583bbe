"""Weights of 4 or 8 bits: a token's time is the bytes of the weights, so keep fewer bytes.

Neighbouring weights are of like size, so a group of them can share a ruler: where it begins and how long a step is.

    weights      −0.30  0.02  0.27 …   32 float32 values                   128 bytes
    numbers q        0     8    15 …   32 of 4 bits                         16 bytes     w ≈ minimum + scale · q
    the ruler    minimum, scale        two 16-bit floats for all of them     4 bytes

Rounding to the nearest mark moves a weight by half a step at most. Nothing else changes: activations, norms and
the KV cache stay as they were, and each layer turns its numbers back into weights on the way to the multiplier.

    where   bits   who multiplies                                 who shares a ruler
    CPU     4      PyTorch's int4 product, bfloat16 activations   32 inputs of one output: GGUF's Q4_1 blocks as they are
    CPU     8      a few rows: a recommender's embedding bag      64 outputs of one input, laid out as in compress/packed.py
                   many rows: a piece de-quantised, then oneDNN
    GPU     4, 8   kernels/quant_matmul.py                        32 inputs of one output; all inputs of one output

A file of 4-bit blocks is best taken at "int4", which keeps its numbers; "int8" would draw them anew, on other rulers.
The last layer keeps 8 bits under "int4" too: its errors go straight into the logits, and bfloat16 logits
would tie. A layer stays as it is unless 32 divides its inputs and 16 (4 bits) or 64 (8 bits) its outputs;
so does an embedding table of its own, which gives up one row a token. Applied from outside to a finished
model, for inference only, and on the device where it will run. Notebook 16.
"""

import torch
from torch import Tensor, nn

from aiinfra.errors import nearest
from aiinfra.kernels.quant_matmul import BLOCK, PackedWeight, dequantize, quant_matmul, quantize_int4, quantize_int8, unpack
from aiinfra.compress.packed import BAGS, PANEL, PackedLinear, bags
from aiinfra.model.transformer import Transformer

SCHEMES = {"int8": 8, "int4": 4}
_FEW_ROWS = 8                 # of activations: up to here bags, which read bytes; then oneDNN, which reads floats
_PIECE = 1 << 22              # weights that are float32 at one time when there are many rows: 16 MB


class QuantizedLinear(nn.Module):
    """y = x·Wᵀ + b on a weight of a few bits; the classes below know how it is stored."""

    bits: int
    packed_weight: Tensor | PackedWeight

    def __init__(self, shape: tuple[int, int], bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features] in x's dtype."""
        if x.requires_grad:
            raise RuntimeError(f"int{self.bits} weights cannot be trained: load the model without quantize.")
        y = self._multiply(x.reshape(-1, self.in_features)).to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def rows(self, outputs: Tensor) -> Tensor:
        """Rows of the de-quantised weight, float32: int64 [...] -> [..., in_features]."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and their rulers: what one token reads."""
        return self.packed_weight.nbytes

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        raise RuntimeError(f"int{self.bits} weights are not saved: save the model's own file, or load it without quantize.")

    def _multiply(self, x: Tensor) -> Tensor:                        # [N, in] -> [N, out]
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, bias={self.bias is not None}"


class Int4Linear(QuantizedLinear):
    """On a CPU. The operator computes (q − 8)·scale + centre, so centre = minimum + 8·scale; both in bfloat16.

    bfloat16 keeps 8 bits, so rounding the two moves a weight by at most scale/64 + |centre|/512: little beside
    the half step that 4 bits cost. On SmolLM2-135M: 0.046 of a step at most, 0.2 % of the mean weight on average.
    """

    bits = 4

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        # The second argument only says how a GPU would tile it.
        self.packed_weight = torch._convert_weight_to_int4pack_for_cpu(unpack(weight), 1)
        scale, minimum = weight.scale.float().t(), weight.minimum.float().t()                  # [groups, out]
        self.rulers = torch.stack([scale, minimum + 8 * scale], -1).bfloat16()                 # [groups, out, 2]

    def _multiply(self, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self.packed_weight, BLOCK, self.rulers)

    @property
    def nbytes(self) -> int:
        """See QuantizedLinear."""
        return self.packed_weight.nbytes + self.rulers.nbytes


class Int8Linear(QuantizedLinear):
    """On a CPU. packed_weight: uint8 [out/64 · in, 72], each row 64 numbers and its ruler, two float32.

    One row of activations is a weighted sum of the rows of each panel. A few rows are a few such sums, one after
    another over the same panel, which by then is in the cache. Many rows share the work of turning numbers into floats.
    """

    bits = 8

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(tuple(weight.shape), bias)
        panels = weight.detach().unflatten(0, (-1, PANEL))                                     # [out/64, 64, in]
        self.packed_weight = torch.empty(len(panels) * self.in_features, PANEL + 8, dtype=torch.uint8)
        step = max(1, _PIECE // (PANEL * self.in_features))
        for piece, out in zip(panels.split(step), self._pieces(step)):
            rows = piece.transpose(1, 2).reshape(-1, PANEL).float()                            # inputs, then 64 outputs
            out.copy_(torch.ops.quantized.embedding_bag_byte_prepack(rows))

    def _multiply(self, x: Tensor) -> Tensor:
        y = self._sum_panels(x.float()) if 0 < len(x) <= _FEW_ROWS else self._multiply_pieces(x.float())
        return y.transpose(0, 1).reshape(len(x), self.out_features)                            # [out/64, N, 64] before

    def _sum_panels(self, x: Tensor) -> Tensor:
        panels = min(BAGS // len(x), self.out_features // PANEL)
        x_again = x.reshape(1, -1).expand(panels, -1).reshape(-1)                              # the same x for every panel
        y = []
        for rows in self._pieces(panels):
            indices, starts = bags(len(rows) // self.in_features, len(x), self.in_features)
            y.append(torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
                rows, indices, starts, False, 0, False, x_again[:len(indices)], None, False))
        return (torch.cat(y) if len(y) > 1 else y[0]).view(-1, len(x), PANEL)

    def _multiply_pieces(self, x: Tensor) -> Tensor:
        pieces = self._pieces(max(1, _PIECE // (PANEL * self.in_features)))
        return torch.cat([x @ _floats(piece).view(-1, self.in_features, PANEL) for piece in pieces])

    def _pieces(self, panels: int) -> tuple[Tensor, ...]:
        return self.packed_weight.split(panels * self.in_features)

    def rows(self, outputs: Tensor) -> Tensor:
        """See QuantizedLinear."""
        panel, column = outputs // PANEL, outputs % PANEL
        numbers = self.packed_weight.view(-1, self.in_features, PANEL + 8)[panel, :, column]
        rulers = self.packed_weight.view(torch.float32).view(-1, self.in_features, PANEL // 4 + 2)[panel, :, -2:]
        return numbers * rulers[..., 0] + rulers[..., 1]


class KernelLinear(QuantizedLinear):
    """On a GPU, 4 or 8 bits, through kernels/quant_matmul.py; on a CPU its plain reference."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        self.packed_weight, self.bits = weight, weight.bits

    def _multiply(self, x: Tensor) -> Tensor:
        return quant_matmul(x, self.packed_weight)

    def rows(self, outputs: Tensor) -> Tensor:
        """See QuantizedLinear."""
        w, flat = self.packed_weight, outputs.flatten()
        return dequantize(PackedWeight(w.words[flat], w.scale[flat], w.minimum[flat], w.bits)).view(*outputs.shape, -1)


class QuantizedEmbedding(nn.Module):
    """Looks tokens up in the table that a tied model's last layer multiplies with."""

    def __init__(self, head: QuantizedLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = head.rows, dtype           # the method, not the layer: that has its place in the model

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., D]."""
        return self.rows(tokens).to(self.dtype)


def quantize(model: Transformer, scheme: str) -> Transformer:
    """Replace, in place, every linear layer that can be by one of 4 or 8 bits; returns the same model.

    scheme: "int8", or "int4" (the last layer keeps 8 bits). Plain and packed layers are taken alike.
    Raises ValueError for another scheme, a quantised model, weights that are not finite, or if no layer can be
    quantised. `load(..., quantize="int4")` does without the plain model in memory.
    """
    check_scheme(scheme)
    if done := [m for m in model.modules() if isinstance(m, QuantizedLinear)]:
        raise ValueError(f"the model has int{done[0].bits} weights already: load it again to choose {scheme!r}.")
    bits = {name: bits_for(name, module, scheme) for name, module in model.named_modules()}
    chosen = [name for name in bits if bits[name]]
    for name in chosen:                                         # all before the first is replaced: no half a model
        check_finite(_plain_weight(model.get_submodule(name)), name)
    for name in chosen:
        quantize_one(model, name, bits[name])
    check_any_quantized(model, scheme)
    return model


def quantize_one(model: Transformer, name: str, bits: int, blocks: PackedWeight | None = None) -> None:
    """Quantise the layer of that name, to the bits that `bits_for` gives; its plain weight, which must be finite, is
    let go. blocks: its 4-bit weight where a file already has one."""
    layer = model.get_submodule(name)
    weight = _plain_weight(layer)
    new = _from_blocks(blocks, layer.bias) if blocks is not None else _from_floats(weight, layer.bias, bits)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    if name == "lm_head" and model.config.tie_word_embeddings:
        model.embed = QuantizedEmbedding(new, weight.dtype)      # the table is kept once


def bits_for(name: str, layer: nn.Module, scheme: str | None) -> int | None:
    """Bits of that layer under the scheme. None: it stays as it is, for its shape or for being no linear layer."""
    if scheme is None or not isinstance(layer, nn.Linear | PackedLinear):
        return None
    bits = 8 if name == "lm_head" else SCHEMES[scheme]
    whole = layer.in_features % BLOCK == 0 and layer.out_features % (PANEL if bits == 8 else 16) == 0
    return bits if whole else None


def check_scheme(scheme: str) -> None:
    """Raise ValueError, naming the nearest, for a scheme that there is not."""
    if scheme not in SCHEMES:
        raise ValueError(f"quantize={scheme!r} is not known.{nearest(scheme, SCHEMES)} Use one of: {', '.join(SCHEMES)}.")


def check_any_quantized(model: Transformer, scheme: str) -> None:
    """Raise ValueError if the scheme has found no layer that it could take."""
    if not any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise ValueError(f"no layer of this model can be {scheme}: {BLOCK} must divide its inputs, and "
                         f"{16 if scheme == 'int4' else PANEL} its outputs. Use it without quantize.")


def _from_blocks(blocks: PackedWeight, bias: Tensor | None) -> QuantizedLinear:
    return KernelLinear(blocks, bias) if blocks.words.is_cuda else Int4Linear(blocks, bias)


def _plain_weight(layer: nn.Linear | PackedLinear) -> Tensor:
    return layer.unpacked_weight() if isinstance(layer, PackedLinear) else layer.weight.detach()


def check_finite(weight: Tensor, name: str) -> None:
    """Raise ValueError if a weight is not a finite number: it would spoil those that share its ruler."""
    if not sum(weight.aminmax()).isfinite():              # unlike isfinite(weight), makes no copies of a large table
        raise ValueError(f"{name}: some weights are not finite numbers, and their neighbours would share the damage. "
                         "Fetch the model again.")


def _from_floats(weight: Tensor, bias: Tensor | None, bits: int) -> QuantizedLinear:
    if bits == 4:
        return _from_blocks(quantize_int4(weight), bias)
    return KernelLinear(quantize_int8(weight), bias) if weight.is_cuda else Int8Linear(weight, bias)


def _floats(rows: Tensor) -> Tensor:
    """Byte rows [R, 72] as weights [R, 64]."""
    return torch.ops.quantized.embedding_bag_byte_unpack(rows)
