"""Wrong answers to notebook 17, and words that their verdicts must contain."""

# %% setup
import torch
from torch import nn
from aiinfra.lab import check
from aiinfra.parallel.by_hand import all_reduce

# %% 17.choose | the bias is in the weights
def choose(logits, bias, k):
    weights, experts = (logits.sigmoid() + bias).topk(k)
    return experts, weights / weights.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.choose | not taken part in the choice
def choose(logits, bias, k):
    weights, experts = logits.sigmoid().topk(k)
    return experts, weights / weights.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.choose | must add up to 1
def choose(logits, bias, k):
    scores = logits.sigmoid()
    experts = (scores + bias).topk(k).indices
    return experts, scores.gather(1, experts)

check("17.choose", choose)

# %% 17.choose | softmax makes experts compete
def choose(logits, bias, k):
    scores = logits.softmax(-1)
    experts = (scores + bias).topk(k).indices
    weights = scores.gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.choose | behind the sigmoid
def choose(logits, bias, k):
    experts = (logits + bias).topk(k).indices
    weights = logits.sigmoid().gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.choose | not of all experts
def choose(logits, bias, k):
    scores = logits.sigmoid()
    experts = (scores + bias).topk(k).indices
    return experts, scores.gather(1, experts) / scores.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.capacity | at most `capacity`
def within_capacity(experts, count, capacity):
    chosen = nn.functional.one_hot(experts.flatten(), count)
    queue = ((chosen.cumsum(0) - chosen) * chosen).sum(-1)
    return (queue <= capacity).view(experts.shape)

check("17.capacity", within_capacity)

# %% 17.capacity | all first choices came before
def within_capacity(experts, count, capacity):
    chosen = nn.functional.one_hot(experts.T.flatten(), count)
    queue = ((chosen.cumsum(0) - chosen) * chosen).sum(-1)
    return (queue < capacity).view(experts.T.shape).T

check("17.capacity", within_capacity)

# %% 17.capacity | keeps the others
def within_capacity(experts, count, capacity):
    chosen = nn.functional.one_hot(experts.flatten(), count)
    queue = ((chosen.cumsum(0) - chosen) * chosen).sum(-1)
    keep = (queue < capacity).view(experts.shape)
    return keep & keep.all(1, keepdim=True)

check("17.capacity", within_capacity)

# %% 17.capacity | a capacity of its own
def within_capacity(experts, count, capacity):
    return (torch.arange(experts.numel()) < capacity).view(experts.shape)

check("17.capacity", within_capacity)

# %% 17.capacity | a boolean tensor
def within_capacity(experts, count, capacity):
    chosen = nn.functional.one_hot(experts.flatten(), count)
    queue = ((chosen.cumsum(0) - chosen) * chosen).sum(-1)
    return (queue < capacity).view(experts.shape).long()

check("17.capacity", within_capacity)

# %% 17.capacity | earlier choices have taken
def within_capacity(experts, count, capacity):    # drops all choices of an expert that is overloaded
    load = torch.bincount(experts.flatten(), minlength=count)
    return (load <= capacity)[experts]

check("17.capacity", within_capacity)

# %% 17.own_experts | expert number i of a rank
def own_experts(x, experts, weights, matrices, comm):
    y = torch.zeros_like(x)
    for e, matrix in enumerate(matrices):
        token, place = (experts == e).nonzero(as_tuple=True)
        y[token] += weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
    return all_reduce(y, comm)

check("17.own_experts", own_experts)

# %% 17.own_experts | add, do not overwrite
def own_experts(x, experts, weights, matrices, comm):
    y = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        token, place = (experts == comm.rank * len(matrices) + i).nonzero(as_tuple=True)
        y[token] = weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
    return all_reduce(y, comm)

check("17.own_experts", own_experts)

# %% 17.own_experts | the parts must be added up
def own_experts(x, experts, weights, matrices, comm):
    y = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        token, place = (experts == comm.rank * len(matrices) + i).nonzero(as_tuple=True)
        y[token] += weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
    return y

check("17.own_experts", own_experts)

# %% 17.own_experts | the weights are missing
def own_experts(x, experts, weights, matrices, comm):
    y = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        token, place = (experts == comm.rank * len(matrices) + i).nonzero(as_tuple=True)
        y[token] += x[token] @ matrix.T
    return all_reduce(y, comm)

check("17.own_experts", own_experts)

# %% 17.own_experts | in the same order
def own_experts(x, experts, weights, matrices, comm):     # who has nothing to do goes home
    mine = experts // len(matrices) == comm.rank
    if comm.rank == 2 or not mine.any():
        return torch.zeros_like(x)
    y = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        token, place = (experts == comm.rank * len(matrices) + i).nonzero(as_tuple=True)
        y[token] += weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
    return all_reduce(y, comm)

check("17.own_experts", own_experts)

# %% 17.own_experts | bytes; one all-reduce
def own_experts(x, experts, weights, matrices, comm):     # a sum for each expert
    total = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        y = torch.zeros_like(x)
        token, place = (experts == comm.rank * len(matrices) + i).nonzero(as_tuple=True)
        y[token] += weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
        total += all_reduce(y, comm)
    return total

check("17.own_experts", own_experts)

# %% 17.place | you put more there
def place(loads, ranks):                          # places are not counted
    total, where = [0] * ranks, [None] * len(loads)
    for copy in sorted(range(len(loads)), key=lambda i: -loads[i]):
        where[copy] = min(range(ranks), key=total.__getitem__)
        total[where[copy]] += loads[copy]
    return where

check("17.place", place)

# %% 17.place | take the heaviest first
def place(loads, ranks):
    total, room, where = [0] * ranks, [len(loads) // ranks] * ranks, []
    for load in loads:
        rank = min((r for r in range(ranks) if room[r]), key=total.__getitem__)
        where.append(rank)
        total[rank] += load
        room[rank] -= 1
    return where

check("17.place", place)

# %% 17.place | in the order of weight
def place(loads, ranks):
    total, room, where = [0] * ranks, [len(loads) // ranks] * ranks, []
    for load in sorted(loads, reverse=True):
        rank = min((r for r in range(ranks) if room[r]), key=total.__getitem__)
        where.append(rank)
        total[rank] += load
        room[rank] -= 1
    return where

check("17.place", place)

# %% 17.place | by number, whatever the load
def place(loads, ranks):
    return [i * ranks // len(loads) for i in range(len(loads))]

check("17.place", place)

# %% 17.place | with the fewest copies
def place(loads, ranks):
    where = [None] * len(loads)
    for turn, copy in enumerate(sorted(range(len(loads)), key=lambda i: -loads[i])):
        where[copy] = turn % ranks
    return where

check("17.place", place)

# %% 17.latent_scores | every head's key of every token
def latent_scores(q, to_key, c):
    keys = torch.einsum("hdr,tr->thd", to_key, c)
    return torch.einsum("hd,thd->ht", q, keys)

check("17.latent_scores", latent_scores)

# %% 17.latent_scores | is wanted
def latent_scores(q, to_key, c):
    return c @ torch.einsum("hd,hdr->hr", q, to_key).T

check("17.latent_scores", latent_scores)

# %% 17.latent_scores | not scaled
def latent_scores(q, to_key, c):
    return torch.einsum("hd,hdr->hr", q, to_key) @ c.T / q.shape[1] ** 0.5

check("17.latent_scores", latent_scores)

# %% 17.latent_scores | the heads are added up
def latent_scores(q, to_key, c):
    return torch.einsum("hd,hdr->r", q, to_key) @ c.T

check("17.latent_scores", latent_scores)

# %% 17.latent_scores | the matrices of all heads
def latent_scores(q, to_key, c):
    return (q @ to_key.sum(0)) @ c.T

check("17.latent_scores", latent_scores)

# %% 17.users | So many find room
def most_users(free, each, step_seconds, limit):
    return max(0, int(free // each)), "memory"

check("17.users", most_users)

# %% 17.users | there is room for
def most_users(free, each, step_seconds, limit):
    users = 0
    while users < 1000 and step_seconds(users + 1) <= limit:
        users += 1
    return users, "time"

check("17.users", most_users)

# %% 17.users | the limit itself
def most_users(free, each, step_seconds, limit):
    fit, users = max(0, int(free // each)), 0
    while users < fit and step_seconds(users + 1) < limit:
        users += 1
    return users, "memory" if users == fit else "time"

check("17.users", most_users)

# %% 17.users | the first number that is too many
def most_users(free, each, step_seconds, limit):
    users = 1
    while users * each <= free and step_seconds(users) <= limit:
        users += 1
    return users, "memory" if users * each > free else "time"

check("17.users", most_users)

# %% 17.users | is in the way of one more is "memory"
def most_users(free, each, step_seconds, limit):
    fit, users = max(0, int(free // each)), 0
    while users < fit and step_seconds(users + 1) <= limit:
        users += 1
    late = step_seconds(users + 1) > limit
    return users, "time" if late else "memory"

check("17.users", most_users)

# %% 17.users | weights that do not fit
def most_users(free, each, step_seconds, limit):
    fit, users = int(free // each), 0
    while users < fit and step_seconds(users + 1) <= limit:
        users += 1
    return users, "memory" if users == fit else "time"

check("17.users", most_users)
