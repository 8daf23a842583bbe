"""Models on paper of what a GPU will show: bytes over bandwidth, FLOPs over units, kernels times their start.

    decode      a token reads all weights, and starts some hundred kernels that move next to nothing
    graphs      asked for one by one, a kernel is 7 µs (PyTorch's) or 10 to 20 µs (Triton's) of the CPU's time
    a trace     every step reads the keys of all that are in it; who copies them first reads and writes more
    HSTU        a dense composition writes B·H·N² scores and reads them again, 57 times; tiles never do
    training    products, attention, and what only moves: norms, gradients of the last matrix, the optimizer

A share below is what good kernels reach of bandwidth or units; no figure here was measured on the GPU that it
is about. targets.py sets the results beside floors and goals; `make gpu` sets measurements beside them.
"""

from dataclasses import dataclass

READ = {"H100": 2.95e12, "H200": 4.3e12}      # bytes/s that reading gives: about 0.9 of the sheet
UNITS = 989e12                                # FLOP/s in bfloat16, of either
SMALL_KERNEL = 1.7e-6                         # seconds of a kernel that moves next to nothing, in a graph
_GEMV_SHARE, _PAGED_SHARE = 0.92, 0.85        # of reading: a product with one row; paged attention
_PRODUCT_SHARE = 0.65                         # of the units: large products
_SMALL_A_LAYER, _SMALL_A_STEP = 6, 12         # two norms, rope with cache, attention and its merge, swiglu
_PRODUCTS_A_LAYER = 4
_CALL = 7e-6                                  # of the CPU, for one of PyTorch's operations
DENSE_PASSES = 57                             # over B·H·N² scores, forward and backward, as counted
_SORT_PASSES = 8                              # to sort the indices of its table's gradient: two digits
HOST_STEP = 0.7e-3                            # of the CPU: to plan a step and to book it


def small_kernels(layers: int) -> int:
    """Kernels of a token that multiply by no weight; kernels_a_token.py counts them."""
    return _SMALL_A_LAYER * layers + _SMALL_A_STEP


def decode_share(weight_bytes: float, layers: int, bandwidth: float) -> float:
    """Bytes/s of weights that decoding one request reads, as a share of `bandwidth`."""
    reading = weight_bytes / (bandwidth * _GEMV_SHARE)
    asking = small_kernels(layers) * SMALL_KERNEL
    return weight_bytes / (reading + asking) / bandwidth


def graphs_gain(weight_bytes: float, layers: int, bandwidth: float, launch_seconds: float) -> float:
    """How many times faster one request decodes from a graph than kernel by kernel. launch_seconds: of the
    CPU, for one of our kernels. The step ahead hides the CPU's or the GPU's share, whichever is less."""
    products = _PRODUCTS_A_LAYER * layers + 1
    small = small_kernels(layers)
    asking = HOST_STEP + products * _CALL + small * launch_seconds
    replayed = (products + small) * SMALL_KERNEL + weight_bytes / (bandwidth * _GEMV_SHARE)
    return asking / max(replayed, HOST_STEP)


@dataclass(frozen=True)
class PaperTrace:
    """Requests whose prompts and answers have lengths drawn evenly from `least` to `most`, all there at once
    and all in memory together."""

    requests: int = 256
    least: int = 100
    most: int = 1024

    @property
    def mean(self) -> float:
        """Tokens of a prompt, or of an answer."""
        return (self.least + self.most) / 2

    @property
    def _square(self) -> float:
        return self.mean**2 + (self.most - self.least) ** 2 / 12

    @property
    def keys_read(self) -> float:
        """Keys of all steps together, of tokens that a request really has."""
        return self.requests * (self.mean**2 + self._square / 2)

    @property
    def padded_keys_read(self) -> float:
        """The same in a batch where every prompt and every answer is as long as the longest."""
        return self.requests * 1.5 * self.most**2

    @property
    def pairs_of_strangers(self) -> float:
        """Queries times keys of all steps together, where each query meets the keys of everybody. Behind the
        shortest answer, the requests that are left fall evenly to none."""
        span = self.most - self.least
        together = self.requests**2 * self.least * (self.mean + self.least / 2)
        falling = self.requests**2 * span * ((self.mean + self.least) / 3 + span / 12)
        prompts = (self.requests * self.mean) ** 2 / 2
        return together + falling + prompts


@dataclass(frozen=True)
class PaperModel:
    """What a step of a model moves and computes."""

    weight_bytes: float
    key_bytes: float                       # of a token, in all layers, with its values
    pair_flops: float                      # of a query and a key, in all layers
    kernels: int                           # of a step


QWEN3 = PaperModel(weight_bytes=1.19e9, key_bytes=28 * 2 * 8 * 128 * 2, pair_flops=28 * 4 * 16 * 128,
                   kernels=377)
TRACE = PaperTrace()


def trace_seconds(bandwidth: float) -> float:
    """Of our engine: keys read once, weights once a step, and kernels of some hundred rows."""
    keys = TRACE.keys_read * QWEN3.key_bytes / (bandwidth * _PAGED_SHARE)
    steps = TRACE.most * (QWEN3.weight_bytes / (bandwidth * _GEMV_SHARE) + QWEN3.kernels * 2.5e-6)
    products = 2 * TRACE.requests * TRACE.mean * QWEN3.weight_bytes / (UNITS * _PRODUCT_SHARE)
    return keys + steps + products


def static_seconds(bandwidth: float, attention_share: float) -> float:
    """Of transformers' batches: a longer cache is a new one (read and written), then read by an attention
    with a mask, which reaches `attention_share` of the bandwidth."""
    moved = TRACE.padded_keys_read * QWEN3.key_bytes
    return moved * (2 / (bandwidth * _PAGED_SHARE) + 1 / (bandwidth * attention_share))


def masked_seconds(bandwidth: float, attention_share: float) -> float:
    """Of transformers' `generate_batch` without flash-attn: keys are gathered (2), repeated for each query
    head (3) and read (2); all queries meet all keys, and a mask parts strangers."""
    moved = 7 * TRACE.keys_read * QWEN3.key_bytes / (bandwidth * _PAGED_SHARE)
    return moved + TRACE.pairs_of_strangers * QWEN3.pair_flops / (UNITS * attention_share)


def hstu_gain(bandwidth: float, waits: bool) -> float:
    """B=4, H=4, N=4096, Dh=64: the dense composition's time over ours. waits: also for the longest of 129
    sums of its table's gradient, a seventh of all B·N² pairs, which the lanes of one warp add."""
    pairs = 4 * 4 * 4096**2
    dense = (DENSE_PASSES + _SORT_PASSES) * 2 * pairs / (bandwidth * _GEMV_SHARE)
    dense += 6 * 128 * pairs / (UNITS * 0.5)
    if waits:
        dense += pairs / 4 / 7 / 32 * 0.4e-6
    causal = pairs / 2
    instructions = 4 * 50 * causal / (0.55 * 132 * 128 * 1.7e9)     # 4 kernels of 50 a pair, at 0.55 an issue
    units = 11 * 128 * causal / (UNITS * 0.35)
    return dense / (instructions + units)


def training_share(bandwidth: float, product_share: float) -> float:
    """A 1B model in bfloat16, 4 texts of 4,096 tokens a step: the model's FLOPs over time and UNITS."""
    length, layers, width = (4096, 16, 2048)
    tokens = 4 * length
    head = width * 128_256
    matrices = 0.973e9 + head
    attention = 6 * layers * width * 2 * tokens * length / 2          # FLOPs of causal pairs, there and back
    seconds = 6 * matrices * tokens / (UNITS * product_share)
    seconds += attention / 3 / (UNITS * 0.5)
    seconds += attention * 2 / 3 * 7 / 4 / (UNITS * 0.35)             # backward, 7 products for 4
    chunks = tokens / 256                                        # of logits; each adds to a whole gradient
    moved = 12 * head * chunks
    moved += 250e3 * layers * tokens                                  # norms, rotations, gates, copies
    moved += (6 + 28 + 8) * matrices                                  # to bfloat16, AdamW, the norm
    seconds += moved / (bandwidth * _GEMV_SHARE)
    return (6 * matrices * tokens + attention) / seconds / UNITS
