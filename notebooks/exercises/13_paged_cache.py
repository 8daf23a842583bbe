"""Judges and hints of notebook 13, the paged cache: integers for the landlord, tensors for attention."""

import math
from itertools import pairwise
from numbers import Real
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from aiinfra.engine.blocks import chain
from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import EveryTensor, about, answered, explain, is_finite, pair, same


def _ints(got, what: str) -> list[int]:
    """The answer as a list of whole numbers. Raises Wrong if it is none, Unsolved for `...`."""
    got = answered(got)
    is_list = isinstance(got, list | tuple)
    require(is_list, f"{what}: a list of whole numbers is wanted; you returned {got!r}.")
    for value in got:
        whole = isinstance(value, Real) and value == value // 1
        require(whole, f"{what}: {got} are not all whole numbers: use `//`, and `.tolist()` for a tensor.")
    return [int(value) for value in got]


@exercise("13.slots", hints=(
    "Two steps for each token: which of the request's blocks is it in, and where in that block?",
    "Token i is in the request's block number i // block_size, which the table translates; inside it stands "
    "at i % block_size. A pool of blocks laid end to end has block b at slots b·block_size …",
    "return [table[i // block_size] * block_size + i % block_size for i in range(start, start + count)].",
))
def slots(answer):
    cases = (
        ([4, 9, 2], 0, 8, 8),
        ([4, 9, 2], 6, 5, 8),
        ([7, 3], 15, 2, 16),
        ([5], 2, 1, 4),
        ([3, 0, 1], 2, 4, 2),
    )
    for table, start, count, size in cases:
        got = _ints(answer(list(table), start, count, size), "slots")
        tokens = range(start, start + count)
        with about(f"table {table}, blocks of {size}, tokens {start} to {tokens[-1]}"):
            _judge_slots(got, table, tokens, size)
    return "This list, `slots`, is all that the kernel which writes keys and values is told about paging."


def _judge_slots(got: list[int], table: list[int], tokens: range, size: int) -> None:
    count = len(tokens)
    want = _slots(table, tokens, size)
    require(len(got) == count, f"you have {len(got)} slots for {count} tokens.")
    explain(got, (
        (list(range(want[0], want[0] + count)),
         "you went on counting past the end of a block. The slot behind it belongs to somebody else: the "
         "next token is wherever the table says."),
        (_slots(table, range(count), size),
         f"these are the slots of tokens 0 to {count - 1}. `start` tokens are there already."),
        (list(tokens),
         "these are places in the request's own text; nobody has looked into the table."),
        ([table[i // size] + i % size for i in tokens],
         f"block b begins at slot b · {size}, not at slot b."),
    ), unless=want)
    require(got == want, f"you have {got}; {want} is wanted.")


def _slots(table: list[int], tokens: range, size: int) -> list[int]:
    """The slot of each of the request's tokens."""
    places = (divmod(i, size) for i in tokens)
    return [table[block] * size + inside for block, inside in places]


class _Fresh(EveryTensor):
    """Remembers the largest tensor that was made, views of the inputs left out."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.known = {_memory(tensor) for tensor in inputs}
        self.values = 0
        self.shape: list[int] = []

    def look(self, tensor: Tensor) -> None:
        if tensor.numel() > self.values and _memory(tensor) not in self.known:
            self.values = tensor.numel()
            self.shape = list(tensor.shape)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Request(NamedTuple):
    """A request's query, and its keys and values in their own order; its table says where they are put."""

    q: Tensor                                  # [H, Dh]
    keys: Tensor                               # [length, H, Dh]
    values: Tensor
    table: list[int]
    P: int

    def pool(self, rows: Tensor) -> Tensor:
        """12 blocks, NaN but for the rows that stand in them through the table: [blocks, P, H, Dh]."""
        pool = torch.full((12, self.P, *rows.shape[1:]), torch.nan, dtype=torch.float64)
        for i, row in enumerate(rows):
            block, inside = divmod(i, self.P)
            pool[self.table[block], inside] = row
        return pool


@exercise("13.attend_paged", hints=(
    "First only the scores: they are small, one number a token and head. Go through the table and collect "
    "them block by block.",
    "Block number n of the request holds tokens n·P … of which only min(P, length − n·P) exist; the rest of "
    "the last block is somebody's leftovers. Cut it off before it is used. One softmax over all scores, then "
    "a second walk for the values.",
    "scores = torch.cat([einsum('hd,phd->hp', q, k_cache[b][:n]) …], 1) with n = min(P, length − i·P); p = "
    "(scores / Dh**0.5).softmax(1); out = Σ over blocks of einsum('hp,phd->hd', p[:, i·P : i·P + n], "
    "v_cache[b][:n]).",
))
def attend_paged(attend):
    random = torch.Generator().manual_seed(13)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    cases = (
        ([6, 1, 4, 9, 0, 7], 16, 3, 24, 90),
        ([2, 5, 3, 8], 8, 2, 16, 32),
        ([11, 3, 9], 4, 2, 8, 9),
    )
    for table, P, H, Dh, length in cases:
        keys, values = drawn(length, H, Dh), drawn(length, H, Dh)
        last = length - (len(table) - 1) * P
        with about(f"{length} tokens in blocks of {P}"):
            _judge_attention(
                attend, _Request(q=drawn(H, Dh), keys=keys, values=values, table=table, P=P),
                f"NaN came out. The last block holds {last} of {P} tokens; its other slots, and all blocks "
                "that are not in the table, hold NaN here, as they may hold anything in an engine.")
    signs = torch.tensor([[1000.0], [-1000.0]], dtype=torch.float64)
    keys, values = drawn(9, 2, 8).abs(), drawn(9, 2, 8)
    with about("scores of thousands, all above 0 in one head and all below 0 in the other"):
        _judge_attention(
            attend, _Request(q=signs * drawn(2, 8).abs(), keys=keys, values=values, table=[11, 3, 9], P=4),
            "NaN came out. exp(1000) is infinite and exp(-1000) is 0: subtract the largest score of each "
            "head before exp, or use softmax.")
    return ("No contiguous copy of anything: this is what the Triton kernel does, with the running maximum "
            "of notebook 10 in place of a second walk.")


def _judge_attention(attend, request: _Request, why_nan: str) -> None:
    """Raise Wrong unless it is the attention over all tokens, in q's own numbers, and nothing was copied."""
    q, keys, values, table, P = request
    k, v = request.pool(keys), request.pool(values)
    with _Fresh(q, k, v) as fresh:
        got = attend(q, k, v, list(table), len(keys))
    require(not isinstance(got, Tensor) or is_finite(got), why_nan)
    want = _attention(q, keys, values)
    parts = [_attention(q, *block) for block in zip(keys.split(P), values.split(P))]
    one_by_one = "a softmax for each block on its own. The weights of ALL tokens together must add up to 1."
    unscaled = "the scores are not scaled: divide them by √Dh before the softmax."
    explain(got, (
        (sum(parts), one_by_one),
        (sum(parts) / len(parts), one_by_one),
        (_attention(q, keys, values, scaled=False), unscaled),
    ), unless=want)
    close(got, want, "the output")
    require(same(got, want, rtol=1e-9, atol=1e-10) and got.dtype == want.dtype,
            "right, but only to the seven digits of float32, and q is float64. Take the dtype from q "
            "wherever you make a tensor or convert one.")
    limit = max(2 * k[0].numel(), 2 * q.shape[0] * len(keys))
    require(len(table) < 4 or fresh.values <= limit,
            f"right, but you made a tensor of {fresh.values:,} values, shape {fresh.shape}: keys or values "
            "of several blocks put side by side. Go block by block; only the scores may stand together.")


def _attention(q: Tensor, keys: Tensor, values: Tensor, scaled: bool = True) -> Tensor:
    scores = torch.einsum("hd,shd->hs", q, keys)
    if scaled:
        scores = scores / math.sqrt(q.shape[-1])
    return torch.einsum("hs,shd->hd", scores.softmax(1), values)


@exercise("13.before_write", hints=(
    "When is it safe to write? When nobody else can see the block.",
    "owners[block] > 1: take a block from the front of `free`, put it into THIS table, and move one "
    "ownership from the old block to the new one. Otherwise there is nothing to do.",
    "old = table[index]; if owners[old] == 1: return None; new = free.pop(0); table[index] = new; "
    "owners[old] -= 1; owners[new] = 1; return old, new.",
))
def before_write(write):
    tables = [[5, 2, 7], [5, 2, 7], [5, 2, 7]]
    owners = [0, 0, 3, 0, 0, 3, 0, 3, 0]
    free = [4, 0, 8]
    writes = (                                 # who writes, and what is wanted
        (0, (7, 4)),
        (2, (7, 0)),
        (1, None),
        (0, None),
    )
    for turn, (who, want) in enumerate(writes, 1):
        mine = tables[who]
        others = [table if table is mine else list(table) for table in tables]
        with about(f"write {turn}, to a block with {plural(owners[mine[2]], 'owner')}"):
            got = answered(write(mine, 2, owners, free))
            require(tables == others, "another request's table changed.")
            _judge_copy(got, want, mine, free)
            _judge_counts(owners, tables)
    ends = free == [8] and tables == [[5, 2, 4], [5, 2, 7], [5, 2, 0]]
    require(ends, f"at the end: tables {tables}, free {free}.")
    return ("Three requests, two copies: the last owner keeps the original. So does the last process after a "
            "fork.")


def _judge_copy(got, want: tuple[int, int] | None, table: list[int], free: list[int]) -> None:
    """Raise Wrong unless a shared block, and no other, was exchanged for the next free one."""
    if want is None:
        alone = "nobody else sees this block, so there is nothing to copy"
        require(got is None, f"{alone}; you returned {got!r}.")
        return
    require(got is not None, "the others would see what this one writes. It needs a copy of its own.")
    pair(got, f"return (old block, new block); you returned {got!r}.")
    moved = tuple(got)
    old, new = want
    require(moved != (new, old), f"{moved} is the wrong way round: (old block, new block), from and to.")
    require(moved == want, f"you returned {moved}; {want} is wanted, the first of `free` being next.")
    require(new not in free, f"block {new} is in use now, and still in `free`.")
    right = [5, 2, new]
    require(table == right, f"the table is {table}; {right} is wanted, the rest stays shared.")


def _judge_counts(owners: list[int], tables: list[list[int]]) -> None:
    """Raise Wrong unless each block has as many owners as tables hold it."""
    for block, owned in enumerate(owners):
        count = sum(table.count(block) for table in tables)
        require(owned == count,
                f"owners[{block}] is {owned}, but {count} tables hold block {block}. A count that is too "
                "high is a leak, one that is too low hands out a block that is in use.")


@exercise("13.find_prefix", hints=(
    "Walk through the prompt block by block, from the front, and stop as soon as a block is not known.",
    "A block is known by chain(digest of the block before, its tokens); the first one has b\"\" before it. "
    "And one token at least must be left over to be run: it gives the logits.",
    "for start in range(0, len(tokens) - block_size, block_size): digest = chain(digest, tokens[start:start "
    "+ block_size]); if digest not in known: break; found.append(known[digest]). Note what the range leaves "
    "out.",
))
def find_prefix(find):
    a, b = [1, 2, 3, 4], [5, 6, 7, 8]
    c, d = [9, 9, 9, 9], [2, 4, 6, 8]
    first = chain(b"", a)
    second = chain(first, b)
    third = chain(second, c)
    elsewhere = {chain(b"", b): 77, chain(b"", c): 78}             # the same tokens after another beginning
    known = {first: 10, second: 11, third: 12, **elsewhere}
    evicted = {first: 10, third: 12, **elsewhere}
    cases = {
        "two blocks, then something new": (a + b + d + [3], [10, 11]),
        "nothing known": (d + a + b + [3], []),
        "shorter than a block": ([1, 2, 3], []),
        "a prompt that is known to its last token": (a + b, [10]),
        "the same, with one token more": (a + b + [1], [10, 11]),
        "all three blocks": (a + b + c + [1, 2], [10, 11, 12]),
        "the second block was evicted": (a + b + c + [1], [10]),
        "b at the front": (b + c + [1], [77]),
    }
    for name, (tokens, want) in cases.items():
        hole = "evicted" in name
        table = evicted if hole else known
        with about(name):
            got = _ints(find(list(tokens), dict(table), 4, chain), "what you found")
            if got != want:
                _explain_found(got, tokens, hole)
            require(got == want, f"you found {got}; {want} is wanted.")
    return ("Each step is one look-up in a hash table: a prompt of 100,000 tokens costs 6,250 of them, and "
            "no search.")


def _explain_found(got: list[int], tokens: list[int], hole: bool) -> None:
    """Raise Wrong with the reason, if it is a known one. Blocks 77 and 78 stand behind nothing."""
    require(not {77, 78} & set(got[1:]),
            f"you found {got}, whose last block has the right tokens after ANOTHER beginning. Its keys have "
            "looked at that other text: they are wrong here. Put the digest of what comes before into the "
            "digest.")
    require(not hole or 12 not in got,
            "you found block 12 behind a hole. The tokens in the hole must be run, and a request's tokens "
            "are run in one piece from `computed` on: stop at the first unknown block.")
    require(len(got) * 4 != len(tokens),
            f"all {len(tokens)} tokens found, so none is run: no logits, no next token. Leave one over.")


_QUEUES = (                                    # pending tokens, budget, what each runs
    ([1, 1, 1], 16, [1, 1, 1]),
    ([1, 600, 1], 64, [1, 62, 1]),
    ([600, 1, 1], 64, [62, 1, 1]),
    ([30, 1, 50, 1], 40, [30, 1, 8, 1]),
    ([1, 1, 1, 1, 600], 4, [1, 1, 1, 1, 0]),
    ([20, 5], 64, [20, 5]),
    ([100, 100, 1], 64, [63, 0, 1]),
    ([600, 100, 1], 64, [63, 0, 1]),
    ([100, 600, 1], 64, [63, 0, 1]),
)


@exercise("13.share_step", hints=(
    "Who must not wait? Those who are decoding: they need one token each.",
    "First give 1 to everybody who has 1 pending; then go through the others in order and give each "
    "min(pending, what is left).",
    "left = budget − pending.count(1); run = [1 if n == 1 else None …]; for the others, in order: take = "
    "min(n, left); left −= take.",
))
def share_step(share):
    for pending, budget, want in _QUEUES:
        with about(f"pending {pending}, budget {budget}"):
            got = _ints(share(list(pending), budget), "what runs")
            require(len(got) == len(pending), f"{len(got)} numbers for {len(pending)} requests.")
            _judge_shares(got, pending, budget)
            _judge_order(got, pending)
            require(got == want, f"you have {got}; {want} is wanted. Prompts are served in order: two "
                                 "half-read prompts help nobody.")
    return ("Sarathi-Serve's stall-free step in a few lines: the budget, not the longest prompt, decides how "
            "long an answer pauses.")


def _judge_shares(got: list[int], pending: list[int], budget: int) -> None:
    """Raise Wrong if a share is too small or too large, or if all of them are."""
    total = sum(got)
    for i, mine in enumerate(got):
        require(mine >= 0, f"{got} runs {mine} tokens of request {i}, a negative count. When the budget is "
                           "used up there is nothing left to give: 0.")
    require(total <= budget, f"{got} runs {total} tokens; the step has room for {budget}.")
    for i, (mine, most) in enumerate(zip(got, pending)):
        require(mine <= most, f"{got} runs more of a request than is pending.")
        require(most > 1 or mine > 0, f"{got} gives nothing to request {i}, which is decoding. Somebody is "
                                      "reading its answer: no prompt may go first.")
    require(total >= min(budget, sum(pending)),
            f"{got} leaves {budget - total} tokens of room unused while a prompt waits. A prompt may be cut "
            "anywhere.")


def _judge_order(got: list[int], pending: list[int]) -> None:
    """Raise Wrong if a prompt has got nothing and the one behind it has got something."""
    prompts = [i for i, most in enumerate(pending) if most > 1]
    for earlier, later in pairwise(prompts):
        require(got[earlier] > 0 or got[later] == 0,
                f"{got} runs request {later} and nothing of request {earlier}, which came before it. Prompts "
                "are served as they came, whatever their lengths.")


# Tokens, bytes of each, bytes/s of the link, tokens found in the cache, tokens/s of a prefill. PCIe 5.0 × 16;
# 13,000 and 2,000 tokens a second are round figures for a fast and a slow prefill.
_VICTIMS = (
    (1000, 131_072, 63e9, 0, 13_000.0),
    (1000, 131_072, 63e9, 960, 13_000.0),
    (4000, 524_288, 25e9, 0, 26_000.0),
    (2000, 70_272, 63e9, 0, 2_000.0),
    (1000, 4_718_592, 63e9, 0, 8_000.0),
)


@exercise("13.make_room", hints=(
    "Two times to compare. What travels when a victim is swapped out, and what happens before it can go on?",
    "Swapping moves all its bytes twice: out now, in again later. Recomputing moves nothing and runs its "
    "tokens again, except those that are found in the cache.",
    "swap = 2 · tokens · bytes_per_token / link; again = (tokens − found) / rate; return the name and the "
    "seconds of the smaller.",
))
def make_room(choose):
    for tokens, size, link, found, rate in _VICTIMS:
        speeds = f"{link / 1e9:.0f} GB/s, {found} found, {rate:,.0f} tokens/s"
        with about(f"{tokens:,} tokens of {size:,} bytes, {speeds}"):
            got = answered(choose(tokens, size, link, found, rate))
            swap = 2 * tokens * size / link
            _judge_price(got, swap, tokens / rate, found / tokens)
    return ("Swap moves the same bytes however busy the GPU is; recomputing becomes cheap when the evicted "
            "blocks are still there.")


def _judge_price(got, swap: float, all_again: float, found: float) -> None:
    """`found`: the share of the tokens that need not be run again. Seconds of a swap, and to run all."""
    again = all_again * (1 - found)
    name, want = min(("recompute", again), ("swap", swap), key=itemgetter(1))
    pair(got, f"return (name, seconds); you returned {got!r}.")
    said, seconds = got
    require(said in ("swap", "recompute"), f"the name is {said!r}; 'swap' or 'recompute' is wanted.")
    if found:
        explain(seconds, {
            all_again:
                f"{found:.0%} of the tokens are still in the cache. They need not be run again.",
            swap * (1 - found):
                "your swap moves only what is not in the cache. What is found there spares running it "
                "again; a swap moves all of the victim's bytes, out and in.",
        })
    explain(seconds, {swap / 2: "out is only half of a swap. Before the victim can go on, everything has to "
                                "come back."})
    mine, best = 1e3 * seconds, 1e3 * want
    require(said == name, f"you chose {said}, at {mine:.3g} ms; {name} takes {best:.3g} ms.")
    close(seconds, want, "the price")
