"""Solutions of notebook 13, the paged cache: one section an exercise, each the whole cell."""

# %% 13.slots
def slots(table, start, count, block_size):     # tokens start … start + count - 1 -> list of their slots
    return [table[i // block_size] * block_size + i % block_size for i in range(start, start + count)]

check("13.slots", slots)

# %% 13.attend_paged
def attend_paged(q, k_cache, v_cache, table, length):    # q [H, Dh], caches [blocks, P, H, Dh] -> [H, Dh]
    P = k_cache.shape[1]
    held = [(block, min(P, length - i * P)) for i, block in enumerate(table)]      # (block, tokens in it)
    scores = [torch.einsum("hd,phd->hp", q, k_cache[block, :n]) for block, n in held]
    weights = (torch.cat(scores, 1) / q.shape[1] ** 0.5).softmax(1).split([n for _, n in held], 1)
    return sum(torch.einsum("hp,phd->hd", p, v_cache[block, :n]) for p, (block, n) in zip(weights, held))

check("13.attend_paged", attend_paged)

# %% 13.before_write
def before_write(table, index, owners, free):   # -> (old block, new block) to be copied, or None
    old = table[index]
    if owners[old] == 1:
        return None
    new = free.pop(0)
    table[index] = new
    owners[old] -= 1
    owners[new] = 1
    return old, new

check("13.before_write", before_write)

# %% 13.find_prefix
def find_prefix(tokens, known, block_size, chain):       # known: digest -> block; -> list of blocks
    found, digest = [], b""
    for start in range(0, len(tokens) - block_size, block_size):     # leaves at least one token
        digest = chain(digest, tokens[start:start + block_size])
        if digest not in known:
            break
        found.append(known[digest])
    return found

check("13.find_prefix", find_prefix)

# %% 13.share_step
def share_step(pending, budget):                # tokens waiting to be run -> tokens to run now, one a request
    left, run = budget - pending.count(1), []
    for n in pending:
        take = 1 if n == 1 else min(n, left)
        left -= take if n > 1 else 0
        run.append(take)
    return run

check("13.share_step", share_step)

# %% 13.make_room
def make_room(tokens, bytes_per_token, link, found, rate):           # -> ("swap" or "recompute", seconds)
    swap = 2 * tokens * bytes_per_token / link                       # out, and in again
    again = (tokens - found) / rate
    return ("swap", swap) if swap < again else ("recompute", again)

check("13.make_room", make_room)
