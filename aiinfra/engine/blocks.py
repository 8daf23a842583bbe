"""Renting out a KV cache by the block: who owns what, who shares, and what can be had back.

    free      never used, or its content is worthless          ┐
    cached    owned by nobody, but its content may be asked    ├ free + cached + used = total, always
              for again: evicted least recently used first     │
    used      owned by one request, or shared by several       ┘

A full block is known by a digest of its tokens *and of all before it*: so an equal digest means equal
keys and values, and a prompt that begins like an earlier one starts with that one's blocks. Integers
only: no tensor is touched here; the keys and values themselves are in runner.py's PagedCache. Source: Kwon et
al. 2023 (vLLM). Notebook 13.
"""

import hashlib
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence


class OutOfBlocks(Exception):
    """Fewer blocks can be had than were asked for; nothing was changed."""


class BlockPool:
    """`total` blocks of `block_size` tokens. Blocks are numbers from 0 to total - 1."""

    def __init__(self, total: int, block_size: int, prefix_caching: bool = True) -> None:
        if total < 1 or block_size < 1:
            raise ValueError(f"{total} blocks of {block_size} tokens; there must be at least 1 of at least "
                             "1. Give the cache more memory (cache_bytes), or choose a block_size such as "
                             "16.")
        self.total, self.block_size, self.prefix_caching = total, block_size, prefix_caching
        self.clear()

    def clear(self) -> None:
        """All blocks are free: nobody owns one any more."""
        self._free = deque(range(self.total))
        self._owners = [0] * self.total
        self._digest: list[bytes | None] = [None] * self.total
        self._by_digest: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()        # least recently used first

    @property
    def free(self) -> int:
        """Blocks without content."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody owns and whose content is kept."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that somebody owns."""
        return self.total - self.free - self.cached

    def owners(self, block: int) -> int:
        """How many requests hold this block."""
        return self._owners[block]

    def keeps(self, block: int) -> bool:
        """True if nobody owns this block and its content is kept."""
        return block in self._cached

    def digest(self, block: int) -> bytes | None:
        """What the content of this block is known by; None if nobody can find it."""
        return self._digest[block]

    def check(self) -> None:
        """Raise RuntimeError unless every block is free, cached or used, and in one of the three only."""
        free = set(self._free)
        if len(free) != self.free:
            raise RuntimeError("a block is free twice")
        for block in range(self.total):
            states = [block in free, block in self._cached, self._owners[block] > 0]
            if sum(states) != 1:
                raise RuntimeError(f"block {block}: (free, cached, used) = {tuple(states)}; one must be true")
            digest = self._digest[block]
            if digest is not None and self._by_digest.get(digest) != block:
                raise RuntimeError(f"block {block} has a digest that leads elsewhere")
            if block in free and digest is not None:
                raise RuntimeError(f"block {block} is free, and what was in it can still be found")
        if len(self._by_digest) != self.total - self._digest.count(None):
            raise RuntimeError("a digest leads to a block that does not have it")

    def can_allocate(self, n: int) -> bool:
        """True if `allocate(n)` would succeed."""
        return n <= self.free + self.cached

    def allocate(self, n: int) -> list[int]:
        """Take n blocks, empty ones first, then the least recently used content. Raises OutOfBlocks
        and changes nothing if there are fewer."""
        if not self.can_allocate(n):
            raise OutOfBlocks(f"{n} blocks wanted, {self.free + self.cached} of {self.total} can be had")
        blocks = []
        for _ in range(n):
            if self._free:
                block = self._free.popleft()
            else:
                block, _ = self._cached.popitem(last=False)
                del self._by_digest[self._digest[block]]
                self._digest[block] = None
            self._owners[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One more owner for each block, which is used or cached."""
        for block in blocks:
            self._cached.pop(block, None)
            self._owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One owner less for each block. The last block of a request is given up first: it is the one
        that others are least likely to share."""
        for block in reversed(blocks):
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if self._digest[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def forget(self, blocks: Iterable[int]) -> None:
        """What is in these blocks is not to be found again; those that nobody owns are free."""
        for block in blocks:
            if self._digest[block] is not None:
                del self._by_digest[self._digest[block]]
                self._digest[block] = None
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def match(self, tokens: Sequence[int], digests: list[bytes] | None = None) -> list[int]:
        """The blocks, used or cached, that hold the longest known beginning of `tokens`. At least one
        token is left over, because somebody has to compute the next one. Owners are not changed. digests:
        those of the tokens' first blocks that are known already; what is worked out here is added."""
        found: list[int] = []
        if not self.prefix_caching:
            return found
        if digests is None:
            digests = []
        for i in range((len(tokens) - 1) // self.block_size):
            digest = digest_of(i, tokens, self.block_size, digests)
            if digest not in self._by_digest:
                break
            found.append(self._by_digest[digest])
        return found

    def seal(self, block: int, digest: bytes) -> None:
        """Content of `block` is complete and known by `digest`. The first block with a digest keeps it."""
        if not self.prefix_caching:
            return
        if self._digest[block] is None and digest not in self._by_digest:
            self._digest[block] = digest
            self._by_digest[digest] = block


def chain(before: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a block's tokens and of all blocks before it; 128 bits, so that no two ever meet."""
    text = before + array("q", tokens).tobytes()
    return hashlib.blake2b(text, digest_size=16).digest()


def digest_of(block: int, tokens: Sequence[int], block_size: int, known: list[bytes]) -> bytes:
    """Digest of the tokens' block number `block`, from 0. known: those of the first blocks; what is worked
    out is added."""
    for i in range(len(known), block + 1):
        before = known[-1] if known else b""
        start = i * block_size
        known.append(chain(before, tokens[start:start + block_size]))
    return known[block]
