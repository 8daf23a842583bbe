"""Wrong answers to notebook 06, and words that their verdicts must contain."""

# %% setup
import math
import torch
from torch import nn
from aiinfra.lab import check
from aiinfra.parallel.by_hand import all_gather, all_reduce, cut, reduce_scatter

# %% 06.members | the first coordinate changes fastest
def members(rank, shape, dimension):
    stride = math.prod(shape[:dimension])
    mine = rank // stride % shape[dimension]
    return [rank + (i - mine) * stride for i in range(shape[dimension])]

check("06.members", members)

# %% 06.members | a block of neighbours
def members(rank, shape, dimension):
    size = shape[dimension]
    return list(range(rank // size * size, rank // size * size + size))

check("06.members", members)

# %% 06.members | is a member of its own group
def members(rank, shape, dimension):
    stride = math.prod(shape[dimension + 1:])
    mine = rank // stride % shape[dimension]
    return [rank + (i - mine) * stride for i in range(shape[dimension]) if i != mine]

check("06.members", members)

# %% 06.members | the same OTHER coordinates
def members(rank, shape, dimension):
    stride = math.prod(shape[dimension + 1:])
    return [other for other in range(math.prod(shape))
            if other // stride % shape[dimension] == rank // stride % shape[dimension]]

check("06.members", members)

# %% 06.members | is wanted
def members(rank, shape, dimension):              # the coordinate is not taken out
    stride = math.prod(shape[dimension + 1:])
    return [rank + i * stride for i in range(shape[dimension])]

check("06.members", members)

# %% 06.uneven | mean of means
def of_all_rows(gradient, count, comm):
    return all_reduce(torch.nan_to_num(gradient), comm) / comm.size

check("06.uneven", of_all_rows)

# %% 06.uneven | 0 · NaN is NaN
def of_all_rows(gradient, count, comm):
    total = all_reduce(torch.tensor([float(count)]), comm)
    return all_reduce(gradient * count, comm) / total

check("06.uneven", of_all_rows)

# %% 06.uneven | in the same order
def of_all_rows(gradient, count, comm):           # a rank without rows goes home
    if count == 0:
        return torch.zeros_like(gradient)
    total = all_reduce(torch.tensor([float(count)]), comm)
    return all_reduce(gradient * count, comm) / total

check("06.uneven", of_all_rows)

# %% 06.uneven | not been divided
def of_all_rows(gradient, count, comm):
    return all_reduce(torch.nan_to_num(gradient) * count, comm)

check("06.uneven", of_all_rows)

# %% 06.uneven | not the same on rank 0
def of_all_rows(gradient, count, comm):           # divides by its own count
    return all_reduce(torch.nan_to_num(gradient) * count, comm) / max(count, 1)

check("06.uneven", of_all_rows)

# %% 06.norm | counted once a rank
def gradient_norm(pieces, copies, comm):
    mine = sum((g.square().sum() for g in (*pieces, *copies)), torch.zeros(1, dtype=torch.float64))
    return all_reduce(mine, comm).sqrt()

check("06.norm", gradient_norm)

# %% 06.norm | the root comes last
def gradient_norm(pieces, copies, comm):
    mine = sum((g.square().sum() for g in pieces), torch.zeros(1, dtype=torch.float64)).sqrt()
    shared = sum((g.square().sum() for g in copies), torch.zeros(1, dtype=torch.float64)).sqrt()
    return all_reduce(mine, comm) + shared

check("06.norm", gradient_norm)

# %% 06.norm | what one rank has
def gradient_norm(pieces, copies, comm):
    return sum((g.square().sum() for g in (*pieces, *copies)), torch.zeros(1, dtype=torch.float64)).sqrt()

check("06.norm", gradient_norm)

# %% 06.norm | the copies are left out
def gradient_norm(pieces, copies, comm):
    return all_reduce(sum((g.square().sum() for g in pieces), torch.zeros(1, dtype=torch.float64)), comm).sqrt()

check("06.norm", gradient_norm)

# %% 06.norm | whole gradients
def gradient_norm(pieces, copies, comm):          # everybody gets everything
    total = torch.zeros(1, dtype=torch.float64)
    for piece in pieces:
        flat = torch.zeros(comm.size, 400, dtype=torch.float64)
        flat[comm.rank, :piece.numel()] = piece.flatten()
        total = total + all_reduce(flat, comm).square().sum()
    for copy in copies:
        total = total + copy.square().sum()
    return total.sqrt()

check("06.norm", gradient_norm)

# %% 06.gated | the STACK is cut
def gated(x, gate_up, down, comm):
    gate, up = gate_up.chunk(comm.size)[comm.rank].chunk(2)
    part = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.chunk(comm.size, dim=1)[comm.rank].T
    return all_reduce(part, comm)

check("06.gated", gated)

# %% 06.gated | must be added up
def gated(x, gate_up, down, comm):
    gate, up = gate_up.chunk(2)
    g, u = (x @ weight.chunk(comm.size)[comm.rank].T for weight in (gate, up))
    return (nn.functional.silu(g) * u) @ down.chunk(comm.size, dim=1)[comm.rank].T

check("06.gated", gated)

# %% 06.gated | more than its part
def gated(x, gate_up, down, comm):                # computes everything, and sends nothing
    gate, up = gate_up.chunk(2)
    return (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

check("06.gated", gated)

# %% 06.gated | swapped
def gated(x, gate_up, down, comm):
    up, gate = gate_up.chunk(2)
    g, u = (x @ weight.chunk(comm.size)[comm.rank].T for weight in (gate, up))
    return all_reduce((nn.functional.silu(g) * u) @ down.chunk(comm.size, dim=1)[comm.rank].T, comm)

check("06.gated", gated)

# %% 06.gated | more than its part
def gated(x, gate_up, down, comm):                # gathers what is between the layers
    gate, up = gate_up.chunk(2)
    g, u = (x @ weight.chunk(comm.size)[comm.rank].T for weight in (gate, up))
    h = (nn.functional.silu(g) * u).T.contiguous()
    whole = all_gather(h.flatten(), torch.empty(down.shape[1], len(x), dtype=x.dtype), comm)
    return whole.T @ down.T

check("06.gated", gated)

# %% 06.vocabulary_loss | the log of a product
def vocabulary_loss(logits, targets, comm):
    words = logits.shape[1]
    at = targets - comm.rank * words
    hit = logits.gather(1, at.clamp(0, words - 1)[:, None])[:, 0] * ((at >= 0) & (at < words))
    return all_reduce(logits.logsumexp(1) - hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.vocabulary_loss | NaN or infinity came out
def vocabulary_loss(logits, targets, comm):
    words = logits.shape[1]
    at = targets - comm.rank * words
    hit = logits.gather(1, at.clamp(0, words - 1)[:, None])[:, 0] * ((at >= 0) & (at < words))
    return all_reduce(logits.exp().sum(1), comm).log() - all_reduce(hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.vocabulary_loss | in different units
def vocabulary_loss(logits, targets, comm):
    words = logits.shape[1]
    at = targets - comm.rank * words
    hit = logits.gather(1, at.clamp(0, words - 1)[:, None])[:, 0] * ((at >= 0) & (at < words))
    most = logits.amax(1)
    return all_reduce((logits - most[:, None]).exp().sum(1), comm).log() + most - all_reduce(hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.vocabulary_loss | every rank has found a target
def vocabulary_loss(logits, targets, comm):       # the remainder is a word on every rank
    hit = logits.gather(1, (targets % logits.shape[1])[:, None])[:, 0]
    part = logits.logsumexp(1)
    everybody = all_gather(part, torch.empty(comm.size, len(part), dtype=part.dtype), comm)
    return everybody.logsumexp(0) - all_reduce(hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.vocabulary_loss | do not gather logits
def vocabulary_loss(logits, targets, comm):
    columns = logits.T.contiguous()
    like = torch.empty(comm.size * len(columns), len(logits), dtype=logits.dtype)
    whole = all_gather(columns.flatten(), like, comm).T
    return whole.logsumexp(1) - whole.gather(1, targets[:, None])[:, 0]

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.vocabulary_loss | over rank 0's words alone
def vocabulary_loss(logits, targets, comm):
    words = logits.shape[1]
    at = targets - comm.rank * words
    hit = logits.gather(1, at.clamp(0, words - 1)[:, None])[:, 0] * ((at >= 0) & (at < words))
    return logits.logsumexp(1) - all_reduce(hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.makespan | it has to wait as well
def makespan(table):
    return max(row.count("F") + 2 * row.count("B") for row in table)

check("06.makespan", makespan)

# %% 06.makespan | backward passes take 2
def makespan(table):
    ended, free, done = {}, [0] * len(table), [0] * len(table)
    for _ in range(sum(map(len, table))):
        for s, row in enumerate(table):
            if done[s] < len(row):
                work = row[done[s]]
                i = row[:done[s]].count(work)
                need = ("F", i, s - 1) if work == "F" else ("B", i, s + 1) if s < len(table) - 1 else ("F", i, s)
                if need in ended or (work == "F" and s == 0):
                    free[s] = ended[work, i, s] = max(free[s], ended.get(need, 0)) + 1
                    done[s] += 1
    return max(free) if done == [len(row) for row in table] else None

check("06.makespan", makespan)

# %% 06.makespan | a backward pass waits, too
def makespan(table):
    ended, free = {}, [0] * len(table)
    for s, row in enumerate(table):
        for at, work in enumerate(row):
            i = row[:at].count(work)
            if work == "F":
                free[s] = ended[i, s] = max(free[s], ended.get((i, s - 1), 0)) + 1
            else:
                free[s] += 2
    return max(free)

check("06.makespan", makespan)

# %% 06.makespan | wait for each other for ever
def makespan(table):                              # a stage that is stuck is passed over
    ended, free, done = {}, [0] * len(table), [0] * len(table)
    for _ in range(sum(map(len, table))):
        for s, row in enumerate(table):
            if done[s] < len(row):
                work = row[done[s]]
                i = row[:done[s]].count(work)
                need = ("F", i, s - 1) if work == "F" else ("B", i, s + 1) if s < len(table) - 1 else ("F", i, s)
                if need in ended or (work == "F" and s == 0):
                    free[s] = ended[work, i, s] = max(free[s], ended.get(need, 0)) + (1 if work == "F" else 2)
                    done[s] += 1
    return max(free)

check("06.makespan", makespan)

# %% 06.makespan | stages work at the same time
def makespan(table):
    return sum(row.count("F") + 2 * row.count("B") for row in table)

check("06.makespan", makespan)
