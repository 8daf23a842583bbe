"""Known-wrong answers of notebook 03: each section names words of the message it must get."""

# %% setup
import math

import torch
import torch.nn.functional as F

from aiinfra.lab import check


def counted(tokens, V):
    table = torch.zeros(V, V, dtype=torch.float64)
    for before, after in zip(tokens[:-1].tolist(), tokens[1:].tolist()):
        table[before, after] += 1
    return table


def attend(q, k, v, scale=None, mask=True, turns=False, axis=-1, fill=-torch.inf, diagonal=1):
    T, heads, size = q.shape
    times = heads // k.shape[1]
    if turns:
        k, v = k.repeat(1, times, 1), v.repeat(1, times, 1)
    else:
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    score = torch.einsum("thd,shd->hts", q, k) / (scale or size**0.5)
    if mask:
        score = score.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(diagonal), fill)
    return torch.einsum("hts,shd->thd", score.softmax(axis), v)


def turned(x, positions, speed):
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * speed
    left, right = x[..., :half], x[..., half:]
    return torch.cat((left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()), -1)


def speeds(x, theta):
    half = x.shape[-1] // 2
    return theta ** (-torch.arange(half, dtype=torch.float64) / half)


def weights(V, D, L, H, K, Dh, F, tied):
    layer = D * (H + 2 * K) * Dh + H * Dh * D + 3 * D * F + 2 * D
    return V * D * (1 if tied else 2) + L * layer + D


def flops(T, V, D, L, H, K, Dh, F):
    layer = D * (H + 2 * K) * Dh + H * Dh * D + 3 * D * F
    return 2 * T * (L * layer + V * D) + 2 * L * H * Dh * T * (T + 1)

# %% 03.bigram | Divide each row
check("03.bigram", lambda tokens, V: counted(tokens, V) + 1)

# %% 03.bigram | before and after are exchanged
def bigram(tokens, V):
    table = counted(tokens, V).T + 1
    return table / table.sum(1, keepdim=True)

check("03.bigram", bigram)

# %% 03.bigram | the columns add up to 1
def bigram(tokens, V):
    table = counted(tokens, V) + 1
    return table / table.sum(0, keepdim=True)

check("03.bigram", bigram)

# %% 03.bigram | one sighting more
def bigram(tokens, V):
    table = counted(tokens, V)
    return table / table.sum(1, keepdim=True)

check("03.bigram", bigram)

# %% 03.bigram | counts once in yours
def bigram(tokens, V):
    table = torch.ones(V, V, dtype=torch.float64)
    table[tokens[:-1], tokens[1:]] += 1
    return table / table.sum(1, keepdim=True)

check("03.bigram", bigram)

# %% 03.bigram | the whole table
def bigram(tokens, V):
    table = counted(tokens, V) + 1
    return table / table.sum()

check("03.bigram", bigram)

# %% 03.attention | the mask is missing
check("03.attention", lambda q, k, v: attend(q, k, v, mask=False))

# %% 03.attention | are not divided by
check("03.attention", lambda q, k, v: attend(q, k, v, scale=1))

# %% 03.attention | and not by its root
check("03.attention", lambda q, k, v: attend(q, k, v, scale=q.shape[-1]))

# %% 03.attention | repeat_interleave
check("03.attention", lambda q, k, v: attend(q, k, v, turns=True))

# %% 03.attention | over the tokens that look
check("03.attention", lambda q, k, v: attend(q, k, v, axis=1))

# %% 03.attention | it must have −inf
check("03.attention", lambda q, k, v: attend(q, k, v, fill=0))

# %% 03.attention | triu(1)
check("03.attention", lambda q, k, v: attend(q, k, v, diagonal=0))

# %% 03.attention | large scores
def attention(q, k, v):                         # exponentials of raw scores
    T, heads, size = q.shape
    times = heads // k.shape[1]
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    e = torch.exp(torch.einsum("thd,shd->hts", q, k) / size**0.5).tril()
    return torch.einsum("hts,shd->thd", e / e.sum(-1, keepdim=True), v)

check("03.attention", attention)

# %% 03.turn | clockwise
check("03.turn", lambda x, positions, theta: turned(x, -positions, speeds(x, theta)))

# %% 03.turn | 2j and 2j + 1 are paired
def turn(x, positions, theta):
    angle = positions[:, None, None] * speeds(x, theta)
    left, right = x[..., ::2], x[..., 1::2]
    pair = left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()
    return torch.stack(pair, -1).flatten(-2)

check("03.turn", turn)

# %% 03.turn | fall too slowly
check("03.turn", lambda x, positions, theta: turned(x, positions, speeds(x, theta**0.5)))

# %% 03.turn | the positions are given
check("03.turn", lambda x, positions, theta: turned(x, torch.arange(len(positions)), speeds(x, theta)))

# %% 03.turn | at the same speed
check("03.turn", lambda x, positions, theta: turned(x, positions, torch.ones(x.shape[-1] // 2)))

# %% 03.turn | minus sign is missing
check("03.turn", lambda x, positions, theta: turned(x, positions, 1 / speeds(x, theta)))

# %% 03.parameters | counts once
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied: weights(V, D, L, H, K, Dh, F, tied=False))

# %% 03.parameters | K heads, not H
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied: weights(V, D, L, H, H, Dh, F, tied))

# %% 03.parameters | three matrices
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied: weights(V, D, L, H, K, Dh, F, tied) - L * D * F)

# %% 03.parameters | the last norm is missing
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied: weights(V, D, L, H, K, Dh, F, tied) - D)

# %% 03.parameters | not D × D
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied:
      weights(V, D, L, H, K, Dh, F, tied) + L * (D * D - H * Dh * D))

# %% 03.parameters | a number is wanted
check("03.parameters", lambda V, D, L, H, K, Dh, F, tied: f"{weights(V, D, L, H, K, Dh, F, tied):,}")

# %% 03.forward_flops | count as two
check("03.forward_flops", lambda T, **shape: flops(T, **shape) / 2)

# %% 03.forward_flops | T² pairs
def forward_flops(T, V, D, L, H, K, Dh, F):
    return flops(T, V, D, L, H, K, Dh, F) + 2 * L * H * Dh * T * (T - 1)

check("03.forward_flops", forward_flops)

# %% 03.forward_flops | the part without weights
def forward_flops(T, V, D, L, H, K, Dh, F):
    return flops(T, V, D, L, H, K, Dh, F) - 2 * L * H * Dh * T * (T + 1)

check("03.forward_flops", forward_flops)

# %% 03.forward_flops | two things
def forward_flops(T, V, D, L, H, K, Dh, F):
    return flops(T, V, D, L, H, K, Dh, F) - L * H * Dh * T * (T + 1)

check("03.forward_flops", forward_flops)

# %% 03.forward_flops | Tied or not
check("03.forward_flops", lambda T, V, D, **rest: flops(T, V, D, **rest) - 2 * T * V * D)

# %% 03.forward_flops | is no product
check("03.forward_flops", lambda T, V, D, **rest: flops(T, V, D, **rest) + 2 * T * V * D)

# %% 03.forward_flops | not only for the last one
check("03.forward_flops", lambda T, V, D, **rest: flops(T, V, D, **rest) - 2 * (T - 1) * V * D)

# %% 03.text_loss | already seen
check("03.text_loss", lambda logits, tokens: F.cross_entropy(logits, tokens))

# %% 03.text_loss | wrong way
check("03.text_loss", lambda logits, tokens: F.cross_entropy(logits[1:], tokens[:-1]))

# %% 03.text_loss | this is the sum
check("03.text_loss", lambda logits, tokens: F.cross_entropy(logits[:-1], tokens[1:], reduction="sum"))

# %% 03.text_loss | these are bits
check("03.text_loss", lambda logits, tokens: F.cross_entropy(logits[:-1], tokens[1:]) / math.log(2))

# %% 03.text_loss | only 5 tokens were predicted
def text_loss(logits, tokens):
    return F.cross_entropy(logits[:-1], tokens[1:], reduction="sum") / len(tokens)

check("03.text_loss", text_loss)

# %% 03.text_loss | scores of a thousand
def text_loss(logits, tokens):                  # exponentials overflow
    p = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
    return -p[:-1].gather(1, tokens[1:, None]).log().mean()

check("03.text_loss", text_loss)
