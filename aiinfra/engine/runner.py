"""From a plan of integers to tensors and back: one forward pass over whatever the scheduler put together.

    plan   a: 1 token    b: 1 token    c: 5 tokens of its prompt
    flat   tokens [N=7]  positions [7]  slots [7]     where each key goes
    per request          block_tables [3, …]  context_lens [3]  cu_seqlens [4]

No padding: the linear layers see N rows, whoever they belong to; only attention knows about requests,
through the block tables. The pass gives logits for the last row of each request that is up to date, and for
the rows before it if tokens were guessed: each guess is checked by the row in front of it. Notebooks 12 and
13.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.engine.request import UNKNOWN, Request
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import paged_attention
from aiinfra.kernels.paged_gather import Several, Singles, attend_fetched, plan_fetches
from aiinfra.kernels.rope_write import rope_write
from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.kv_cache import values_beside
from aiinfra.model.layers import Angles


class PagedCache:
    """Keys and values of all requests: k and v [layers, blocks, P, K, Dh]. With latent attention v is the
    first part of k."""

    def __init__(self, config: ModelConfig, blocks: int, block_size: int, dtype: torch.dtype,
                 device: torch.device) -> None:
        shape = (config.num_hidden_layers, blocks, block_size, config.kept_heads, config.kept_size)
        # Not zeros: pages of memory that nobody has touched cost nothing.
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = values_beside(self.k, config)
        self.latent = config.mla is not None
        self.block_size = block_size

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks, all layers: (from, to)."""
        for source, target in pairs:
            self.k[:, target] = self.k[:, source]
            if not self.latent:
                self.v[:, target] = self.v[:, source]

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block over all layers, keys and values."""
        return block_size * config.kv_values_per_token * dtype.itemsize


@dataclass(frozen=True)
class StepKV:
    """The cache as one step's tokens see it; what attention is handed as `kv`."""

    cache: PagedCache
    slots: Tensor                  # int64 [N]
    block_tables: Tensor           # int32 [B, most blocks]
    context_lens: Tensor           # int32 [B]
    cu_seqlens: Tensor | None      # int32 [B+1]; None: one token each
    decodes: int = 0               # so many stand first that have one token each
    keeps: ClassVar[bool] = True

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [N, K, Dh] in their slots; attend q [N, H, Dh], each over its own request."""
        keys = self.cache.k[layer]
        values = self.cache.v[layer]
        if self.cache.latent:
            kv_write(k, None, keys, None, self.slots)
        else:
            kv_write(k, v, keys, values, self.slots)
        return self._over_all(q, keys, values)

    def turn_and_attend(self, layer: int, qk: Tensor, v: Tensor, angles: Angles) -> Tensor:
        """As `attend`, of qk [N, H + K, Dh], query heads first, that are turned by the kernel that stores."""
        keys = self.cache.k[layer]
        values = self.cache.v[layer]
        kv_heads = v.shape[1]
        q, k = qk.split([qk.shape[1] - kv_heads, kv_heads], 1)
        q = rope_write(q, k, v, *angles.halves(), keys, values, self.slots)
        return self._over_all(q, keys, values)

    def _over_all(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of q over all that its requests have stored."""
        return paged_attention(
            q, keys, values, self.block_tables, self.context_lens, self.cu_seqlens, decodes=self.decodes)


@dataclass(frozen=True)
class _GatheredKV:
    """The same on a CPU, where there is no kernel: what to fetch is worked out once for all layers."""

    cache: PagedCache
    slots: Tensor                  # int64 [N]
    fetches: list[Singles | Several]
    keeps: ClassVar[bool] = True

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `StepKV.attend`."""
        keys = self.cache.k[layer]
        values = self.cache.v[layer]
        keys.flatten(0, 1).index_copy_(0, self.slots, k)
        if not self.cache.latent:
            values.flatten(0, 1).index_copy_(0, self.slots, v)
        return attend_fetched(q, keys, values, self.fetches, q.shape[-1] ** -0.5)


@dataclass(frozen=True)
class Newest:
    """The tokens of a step that the CPU has not seen yet."""

    ids: Tensor                    # int64 [R]
    rows: dict[Request, int]       # which of them is whose

    def write(self, work: list[Work], tokens: Tensor) -> None:
        """Put them where the flat step's `tokens` have UNKNOWN: in the last row of each who waits for one."""
        places, sources = [], []
        for one, end in zip(work, accumulate(one.count for one in work)):
            if one.last and one.request.tokens[-1] == UNKNOWN:
                places.append(end - 1)
                sources.append(self.rows[one.request])
        if places:
            at, source = to_device([places, sources], torch.int64, tokens.device)
            tokens.index_copy_(0, at, self.ids.index_select(0, source))


@dataclass(frozen=True)
class StepIntegers:
    """A step without its requests: all that the model and the cache need to be told of it."""

    copies: list[tuple[int, int]]       # (from, to) blocks, before all else
    tokens: list[int]                   # [N]
    positions: list[int]                # [N]
    slots: list[int]                    # [N]
    tables: list[list[int]]             # [B]: the blocks of each request
    context_lens: list[int]             # [B]
    starts: list[int]                   # [B+1]: where each request's tokens begin
    rows: list[int]                     # [R]: those whose logits are asked for

    @property
    def decodes(self) -> int:
        """So many requests stand first that have one token each: the scheduler plans them before prompts."""
        return sum(start == number for number, start in enumerate(self.starts)) - 1

    @classmethod
    def of(cls, plan: Plan, block_size: int) -> "StepIntegers":
        """Of a plan, as long as its requests are what they were planned as."""
        work = plan.work
        return cls(
            copies=plan.copies,
            tokens=[token for w in work for token in w.tokens],
            positions=[place for w in work for place in w.places],
            slots=slots_of(work, block_size),
            tables=[list(w.request.blocks) for w in work],
            context_lens=[w.end for w in work],
            starts=list(accumulate((w.count for w in work), initial=0)),
            rows=_last_rows(work),
        )


# A faster way for some steps (see graphs.py): a row of logits for each token, None for another kind of step.
Decode = Callable[[list[Work], Newest | None], Tensor | None]


class Runner:
    """Runs plans on a model and its paged cache."""

    def __init__(self, model: Transformer, cache: PagedCache, decode: Decode | None = None) -> None:
        self.model = model
        self.cache = cache
        self.decode = decode

    @torch.inference_mode()
    def run(self, plan: Plan, newest: "Newest | None" = None) -> Tensor:
        """Logits [R, V], in the plan's order: for each work that is `last` one row, and one more for each
        guess. newest: tokens that are UNKNOWN to the requests."""
        if self.decode is not None:
            self.cache.copy(plan.copies)
            logits = self.decode(plan.work, newest)
            if logits is not None:
                return self._rows(logits, _last_rows(plan.work))
            plan = replace(plan, copies=[])
        step = StepIntegers.of(plan, self.cache.block_size)
        tokens = self._tensor(step.tokens)                                                     # [N]
        if newest is not None:
            newest.write(plan.work, tokens)
        return self.compute(step, tokens)

    @torch.inference_mode()
    def compute(self, step: StepIntegers, tokens: Tensor) -> Tensor:
        """The same of integers. tokens: the step's, int64 [N] on the model's device, none UNKNOWN."""
        self.cache.copy(step.copies)
        positions = self._tensor(step.positions)                                               # [N]
        hidden = self.model.hidden(tokens, positions, self._step_kv(step))                     # [N, D]
        return self.model.lm_head(self._rows(hidden, step.rows))

    def _step_kv(self, step: StepIntegers) -> StepKV | _GatheredKV:
        slots = self._tensor(step.slots)                                                       # [N]
        if self.model.device.type == "cpu":
            heads = self.model.config.num_attention_heads
            fetches = plan_fetches(step.tables, step.context_lens, step.starts, heads, self.cache.k[0])
            return _GatheredKV(self.cache, slots, fetches)
        only_decodes = step.starts[-1] == len(step.tables)
        return StepKV(
            cache=self.cache,
            slots=slots,
            block_tables=self._tensor(padded_tables(step.tables), torch.int32),
            context_lens=self._tensor(step.context_lens, torch.int32),
            cu_seqlens=None if only_decodes else self._tensor(step.starts, torch.int32),
            decodes=step.decodes,
        )

    def _rows(self, values: Tensor, rows: list[int]) -> Tensor:
        """Those rows; not values[rows], which on a GPU waits for all that was asked for before."""
        if len(rows) == len(values):
            return values
        return values.index_select(0, self._tensor(rows))

    def _tensor(self, values: list, dtype: torch.dtype = torch.int64) -> Tensor:
        return to_device(values, dtype, self.model.device)


def slots_of(work: list[Work], block_size: int) -> list[int]:
    """Where the key and value of each token that is run go, counted in tokens over the whole cache."""
    slots = []
    for w in work:
        blocks = w.request.blocks
        slots += [blocks[place // block_size] * block_size + place % block_size for place in w.places]
    return slots


def padded_tables(tables: list[list[int]]) -> list[list[int]]:
    """The blocks of each request, filled up with 0 to the length of the longest."""
    widest = max(len(table) for table in tables)
    return [table + [0] * (widest - len(table)) for table in tables]


def _last_rows(work: list[Work]) -> list[int]:
    """Row numbers, in the flat step, of the last token of each work that is `last`, and of its guesses."""
    rows = []
    end = 0
    for w in work:
        end += w.count
        if w.last:
            rows += range(end - len(w.guesses) - 1, end)
    return rows
