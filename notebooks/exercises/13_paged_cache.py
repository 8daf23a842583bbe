"""Judges and hints of notebook 13, the paged cache: integers for the landlord, tensors for attention."""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.engine.blocks import chain
from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import answered, pair


def _ints(got, what: str) -> list[int]:
    """The answer as a list of whole numbers. Raises Wrong if it is none, Unsolved for `...`."""
    got = answered(got)
    require(isinstance(got, list | tuple | Tensor), f"{what}: a list of whole numbers is wanted; you "
                                                    f"returned {got!r}.")
    values = [item.item() if isinstance(item, Tensor) else item for item in got]
    require(all(map(_is_whole, values)), f"{what}: {values} are not all whole numbers. `//` divides whole "
                                         "numbers.")
    return [int(value) for value in values]


def _is_whole(value) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


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
        want = [_slot(table, i, size) for i in tokens]
        what = f"table {table}, blocks of {size}, tokens {start} to {start + count - 1}"
        if got == want:
            continue
        require(len(got) == count, f"{what}: you have {len(got)} slots for {count} tokens.")
        first = _slot(table, start, size)
        if got == list(range(first, first + count)):
            raise Wrong(f"{what}: you went on counting past the end of a block. The slot behind it belongs "
                        "to somebody else: the next token is wherever the table says.")
        from_zero = [_slot(table, i, size) for i in range(count)]
        if start and got == from_zero:
            raise Wrong(f"{what}: these are the slots of tokens 0 to {count - 1}. `start` tokens are there "
                        "already.")
        if got == list(tokens):
            raise Wrong(f"{what}: these are places in the request's own text; nobody has looked into the "
                        "table.")
        unscaled = [table[i // size] + i % size for i in tokens]
        if got == unscaled:
            raise Wrong(f"{what}: block b begins at slot b · {size}, not at slot b.")
        raise Wrong(f"{what}: you have {got}; {want} is wanted.")
    return "This list, `slots`, is all that the kernel which writes keys and values is told about paging."


def _slot(table: list[int], i: int, size: int) -> int:
    return table[i // size] * size + i % size


class _Fresh(TorchDispatchMode):
    """Remembers the largest tensor that was made, views of the inputs left out."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.values, self.shape = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else (out,)
        for result in results:
            if isinstance(result, Tensor) and result.numel() > self.values:
                self._look(result)
        return out

    def _look(self, tensor: Tensor) -> None:
        if tensor.untyped_storage().data_ptr() not in self.known:
            self.values, self.shape = tensor.numel(), list(tensor.shape)


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
        k, v = _paged(keys, table, P), _paged(values, table, P)
        q = drawn(H, Dh)
        with _Fresh((q, k, v)) as fresh:
            got = attend(q, k, v, list(table), length)
        what = f"{length} tokens in blocks of {P}"
        if isinstance(got, Tensor) and got.isnan().any():
            last = length - (len(table) - 1) * P
            raise Wrong(f"{what}: NaN came out. The last block holds {last} of {P} tokens; its other slots, "
                        "and all blocks that are not in the table, hold NaN here, as they may hold anything "
                        "in an engine.")
        want = _attention(q, keys, values)
        if isinstance(got, Tensor) and got.shape == want.shape and not torch.allclose(got, want):
            _explain_attention(got, q, keys, values, P, what)
        close(got, want, what)
        limit = max(2 * P * H * Dh, 2 * length * H)
        require(len(table) < 4 or fresh.values <= limit,
                f"right, but you made a tensor of {fresh.values:,} values, shape {fresh.shape}: keys or "
                "values of several blocks put side by side. Go block by block; only the scores may stand "
                "together.")
    return ("No contiguous copy of anything: this is what the Triton kernel does, with the running maximum "
            "of notebook 10 in place of a second walk.")


def _paged(rows: Tensor, table: list[int], P: int) -> Tensor:
    """A pool of 12 blocks, NaN but for the rows that stand in it through the table: [blocks, P, H, Dh]."""
    pool = torch.full((12, P, *rows.shape[1:]), torch.nan, dtype=torch.float64)
    for i, row in enumerate(rows):
        pool[table[i // P], i % P] = row
    return pool


def _attention(q: Tensor, keys: Tensor, values: Tensor, scaled: bool = True) -> Tensor:
    scores = torch.einsum("hd,shd->hs", q, keys)
    if scaled:
        scores = scores / math.sqrt(q.shape[-1])
    return torch.einsum("hs,shd->hd", scores.softmax(1), values)


def _explain_attention(got: Tensor, q: Tensor, keys: Tensor, values: Tensor, P: int, what: str) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    parts = [_attention(q, *block) for block in zip(keys.split(P), values.split(P))]
    total = sum(parts)
    one_by_one = torch.allclose(got, total / len(parts)) or torch.allclose(got, total)
    require(not one_by_one,
            f"{what}: a softmax for each block on its own. The weights of ALL tokens together must add up to "
            "1.")
    raw = _attention(q, keys, values, scaled=False)
    require(not torch.allclose(got, raw),
            f"{what}: the scores are not scaled: divide them by √Dh before the softmax.")


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
    for turn, (who, want) in enumerate(((0, (7, 4)), (2, (7, 0)), (1, None), (0, None))):
        before = [list(table) for table in tables]
        mine = tables[who]
        now = f"write {turn + 1}, to a block with {plural(owners[mine[2]], 'owner')}"
        got = answered(write(mine, 2, owners, free))
        for i, table in enumerate(tables):
            require(i == who or table == before[i], f"{now}: another request's table changed.")
        if want is None:
            require(got is None,
                    f"{now}: nobody else sees this block, so there is nothing to copy; you returned {got!r}.")
        else:
            _judge_copy(got, want, mine, free, now)
        for block, owned in enumerate(owners):
            count = sum(table.count(block) for table in tables)
            require(owned == count, f"{now}: owners[{block}] is {owned}, but {count} tables hold block "
                                    f"{block}. A "
                    "count that is too high is a leak, one that is too low hands out a block that is in use.")
    ends = free == [8] and tables == [[5, 2, 4], [5, 2, 7], [5, 2, 0]]
    require(ends, f"at the end: tables {tables}, free {free}.")
    return ("Three requests, two copies: the last owner keeps the original. So does the last process after a "
            "fork.")


def _judge_copy(got, want: tuple[int, int], table: list[int], free: list[int], now: str) -> None:
    """Raise Wrong unless the shared block was exchanged for the next free one."""
    require(got is not None, f"{now}: the others would see what this one writes. It needs a copy of its own.")
    pair(got, f"{now}: return (old block, new block); you returned {got!r}.")
    moved, new = tuple(got), want[1]
    require(moved != want[::-1], f"{now}: {moved} is the wrong way round: (old block, new block), from and "
                                 "to.")
    require(moved == want, f"{now}: you returned {moved}; {want} is wanted, the first of `free` being next.")
    require(new not in free, f"{now}: block {new} is in use now, and still in `free`.")
    require(table == [5, 2, new], f"{now}: the table is {table}; [5, 2, {new}] is wanted, the rest stays "
                                  "shared.")


@exercise("13.find_prefix", hints=(
    "Walk through the prompt block by block, from the front, and stop as soon as a block is not known.",
    "A block is known by chain(digest of the block before, its tokens); the first one has b\"\" before it. "
    "And one token at least must be left over to be run: it gives the logits.",
    "for start in range(0, len(tokens) - block_size, block_size): digest = chain(digest, tokens[start:start "
    "+ block_size]); if digest not in known: break; found.append(known[digest]). Note what the range leaves "
    "out.",
))
def find_prefix(find):
    a, b, c, d = [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9], [2, 4, 6, 8]
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
        got = _ints(find(list(tokens), dict(table), 4, chain), name)
        if got == want:
            continue
        if 77 in got[1:] or 78 in got[1:]:
            raise Wrong(f"{name}: you found block {got[-1]}, which has the right tokens after ANOTHER "
                        "beginning. Its keys have looked at that other text: they are wrong here. Put the "
                        "digest of what comes before into the digest.")
        if hole and 12 in got:
            raise Wrong(f"{name}: you found block 12 behind a hole. The tokens in the hole must be run, and "
                        "a request's tokens are run in one piece from `computed` on: stop at the first "
                        "unknown block.")
        if len(got) * 4 == len(tokens):
            raise Wrong(f"{name}: all {len(tokens)} tokens found, so none is run: no logits, no next token. "
                        "Leave one over.")
        raise Wrong(f"{name}: you found {got}; {want} is wanted.")
    return ("Each step is one look-up in a hash table: a prompt of 100,000 tokens costs 6,250 of them, and "
            "no search.")


_QUEUES = (                                    # pending tokens, budget, what each runs
    ([1, 1, 1], 16, [1, 1, 1]),
    ([1, 600, 1], 64, [1, 62, 1]),
    ([600, 1, 1], 64, [62, 1, 1]),
    ([30, 1, 50, 1], 40, [30, 1, 8, 1]),
    ([1, 1, 1, 1, 600], 4, [1, 1, 1, 1, 0]),
    ([20, 5], 64, [20, 5]),
    ([100, 100, 1], 64, [63, 0, 1]),
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
        what = f"pending {pending}, budget {budget}"
        got = _ints(share(list(pending), budget), what)
        require(len(got) == len(pending), f"{what}: {len(got)} numbers for {len(pending)} requests.")
        if got == want:
            continue
        total = sum(got)
        require(total <= budget, f"{what}: {got} runs {total} tokens; the step has room for {budget}.")
        for mine, most in zip(got, pending):
            require(mine <= most, f"{what}: {got} runs more of a request than is pending.")
        for i, most in enumerate(pending):
            require(most > 1 or got[i] > 0, f"{what}: {got} gives nothing to request {i}, which is decoding. "
                    "Somebody is reading its answer: no prompt may go first.")
        if total < min(budget, sum(pending)):
            raise Wrong(f"{what}: {got} leaves {budget - total} tokens of room unused while a prompt waits. "
                        "A prompt may be cut anywhere.")
        raise Wrong(f"{what}: you have {got}; {want} is wanted. Prompts are served in order: two half-read "
                    "prompts help nobody.")
    return ("Sarathi-Serve's stall-free step in a few lines: the budget, not the longest prompt, decides how "
            "long an answer pauses.")


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
        swap = 2 * tokens * size / link
        again = (tokens - found) / rate
        name, want = ("swap", swap) if swap < again else ("recompute", again)
        speeds = f"{link / 1e9:.0f} GB/s, {found} found, {rate:,.0f} tokens/s"
        what = f"{tokens:,} tokens of {size:,} bytes, {speeds}"
        got = answered(choose(tokens, size, link, found, rate))
        pair(got, f"return (name, seconds); you returned {got!r}.")
        said, seconds = got
        require(said in ("swap", "recompute"), f"the name is {said!r}; 'swap' or 'recompute' is wanted.")
        if math.isclose(seconds, swap / 2, rel_tol=1e-6):
            raise Wrong(f"{what}: out is only half of a swap. Before the victim can go on, everything has to "
                        "come back.")
        if found and math.isclose(seconds, tokens / rate, rel_tol=1e-6):
            raise Wrong(f"{what}: {found} of the {tokens:,} tokens are still in the cache. They need not be "
                        "run again.")
        mine, best = 1e3 * seconds, 1e3 * want
        require(said == name, f"{what}: you chose {said}, at {mine:.3g} ms; {name} takes {best:.3g} ms.")
        close(seconds, want, what)
    return ("Swap moves the same bytes however busy the GPU is; recomputing becomes cheap when the evicted "
            "blocks are still there.")
