"""Context parallel: every rank has some of the tokens of one long row, and keys and values go round a ring.

    row of N tokens      0   1   2   3   4   5   6   7       2R chunks; R = 4 ranks
    rank 0               0                           7       a rank has an early and a late chunk, so that
    rank 1                   1                   6           under a causal mask all have the same work
    rank 2                       2           5               ("zigzag")
    rank 3                           3   4

    step     rank r has the keys and values of rank    r, r-1, r-2, …      each goes on while it is used
    forward  joins what attention over each of them gives (kernels/partial_attention.py)
    backward the keys' and values' gradients travel with them, and come home after a whole round

No query sees another document's key, wherever chunks are cut. Documents are contiguous, so two chunks share
at most one, and what one rank's chunk sees of another's is a rectangle: some last rows of it, for some first
rows of its own. No mask is made. It plugs into the model where a KV cache does. Liu et al. 2023, arXiv
2310.01889; Llama 3 (zigzag), arXiv 2407.21783. Notebook 06.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from aiinfra.kernels.partial_attention import join, partial_attention, partial_backward
from aiinfra.parallel.tensor import IGNORED, fill_up


@dataclass(frozen=True)
class Zigzag:
    """Which tokens of a row are whose. Raises ValueError for a row that cannot be cut into 2R chunks."""

    tokens: int                                 # N, of the whole row
    ranks: int                                  # R

    def __post_init__(self) -> None:
        if self.tokens % (2 * self.ranks):
            chunks = f"2 × {self.ranks} ranks = {2 * self.ranks} chunks"
            raise ValueError(f"a row of {self.tokens:,} tokens cannot be cut into {chunks} of one size. "
                             "Take a multiple, or fill it up: `cut_batch` does.")

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return self.tokens // (2 * self.ranks)

    def chunks(self, rank: int) -> tuple[int, int]:
        """The two chunks of a rank, in the order in which it holds them."""
        return rank, 2 * self.ranks - 1 - rank

    def rows(self, rank: int) -> Tensor:
        """int64 [N / R]: which tokens of the row a rank has."""
        return torch.cat([torch.arange(self.size) + chunk * self.size for chunk in self.chunks(rank)])


@dataclass(frozen=True)
class Block:
    """Rows of a rank's queries, and of a rank's keys, that meet. lengths: causal documents, the same tokens;
    None: every row sees every key."""

    rows: slice
    keys: slice
    lengths: list[int] | None

    @property
    def scores(self) -> int:
        """How many pairs of a query and a key are multiplied."""
        if self.lengths is None:
            return (self.rows.stop - self.rows.start) * (self.keys.stop - self.keys.start)
        return sum(length * (length + 1) // 2 for length in self.lengths)


def blocks_between(zigzag: Zigzag, borders: list[int], rank: int, other: int) -> list[Block]:
    """What the queries of `rank` see of the keys of `other`. borders: where each document begins, and N."""
    blocks = []
    for at, mine in enumerate(zigzag.chunks(rank)):
        for there, its in enumerate(zigzag.chunks(other)):
            if mine == its:
                blocks.append(_diagonal(zigzag, borders, mine, at))
            elif mine > its:
                blocks += _rectangle(zigzag, borders, (mine, its), (at, there))
    return blocks


def _diagonal(zigzag: Zigzag, borders: list[int], chunk: int, at: int) -> Block:
    """A chunk and itself: the documents in it, or their parts."""
    size = zigzag.size
    start, end = chunk * size, (chunk + 1) * size
    inside = [border for border in borders if start < border < end]
    edges = [start, *inside, end]
    lengths = [right - left for left, right in zip(edges, edges[1:])]
    here = slice(at * size, (at + 1) * size)
    return Block(rows=here, keys=here, lengths=lengths)


def _rectangle(zigzag: Zigzag, borders: list[int], chunks: tuple[int, int],
               at: tuple[int, int]) -> list[Block]:
    """A chunk and an earlier one: what is left of the document that reaches from one into the other."""
    size = zigzag.size
    mine, its = (chunk * size for chunk in chunks)                  # their first tokens
    document = max(border for border in borders if border <= mine)
    end = min(border for border in borders if border > mine)
    first_key = max(document, its)
    if first_key >= its + size:
        return []
    here, there = (place * size for place in at)
    rows = min(end, mine + size) - mine
    return [Block(
        rows=slice(here, here + rows),
        keys=slice(there + first_key - its, there + size),
        lengths=None)]


@dataclass(frozen=True)
class RingDocuments:
    """The documents of a row whose tokens lie on the ranks of `group`: what the model is handed as `kv`."""

    cu_seqlens: Tensor          # int32 [documents + 1], of the whole row
    longest: int
    group: ProcessGroup
    plan: tuple[list[Block], ...]              # for each step of the ring: what is seen of who comes by
    length: int = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """This rank's q [N/R, H, Dh], k and v [N/R, K, Dh] -> [N/R, H, Dh], each over its document. All ranks
        of the ring call it together."""
        return _RingAttention.apply(q, k, v, self.plan, self.group)


def ring_documents(cu_seqlens: Tensor, longest: int, mesh: DeviceMesh) -> RingDocuments:
    """For a row with these documents, cut among the ranks of `mesh`, which has one dimension. Raises
    ValueError if it cannot be cut."""
    borders = cu_seqlens.tolist()
    rank, ranks = mesh.get_local_rank(), mesh.size()
    zigzag = Zigzag(borders[-1], ranks)
    plan = tuple(blocks_between(zigzag, borders, rank, (rank - step) % ranks) for step in range(ranks))
    return RingDocuments(cu_seqlens=cu_seqlens, longest=longest, group=mesh.get_group(), plan=plan)


def cut_batch(batch: Any, mesh: DeviceMesh, multiple: int = 1, fill: bool = True) -> Any:
    """This rank's part of a micro-batch that all ranks of `mesh` have. Its `valid` are its own; the text
    counts on the first rank.

    fill: fill it up first, so that each rank gets as many tokens, a multiple of `multiple`; False, for models
    whose routers would count what is filled in, raises ValueError for what cannot be cut.
    """
    rank, ranks = mesh.get_local_rank(), mesh.size()
    if fill:
        batch = fill_up(batch, 2 * ranks * multiple)
    mine = Zigzag(len(batch.tokens), ranks).rows(rank).to(batch.tokens.device)
    targets = batch.targets[mine]
    return replace(
        batch,
        tokens=batch.tokens[mine],
        targets=targets,
        positions=batch.positions[mine],
        documents=ring_documents(batch.documents.cu_seqlens, batch.documents.longest, mesh),
        valid=int((targets != IGNORED).sum()),
        text_bytes=0 if rank else batch.text_bytes)


class _Ring:
    """Neighbours: what is sent to the next rank comes from the one before."""

    def __init__(self, group: ProcessGroup) -> None:
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        self.group = group
        self.ranks = ranks
        self.next = dist.get_global_rank(group, (rank + 1) % ranks)
        self.before = dist.get_global_rank(group, (rank - 1) % ranks)

    def pass_on(self, values: Tensor) -> tuple[Tensor, list[dist.Work]]:
        """(where the neighbour's will be, what to wait for until it is there)."""
        if self.ranks == 1:
            return values, []
        arriving = torch.empty_like(values)
        sends = dist.P2POp(dist.isend, values, self.next, self.group)
        receives = dist.P2POp(dist.irecv, arriving, self.before, self.group)
        return arriving, dist.batch_isend_irecv([sends, receives])


def _wait(works: list[dist.Work]) -> None:
    for work in works:
        work.wait()


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, plan, group):
        ring, scale = _Ring(group), q.shape[-1] ** -0.5
        wide = torch.promote_types(q.dtype, torch.float32)
        o = torch.zeros(q.shape, dtype=wide, device=q.device)
        lse = torch.full(q.shape[1::-1], -torch.inf, dtype=wide, device=q.device)        # [H, N/R]
        visiting = torch.stack([k, v])
        for step, blocks in enumerate(plan):
            last = step == len(plan) - 1
            arriving, works = (visiting, []) if last else ring.pass_on(visiting)
            for block in blocks:
                keys, values = visiting[:, block.keys]
                part = partial_attention(q[block.rows], keys, values, block.lengths, scale=scale)
                joined = join(o[block.rows], lse[:, block.rows], *part)
                o[block.rows], lse[:, block.rows] = joined
            _wait(works)
            visiting = arriving
        o = o.to(q.dtype)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.rest = plan, ring, scale
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx, do):
        q, k, v, o, lse = ctx.saved_tensors
        plan, ring, scale = ctx.rest
        do = do.contiguous()
        dq = torch.zeros(o.shape, dtype=lse.dtype, device=q.device)
        visiting = torch.stack([k, v])
        theirs = torch.zeros(visiting.shape, dtype=lse.dtype, device=q.device)     # gradients of who visits
        for step, blocks in enumerate(plan):
            last = step == len(plan) - 1
            arriving, works = (visiting, []) if last else ring.pass_on(visiting)
            for block in blocks:
                rows = block.rows
                keys, values = visiting[:, block.keys]
                part = partial_backward(q[rows], keys, values, o[rows], lse[:, rows], do[rows],
                                        block.lengths, scale=scale)
                dq[rows] += part[0]
                theirs[0, block.keys] += part[1]
                theirs[1, block.keys] += part[2]
            _wait(works)
            visiting = arriving
            theirs, works = ring.pass_on(theirs)
            _wait(works)
        dk, dv = theirs.to(k.dtype)                       # after a whole round it is one's own
        return dq.to(q.dtype), dk, dv, None, None
