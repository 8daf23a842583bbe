"""How many kernels is a GPU asked for, to write a token for one request? Counted on tensors without numbers.

    a kernel of its own for                    SmolLM2-135M   Llama-1B   Llama-8B   Qwen3-0.6B
    the sum behind a feed-forward, and a cache write    373        205        397          433
    the cache write; the next norm makes the sum        343        189        365          405
    neither: keys are stored as they are turned         313        173        333          377

With 512 tokens before it, so that attention is split, and merged in a kernel of its own. At 1.3 µs or more
to start each, 64 kernels of an 8B model are a sixtieth of its token on an H100.
`python -m aiinfra.bench.gpu_report` counts them beside what it measures. Notebook 14.
"""

from collections.abc import Iterator

import torch

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.row import Row
from aiinfra.engine.runner import PagedCache, StepKV
from aiinfra.gpu.dry_run import Launch, dry_run
from aiinfra.model import ModelConfig, Transformer

_BLOCK_SIZE = 16


@torch.inference_mode()
def decode_kernels(config: ModelConfig, batch: int = 1, context: int = 512) -> list[Launch]:
    """The kernels of one decode step of `batch` requests with `context` tokens each, in order."""
    blocks = context // _BLOCK_SIZE
    with torch.device("meta"):
        model = Transformer(config).to("meta", torch.bfloat16)
        numbers = torch.zeros(3, batch, dtype=torch.int64)
        tables = torch.zeros(batch, blocks, dtype=torch.int32)
        lengths = torch.zeros(batch, dtype=torch.int32)
    cache = PagedCache(config, batch * blocks, _BLOCK_SIZE, torch.bfloat16, model.device)
    tokens, positions, slots = numbers
    kv = StepKV(
        cache=cache,
        slots=slots,
        block_tables=tables,
        context_lens=lengths,
        cu_seqlens=None,
    )
    with dry_run() as asked:
        model(tokens, positions, kv)
    return asked


def is_product(kernel: Launch) -> bool:
    """True if it multiplies by a weight: those kernels move nearly all bytes."""
    return kernel.name in ("mm", "linear", "addmm")


def kernels_rows() -> Iterator[Row]:
    """A row a model: how many kernels its token is."""
    for name, shape in bench_gpu.SHAPES.items():
        kernels = decode_kernels(shape)
        small = sum(not is_product(kernel) for kernel in kernels)
        note = f"{small} of them no product with weights"
        yield Row(f"kernels a token, {name}", len(kernels), "", note=note)
