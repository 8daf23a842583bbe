"""Weights of 4 or 8 bits: a token's time is the bytes of the weights, so keep fewer bytes.

Neighbouring weights are of like size, so a group of them can share a ruler: where it begins and how long a
step is.

    weights      −0.30  0.02  0.27 …   32 float32 values                   128 bytes
    numbers q        0     8    15 …   32 of 4 bits                         16 bytes
    the ruler    minimum, scale        two 16-bit floats for all of them     4 bytes

                 w ≈ minimum + scale · q

Rounding to the nearest mark moves a weight by half a step at most. Nothing else changes: activations, norms
and the KV cache stay as they were, and each layer turns its numbers back into weights on the way to the
multiplier.

    where   bits   who multiplies                                 who shares a ruler
    CPU     4      PyTorch's int4 product, bfloat16 activations   32 inputs of one output: a GGUF Q4_1 block
    CPU     8      a few rows: a recommender's embedding bag      64 outputs of one input, as in packed.py
                   many rows: a piece de-quantised, then oneDNN
    GPU     4      kernels/quant_matmul.py                        32 inputs of one output
    GPU     8      kernels/quant_matmul.py                        all inputs of one output

The last layer keeps 8 bits under "int4" too: its errors go straight into the logits. A layer stays as it is
unless 32 divides its inputs, and 16 (4 bits) or 64 (8 bits) its outputs. A file of 4-bit blocks is best taken
at "int4", which keeps its numbers. For inference only, on the device where the model will run. Notebook 16.
"""

import torch
from torch import Tensor, nn

from aiinfra.compress.packed import BAGS, PANEL, PackedLinear, bags, frozen, join, repeat_row
from aiinfra.compress.place import Values, WeightPlace
from aiinfra.errors import nearest
from aiinfra.kernels.quant_matmul import (
    BLOCK, PackedWeight, dequantize, quant_matmul, quantize_int4, quantize_int8, unpack)
from aiinfra.model.layers import Weighed
from aiinfra.model.moe import GroupedLinear
from aiinfra.model.transformer import Transformer

SCHEMES = {"int8": 8, "int4": 4}
_OUTPUTS = {8: PANEL, 4: 16}  # bits -> what must divide a layer's outputs
_FEW_ROWS = 8             # of activations: up to here bags, which read bytes; then oneDNN, which reads floats
_ROW_BYTES = PANEL + 8        # of Int8Linear: 64 numbers, then scale and minimum in float32
_PIECE = 1 << 22              # weights that are float32 at one time when there are many rows: 16 MB


class QuantizedLinear(Weighed, nn.Module):
    """y = x·Wᵀ + b on a weight of a few bits; the classes below know how it is stored."""

    bits: int
    packed_weight: Tensor | PackedWeight

    def __init__(self, shape: tuple[int, int], bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.bias = frozen(bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features] in x's dtype."""
        if x.requires_grad:
            raise RuntimeError(f"int{self.bits} weights cannot be trained: load the model without quantize.")
        y = self._multiply(x.reshape(-1, self.in_features))            # [N, out]
        y = y.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def rows(self, outputs: Tensor) -> Tensor:
        """Rows of the de-quantised weight, float32: int64 [...] -> [..., in_features]."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and their rulers: what one token reads."""
        return self.packed_weight.nbytes

    def nbytes_read(self, tokens: int = 1) -> int:
        """See Weighed: numbers, rulers and bias."""
        return self.nbytes + super().nbytes_read()

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        raise RuntimeError(f"int{self.bits} weights are not saved: save the model's own file, or load it "
                           "without quantize.")

    def _multiply(self, x: Tensor) -> Tensor:                        # [N, in] -> [N, out]
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, bias={self.bias is not None}"


class Int4Linear(QuantizedLinear):
    """On a CPU. The operator computes (q − 8)·scale + centre, so centre = minimum + 8·scale; both in
    bfloat16.

    bfloat16 keeps 8 bits, so rounding the two moves a weight by at most scale/64 + |centre|/512: little
    beside the half step that 4 bits cost. On SmolLM2-135M: 0.046 of a step at most, 0.2 % of the mean weight
    on average.
    """

    bits = 4

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        # The second argument only says how a GPU would tile it.
        self.packed_weight = torch._convert_weight_to_int4pack_for_cpu(unpack(weight), 1)
        scale = weight.scale.float().t()                                               # [groups, out]
        centre = weight.minimum.float().t() + 8 * scale
        self.rulers = torch.stack([scale, centre], -1).bfloat16()                      # [groups, out, 2]

    def _multiply(self, x: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self.packed_weight, BLOCK, self.rulers)

    @property
    def nbytes(self) -> int:
        """See QuantizedLinear."""
        return self.packed_weight.nbytes + self.rulers.nbytes


class Int8Linear(QuantizedLinear):
    """On a CPU. packed_weight: uint8 [out/64 · in, 72], each row 64 numbers and its ruler, two float32.

    One row of activations is a weighted sum of the rows of each panel. A few rows are a few such sums, one
    after another over the same panel, which by then is in the cache. Many rows share the work of turning
    numbers into floats.
    """

    bits = 8

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(tuple(weight.shape), bias)
        panels = weight.detach().unflatten(0, (-1, PANEL))                             # [out/64, 64, in]
        self.packed_weight = torch.empty(len(panels) * self.in_features, _ROW_BYTES, dtype=torch.uint8)
        at_once = self._panels_at_once()
        for piece, out in zip(panels.split(at_once), self._pieces(at_once)):
            rows = piece.transpose(1, 2).reshape(-1, PANEL)                          # inputs, then 64 outputs
            out.copy_(torch.ops.quantized.embedding_bag_byte_prepack(rows.float()))

    def _multiply(self, x: Tensor) -> Tensor:
        N, x = len(x), x.float()
        y = self._sum_panels(x) if 0 < N <= _FEW_ROWS else self._multiply_pieces(x)    # [out/64, N, 64]
        return y.transpose(0, 1).reshape(N, self.out_features)

    def _sum_panels(self, x: Tensor) -> Tensor:
        N = len(x)
        panels = min(BAGS // N, self.out_features // PANEL)
        x_again = repeat_row(x.reshape(1, -1), panels)                            # the same x for every panel
        y = []
        for rows in self._pieces(panels):
            indices, starts = bags(len(rows) // self.in_features, N, self.in_features)
            weights = x_again[:len(indices)]
            sums = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
                rows, indices, starts, False, 0, False, weights, None, False)
            y.append(sums)
        return join(y).view(-1, N, PANEL)

    def _multiply_pieces(self, x: Tensor) -> Tensor:
        y = []
        for piece in self._pieces(self._panels_at_once()):
            weights = torch.ops.quantized.embedding_bag_byte_unpack(piece)        # [panels · in, 64], float32
            y.append(x @ weights.view(-1, self.in_features, PANEL))
        return torch.cat(y)

    def _panels_at_once(self) -> int:
        return max(1, _PIECE // (PANEL * self.in_features))

    def _pieces(self, panels: int) -> tuple[Tensor, ...]:
        return self.packed_weight.split(panels * self.in_features)

    def rows(self, outputs: Tensor) -> Tensor:
        """See QuantizedLinear."""
        panel, column = outputs // PANEL, outputs % PANEL
        by_panel = self.packed_weight.view(-1, self.in_features, _ROW_BYTES)
        numbers = by_panel[panel, :, column]                                           # [..., in]
        rulers = by_panel.view(torch.float32)[panel, :, -2:]                           # [..., in, 2]
        scale, minimum = rulers.unbind(-1)
        return numbers * scale + minimum


class KernelLinear(QuantizedLinear):
    """On a GPU, 4 or 8 bits, through kernels/quant_matmul.py; on a CPU its plain reference."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        self.packed_weight, self.bits = weight, weight.bits

    def _multiply(self, x: Tensor) -> Tensor:
        return quant_matmul(x, self.packed_weight)

    def rows(self, outputs: Tensor) -> Tensor:
        """See QuantizedLinear."""
        weight, flat = self.packed_weight, outputs.flatten()
        chosen = PackedWeight(
            words=weight.words[flat],
            scale=weight.scale[flat],
            minimum=weight.minimum[flat],
            bits=weight.bits)
        return dequantize(chosen).view(*outputs.shape, -1)


class QuantizedEmbedding(nn.Module):
    """Looks tokens up in the table that a tied model's last layer multiplies with."""

    def __init__(self, head: QuantizedLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = head.rows, dtype  # the method, not the layer: that has its place in the model

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., D]."""
        return self.rows(tokens).to(self.dtype)


def quantize(model: Transformer, scheme: str) -> Transformer:
    """Replace, in place, every linear layer that can be by one of 4 or 8 bits; returns the same model.

    scheme: "int8", or "int4" (the last layer keeps 8 bits). Plain and packed layers are taken alike. Raises
    ValueError for another scheme, a quantised model, weights that are not finite, or if no layer can be
    quantised. `load(..., quantize="int4")` does without the plain model in memory.
    """
    check_scheme(scheme)
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            raise ValueError(f"the model has int{module.bits} weights already: load it again to choose "
                             f"{scheme!r}.")
    bits = _bits_of(model, scheme)
    for name in bits:                                      # all before the first is replaced: no half a model
        _check_finite(_plain_weight(model, name), name)
    for name in bits:
        weight, bias = _plain_weight(model, name), model.get_submodule(name).bias
        _replace(model, name, _from_floats(weight, bias, bits[name]), weight.dtype)
    return model


class PlaceQuantized:
    """Where to put values that are being read: each layer is quantised as soon as it has its own, so that the
    plain model is never in memory. A file's 4-bit blocks are taken as they are.

    otherwise: the place of layers that the scheme does not take. Raises ValueError if it takes none.
    """

    def __init__(self, model: Transformer, scheme: str, otherwise: WeightPlace) -> None:
        self._bits = _bits_of(model, scheme)
        self._otherwise = otherwise
        self.transient = {*self._bits, *otherwise.transient}          # their plain weight does not stay
        self.takes_blocks = {name for name, bits in self._bits.items() if bits == 4}

    def __call__(self, model: Transformer, layer: str, values: Values) -> None:
        """Give the layer of that name its values, and quantise it. Raises ValueError if they are not
        finite."""
        if layer not in self._bits:
            return self._otherwise(model, layer, values)
        weight, bias = values["weight"], values.get("bias")
        if isinstance(weight, PackedWeight):          # never the last layer, which keeps 8 bits
            model.set_submodule(layer, _from_blocks(weight, bias))
        else:
            _check_finite(weight, layer)
            _replace(model, layer, _from_floats(weight, bias, self._bits[layer]), weight.dtype)


def check_scheme(scheme: str) -> None:
    """Raise ValueError, naming the nearest, for a scheme that there is not."""
    if scheme not in SCHEMES:
        raise ValueError(f"quantize={scheme!r} is not known.{nearest(scheme, SCHEMES)} "
                         f"Use one of: {', '.join(SCHEMES)}.")


def _bits_of(model: Transformer, scheme: str) -> dict[str, int]:
    """Each layer that the scheme takes, and its bits. Raises ValueError if there is none, and for experts:
    most weights would stay as they are."""
    bits = {}
    for name, module in model.named_modules():
        if isinstance(module, GroupedLinear):
            raise ValueError(f"{name}: experts cannot be {scheme} here, only matrices that every token is "
                             "multiplied with. Use the model without quantize.")
        if isinstance(module, nn.Linear | PackedLinear):
            wanted = 8 if name == "lm_head" else SCHEMES[scheme]
            if module.in_features % BLOCK == 0 and module.out_features % _OUTPUTS[wanted] == 0:
                bits[name] = wanted
    if not bits:
        raise ValueError(f"no layer of this model can be {scheme}: {BLOCK} must divide its inputs, and "
                         f"{_OUTPUTS[SCHEMES[scheme]]} its outputs. Use it without quantize.")
    return bits


def _plain_weight(model: Transformer, name: str) -> Tensor:
    layer = model.get_submodule(name)
    return layer.unpacked_weight() if isinstance(layer, PackedLinear) else layer.weight.detach()


def _check_finite(weight: Tensor, name: str) -> None:
    """Raise ValueError if a weight is not a finite number: it would spoil those that share its ruler."""
    least, most = weight.aminmax()                 # unlike isfinite(weight), makes no copies of a large table
    if not (least + most).isfinite():
        raise ValueError(f"{name}: some weights are not finite numbers, and their neighbours would share the "
                         "damage. Fetch the model again.")


def _from_blocks(blocks: PackedWeight, bias: Tensor | None) -> QuantizedLinear:
    return KernelLinear(blocks, bias) if blocks.words.is_cuda else Int4Linear(blocks, bias)


def _from_floats(weight: Tensor, bias: Tensor | None, bits: int) -> QuantizedLinear:
    if bits == 4:
        return _from_blocks(quantize_int4(weight), bias)
    return KernelLinear(quantize_int8(weight), bias) if weight.is_cuda else Int8Linear(weight, bias)


def _replace(model: Transformer, name: str, layer: QuantizedLinear, dtype: torch.dtype) -> None:
    """Put the layer where the plain one was, which is let go. dtype: of an embedding that shares its
    table."""
    model.set_submodule(name, layer)
    if name == "lm_head" and model.config.tie_word_embeddings:
        model.embed = QuantizedEmbedding(layer, dtype)           # the table is kept once
