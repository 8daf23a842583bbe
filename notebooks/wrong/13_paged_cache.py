"""Known-wrong answers of notebook 13: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 13.slots | past the end of a block
def slots(table, start, count, block_size):
    first = table[start // block_size] * block_size + start % block_size
    return list(range(first, first + count))

check("13.slots", slots)

# %% 13.slots | are there already
def slots(table, start, count, block_size):
    return [table[i // block_size] * block_size + i % block_size for i in range(count)]

check("13.slots", slots)

# %% 13.slots | looked into the table
def slots(table, start, count, block_size):
    return list(range(start, start + count))

check("13.slots", slots)

# %% 13.slots | block b begins at slot
def slots(table, start, count, block_size):
    return [table[i // block_size] + i % block_size for i in range(start, start + count)]

check("13.slots", slots)

# %% 13.slots | slots for
def slots(table, start, count, block_size):     # end taken for a count
    return [table[i // block_size] * block_size + i % block_size for i in range(start, count)]

check("13.slots", slots)

# %% 13.slots | a list of whole numbers is wanted
def slots(table, start, count, block_size):     # right places, in a tensor
    at = torch.arange(start, start + count)
    return torch.tensor(table)[at // block_size] * block_size + at % block_size

check("13.slots", slots)

# %% 13.slots | for a tensor
def slots(table, start, count, block_size):     # right places, each in a tensor of its own
    places = [table[i // block_size] * block_size + i % block_size for i in range(start, start + count)]
    return [torch.tensor(place) for place in places]

check("13.slots", slots)

# %% 13.attend_paged | NaN came out
def attend(q, k_cache, v_cache, table, length):          # the tail of the last block is not cut off
    scores = torch.cat([torch.einsum("hd,phd->hp", q, k_cache[b]) for b in table], 1)
    p = (scores / q.shape[1] ** 0.5).softmax(1).split(k_cache.shape[1], 1)
    return sum(torch.einsum("hp,phd->hd", w, v_cache[b]) for w, b in zip(p, table))

check("13.attend_paged", attend)

# %% 13.attend_paged | NaN came out
def attend(q, k_cache, v_cache, table, length):          # the table is not used
    k, v = k_cache.flatten(0, 1)[:length], v_cache.flatten(0, 1)[:length]
    p = (torch.einsum("hd,shd->hs", q, k) / q.shape[1] ** 0.5).softmax(1)
    return torch.einsum("hs,shd->hd", p, v)

check("13.attend_paged", attend)

# %% 13.attend_paged | block by block
def attend(q, k_cache, v_cache, table, length):          # gathers everything first
    k, v = (cache[table].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
    p = (torch.einsum("hd,shd->hs", q, k) / q.shape[1] ** 0.5).softmax(1)
    return torch.einsum("hs,shd->hd", p, v)

check("13.attend_paged", attend)

# %% 13.attend_paged | a softmax for each block
def attend(q, k_cache, v_cache, table, length):
    P, out = k_cache.shape[1], 0
    for i, b in enumerate(table):
        n = min(P, length - i * P)
        p = (torch.einsum("hd,phd->hp", q, k_cache[b, :n]) / q.shape[1] ** 0.5).softmax(1)
        out = out + torch.einsum("hp,phd->hd", p, v_cache[b, :n])
    return out / len(table)

check("13.attend_paged", attend)

# %% 13.attend_paged | not scaled
def attend(q, k_cache, v_cache, table, length):
    P = k_cache.shape[1]
    held = [(b, min(P, length - i * P)) for i, b in enumerate(table)]
    p = torch.cat([torch.einsum("hd,phd->hp", q, k_cache[b, :n]) for b, n in held], 1).softmax(1)
    p = p.split([n for _, n in held], 1)
    return sum(torch.einsum("hp,phd->hd", w, v_cache[b, :n]) for w, (b, n) in zip(p, held))

check("13.attend_paged", attend)

# %% 13.attend_paged | scores of thousands
def attend(q, k_cache, v_cache, table, length):          # exp without the maximum
    P, total, out = k_cache.shape[1], 0, 0
    for i, b in enumerate(table):
        n = min(P, length - i * P)
        w = (torch.einsum("hd,phd->hp", q, k_cache[b, :n]) / q.shape[1] ** 0.5).exp()
        total = total + w.sum(1, keepdim=True)
        out = out + torch.einsum("hp,phd->hd", w, v_cache[b, :n])
    return out / total

check("13.attend_paged", attend)

# %% 13.attend_paged | all below 0 in the other
def attend(q, k_cache, v_cache, table, length):          # a running maximum that begins at 0
    P, total, out, m = k_cache.shape[1], 0, 0, torch.zeros(q.shape[0], 1, dtype=q.dtype)
    for i, b in enumerate(table):
        n = min(P, length - i * P)
        s = torch.einsum("hd,phd->hp", q, k_cache[b, :n]) / q.shape[1] ** 0.5
        new = torch.maximum(m, s.amax(1, keepdim=True))
        w, old, m = (s - new).exp(), (m - new).exp(), new
        total = total * old + w.sum(1, keepdim=True)
        out = out * old + torch.einsum("hp,phd->hd", w, v_cache[b, :n])
    return out / total

check("13.attend_paged", attend)

# %% 13.attend_paged | the dtype from q
def attend(q, k_cache, v_cache, table, length):          # scores in float32
    P = k_cache.shape[1]
    held = [(b, min(P, length - i * P)) for i, b in enumerate(table)]
    scores = torch.cat([torch.einsum("hd,phd->hp", q, k_cache[b, :n]) for b, n in held], 1).float()
    p = (scores / q.shape[1] ** 0.5).softmax(1).to(q.dtype).split([n for _, n in held], 1)
    return sum(torch.einsum("hp,phd->hd", w, v_cache[b, :n]) for w, (b, n) in zip(p, held))

check("13.attend_paged", attend)

# %% 13.before_write | the others would see
def before_write(table, index, owners, free):   # believes that two may share what one writes
    old = table[index]
    if owners[old] <= 2:
        return None
    table[index] = free.pop(0)
    owners[old] -= 1
    owners[table[index]] = 1
    return old, table[index]

check("13.before_write", before_write)

# %% 13.before_write | there is nothing to copy
def before_write(table, index, owners, free):   # always copies
    old, table[index] = table[index], free.pop(0)
    owners[old] -= 1
    owners[table[index]] = 1
    return old, table[index]

check("13.before_write", before_write)

# %% 13.before_write | is a leak
def before_write(table, index, owners, free):   # the old block keeps its count
    old = table[index]
    if owners[old] == 1:
        return None
    table[index] = free.pop(0)
    owners[table[index]] = 1
    return old, table[index]

check("13.before_write", before_write)

# %% 13.before_write | the table is
def before_write(table, index, owners, free):   # forgets to enter the copy
    old = table[index]
    if owners[old] == 1:
        return None
    new = free.pop(0)
    owners[old] -= 1
    owners[new] = 1
    return old, new

check("13.before_write", before_write)

# %% 13.before_write | wrong way round
def before_write(table, index, owners, free):
    old = table[index]
    if owners[old] == 1:
        return None
    table[index] = free.pop(0)
    owners[old] -= 1
    owners[table[index]] = 1
    return table[index], old

check("13.before_write", before_write)

# %% 13.before_write | still in `free`
def before_write(table, index, owners, free):
    old = table[index]
    if owners[old] == 1:
        return None
    table[index] = free[0]
    owners[old] -= 1
    owners[table[index]] = 1
    return old, table[index]

check("13.before_write", before_write)

# %% 13.find_prefix | after ANOTHER beginning
def find_prefix(tokens, known, block_size, chain):       # each block on its own
    found = []
    for start in range(0, len(tokens) - block_size, block_size):
        digest = chain(b"", tokens[start:start + block_size])
        if digest not in known:
            break
        found.append(known[digest])
    return found

check("13.find_prefix", find_prefix)

# %% 13.find_prefix | Leave one over
def find_prefix(tokens, known, block_size, chain):
    found, digest = [], b""
    for start in range(0, len(tokens) - block_size + 1, block_size):
        digest = chain(digest, tokens[start:start + block_size])
        if digest not in known:
            break
        found.append(known[digest])
    return found

check("13.find_prefix", find_prefix)

# %% 13.find_prefix | behind a hole
def find_prefix(tokens, known, block_size, chain):       # goes on after a miss
    found, digest = [], b""
    for start in range(0, len(tokens) - block_size, block_size):
        digest = chain(digest, tokens[start:start + block_size])
        if digest in known:
            found.append(known[digest])
    return found

check("13.find_prefix", find_prefix)

# %% 13.find_prefix | is wanted
def find_prefix(tokens, known, block_size, chain):       # the last full block is never asked for
    found, digest = [], b""
    for start in range(0, len(tokens) - 2 * block_size, block_size):
        digest = chain(digest, tokens[start:start + block_size])
        if digest not in known:
            break
        found.append(known[digest])
    return found

check("13.find_prefix", find_prefix)

# %% 13.share_step | which is decoding
def share_step(pending, budget):                # in order of arrival
    run = []
    for n in pending:
        run.append(min(n, budget))
        budget -= run[-1]
    return run

check("13.share_step", share_step)

# %% 13.share_step | the step has room for
def share_step(pending, budget):                # the budget holds for each one
    return [min(n, budget) for n in pending]

check("13.share_step", share_step)

# %% 13.share_step | of room unused
def share_step(pending, budget):                # all of a prompt or nothing
    left, run = budget - pending.count(1), []
    for n in pending:
        fits = n == 1 or n <= left
        left -= n if n > 1 and fits else 0
        run.append(n if fits else 0)
    return run

check("13.share_step", share_step)

# %% 13.share_step | Prompts are served in order
def share_step(pending, budget):                # equal shares of what is left
    prompts = sum(n > 1 for n in pending)
    each = (budget - pending.count(1)) // max(prompts, 1)
    return [1 if n == 1 else min(n, each) for n in pending]

check("13.share_step", share_step)

# %% 13.share_step | Prompts are served in order
def share_step(pending, budget):                # one token each, in turns
    run = [1 if n == 1 else 0 for n in pending]
    left = budget - sum(run)
    while left and run != pending:
        for i, n in enumerate(pending):
            if left and run[i] < n:
                run[i] += 1
                left -= 1
    return run

check("13.share_step", share_step)

# %% 13.share_step | whatever their lengths
def share_step(pending, budget):                # the shortest prompt first
    left, run = budget, [0] * len(pending)
    for i in sorted(range(len(pending)), key=lambda i: pending[i]):
        run[i] = min(pending[i], left)
        left -= run[i]
    return run

check("13.share_step", share_step)

# %% 13.share_step | whatever their lengths
def share_step(pending, budget):                # the longest prompt first
    left, run = budget - pending.count(1), [min(n, 1) for n in pending]
    for i in sorted(range(len(pending)), key=lambda i: -pending[i]):
        if pending[i] > 1:
            run[i] = min(pending[i], left)
            left -= run[i]
    return run

check("13.share_step", share_step)

# %% 13.share_step | a negative count
def share_step(pending, budget):                # what is left is not looked at again
    left, run = budget - pending.count(1), []
    for n in pending:
        run.append(1 if n == 1 else min(n, left))
        left -= 0 if n == 1 else n
    return run

check("13.share_step", share_step)

# %% 13.make_room | a swap moves all
def make_room(tokens, bytes_per_token, link, found, rate):           # what is found is not swapped either
    swap, again = 2 * (tokens - found) * bytes_per_token / link, (tokens - found) / rate
    return ("swap", swap) if swap < again else ("recompute", again)

check("13.make_room", make_room)

# %% 13.make_room | has to come back
def make_room(tokens, bytes_per_token, link, found, rate):
    swap, again = tokens * bytes_per_token / link, (tokens - found) / rate
    return ("swap", swap) if swap < again else ("recompute", again)

check("13.make_room", make_room)

# %% 13.make_room | need not be run again
def make_room(tokens, bytes_per_token, link, found, rate):
    swap, again = 2 * tokens * bytes_per_token / link, tokens / rate
    return ("recompute", again) if found else ("swap", swap) if swap < again else ("recompute", again)

check("13.make_room", make_room)

# %% 13.make_room | you chose swap
def make_room(tokens, bytes_per_token, link, found, rate):           # never looks at the other
    return "swap", 2 * tokens * bytes_per_token / link

check("13.make_room", make_room)
