"""Solutions of notebook 03, transformer: one section an exercise, each the whole cell."""

# %% 03.bigram
def bigram(tokens, V):  # int64 [n] -> float64 [V, V]
    table = torch.ones(V, V, dtype=torch.float64)  # each pair seen once more than it was
    for before, after in zip(tokens[:-1].tolist(), tokens[1:].tolist()):
        table[before, after] += 1
    return table / table.sum(1, keepdim=True)

check("03.bigram", bigram)

# %% 03.attention
def attention(q, k, v):  # -> [T, H, Dh]
    T, heads, size = q.shape
    times = heads // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    score = torch.einsum("thd,shd->hts", q, k) / size**0.5
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    weights = score.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, v)

check("03.attention", attention)

# %% 03.turn
def turn(x, positions, theta):  # -> the shape of x
    half = x.shape[-1] // 2
    speed = theta ** (-torch.arange(half) / half)
    angle = positions[:, None, None] * speed  # [T, 1, Dh/2]
    left, right = x[..., :half], x[..., half:]
    turned = left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()
    return torch.cat(turned, -1)

check("03.turn", turn)

# %% 03.parameters
def parameters(V, D, L, H, K, Dh, F, tied):  # -> int
    attention = D * (H + 2 * K) * Dh + H * Dh * D
    layer = attention + 3 * D * F + 2 * D  # three matrices of SwiGLU, two norms
    tables = 1 if tied else 2
    return tables * V * D + L * layer + D

check("03.parameters", parameters)

# %% 03.forward_flops
def forward_flops(T, V, D, L, H, K, Dh, F):  # -> FLOPs
    layer = D * (H + 2 * K) * Dh + H * Dh * D + 3 * D * F
    pairs = T * (T + 1) // 2
    return 2 * T * (L * layer + V * D) + 4 * L * H * Dh * pairs

check("03.forward_flops", forward_flops)

# %% 03.text_loss
def text_loss(logits, tokens):  # -> a number or a 0-d tensor, in nats
    log_p = logits.log_softmax(-1)
    return -log_p[:-1].gather(1, tokens[1:, None]).mean()

check("03.text_loss", text_loss)
