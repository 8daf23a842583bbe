"""One decode step, recorded once for each batch size: the CPU asks once for what were some hundred kernels.

    5 requests ─> bucket 8    tokens     [a b c d e 0 0 0]     buffers that never move: a graph reads and
                              slots      [9 4 7 2 8 ─ ─ ─]     writes the same memory at every replay
                              context    [3 9 1 6 5 0 0 0]
                                         replay
                              logits     [8, V] ─> the first 5 rows

A graph has one batch size, so steps are padded to the next bucket. A padding row has slot -1 and a context of
no keys: it is computed, read by nobody, and written nowhere. Where k tokens are guessed, each bucket has a
second graph with k + 1 rows for each request; the step's tokens stand first, and padding behind all of them.
Only `_forward` is recorded; it reads nothing back. Invariant: the requests' rows are those of the same step
run without padding. Notebook 14.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.runner import Newest, PagedCache, StepKV, slots_of
from aiinfra.engine.scheduler import Work
from aiinfra.gpu.graph import capture as capture_graph
from aiinfra.gpu.graph import recording_stream
from aiinfra.model import Transformer

_Replay = Callable[[], None]


def batch_sizes(largest: int) -> list[int]:
    """The buckets for batches of 1 … largest: 1, 2, 4, 8 and then every multiple of 8, the last at least
    `largest`.

    Below 8 rows a padding row is a large share; above, 8 rows are a tile of the matrix units that is paid
    for anyway.
    """
    powers = [n for n in (1, 2, 4) if n < largest]
    if largest <= 4:
        return [*powers, largest]
    return [*powers, *range(8, largest + 8, 8)]


class DecodeGraphs:
    """Runs steps in which every request has one token to run, or with guesses at most `guesses` more: up to
    `max_batch` requests of up to `max_blocks` blocks.

    `capture(work)` runs `work()` at least once and returns what repeats it on the same memory, such as a
    CUDA graph; `run_again` is one for any device. Everything is captured here, once.
    """

    def __init__(self, model: Transformer, cache: PagedCache, max_batch: int, max_blocks: int,
                 capture: Callable[[_Replay], _Replay], guesses: int = 0) -> None:
        self.model = model
        self.cache = cache
        self.max_blocks = max_blocks
        self.buckets = batch_sizes(max_batch)
        self.tokens_each = 1 + guesses
        most = self.buckets[-1]
        most_rows = most * self.tokens_each
        device = model.device
        # Tokens, positions, slots.
        self.numbers = torch.zeros(3 * most_rows, dtype=torch.int64, device=device)
        self.context_lens = torch.zeros(most, dtype=torch.int32, device=device)
        self.starts = torch.zeros(most + 1, dtype=torch.int32, device=device)
        self.block_tables = _BlockTables(most, max_blocks, device)
        self.logits = torch.empty(most_rows, model.config.vocab_size, dtype=model.dtype, device=device)
        # Largest first: the smaller ones then fit into the memory that it has left in the pool.
        self._replay = {}
        with torch.inference_mode():
            for each in sorted({self.tokens_each, 1}, reverse=True):
                for bucket in reversed(self.buckets):
                    self._fill([], bucket, each)                  # padding only: recording writes to no block
                    self._replay[bucket, each] = capture(partial(self._forward, bucket, each))

    @torch.inference_mode()
    def __call__(self, work: list[Work], newest: Newest | None = None) -> Tensor | None:
        """Logits [N, V] after each token of the step, good until the next call; None if the step does not
        fit: more tokens of a request than a graph has, more requests than `max_batch`, or one with more than
        `max_blocks`. newest: tokens that are UNKNOWN to the requests."""
        bucket = self.bucket(len(work))
        if not work or bucket is None or not all(self._fits(one) for one in work):
            return None
        tokens = sum(one.count for one in work)
        each = 1 if tokens == len(work) else self.tokens_each
        self._fill(work, bucket, each)
        if newest is not None:
            newest.write(work, self.numbers)
        self._replay[bucket, each]()
        return self.logits[:tokens]

    def bucket(self, requests: int) -> int | None:
        """The smallest bucket that holds so many requests; None if there is none."""
        at = bisect_left(self.buckets, requests)
        if at == len(self.buckets):
            return None
        return self.buckets[at]

    def _fits(self, work: Work) -> bool:
        return work.count <= self.tokens_each and len(work.request.blocks) <= self.max_blocks

    def _fill(self, work: list[Work], bucket: int, each: int = 1) -> None:
        """Write the step's integers, and padding, to where the graph of this bucket reads them."""
        starts = list(accumulate((w.count for w in work), initial=0))
        pad = bucket * each - starts[-1]
        nobody = bucket - len(work)
        tokens = [token for w in work for token in w.tokens] + [0] * pad
        positions = [place for w in work for place in w.places] + [0] * pad
        slots = slots_of(work, self.cache.block_size) + [-1] * pad
        context_lens = [w.end for w in work] + [0] * nobody
        if each > 1:
            _put(self.starts, starts + starts[-1:] * nobody)
        _put(self.numbers, [*tokens, *positions, *slots])
        _put(self.context_lens, context_lens)
        self.block_tables.show([w.request.blocks for w in work])

    def _forward(self, bucket: int, each: int = 1) -> None:
        """The recorded part: from the buffers to `logits`."""
        rows = bucket * each
        tokens, positions, slots = self.numbers[:3 * rows].view(3, rows)
        kv = StepKV(
            cache=self.cache,
            slots=slots,
            block_tables=self.block_tables.there[:bucket],
            context_lens=self.context_lens[:bucket],
            cu_seqlens=None if each == 1 else self.starts[:bucket + 1],
        )
        self.logits[:rows].copy_(self.model(tokens, positions, kv))


class _BlockTables:
    """The blocks of each row's request, where a graph reads them. A step adds a block to a request in
    sixteen: only what has changed is written, and where nothing has, nothing is sent."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.here = torch.zeros(rows, columns, dtype=torch.int32)
        self.there = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        self.known: list[list[int]] = [[] for _ in range(rows)]

    def show(self, tables: list[list[int]]) -> None:
        """Row r reads tables[r]. Columns further right keep what an earlier step put there: they are past
        everybody's context."""
        rows = columns = 0
        for row, (blocks, known) in enumerate(zip(tables, self.known)):
            if blocks == known:
                continue
            kept = len(known) if blocks[:len(known)] == known else 0
            self.here[row, kept:len(blocks)] = torch.tensor(blocks[kept:], dtype=torch.int32)
            self.known[row] = list(blocks)
            rows = row + 1
            columns = max(columns, len(blocks))
        if rows:
            _put(self.there[:, :columns], self.here[:rows, :columns])


def _put(buffer: Tensor, rows: list | Tensor) -> None:
    """Copy `rows` to the first rows of the buffer."""
    buffer[:len(rows)].copy_(to_device(rows, buffer.dtype, buffer.device))


def _recorder(device: torch.device) -> Callable[[_Replay], _Replay]:
    """A `capture` that records CUDA graphs, all in one pool of memory and on one stream: they never run at
    the same time."""
    pool = torch.cuda.graph_pool_handle()
    stream = recording_stream(device)

    def capture(work: _Replay) -> _Replay:
        with torch.cuda.device(device):
            return capture_graph(work, pool, stream).replay
    return capture


def run_again(work: _Replay) -> _Replay:
    """A `capture` that records nothing: the same padded step, its operations asked for one by one."""
    work()
    return work


def decode_graphs(model: Transformer, cache: PagedCache, max_batch: int, max_blocks: int,
                  most_tokens: int, guesses: int = 0) -> DecodeGraphs:
    """What an engine uses: CUDA graphs on a GPU, where all that steps of up to `most_tokens` need is compiled
    first; on a CPU the same padded steps without a recording."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        compile_prompts(model, cache, most_tokens, max_blocks)
    capture = _recorder(model.device) if on_gpu else run_again
    return DecodeGraphs(model, cache, max_batch, max_blocks, capture, guesses)


@torch.inference_mode()
def compile_prompts(model: Transformer, cache: PagedCache, most_tokens: int, max_blocks: int) -> None:
    """Run all kinds of steps that are not recorded, on tokens that are written nowhere. Each kind of tile is
    a second of compiling, which the first request that needs it would wait for: there are some for few and
    for many tokens of prompts, and, beside them, for decodes whose context is read in one part, in some or
    in many."""
    for tokens in _doublings(2, most_tokens):
        _run_nowhere(model, cache, [tokens], blocks=1)
    for blocks in [*_doublings(1, max_blocks), max_blocks]:
        _run_nowhere(model, cache, [1, 2], blocks)


def _doublings(first: int, most: int) -> list[int]:
    sizes = []
    while first <= most:
        sizes.append(first)
        first *= 2
    return sizes


def _run_nowhere(model: Transformer, cache: PagedCache, counts: list[int], blocks: int) -> None:
    """A step of requests with so many tokens each and nothing before them, with tables of so many blocks."""
    device = model.device
    starts = list(accumulate(counts, initial=0))
    numbers = torch.zeros(starts[-1], dtype=torch.int64, device=device)
    tables = torch.zeros(len(counts), blocks, dtype=torch.int32, device=device)
    kv = StepKV(
        cache=cache,
        slots=numbers - 1,
        block_tables=tables,
        context_lens=torch.zeros(len(counts), dtype=torch.int32, device=device),
        cu_seqlens=to_device(starts, torch.int32, device),
        decodes=counts.count(1),
    )
    model.hidden(numbers, numbers, kv)
