"""Solutions of notebook 17: each section replaces the cell of its exercise."""

# %% 17.choose
def choose(logits, bias, k):                      # -> experts [N, k], weights [N, k]
    scores = logits.sigmoid()
    experts = (scores + bias).topk(k).indices
    weights = scores.gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True)

check("17.choose", choose)

# %% 17.capacity
def within_capacity(experts, count, capacity):    # -> keep, bool [N, k]
    chosen = nn.functional.one_hot(experts.flatten(), count)       # [N · k, count]
    before = chosen.cumsum(0) - chosen            # how many earlier choices each expert has
    queue = (before * chosen).sum(-1)
    return (queue < capacity).view(experts.shape)

check("17.capacity", within_capacity)

# %% 17.own_experts
from aiinfra.parallel.by_hand import all_reduce

def own_experts(x, experts, weights, matrices, comm):     # a rank's program -> y [N, D]
    y = torch.zeros_like(x)
    for i, matrix in enumerate(matrices):
        e = comm.rank * len(matrices) + i
        token, place = (experts == e).nonzero(as_tuple=True)
        y[token] += weights[token, place].unsqueeze(-1) * (x[token] @ matrix.T)
    return all_reduce(y, comm)

check("17.own_experts", own_experts)

# %% 17.place
def place(loads, ranks):                          # [9, 5, 4, 4], 2 -> [0, 1, 1, 0]
    total, room = [0] * ranks, [len(loads) // ranks] * ranks
    where = [None] * len(loads)
    for copy in sorted(range(len(loads)), key=lambda i: -loads[i]):
        rank = min((r for r in range(ranks) if room[r]), key=total.__getitem__)
        where[copy] = rank
        total[rank] += loads[copy]
        room[rank] -= 1
    return where

check("17.place", place)

# %% 17.latent_scores
def latent_scores(q, to_key, c):                  # -> [H, T]
    return torch.einsum("hd,hdr->hr", q, to_key) @ c.T

check("17.latent_scores", latent_scores)

# %% 17.users
def most_users(free, each, step_seconds, limit):  # -> (users, "memory" or "time")
    fit = max(0, int(free // each))
    users = 0
    while users < fit and step_seconds(users + 1) <= limit:
        users += 1
    return users, "memory" if users == fit else "time"

check("17.users", most_users)
