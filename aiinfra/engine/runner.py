"""From a plan of integers to tensors and back: one forward pass over whatever the scheduler put together.

    plan   a: 1 token    b: 1 token    c: 5 tokens of its prompt
    flat   tokens [N=7]  positions [7]  slots [7]     where each key goes
    per request          block_tables [3, …]  context_lens [3]  cu_seqlens [4]

No padding: the linear layers see N rows, whoever they belong to; only attention knows about requests,
through the block tables. The pass gives logits for the last row of each request that is up to date, and for the
rows before it if tokens were guessed: each guess is checked by the row in front of it.
Notebooks 12 and 13.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.request import UNKNOWN, Request
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import paged_attention
from aiinfra.kernels.paged_gather import Several, Singles, attend_fetched, plan_fetches
from aiinfra.model import ModelConfig, Transformer


class PagedCache:
    """Keys and values of all requests: k and v [layers, blocks, P, K, Dh]."""

    def __init__(self, config: ModelConfig, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.num_hidden_layers, blocks, block_size, config.num_key_value_heads, config.head_dim)
        self.k = torch.empty(shape, dtype=dtype, device=device)      # not zeros: untouched pages cost no memory
        self.v = torch.empty(shape, dtype=dtype, device=device)
        self.block_size = block_size

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, all layers: (from, to)."""
        for source, target in pairs:
            self.k[:, target] = self.k[:, source]
            self.v[:, target] = self.v[:, source]

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block over all layers, keys and values."""
        return config.kv_bytes_per_token // 4 * dtype.itemsize * block_size


@dataclass(frozen=True)
class StepKV:
    """The cache as one step's tokens see it; what attention is handed as `kv`."""

    cache: PagedCache
    slots: Tensor                  # int64 [N]
    block_tables: Tensor           # int32 [B, most blocks]
    context_lens: Tensor           # int32 [B]
    cu_seqlens: Tensor | None      # int32 [B+1]; None: one token each

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [N, K, Dh] in their slots; attend q [N, H, Dh], each over its own request."""
        keys, values = self.cache.k[layer], self.cache.v[layer]
        kv_write(k, v, keys, values, self.slots)
        return paged_attention(q, keys, values, self.block_tables, self.context_lens, self.cu_seqlens)


@dataclass(frozen=True)
class GatheredKV:
    """The same on a CPU, where there is no kernel: what to fetch is worked out once for all layers."""

    cache: PagedCache
    slots: Tensor                  # int64 [N]
    fetches: list[Singles | Several]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `StepKV.attend`."""
        keys, values = self.cache.k[layer], self.cache.v[layer]
        for rows, new in ((keys, k), (values, v)):
            rows.flatten(0, 1).index_copy_(0, self.slots, new)
        return attend_fetched(q, keys, values, self.fetches, q.shape[-1] ** -0.5)


@dataclass(frozen=True)
class Newest:
    """The tokens of a step that the CPU has not seen yet."""

    ids: Tensor                    # int64 [R]
    rows: dict[Request, int]       # which of them is whose

    def write(self, work: list[Work], tokens: Tensor) -> None:
        """Put them where the flat step's `tokens` have UNKNOWN: in the last row of each who waits for one."""
        ends = accumulate(w.count for w in work)
        at = {end - 1: self.rows[w.request] for w, end in zip(work, ends) if w.last and w.request.tokens[-1] == UNKNOWN}
        if at:
            rows, sources = to_device([list(at), list(at.values())], torch.int64, tokens.device)
            tokens.index_copy_(0, rows, self.ids.index_select(0, sources))


class Runner:
    """Runs plans on a model and its paged cache. `decode` is a faster way for some steps (see graphs.py): work in,
    a row of logits for each out, or None for a step that is not its kind."""

    def __init__(self, model: Transformer, cache: PagedCache,
                 decode: "Callable[[list[Work], Newest | None], Tensor | None] | None" = None) -> None:
        self.model, self.cache, self.decode = model, cache, decode

    @torch.inference_mode()
    def run(self, plan: Plan, newest: "Newest | None" = None) -> Tensor:
        """Logits [R, V], in the plan's order: for each work that is `last` one row, and one more for each guess.
        newest: tokens that are UNKNOWN to the requests."""
        self.cache.copy(plan.copies)
        rows = last_rows(plan.work)
        logits = None if self.decode is None else self.decode(plan.work, newest)
        if logits is not None:
            return self._rows(logits, rows)
        tokens = self._tensor([t for w in plan.work for t in w.tokens])
        if newest is not None:
            newest.write(plan.work, tokens)
        positions = [i for w in plan.work for i in range(w.start, w.start + w.count)]
        hidden = self.model.hidden(tokens, self._tensor(positions), self._step_kv(plan.work))  # [N, D]
        return self.model.lm_head(self._rows(hidden, rows))

    def _step_kv(self, work: list[Work]) -> StepKV | GatheredKV:
        size = self.cache.block_size
        slots = self._tensor([w.request.blocks[i // size] * size + i % size
                              for w in work for i in range(w.start, w.start + w.count)])
        tables, ends = [w.request.blocks for w in work], [w.start + w.count for w in work]
        starts = list(accumulate((w.count for w in work), initial=0))
        if self.model.device.type == "cpu":
            return GatheredKV(self.cache, slots, plan_fetches(
                tables, ends, starts, self.model.config.num_attention_heads, self.cache.k[0]))
        widest = max(len(table) for table in tables)
        padded = [table + [0] * (widest - len(table)) for table in tables]
        decode = len(work) == starts[-1]
        return StepKV(self.cache, slots, self._tensor(padded, torch.int32), self._tensor(ends, torch.int32),
                      None if decode else self._tensor(starts, torch.int32))

    def _rows(self, values: Tensor, rows: list[int]) -> Tensor:
        """Those rows; not values[rows], which on a GPU waits for all that was asked for before."""
        return values.index_select(0, self._tensor(rows)) if len(rows) < len(values) else values

    def _tensor(self, values: list, dtype: torch.dtype = torch.int64) -> Tensor:
        return to_device(values, dtype, self.model.device)


def last_rows(work: list[Work]) -> list[int]:
    """Row numbers, in the flat step, of the last token of each work that is `last`, and of its guesses."""
    rows, row = [], 0
    for w in work:
        row += w.count
        if w.last:
            rows += range(row - len(w.guesses) - 1, row)
    return rows
