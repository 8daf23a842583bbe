"""How the work of paged attention is cut: rows and keys of a tile, warps, and the parts of a long context.

    decode    the heads of one token are a tile's rows: few, and memory is what one waits for, so small tiles,
              many of them, and each context cut in parts
    prompt    128 rows share what they read, and products are what one waits for: large tiles, one pass

Chosen by what fits in a chip's shared memory and registers (gpu/compile.py shows what each takes), not by a
clock. Used by paged_attention.py. Notebook 13.
"""

from dataclasses import dataclass

from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.lang import triton
from aiinfra.kernels.tiles import padded

_MAX_SPLITS = 64
_MAX_LATENT_SPLITS, _LATENT_HEADS = 16, 16      # heads: that one program serves at most


@dataclass(frozen=True)
class AttentionCut:
    """Of a model's attention on a chip of compute capability `arch`: what never changes while it runs."""

    heads: int
    kv_heads: int
    size: int              # of a key
    value_size: int        # the same, or less: then a value is the first part of its key (a latent cache)
    block_size: int
    value_bytes: int
    arch: int

    @classmethod
    def of(cls, q: Tensor, k_cache: Tensor, value_size: int) -> "AttentionCut":
        """For q [N, H, Dh] over a cache [blocks, P, K, Dh]."""
        _, heads, size = q.shape
        return cls(
            heads=heads,
            kv_heads=k_cache.shape[2],
            size=size,
            value_size=value_size,
            block_size=k_cache.shape[1],
            value_bytes=q.element_size(),
            arch=arch_of(q),
        )

    @property
    def latent(self) -> bool:
        """True if keys and values are one."""
        return self.value_size < self.size

    @property
    def group(self) -> int:
        """Query heads that share a program, and what it reads."""
        if self.latent:
            return heads_together(self.heads)
        return self.heads // self.kv_heads

    @property
    def programs(self) -> int:
        """Programs for all heads of one tile of tokens."""
        return self.heads // self.group

    def constants(self, decode: bool) -> dict:
        """What is compiled into the kernel, warps and stages among it."""
        tiling = self._latent_tiling(decode) if self.latent else self._tiling(decode)
        rest = self.size - self.value_size
        return tiling | {
            "GROUP": self.group,
            "TOKENS": 1 if decode else tiling["BM"] // self.group,
            "DECODE": decode,
            "P": self.block_size,
            "DH": self.value_size,
            "DP": padded(self.value_size),
            "REST": rest,
            "RP": padded(rest),
        }

    def count_splits(self, requests: int, max_context: int, multiprocessors: int) -> int:
        """Parts of each context, where so many decode, so that every multiprocessor has about 8 programs of
        at least 128 keys."""
        most = _MAX_LATENT_SPLITS if self.latent else _MAX_SPLITS
        wanted = triton.cdiv(8 * multiprocessors, requests * self.programs)
        return max(1, min(wanted, max_context // 128, most))

    def _tiling(self, decode: bool) -> dict:
        """The table of blocks is loaded two stages before its keys."""
        small, wide = padded(self.group), self.size > 64          # small: rows that one token's heads need
        if self.arch == 0:
            sizes = (small, 16, 4, 1)
        elif self.value_bytes > 2:
            sizes = (small, 32, 4, 1)
        elif decode:
            sizes = (small, 32 if wide else 64, 4, 5)
        elif not large_shared(self.arch):
            sizes = (max(64, small), 32, 4, 3)
        else:
            sizes = (max(128, small), 32 if wide and self.arch < 90 else 64, 8, 5)
        return _named(sizes)

    def _latent_tiling(self, decode: bool) -> dict:
        """For rows of hundreds of values: few of them, so that sums stay in registers."""
        small = padded(self.group)
        if self.arch == 0:
            sizes = (small, 16, 4, 1)
        elif self.value_bytes > 2:
            sizes = (small, 16, 8, 1)
        elif decode or not large_shared(self.arch):
            sizes = (small, 16, 4, 2)
        else:
            sizes = (max(32, small), 32, 8, 2)
        return _named(sizes)


def heads_together(heads: int) -> int:
    """Query heads that share a program over a latent cache: the most that divide them all."""
    return max(n for n in range(1, _LATENT_HEADS + 1) if heads % n == 0)


def room_for(splits: int) -> int:
    """Parts that a merging program has room for: two sizes, because each is compiled."""
    return max(16 if splits <= 16 else _MAX_SPLITS, triton.next_power_of_2(splits))


def _named(sizes: tuple[int, ...]) -> dict:
    return dict(zip(("BM", "BN", "num_warps", "num_stages"), sizes))
