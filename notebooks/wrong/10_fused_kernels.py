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

# %% 10.silu_backward | product rule
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate).tril() / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | keys after i
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = (dy @ v.T) * gate * (1 + s * (1 - gate)) / n
    return ds @ k, ds.T @ q, (s * gate / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | times too large
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril()
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | dk: the matrix is not turned around
def backward(q, k, v, dy, n):                   # dk by row: ds is not turned around
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds @ k, ds @ q, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | no autograd
def backward(q, k, v, dy, n):
    q, k, v = (tensor.requires_grad_() for tensor in (q, k, v))
    y = (torch.nn.functional.silu(q @ k.T) / n).tril() @ v
    return torch.autograd.grad(y, (q, k, v), dy)

check("10.silu_backward", backward)

# %% 10.silu_backward | dq: row i is influenced by keys after i
def backward(q, k, v, dy, n):                   # the mask of the forward pass only
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = (dy @ v.T) * gate * (1 + s * (1 - gate)) / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | dq and dk are exchanged
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds.T @ q, ds @ k, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.silu_backward | n is 16 here
def backward(q, k, v, dy, n):                   # divides by the number of tokens
    n = len(q)
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10.silu_backward", backward)

# %% 10.buckets | rounds over the edge
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).float().log() / 0.301).floor().long().clamp(max=128)

check("10.buckets", buckets)

# %% 10.buckets | a gap of 0
def buckets(gap_seconds):
    return (gap_seconds.abs().double().log() / 0.301).floor().long().clamp(max=128)

check("10.buckets", buckets)

# %% 10.buckets | negative gaps
def buckets(gap_seconds):
    return (gap_seconds.clamp(min=1).double().log() / 0.301).floor().long().clamp(max=128)

check("10.buckets", buckets)

# %% 10.buckets | gaps of 1 and 2 s
def buckets(gap_seconds):                       # log(1 + dt), to be rid of the logarithm of 0
    return (gap_seconds.abs().double().log1p() / 0.301).floor().long().clamp(max=128)

check("10.buckets", buckets)

# %% 10.buckets | the longest gaps
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).double().log() / 0.301).floor().long()

check("10.buckets", buckets)

# %% 10.buckets | they must be integers
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).double().log() / 0.301).clamp(max=128)

check("10.buckets", buckets)
