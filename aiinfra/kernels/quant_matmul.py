"""Matrix product with weights of 4 or 8 bits: at batch 1 the time is the weights' bytes, so send fewer.

A weight row is cut into groups; within one, w = scale · q + minimum, with q in 0..15 or 0..255.
32 neighbouring values are a block of `bits` 32-bit words. Field i of word j holds value i·bits + j:

    int4    word 0: values 0  4  8 12 16 20 24 28      one 16-byte load brings a thread a whole
            word 1:        1  5  9 13 17 21 25 29      block, and taking field i of its words
            word 2:        2  6 10 14 18 22 26 30      gives neighbours, which meet neighbouring
            word 3:        3  7 11 15 19 23 27 31      activations, also loaded at once

Two kernels. One token (`_vector_kernel`): memory is the limit if a weight takes few instructions.
Converting an integer is slow, so a field is shifted to the top of a float's mantissa, under the
exponent of 1.0: the bits then read v = 1 + q / 2^bits, and per group, exactly as far as float32 goes,

    Σ x·(scale·q + minimum) = 2^bits·scale · Σ x·v  +  (minimum − 2^bits·scale) · Σ x

More tokens (`_matrix_kernel`): a tile is decoded to the activations' dtype and goes to tl.dot.
int4 with its float16 scale and minimum each 32 values is GGUF's Q4_1 (5 bits a weight), reordered;
the numbers are the same. Inference only. Notebook 16.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost

BLOCK = 32                    # values in a block, as in GGUF
_Q4_1_BYTES = 20              # GGUF's block: float16 scale, float16 minimum, 16 bytes of two values
_ONE = 0x3F800000             # bits of 1.0f. An argument, not a constant: "and, or" is then one instruction


@dataclass(frozen=True)
class PackedWeight:
    """A quantised weight [F, D]. words int32 [F, D·bits/32]; scale and minimum [F, groups of D]."""

    words: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """(F, D): outputs and inputs."""
        return self.words.shape[0], self.words.shape[1] * 32 // self.bits

    @property
    def group_size(self) -> int:
        """Values that share one scale and minimum."""
        return self.shape[1] // self.scale.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of words, scales and minimums: what a batch-1 product reads."""
        return sum(t.numel() * t.element_size() for t in (self.words, self.scale, self.minimum))

    def to(self, device: torch.device | str) -> "PackedWeight":
        """The same weight on `device`."""
        return replace(self, words=self.words.to(device), scale=self.scale.to(device),
                       minimum=self.minimum.to(device))


def quantize_int4(weight: torch.Tensor) -> PackedWeight:
    """Q4_1: each 32 values of a row share a float16 scale (max - min)/15 and a float16 minimum.

    Raises ValueError unless weight is [F, D] with D a multiple of 32.
    """
    return _quantize(weight, bits=4, group=BLOCK, dtype=torch.float16)


def quantize_int8(weight: torch.Tensor, group_size: int | None = None) -> PackedWeight:
    """Symmetric int8, w = scale · (q - 128): one float32 scale a row, or every `group_size` values.

    Raises ValueError unless weight is [F, D], D a multiple of group_size and that of 32.
    """
    return _quantize(weight, bits=8, group=group_size or weight.shape[-1], dtype=torch.float32)


def _quantize(weight: torch.Tensor, bits: int, group: int, dtype: torch.dtype) -> PackedWeight:
    if weight.dim() != 2 or group % BLOCK or weight.shape[1] % group:
        raise ValueError(f"weight {tuple(weight.shape)} with groups of {group}: it must be [F, D], the "
                         f"groups must divide D, and {BLOCK} must divide the groups. Pad D.")
    values = weight.detach().float().unflatten(1, (-1, group))                     # [F, G, group]
    if bits == 4:
        low = values.amin(-1, keepdim=True)
        scale = (values.amax(-1, keepdim=True) - low) / 15
    else:
        scale = values.abs().amax(-1, keepdim=True) / 127
        low = -128 * scale
    inverse = torch.where(scale == 0, 0.0, 1 / scale)              # a constant group: all q = 0
    q = ((values - low) * inverse + 0.5).floor().clamp(0, 2**bits - 1).to(torch.uint8)
    return PackedWeight(
        words=_pack(q.flatten(1), bits),
        scale=scale.squeeze(-1).to(dtype),
        minimum=low.squeeze(-1).to(dtype),
        bits=bits)


def _pack(q: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 q [F, D], each below 2**bits, into words int32 [F, D·bits/32]."""
    fields = q.view(len(q), -1, 32 // bits, bits).int()            # [F, blocks, fields, words]
    words = torch.zeros_like(fields[:, :, 0])
    for i in range(32 // bits):
        words |= fields[:, :, i] << (bits * i)
    return words.flatten(1)


def from_q4_1(raw: np.ndarray) -> PackedWeight:
    """GGUF's Q4_1 bytes, uint8 [F, D/32·20] as `gguf` reads them, value for value.

    A GGUF block is scale, minimum, then 16 bytes: byte j holds value j (low) and value j + 16.
    Raises ValueError if rows are not whole blocks.
    """
    if raw.dtype != np.uint8 or raw.ndim != 2 or raw.shape[1] % _Q4_1_BYTES:
        raise ValueError(f"raw is {raw.dtype} {raw.shape}; Q4_1 rows are uint8, "
                         f"{_Q4_1_BYTES} bytes for each {BLOCK} values.")
    blocks = raw.reshape(len(raw), -1, _Q4_1_BYTES)                                # [F, G, 20]
    edges = np.ascontiguousarray(blocks[..., :4]).view(np.float16)                 # [F, G, 2]
    q = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)      # [F, G, 32]
    scale, minimum = torch.from_numpy(edges).unbind(-1)
    return PackedWeight(
        words=_pack(torch.from_numpy(q).flatten(1), 4),
        scale=scale.contiguous(),
        minimum=minimum.contiguous(),
        bits=4)


def unpack(weight: PackedWeight) -> torch.Tensor:
    """The numbers q, int32 [F, D], that scale and minimum turn into weights."""
    bits = weight.bits
    shifts = torch.arange(0, 32, bits, device=weight.words.device, dtype=torch.int32)[:, None]
    words = weight.words.unflatten(1, (-1, 1, bits))
    return ((words >> shifts) & (2**bits - 1)).flatten(1)                     # was [F, blocks, fields, words]


def dequantize(weight: PackedWeight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The plain weight [F, D]: scale · q + minimum in float32, then rounded to `dtype`."""
    q = unpack(weight).float().unflatten(1, (-1, weight.group_size))               # [F, G, group]
    return (q * weight.scale.float()[..., None] + weight.minimum.float()[..., None]).flatten(1).to(dtype)


def quant_matmul_reference(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x [..., D] times the dequantised weight: [..., F]."""
    return F.linear(x, dequantize(weight, x.dtype))


@triton.jit
def _vector_kernel(x_ptr, words_ptr, scale_ptr, minimum_ptr, y_ptr, outputs, blocks, groups, one,
                   BITS: tl.constexpr, GROUP_BLOCKS: tl.constexpr,
                   BLOCK_F: tl.constexpr, BLOCK_B: tl.constexpr):
    TOP: tl.constexpr = 23 - BITS                       # where a field goes in a float's mantissa
    FIELD: tl.constexpr = ((1 << BITS) - 1) << TOP
    row = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    far = row.to(tl.int64)                              # F * D can pass 2^31
    word = tl.arange(0, BITS)
    acc = tl.zeros([BLOCK_F, BLOCK_B], dtype=tl.float32)
    for start in range(0, blocks, BLOCK_B):
        block = start + tl.arange(0, BLOCK_B)
        mask = (row < outputs)[:, None] & (block < blocks)[None, :]
        at = far[:, None] * (blocks * BITS) + block[None, :] * BITS
        words = tl.load(words_ptr + at[:, :, None] + word[None, None, :], mask[:, :, None], other=0)
        products = tl.zeros([BLOCK_F, BLOCK_B, BITS], dtype=tl.float32)
        sums = tl.zeros([BLOCK_B, BITS], dtype=tl.float32)
        for i in tl.static_range(32 // BITS):
            x = tl.load(x_ptr + block[:, None] * 32 + i * BITS + word[None, :],
                        (block < blocks)[:, None], other=0.0).to(tl.float32)       # [B, words]
            if TOP >= BITS * i:
                field = words << (TOP - BITS * i)
            else:
                field = words >> (BITS * i - TOP)
            v = ((field & FIELD) | one).to(tl.float32, bitcast=True)        # 1 + q / 2^BITS
            products += v * x[None, :, :]
            sums += x
        group = far[:, None] * groups + (block // GROUP_BLOCKS)[None, :]
        scale = tl.load(scale_ptr + group, mask, other=0.0).to(tl.float32) * (1 << BITS)
        minimum = tl.load(minimum_ptr + group, mask, other=0.0).to(tl.float32)
        acc += scale * tl.sum(products, 2) + (minimum - scale) * tl.sum(sums, 1)[None, :]
    tl.store(y_ptr + row, tl.sum(acc, 1).to(y_ptr.dtype.element_ty), row < outputs)


# How many tokens there are changes from step to step: it must not be compiled in.
@triton.jit(do_not_specialize=["tokens"])
def _matrix_kernel(x_ptr, words_ptr, scale_ptr, minimum_ptr, y_ptr, x_stride, tokens, outputs,
                   blocks, groups, BITS: tl.constexpr, GROUP_BLOCKS: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_B: tl.constexpr):
    token = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    word, value = tl.arange(0, BITS), tl.arange(0, BLOCK_B * 32)
    shift = tl.arange(0, 32 // BITS) * BITS
    x_row = x_ptr + token.to(tl.int64)[:, None] * x_stride
    far = row.to(tl.int64)
    acc = tl.zeros([BLOCK_N, BLOCK_F], dtype=tl.float32)
    for start in range(0, blocks, BLOCK_B):
        block = start + tl.arange(0, BLOCK_B)
        mask = (row < outputs)[:, None] & (block < blocks)[None, :]
        at = far[:, None] * (blocks * BITS) + block[None, :] * BITS
        words = tl.load(words_ptr + at[:, :, None] + word[None, None, :], mask[:, :, None], other=0)
        q = (words[:, :, None, :] >> shift[None, None, :, None]) & ((1 << BITS) - 1)
        group = far[:, None] * groups + (block // GROUP_BLOCKS)[None, :]
        scale = tl.load(scale_ptr + group, mask, other=0.0).to(tl.float32)
        minimum = tl.load(minimum_ptr + group, mask, other=0.0).to(tl.float32)     # masked: w = 0
        w = q.to(tl.float32) * scale[:, :, None, None] + minimum[:, :, None, None]
        w = tl.reshape(w, (BLOCK_F, BLOCK_B * 32)).to(x_ptr.dtype.element_ty)      # values in order
        col = start * 32 + value
        x = tl.load(x_row + col[None, :], (token < tokens)[:, None] & (col < blocks * 32)[None, :], other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")                  # not TF32
    y = token.to(tl.int64)[:, None] * outputs + row[None, :]
    tl.store(y_ptr + y, acc.to(y_ptr.dtype.element_ty),
             (token < tokens)[:, None] & (row < outputs)[None, :])


def _vector_tiling(blocks: int, bits: int) -> dict:
    """32 words a thread, 8 rows deep for int4: x is read and converted once for all of them."""
    block_b = min(512 // bits, triton.next_power_of_2(blocks))
    return {"BLOCK_F": 4096 // (bits * block_b), "BLOCK_B": block_b, "num_warps": 4}


def _matrix_tiling(tokens: int, bits: int, arch: int) -> dict:
    """Few tokens: small tiles, for enough programs. Many: large ones, each decode used more often."""
    if tokens <= 32:
        return {"BLOCK_N": 16 if tokens <= 16 else 32, "BLOCK_F": 32, "BLOCK_B": 2, "num_warps": 4}
    if tokens > 64:
        return {"BLOCK_N": 128, "BLOCK_F": 64, "BLOCK_B": 2, "num_warps": 4}
    warps = 8 if bits == 8 and not large_shared(arch) else 4           # on gaming chips, registers spill
    return {"BLOCK_N": 64, "BLOCK_F": 64, "BLOCK_B": 2, "num_warps": warps}


@operator("quant_matmul")
def _quant_matmul(x: torch.Tensor, words: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor,
                  bits: int) -> torch.Tensor:
    """x [N, D] times a PackedWeight's parts -> [N, F]."""
    (tokens, inputs), outputs = x.shape, len(words)
    y = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    blocks, groups = inputs // BLOCK, scale.shape[1]
    shared = {"BITS": bits, "GROUP_BLOCKS": blocks // groups}
    if tokens == 1:
        tiling = _vector_tiling(blocks, bits)
        launch(_vector_kernel, (triton.cdiv(outputs, tiling["BLOCK_F"]),),
               x, words, scale, minimum, y, outputs, blocks, groups, _ONE, **shared, **tiling)
    else:
        tiling = _matrix_tiling(tokens, bits, arch_of(x))
        grid = (triton.cdiv(outputs, tiling["BLOCK_F"]), triton.cdiv(tokens, tiling["BLOCK_N"]))
        launch(_matrix_kernel, grid, x, words, scale, minimum, y, x.stride(0), tokens, outputs, blocks,
               groups, **shared, **tiling)
    return y


def quant_matmul(x: torch.Tensor, weight: PackedWeight, *, backend: str | None = None) -> torch.Tensor:
    """x [..., D] @ weightᵀ -> [..., F] in x's dtype, accumulated in float32. No gradients.

    Raises ValueError if D differs, RuntimeError if x wants a gradient.
    """
    outputs, inputs = weight.shape
    if x.shape[-1] != inputs:
        raise ValueError(f"x has rows of {x.shape[-1]} values; the weight takes {inputs}.")
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("quantised weights are for inference: call under torch.no_grad(), or "
                           "train with dequantize(weight).")
    if pick_backend(x, backend) == "torch":
        return quant_matmul_reference(x, weight)
    flat = x.reshape(-1, inputs)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    y = _quant_matmul(flat, weight.words, weight.scale, weight.minimum, weight.bits)
    return y.view(*x.shape[:-1], outputs)


def cost(tokens: int, inputs: int, outputs: int, bits: int = 4, group_size: int = BLOCK,
         bytes_per_value: float = 2, bytes_per_scale: float = 2) -> Cost:
    """Two FLOPs a weight and token; packed weights, scales and minimums read once."""
    weights = inputs * outputs
    weight_bytes = weights * bits / 8 + 2 * weights / group_size * bytes_per_scale
    return Cost(2 * tokens * weights, weight_bytes + tokens * (inputs + outputs) * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """Both formats at D=4096: one token, and each tile of the matrix kernel. See gpu/compile.py."""
    cases = []
    for bits, group_blocks, scale in ((4, 1, "*fp16"), (8, 128, "*fp32")):
        types = {"x_ptr": "*bf16", "words_ptr": "*i32", "scale_ptr": scale, "minimum_ptr": scale,
                 "y_ptr": "*bf16", "outputs": "i32:16", "blocks": "i32:16", "x_stride": "i32:16"}
        kernels = [("1 token", _vector_kernel, _vector_tiling(128, bits))]
        kernels += [(f"{n} tokens", _matrix_kernel, _matrix_tiling(n, bits, arch)) for n in (16, 32, 64, 128)]
        for name, kernel, tiling in kernels:
            constexprs = {"BITS": bits, "GROUP_BLOCKS": group_blocks, **tiling}
            cases.append(dict(name=f"int{bits} {name}", kernel=kernel, types=types,
                              num_warps=constexprs.pop("num_warps"), constexprs=constexprs))
    return cases
