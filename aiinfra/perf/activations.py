"""What a layer of the decoder keeps of its forward pass until its backward pass, operation by operation.

    input ─ norm ─ qkv ─ rotation ─ attention ─ out ─(+)─ norm ─ gate and up ─ gate ─ down ─(+)─►
      D    2·D+1  H+2K    H+K       H     1/Dh         D  2·D+1     2·F         2·F

A value is kept if the derivative of what comes next asks for it: a product asks for both its factors, a sum
for nothing. Counted is what PyTorch's operations keep, on the path that a CPU takes ("torch"), and what our
kernels keep on a GPU ("triton"): they compute unit rows and open gates again, from what is there anyway.
Notebook 05.
"""

from collections.abc import Sequence

from aiinfra.perf.training import DecoderShape

WIDE = 4                     # bytes of a float32
_PRODUCTS = ("qkv", "attention out", "gate and up", "down out")
_ATTENTION = ("attention", "attention sums")


def layer_activations(shape: DecoderShape, ragged: bool = False, narrow: bool = False,
                      backend: str = "torch") -> dict[str, int]:
    """Bytes a token that one layer keeps for the backward pass, by what made them.

    ragged: documents of different lengths are attended to one by one, and the results copied into one row.
    narrow: matrix products and attention in 16 bits (autocast); on a CPU norms and the gate stay in float32.
    backend: "torch" or "triton", the kernels of a GPU.
    """
    H, K, Dh = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    value = 2 if narrow else WIDE
    kept = _around_attention(shape, value)
    if backend == "torch":
        kept |= _unfused(shape, value)
        if ragged:
            kept["attention copy"] = value * H * Dh
    if getattr(shape, "qk_norm", False):
        rows = WIDE * (H + K)
        kept["query and key norm"] = rows * Dh + rows
    return kept


def _around_attention(shape: DecoderShape, value: int) -> dict[str, int]:
    """What every path keeps."""
    D, F, Dh = shape.hidden_size, shape.intermediate_size, shape.head_dim
    H, K = shape.num_attention_heads, shape.num_key_value_heads
    norm = value * D + WIDE                          # its result, and a factor a row
    return {
        "input": value * D,
        "attention norm": norm,
        "qkv": value * (H + 2 * K) * Dh,
        "rotation": value * (H + K) * Dh,
        "attention": value * H * Dh,
        "attention sums": WIDE * H,
        "sum": value * D,                            # the stream after attention
        "mlp norm": norm,
        "gate and up": value * 2 * F,
        "gated": value * F,
    }


def _unfused(shape: DecoderShape, value: int) -> dict[str, int]:
    """What PyTorch's own operations keep where a kernel keeps less: the stream in float32, rows of unit
    length, gates before and after they open."""
    D, F = shape.hidden_size, shape.intermediate_size
    norm = (WIDE + value) * D + WIDE
    return {
        "input": WIDE * D,
        "attention norm": norm,
        "sum": WIDE * D,
        "mlp norm": norm,
        "gate and up": WIDE * 2 * F,
        "gate open": WIDE * F,
    }


def score_bytes(shape: DecoderShape, lengths: Sequence[int]) -> int:
    """Attention by the formula keeps its weights, a float32 for each head and each pair of tokens, and a
    mask, in every layer. This grows with the square of the length; flash attention keeps a sum a row."""
    pairs = sum(length * length for length in lengths)
    return (WIDE * shape.num_attention_heads + 1) * pairs


def kept_by(policy: str, backend: str = "torch") -> tuple[str, ...]:
    """What a policy of activation checkpointing keeps of a layer; see train/recompute.py. Our kernels are no
    operations that PyTorch could keep the results of: on a GPU attention is done again, too."""
    if policy == "block":
        return ("input",)
    attention = _ATTENTION if backend == "torch" else ()
    return ("input", *_PRODUCTS, *attention)
