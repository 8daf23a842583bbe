"""Judges and hints of notebook 13, the paged cache. Integers for the landlord's work, small tensors for attention."""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.engine.blocks import chain
from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require


def _ints(got, what: str) -> list[int]:
    """The answer as a list of whole numbers. Raises Wrong if it is none, Unsolved for `...`."""
    if got is Ellipsis:
        raise Unsolved
    require(isinstance(got, list | tuple | Tensor), f"{what}: a list of whole numbers is wanted; you returned {got!r}.")
    values = [item.item() if isinstance(item, Tensor) else item for item in got]
    require(all(isinstance(v, int) or (isinstance(v, float) and v == int(v)) for v in values),
            f"{what}: {values} are not all whole numbers. `//` divides whole numbers.")
    return [int(v) for v in values]


@exercise("13.slots", hints=(
    "Two steps for each token: which of the request's blocks is it in, and where in that block?",
    "Token i is in the request's block number i // block_size, which the table translates; inside it stands at i % block_size. "
    "A pool of blocks laid end to end has block b at slots b·block_size …",
    "return [table[i // block_size] * block_size + i % block_size for i in range(start, start + count)].",
))
def slots(answer):
    cases = (([4, 9, 2], 0, 8, 8), ([4, 9, 2], 6, 5, 8), ([7, 3], 15, 2, 16), ([5], 2, 1, 4), ([3, 0, 1], 2, 4, 2))
    for table, start, count, size in cases:
        got = _ints(answer(list(table), start, count, size), "slots")
        want = [table[i // size] * size + i % size for i in range(start, start + count)]
        what = f"table {table}, blocks of {size}, tokens {start} to {start + count - 1}"
        if got == want:
            continue
        require(len(got) == count, f"{what}: you have {len(got)} slots for {count} tokens.")
        if got == [table[start // size] * size + start % size + n for n in range(count)]:
            raise Wrong(f"{what}: you went on counting past the end of a block. The slot behind it belongs to somebody else: the "
                        "next token is wherever the table says.")
        if start and got == [table[n // size] * size + n % size for n in range(count)]:
            raise Wrong(f"{what}: these are the slots of tokens 0 to {count - 1}. `start` tokens are there already.")
        if got == list(range(start, start + count)):
            raise Wrong(f"{what}: these are places in the request's own text; nobody has looked into the table.")
        if got == [table[i // size] + i % size for i in range(start, start + count)]:
            raise Wrong(f"{what}: block b begins at slot b · {size}, not at slot b.")
        raise Wrong(f"{what}: you have {got}; {want} is wanted.")
    return "This list, `slots`, is all that the kernel which writes keys and values is told about paging."


class _Fresh(TorchDispatchMode):
    """Remembers the largest tensor that was made, views of the inputs left out."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.values, self.shape = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                if tensor.numel() > self.values:
                    self.values, self.shape = tensor.numel(), list(tensor.shape)
        return out


@exercise("13.attend_paged", hints=(
    "First only the scores: they are small, one number a token and head. Go through the table and collect them block by block.",
    "Block number n of the request holds tokens n·P … of which only min(P, length − n·P) exist; the rest of the last block is "
    "somebody's leftovers. Cut it off before it is used. One softmax over all scores, then a second walk for the values.",
    "scores = torch.cat([einsum('hd,phd->hp', q, k_cache[b][:n]) …], 1) with n = min(P, length − i·P); p = (scores / Dh**0.5).softmax(1); "
    "out = Σ over blocks of einsum('hp,phd->hd', p[:, i·P : i·P + n], v_cache[b][:n]).",
))
def attend_paged(attend):
    random = torch.Generator().manual_seed(13)
    for table, P, H, Dh, length in (([6, 1, 4, 9, 0, 7], 16, 3, 24, 90), ([2, 5, 3, 8], 8, 2, 16, 32), ([11, 3, 9], 4, 2, 8, 9)):
        k, v = (torch.full((12, P, H, Dh), torch.nan, dtype=torch.float64) for _ in range(2))
        keys, values = (torch.randn(length, H, Dh, generator=random, dtype=torch.float64) for _ in range(2))
        for i in range(length):
            k[table[i // P], i % P], v[table[i // P], i % P] = keys[i], values[i]
        q = torch.randn(H, Dh, generator=random, dtype=torch.float64)
        p = (torch.einsum("hd,shd->hs", q, keys) / math.sqrt(Dh)).softmax(1)
        want = torch.einsum("hs,shd->hd", p, values)
        with _Fresh((q, k, v)) as fresh:
            got = attend(q, k, v, list(table), length)
        what = f"{length} tokens in blocks of {P}"
        if isinstance(got, Tensor) and got.isnan().any():
            raise Wrong(f"{what}: NaN came out. The last block holds {length - (len(table) - 1) * P} of {P} tokens; its other slots, "
                        "and all blocks that are not in the table, hold NaN here, as they may hold anything in an engine.")
        if isinstance(got, Tensor) and got.shape == want.shape and not torch.allclose(got, want):
            parts = [torch.einsum("hs,shd->hd", (torch.einsum("hd,shd->hs", q, keys[s:s + P]) / math.sqrt(Dh)).softmax(1), values[s:s + P])
                     for s in range(0, length, P)]
            require(not any(torch.allclose(got, x) for x in (sum(parts) / len(parts), sum(parts))),
                    f"{what}: a softmax for each block on its own. The weights of ALL tokens together must add up to 1.")
            raw = torch.einsum("hs,shd->hd", torch.einsum("hd,shd->hs", q, keys).softmax(1), values)
            require(not torch.allclose(got, raw), f"{what}: the scores are not scaled: divide them by √Dh before the softmax.")
        close(got, want, what)
        limit = max(2 * P * H * Dh, 2 * length * H)
        require(len(table) < 4 or fresh.values <= limit, f"right, but you made a tensor of {fresh.values:,} values, shape {fresh.shape}: "
                "keys or values of several blocks put side by side. Go block by block; only the scores may stand together.")
    return "No contiguous copy of anything: this is what the Triton kernel does, with the running maximum of notebook 10 in place of a second walk."


@exercise("13.before_write", hints=(
    "When is it safe to write? When nobody else can see the block.",
    "owners[block] > 1: take a block from the front of `free`, put it into THIS table, and move one ownership from the old block to "
    "the new one. Otherwise there is nothing to do.",
    "old = table[index]; if owners[old] == 1: return None; new = free.pop(0); table[index] = new; owners[old] -= 1; "
    "owners[new] = 1; return old, new.",
))
def before_write(write):
    tables = [[5, 2, 7], [5, 2, 7], [5, 2, 7]]
    owners, free = [0, 0, 3, 0, 0, 3, 0, 3, 0], [4, 0, 8]
    for turn, (who, want) in enumerate(((0, (7, 4)), (2, (7, 0)), (1, None), (0, None))):
        others = [list(table) for i, table in enumerate(tables) if i != who]
        was = owners[tables[who][2]]
        got = write(tables[who], 2, owners, free)
        if got is Ellipsis:
            raise Unsolved
        now = f"write {turn + 1}, to a block with {was} owner{'s' * (was != 1)}"
        require([list(t) for i, t in enumerate(tables) if i != who] == others, f"{now}: another request's table changed.")
        if want is None:
            require(got is None, f"{now}: nobody else sees this block, so there is nothing to copy; you returned {got!r}.")
        else:
            require(got is not None, f"{now}: the others would see what this one writes. It needs a copy of its own.")
            require(isinstance(got, tuple | list) and len(got) == 2, f"{now}: return (old block, new block); you returned {got!r}.")
            require(tuple(got) != want[::-1], f"{now}: {tuple(got)} is the wrong way round: (old block, new block), from and to.")
            require(tuple(got) == want, f"{now}: you returned {tuple(got)}; {want} is wanted, the first of `free` being next.")
            require(want[1] not in free, f"{now}: block {want[1]} is in use now, and still in `free`.")
            require(tables[who] == [5, 2, want[1]], f"{now}: the table is {tables[who]}; [5, 2, {want[1]}] is wanted, the rest stays shared.")
        count = [sum(table.count(b) for table in tables) for b in range(9)]
        for b in range(9):
            require(owners[b] == count[b], f"{now}: owners[{b}] is {owners[b]}, but {count[b]} tables hold block {b}. A count that is too "
                    "high is a leak, one that is too low hands out a block that is in use.")
    require(free == [8] and tables == [[5, 2, 4], [5, 2, 7], [5, 2, 0]], f"at the end: tables {tables}, free {free}.")
    return "Three requests, two copies: the last owner keeps the original. So does the last process after a fork."


@exercise("13.find_prefix", hints=(
    "Walk through the prompt block by block, from the front, and stop as soon as a block is not known.",
    "A block is known by chain(digest of the block before, its tokens); the first one has b\"\" before it. And one token at least "
    "must be left over to be run: it gives the logits.",
    "for start in range(0, len(tokens) - block_size, block_size): digest = chain(digest, tokens[start:start + block_size]); "
    "if digest not in known: break; found.append(known[digest]). Note what the range leaves out.",
))
def find_prefix(find):
    a, b, c, d = [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9], [2, 4, 6, 8]
    first = chain(b"", a)
    second, other = chain(first, b), chain(b"", b)
    third = chain(second, c)
    known = {first: 10, second: 11, third: 12, other: 77, chain(b"", c): 78}
    cases = (("two blocks, then something new", a + b + d + [3], known, [10, 11]), ("nothing known", d + a + b + [3], known, []),
             ("shorter than a block", [1, 2, 3], known, []), ("a prompt that is known to its last token", a + b, known, [10]),
             ("the same, with one token more", a + b + [1], known, [10, 11]), ("all three blocks", a + b + c + [1, 2], known, [10, 11, 12]),
             ("the second block was evicted", a + b + c + [1], {first: 10, third: 12, other: 77}, [10]),
             ("b at the front", b + c + [1], known, [77]))
    for name, tokens, table, want in cases:
        got = _ints(find(list(tokens), dict(table), 4, chain), name)
        if got == want:
            continue
        if 77 in got[1:] or 78 in got[1:]:
            raise Wrong(f"{name}: you found block {got[-1]}, which has the right tokens after ANOTHER beginning. Its keys have looked at "
                        "that other text: they are wrong here. Put the digest of what comes before into the digest.")
        if name.startswith("the second block was evicted") and 12 in got:
            raise Wrong(f"{name}: you found block 12 behind a hole. The tokens in the hole must be run, and a request's tokens are run "
                        "in one piece from `computed` on: stop at the first unknown block.")
        if len(got) * 4 == len(tokens):
            raise Wrong(f"{name}: all {len(tokens)} tokens found, so none is run: no logits, no next token. Leave one over.")
        raise Wrong(f"{name}: you found {got}; {want} is wanted.")
    return "Each step is one look-up in a hash table: a prompt of 100,000 tokens costs 6,250 of them, and no search."


@exercise("13.share_step", hints=(
    "Who must not wait? Those who are decoding: they need one token each.",
    "First give 1 to everybody who has 1 pending; then go through the others in order and give each min(pending, what is left).",
    "left = budget − pending.count(1); run = [1 if n == 1 else None …]; for the others, in order: take = min(n, left); left −= take.",
))
def share_step(share):
    cases = (([1, 1, 1], 16, [1, 1, 1]), ([1, 600, 1], 64, [1, 62, 1]), ([600, 1, 1], 64, [62, 1, 1]),
             ([30, 1, 50, 1], 40, [30, 1, 8, 1]), ([1, 1, 1, 1, 600], 4, [1, 1, 1, 1, 0]), ([20, 5], 64, [20, 5]), ([100, 100, 1], 64, [63, 0, 1]))
    for pending, budget, want in cases:
        got = _ints(share(list(pending), budget), f"pending {pending}, budget {budget}")
        what = f"pending {pending}, budget {budget}"
        require(len(got) == len(pending), f"{what}: {len(got)} numbers for {len(pending)} requests.")
        if got == want:
            continue
        require(sum(got) <= budget, f"{what}: {got} runs {sum(got)} tokens; the step has room for {budget}.")
        require(all(g <= n for g, n in zip(got, pending)), f"{what}: {got} runs more of a request than is pending.")
        starved = [i for i, n in enumerate(pending) if n == 1 and got[i] == 0]
        require(not starved, f"{what}: {got} gives nothing to request {starved[0] if starved else 0}, which is decoding. Somebody is "
                "reading its answer: no prompt may go first.")
        if sum(got) < min(budget, sum(pending)):
            raise Wrong(f"{what}: {got} leaves {budget - sum(got)} tokens of room unused while a prompt waits. A prompt may be cut anywhere.")
        raise Wrong(f"{what}: you have {got}; {want} is wanted. Prompts are served in order: two half-read prompts help nobody.")
    return "Sarathi-Serve's stall-free step in a few lines: the budget, not the longest prompt, decides how long an answer pauses."


@exercise("13.make_room", hints=(
    "Two times to compare. What travels when a victim is swapped out, and what happens before it can go on?",
    "Swapping moves all its bytes twice: out now, in again later. Recomputing moves nothing and runs its tokens again, except those "
    "that are found in the cache.",
    "swap = 2 · tokens · bytes_per_token / link; again = (tokens − found) / rate; return the name and the seconds of the smaller.",
))
def make_room(choose):
    # PCIe 5.0 × 16; 13,000 and 2,000 tokens a second are round figures for a fast and a slow prefill.
    cases = ((1000, 131_072, 63e9, 0, 13_000.0), (1000, 131_072, 63e9, 960, 13_000.0), (4000, 524_288, 25e9, 0, 26_000.0),
             (2000, 70_272, 63e9, 0, 2_000.0), (1000, 4_718_592, 63e9, 0, 8_000.0))
    for tokens, size, link, found, rate in cases:
        swap, again = 2 * tokens * size / link, (tokens - found) / rate
        name, want = ("swap", swap) if swap < again else ("recompute", again)
        what = f"{tokens:,} tokens of {size:,} bytes, {link / 1e9:.0f} GB/s, {found} found, {rate:,.0f} tokens/s"
        got = choose(tokens, size, link, found, rate)
        if got is Ellipsis:
            raise Unsolved
        require(isinstance(got, tuple | list) and len(got) == 2, f"return (name, seconds); you returned {got!r}.")
        said, seconds = got
        require(said in ("swap", "recompute"), f"the name is {said!r}; 'swap' or 'recompute' is wanted.")
        if math.isclose(seconds, swap / 2, rel_tol=1e-6):
            raise Wrong(f"{what}: out is only half of a swap. Before the victim can go on, everything has to come back.")
        if found and math.isclose(seconds, tokens / rate, rel_tol=1e-6):
            raise Wrong(f"{what}: {found} of the {tokens:,} tokens are still in the cache. They need not be run again.")
        require(said == name, f"{what}: you chose {said}, at {1e3 * seconds:.3g} ms; {name} takes {1e3 * want:.3g} ms.")
        close(seconds, want, what)
    return "Swap moves the same bytes however busy the GPU is; recomputing becomes cheap when the evicted blocks are still there."
