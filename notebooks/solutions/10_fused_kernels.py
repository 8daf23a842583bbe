"""Solutions of notebook 10, fused kernels: one section an exercise, each the whole cell."""

# %% 10.merge
def merge(a, b):                                # a, b: (m [], l [], o [Dv]) of two sets of keys
    m = torch.maximum(a[0], b[0])
    base = torch.where(m == -torch.inf, torch.zeros_like(m), m)      # both empty: avoid −inf − (−inf)
    fa, fb = torch.exp(a[0] - base), torch.exp(b[0] - base)
    return m, a[1] * fa + b[1] * fb, a[2] * fa + b[2] * fb

check("10.merge", merge)

# %% 10.swiglu_bytes
def swiglu_bytes(tokens, features, bytes_per_value):
    one = tokens * features * bytes_per_value   # one pass over [tokens, features]
    return 5 * one, 3 * one                     # silu: 1 in, 1 out; product: 2 in, 1 out. Fused: 2 in, 1 out

check("10.swiglu_bytes", swiglu_bytes)

# %% 10.tiles
def tiles(tokens, rows, keys):
    whole = diagonal = 0
    for i in range(0, tokens, rows):
        last = min(i + rows, tokens) - 1        # the strip's last row sees the most
        for j in range(0, last + 1, keys):
            if min(j + keys, tokens) - 1 <= i:  # its last key is seen by the strip's first row
                whole += 1
            else:
                diagonal += 1
    return whole, diagonal

check("10.tiles", tiles)

# %% 10.flash_dq
def flash_dq(q, k, v, do, lse, delta, tile=64):  # one head [N, Dh]; lse, delta [N, 1] -> dq [N, Dh]
    dq, index, scale = torch.zeros_like(q), torch.arange(len(q), device=q.device), q.shape[1] ** -0.5
    for i in range(0, len(q), tile):             # these rows are ours
        for j in range(0, i + tile, tile):       # the keys that they see
            rows, keys = slice(i, i + tile), slice(j, j + tile)
            p = torch.exp(scale * q[rows] @ k[keys].T - lse[rows])
            p = p.masked_fill(index[keys] > index[rows, None], 0.0)
            ds = p * (do[rows] @ v[keys].T - delta[rows])
            dq[rows] += scale * ds @ k[keys]
    return dq

check("10.flash_dq", flash_dq)
