"""Sheet 5, serving: caches in blocks, one token for many requests, and experts. Notebooks 13 and 17."""

import torch

from puzzles.puzzle import ONCE, Expected, case, puzzle
from puzzles.specs.made import all_equal, largest_at_the_edges, scores_far_below_zero
from puzzles.specs.serving import decode, entries, experts_with_rows, paged, request, slots
from puzzles.specs.serving import tokens_with_a_slot
from puzzles.tensors import BlockSize, Number, Size, f32, i32
from puzzles.tiling import panel

_EXP = 200


@puzzle(
    title="Write to a paged KV cache by slot",
    minutes=20,
    notebook="13_paged_cache",
    grid="N",
    outputs=dict(cache=f32("S", "W")),
    prepare=slots,
    cases=[
        case(N=4, S=8, W=16, BLOCK=16),
        case(N=10, S=12, W=40, BLOCK=64),
        case(N=1, S=1, W=1, BLOCK=8),
        case(N=7, S=40, W=33, BLOCK=64),
        case(N=12, S=41, W=65, BLOCK=128, grow=dict(S=1, W=2)),
    ],
    big=case(N=8192, S=65536, W=1024, BLOCK=1024),
    budget=dict(new="N * W", cache="0"),
    needs=tokens_with_a_slot,
    picture=(
        panel("new", 4, 1, sweep=[(1, 0)], ragged="c", labels=("N tokens", "W")),
        panel("slot", 4, 1, sweep=[(1, 0)]),
        panel("cache", 6, 1, own=[(4, 0)], ragged="c", labels=("S slots", "W")),
    ),
    hints=(
        "The slot is data: load it, then compute the address to store to from it.",
        "slot * W is where the row begins. Slot -1 means that the token is padding: nothing may be "
        "stored for it.",
        "slot = tl.load(slot_ptr + n); w = tl.arange(0, BLOCK); row = tl.load(new_ptr + n * W + w, "
        "mask=w < W); tl.store(cache_ptr + slot * W + w, row, mask=(w < W) & (slot >= 0)).",
    ),
)
def kv_write(new: f32("N", "W"), slot: i32("N"), cache: f32("S", "W"), N: Size, S: Size, W: Size,
             BLOCK: BlockSize):
    """cache[slot[n], w] = new[n, w] for every token n whose slot is not -1

    cache is changed in place; all other rows keep their bits. No two tokens have the same slot. Program n on
    axis 0 owns token n; a row fits into one block (W <= BLOCK), masked past W.
    """
    result, written = cache.clone(), torch.zeros_like(cache, dtype=torch.bool)
    used = slot >= 0
    result[slot[used].long()] = new[used]
    written[slot[used].long()] = True
    return dict(cache=Expected(result, terms=0, written=written))


_POOL = (
    panel("q of one request", 2, 1, sweep=[(0, 0)], labels=("H / K heads", "D")),
    panel("block table", 1, 4, sweep=[(0, 0), (0, 1), (0, 2)], labels=("", "T entries")),
    panel("cache", 6, 1, sweep=[(4, 0), (1, 0), (3, 0)], labels=("NB blocks", "P x D")),
)


@puzzle(
    title="Paged decode attention",
    minutes=60,
    notebook="13_paged_cache",
    grid="B, K",
    outputs=dict(o=f32("B", "H", "D")),
    prepare=paged,
    cases=[
        case(B=1, H=1, K=1, NB=3, T=2, sm_scale=0.25, P=16, D=16, GROUP=16),
        case(B=3, H=6, K=2, NB=12, T=3, sm_scale=0.3, P=32, D=16, GROUP=16),
        case(B=2, H=3, K=1, NB=6, T=3, sm_scale=0.18, P=16, D=32, GROUP=16, scale=12.0),
        case(B=4, H=12, K=4, NB=13, T=4, sm_scale=0.2, P=16, D=16, GROUP=32, make=scores_far_below_zero,
             grow=dict(NB=1, T=1)),
    ],
    big=case(B=64, H=32, K=8, NB=16384, T=256, sm_scale=0.125, P=16, D=64, GROUP=16),
    budget=dict(q="B * H * D", table="B * K * T", k_cache=ONCE, v_cache=ONCE),
    needs=entries,
    picture=(*_POOL, panel("o", 2, 1, own=[(0, 0)], labels=("H / K heads", "D"))),
    hints=(
        "The block table is a page table: position s of a request lies in block table[b, s // P], at row "
        "s % P. Walk over the entries.",
        "All H // K heads of a key head form the rows of one tile, so that each key is read once for all "
        "of them. Entries past the length are garbage: never load through them.",
        "for block in range(0, tl.cdiv(length, P)): page = tl.load(table_ptr + b * T + block); s = block "
        "* P + tl.arange(0, P); k at ((page * P + tl.arange(0, P))[:, None] * K + kv) * D + d, mask s < "
        "length; then one step of the online softmax.",
    ),
)
def paged_decode(
    q: f32("B", "H", "D"),
    k_cache: f32("NB", "P", "K", "D"),
    v_cache: f32("NB", "P", "K", "D"),
    table: i32("B", "T"),
    length: i32("B"),
    B: Size,
    H: Size,
    K: Size,
    NB: Size,
    T: Size,
    sm_scale: Number,
    P: BlockSize,
    D: BlockSize,
    GROUP: BlockSize,
):
    """o[b, h] = sum over s < length[b] of softmax over s of (q[b, h] . k[s, g] * sm_scale) * v[s, g],
        g = h // (H // K)

    where k[s, g] = k_cache[table[b, s // P], s % P, g], and v likewise. Program (b, g) owns the H // K heads
    of key head g of request b (H // K <= GROUP, masked past it). Only the first ceil(length[b] / P) entries
    of a row of the table are valid, and the last block may be part full: a slot without a token holds
    anything, NaN as well. Contiguous; full float32.
    """
    requests = [request(k_cache, v_cache, table, length, b, P) for b in range(B)]
    parts = [decode(q[b], *request, sm_scale, H // K) for b, request in enumerate(requests)]
    return dict(
        o=Expected(
            torch.stack([o for o, *_ in parts]),
            terms=T * P,
            amplified=max(grown for *_, grown in parts),
            size=lambda: torch.stack([size for _, _, size, _ in parts]),
        )
    )


@puzzle(
    title="Split-K decode",
    minutes=45,
    notebook="13_paged_cache",
    grid="B, K, SPLITS",
    outputs=dict(o=f32("B", "H", "SPLITS", "D"), lse=f32("B", "H", "SPLITS")),
    prepare=paged,
    cases=[
        case(B=1, H=1, K=1, NB=3, T=2, sm_scale=0.25, P=16, D=16, GROUP=16, SPLITS=2),
        case(B=3, H=6, K=2, NB=16, T=5, sm_scale=0.3, P=32, D=16, GROUP=16, SPLITS=2),
        case(B=2, H=3, K=1, NB=6, T=3, sm_scale=0.18, P=16, D=32, GROUP=16, SPLITS=4, scale=5.0),
        case(B=4, H=12, K=4, NB=17, T=6, sm_scale=0.2, P=16, D=16, GROUP=32, SPLITS=3,
             make=scores_far_below_zero, grow=dict(NB=1, T=1)),
    ],
    big=case(B=4, H=32, K=8, NB=4096, T=1024, sm_scale=0.125, P=16, D=64, GROUP=16, SPLITS=16),
    budget=dict(table="B * K * T", k_cache=ONCE, v_cache=ONCE),
    needs=entries,
    picture=(
        panel("q of one request", 2, 1, sweep=[(0, 0)], labels=("H / K heads", "D")),
        panel("block table, cut into SPLITS", 1, 4, sweep=[(0, 2), (0, 3)], labels=("", "T entries")),
        panel("cache", 6, 1, sweep=[(4, 0), (1, 0)], labels=("NB blocks", "P x D")),
        panel("o and lse", 2, 2, own=[(0, 1)], labels=("heads", "SPLITS")),
    ),
    hints=(
        "One request and few heads give few programs, and most of the GPU idles. So several programs "
        "share a request: each walks over a part of its blocks.",
        "Each part is an attention of its own, complete with its log-sum-exp. A part without keys must "
        "not divide by zero: it stores o = 0 and lse = -inf.",
        "each = tl.cdiv(tl.cdiv(length, P), SPLITS); for block in range(split * each, tl.minimum((split "
        "+ 1) * each, tl.cdiv(length, P))); at the end o = acc / tl.where(total > 0, total, 1.0), lse = "
        "m + tl.log(total).",
    ),
)
def split_k_decode(
    q: f32("B", "H", "D"),
    k_cache: f32("NB", "P", "K", "D"),
    v_cache: f32("NB", "P", "K", "D"),
    table: i32("B", "T"),
    length: i32("B"),
    B: Size,
    H: Size,
    K: Size,
    NB: Size,
    T: Size,
    sm_scale: Number,
    P: BlockSize,
    D: BlockSize,
    GROUP: BlockSize,
    SPLITS: BlockSize,
):
    """o[b, h, i], lse[b, h, i]: paged decode attention over the i-th part of request b's blocks only

    With n = ceil(length[b] / P) blocks and e = ceil(n / SPLITS), part i is the blocks from i * e up to, but
    without, min((i + 1) * e, n). lse is the log of the sum of exp(score) over the part. A part may be empty:
    then o = 0 and lse = -inf. Program (b, g, i) owns part i of the H // K heads of key head g. Layouts as in
    paged decode.
    """
    o, size, lse = (torch.zeros(B, H, SPLITS, D, dtype=q.dtype, device=q.device) for _ in range(3))
    lse, grown = lse[..., 0] - torch.inf, 0
    for b in range(B):
        k, v = request(k_cache, v_cache, table, length, b, P)
        each = -(-(-(-k.shape[0] // P)) // SPLITS) * P
        for i in range(SPLITS):
            if i * each < k.shape[0]:
                part = slice(i * each, (i + 1) * each)
                o[b, :, i], lse[b, :, i], size[b, :, i], n = decode(q[b], k[part], v[part], sm_scale, H // K)
                grown = max(grown, n)
    return dict(
        o=Expected(o, terms=T * P, amplified=grown, size=lambda: size),
        lse=Expected(lse, terms=T * P, amplified=grown, size=lambda: 1 + lse.abs() / 16),
    )


def _rounded(lse: torch.Tensor) -> int:
    """A log-sum-exp of all parts, were it stored, is rounded by half a unit of its own size; so is exp of
    it."""
    return 2 * int(lse[lse.isfinite()].abs().max())


def _empty_parts(tensors, sizes, rng):
    """The last part of every second request is empty; no request is without any keys."""
    part, lse = tensors["part"].clone(), tensors["lse"].clone()
    part[1::2, :, 1:], lse[1::2, :, 1:] = 0.0, -torch.inf
    return dict(part=part, lse=lse)


@puzzle(
    title="Merge the parts of split-K",
    minutes=30,
    notebook="13_paged_cache",
    grid="B, H",
    outputs=dict(o=f32("B", "H", "D")),
    prepare=_empty_parts,
    cases=[
        case(B=1, H=2, D=16, BLOCK_S=4, S=4),
        case(B=4, H=3, D=16, BLOCK_S=8, S=5),
        case(B=2, H=1, D=8, BLOCK_S=2, S=1),
        case(B=3, H=2, D=16, BLOCK_S=4, S=3, scale=100.0),
        case(B=2, H=2, D=8, BLOCK_S=4, S=3, shift=500.0),  # overflows whatever is drawn; the one above mostly
        case(B=2, H=4, D=32, BLOCK_S=16, S=6, shift=-30000.0, grow=dict(S=1)),
    ],
    big=case(B=256, H=32, D=128, BLOCK_S=16, S=16),
    budget=dict(part="B * H * S * D", lse="B * H * S"),
    picture=(
        panel("part", 5, 1, sweep=[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],
              ragged="r", labels=("S parts", "D")),
        panel("lse", 5, 1, sweep=[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)], ragged="r"),
        panel("o", 1, 1, own=[(0, 0)], labels=("", "D")),
    ),
    hints=(
        "Part s stands for exp(lse[s]) worth of probability. The answer is the average of the parts with "
        "those weights.",
        "exp(lse) may overflow: subtract the largest lse first. An empty part has lse = -inf, so weight "
        "0, and so must lanes past S.",
        "lse = tl.load(..., mask=s < S, other=-float('inf')); w = tl.exp(lse - tl.max(lse, 0)); w = w / "
        "tl.sum(w, 0); o = tl.sum(w[:, None] * part, 0).",
    ),
)
def merge_splits(
    part: f32("B", "H", "S", "D"), lse: f32("B", "H", "S"), B: Size, H: Size, S: Size,
    D: BlockSize, BLOCK_S: BlockSize
):
    """o[b, h] = sum over s of w[s] * part[b, h, s], with w = softmax over s of lse[b, h, s]

    Program (b, h) owns one head of one request; its S parts fit into a block (S <= BLOCK_S, masked past S).
    Parts with lse = -inf are empty and count nothing; at least one is not empty. lse may be so large that exp
    overflows.
    """
    w = torch.softmax(lse, 2)
    return dict(
        o=Expected((w[..., None] * part).sum(2), terms=S, amplified=_EXP + _rounded(lse),
                   size=lambda: (w[..., None] * part.abs()).sum(2))
    )


def _route(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.sort(logits, dim=1, descending=True, stable=True)  # stable: the first of equals comes first
    return torch.softmax(order.values[:, :count], 1), order.indices[:, :count]


@puzzle(
    title="Top-k expert routing",
    minutes=45,
    notebook="17_experts_and_giants",
    grid="N",
    outputs=dict(weight=f32("N", "TOP"), expert=i32("N", "TOP")),
    prepare=lambda tensors, sizes, rng: dict(logits=(tensors["logits"] * 2).round() / 2),
    cases=[
        case(N=2, E=8, TOP=2, BLOCK=8),
        case(N=5, E=12, TOP=4, BLOCK=16),
        case(N=3, E=1, TOP=1, BLOCK=4),
        case(N=4, E=10, TOP=10, BLOCK=16, scale=100.0),
        case(N=3, E=9, TOP=3, BLOCK=16, shift=-30000.0),
        case(N=5, E=20, TOP=3, BLOCK=32, make=largest_at_the_edges),
        case(N=2, E=11, TOP=5, BLOCK=16, make=all_equal),
        case(N=3, E=33, TOP=11, BLOCK=64, grow=dict(E=1, TOP=1)),
    ],
    big=case(N=16384, E=128, TOP=8, BLOCK=128),
    budget=dict(logits="N * E"),
    picture=(
        panel("logits", 4, 1, sweep=[(1, 0)], ragged="c", labels=("N tokens", "E experts in one block")),
        panel("weight, expert", 4, 1, own=[(1, 0)], labels=("N", "TOP")),
    ),
    hints=(
        "Find the largest, take it out, and find the largest again: TOP times. The row stays in "
        "registers all the while.",
        "tl.argmax gives the first of equals. Taking out means tl.where(e == at, -inf, x). The weights "
        "are a softmax over the chosen ones: subtract the first, which is the largest.",
        "for i in range(0, TOP): top = tl.max(x, 0); at = tl.argmax(x, 0); store at; keep exp(top - "
        "first) in slot i of a small block with tl.where(tl.arange(0, BLOCK) == i, ..., kept); at the "
        "end store kept / tl.sum(kept, 0) for the first TOP lanes.",
    ),
)
def topk_route(logits: f32("N", "E"), N: Size, E: Size, TOP: Size, BLOCK: BlockSize):
    """expert[n, i] = the index of the i-th largest of logits[n], and weight[n] = softmax of those TOP logits

    in falling order; of equals, the smaller index comes first. The weights of a token sum to 1. Program n on
    axis 0 owns token n and loads its logits once; they fit into a block (TOP <= E <= BLOCK, masked past E).
    Logits may be far below zero, or so large that exp overflows.
    """
    weight, expert = _route(logits, TOP)
    return dict(weight=Expected(weight, terms=TOP, amplified=_EXP), expert=Expected(expert))


def _by_expert(tensors, sizes, rng):
    """Tokens sorted by expert: expert 0 has two in five and one more, expert 1 none, the rest is random."""
    N, E = sizes["N"], sizes["E"]
    choice = torch.zeros(N, dtype=torch.int64)
    if E > 2:
        first = 2 * N // 5 + 1
        choice[first:] = torch.randint(2, E, (N - first,), generator=rng)
    counts = torch.bincount(choice, minlength=E)
    return tensors | dict(offset=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int())


def _each_expert(x: torch.Tensor, w: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    bounds = offset.tolist()
    return torch.cat([x[first:end] @ w[e] for e, (first, end) in enumerate(zip(bounds, bounds[1:]))])


@puzzle(
    title="Grouped expert matmul",
    minutes=60,
    notebook="17_experts_and_giants",
    grid="E, cdiv(N, BLOCK_N), cdiv(F, BLOCK_F)",
    outputs=dict(y=f32("N", "F")),
    prepare=_by_expert,
    cases=[
        case(N=16, E=1, D=16, F=16, BLOCK_N=16, BLOCK_F=16, BLOCK_D=16),
        case(N=50, E=4, D=40, F=33, BLOCK_N=16, BLOCK_F=16, BLOCK_D=32),
        case(N=1, E=3, D=5, F=1, BLOCK_N=16, BLOCK_F=16, BLOCK_D=16),
        case(N=37, E=2, D=33, F=40, BLOCK_N=16, BLOCK_F=32, BLOCK_D=16),
        case(N=51, E=5, D=64, F=35, BLOCK_N=32, BLOCK_F=16, BLOCK_D=32, grow=dict(N=1, D=1, F=2)),
    ],
    big=case(N=4096, E=16, D=1024, F=1024, BLOCK_N=64, BLOCK_F=32, BLOCK_D=32),
    flops="2 * N * D * F",
    budget=dict(x="N * D * cdiv(F, BLOCK_F)"),
    needs=experts_with_rows,
    picture=(
        panel("x, sorted by expert", 4, 3, sweep=[(2, 0), (2, 1), (2, 2)],
              ragged="rc", labels=("N tokens", "D")),
        panel("w[e]", 3, 3, sweep=[(0, 1), (1, 1), (2, 1)], ragged="rc", labels=("D", "F")),
        panel("y", 4, 3, own=[(2, 1)], ragged="rc", labels=("N", "F")),
    ),
    hints=(
        "It is the matmul puzzle with one more axis: the expert says which w, and which rows of x are "
        "its own.",
        "Rows of expert e begin at offset[e], so tiles are counted from there. A tile that begins at or "
        "past offset[e + 1] has no rows: its program does nothing.",
        "first = tl.load(offset_ptr + e); end = tl.load(offset_ptr + e + 1); n = first + "
        "tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N); everything about rows is masked with n < "
        "end; if first + tl.program_id(1) * BLOCK_N < end: ...",
    ),
)
def grouped_matmul(
    x: f32("N", "D"),
    w: f32("E", "D", "F"),
    offset: i32("E + 1"),
    N: Size,
    E: Size,
    D: Size,
    F: Size,
    BLOCK_N: BlockSize,
    BLOCK_F: BlockSize,
    BLOCK_D: BlockSize,
):
    """y[n] = x[n] @ w[e] for offset[e] <= n < offset[e + 1]

    Rows of x are sorted by expert; some experts have no rows, one may have all. Program (e, i, j) owns rows
    offset[e] + i * BLOCK_N and on of expert e, columns j * BLOCK_F and on. A program without rows must load
    nothing of x. Contiguous; past the expert's end, past D and past F is masked; full float32.
    """
    return dict(y=Expected(_each_expert(x, w, offset), terms=D,
                           size=lambda: _each_expert(x.abs(), w.abs(), offset)))
