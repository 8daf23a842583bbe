"""Known-wrong answers of notebook 10: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 10.merge | different maxima
def merge(a, b):
    return torch.maximum(a[0], b[0]), a[1] + b[1], a[2] + b[2]

check("10.merge", merge)

# %% 10.merge | NaN when 5 keys and 7 keys
def merge(a, b):                                # back to plain exponentials, which overflow
    la, lb = a[1] * torch.exp(a[0]), b[1] * torch.exp(b[0])
    m = torch.maximum(a[0], b[0])
    return m, (la + lb) / torch.exp(m), (a[2] * torch.exp(a[0]) + b[2] * torch.exp(b[0])) / torch.exp(m)

check("10.merge", merge)

# %% 10.merge | two workers without a key
def merge(a, b):
    m = torch.maximum(a[0], b[0])
    fa, fb = torch.exp(a[0] - m), torch.exp(b[0] - m)
    return m, a[1] * fa + b[1] * fb, a[2] * fa + b[2] * fb

check("10.merge", merge)

# %% 10.merge | not yet divided by l
def merge(a, b):
    m = torch.maximum(a[0], b[0])
    base = torch.where(m == -torch.inf, torch.zeros_like(m), m)
    fa, fb = torch.exp(a[0] - base), torch.exp(b[0] - base)
    l = a[1] * fa + b[1] * fb
    return m, l, (a[2] * fa + b[2] * fb) / l

check("10.merge", merge)

# %% 10.merge | has changed what it was given
def merge(a, b):                                # right numbers, written into the first worker's tensors
    (ma, la, oa), (mb, lb, ob) = a, b
    m = torch.maximum(ma, mb)
    base = torch.where(m == -torch.inf, torch.zeros_like(m), m)
    fa, fb = torch.exp(ma - base), torch.exp(mb - base)
    la *= fa
    oa *= fa
    return m, la + lb * fb, oa + ob * fb

check("10.merge", merge)

# %% 10.swiglu_bytes | reads TWO tensors
def count(tokens, features, bytes_per_value):
    one = tokens * features * bytes_per_value
    return 4 * one, 3 * one

check("10.swiglu_bytes", count)

# %% 10.swiglu_bytes | gate and up
def count(tokens, features, bytes_per_value):
    one = tokens * features * bytes_per_value
    return 5 * one, 2 * one

check("10.swiglu_bytes", count)

# %% 10.swiglu_bytes | bytes_per_value is missing
def count(tokens, features, bytes_per_value):
    return 5 * tokens * features, 3 * tokens * features

check("10.swiglu_bytes", count)

# %% 10.swiglu_bytes | you count 2 bytes
def count(tokens, features, bytes_per_value):   # always bfloat16
    return 5 * tokens * features * 2, 3 * tokens * features * 2

check("10.swiglu_bytes", count)

# %% 10.tiles | visit all
def count(tokens, rows, keys):
    strips, columns = -(-tokens // rows), -(-tokens // keys)
    return strips * columns - strips, strips

check("10.tiles", count)

# %% 10.tiles | tiles are visited
def count(tokens, rows, keys):                  # right for square tiles that divide the length, only
    strips = tokens // rows
    return strips * (strips - 1) // 2, strips

check("10.tiles", count)

# %% 10.tiles | need no mask
def count(tokens, rows, keys):                  # asks the strip's last row instead of its first
    whole = diagonal = 0
    for i in range(0, tokens, rows):
        last = min(i + rows, tokens) - 1
        for j in range(0, last + 1, keys):
            if j + keys - 1 < last:
                whole += 1
            else:
                diagonal += 1
    return whole, diagonal

check("10.tiles", count)

# %% 10.flash_dq | delta is missing
def flash_dq(q, k, v, do, lse, delta, tile=64):
    dq, index, scale = torch.zeros_like(q), torch.arange(len(q)), q.shape[1] ** -0.5
    for i in range(0, len(q), tile):
        for j in range(0, i + tile, tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            p = p.masked_fill(index[keys] > index[rows, None], 0.0)
            dq[rows] += scale * (p * (do[rows] @ v[keys].T)) @ k[keys]
    return dq

check("10.flash_dq", flash_dq)

# %% 10.flash_dq | the scale
def flash_dq(q, k, v, do, lse, delta, tile=64):
    dq, index, scale = torch.zeros_like(q), torch.arange(len(q)), q.shape[1] ** -0.5
    for i in range(0, len(q), tile):
        for j in range(0, i + tile, tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            p = p.masked_fill(index[keys] > index[rows, None], 0.0)
            dq[rows] += (p * (do[rows] @ v[keys].T - delta[rows])) @ k[keys]
    return dq

check("10.flash_dq", flash_dq)

# %% 10.flash_dq | keys after i
def flash_dq(q, k, v, do, lse, delta, tile=64):
    dq, scale = torch.zeros_like(q), q.shape[1] ** -0.5
    for i in range(0, len(q), tile):
        for j in range(0, len(q), tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            dq[rows] += scale * (p * (do[rows] @ v[keys].T - delta[rows])) @ k[keys]
    return dq

check("10.flash_dq", flash_dq)

# %% 10.flash_dq | dq: you have
def flash_dq(q, k, v, do, lse, delta, tile=64):  # the walk ends before the diagonal's tile
    dq, index, scale = torch.zeros_like(q), torch.arange(len(q)), q.shape[1] ** -0.5
    for i in range(0, len(q), tile):
        for j in range(0, i, tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            p = p.masked_fill(index[keys] > index[rows, None], 0.0)
            dq[rows] += scale * (p * (do[rows] @ v[keys].T - delta[rows])) @ k[keys]
    return dq

check("10.flash_dq", flash_dq)

# %% 10.flash_dq | Only a tile of them may exist
def flash_dq(q, k, v, do, lse, delta, tile=64):  # right, and with all N² weights at once
    scale = q.shape[1] ** -0.5
    p = torch.exp(scale * q @ k.T - lse).tril()
    return scale * (p * (do @ v.T - delta)) @ k

check("10.flash_dq", flash_dq)

# %% 10.flash_dq | that is dk
def flash_dq(q, k, v, do, lse, delta, tile=64):
    dk, index, scale = torch.zeros_like(q), torch.arange(len(q)), q.shape[1] ** -0.5
    for j in range(0, len(q), tile):
        for i in range(j, len(q), tile):
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            p = p.masked_fill(index[keys] > index[rows, None], 0.0)
            dk[keys] += scale * (p * (do[rows] @ v[keys].T - delta[rows])).T @ q[rows]
    return dk

check("10.flash_dq", flash_dq)
