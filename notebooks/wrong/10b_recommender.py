"""Known-wrong answers of notebook 10b: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 10b.buckets | rounds over the edge
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).float().log() / 0.301).floor().long().clamp(max=128)

check("10b.buckets", buckets)

# %% 10b.buckets | a gap of 0
def buckets(gap_seconds):
    return (gap_seconds.abs().double().log() / 0.301).floor().long().clamp(max=128)

check("10b.buckets", buckets)

# %% 10b.buckets | negative gaps
def buckets(gap_seconds):
    return (gap_seconds.clamp(min=1).double().log() / 0.301).floor().long().clamp(max=128)

check("10b.buckets", buckets)

# %% 10b.buckets | gaps of 1 and 2 s
def buckets(gap_seconds):                       # log(1 + dt), to be rid of the logarithm of 0
    return (gap_seconds.abs().double().log1p() / 0.301).floor().long().clamp(max=128)

check("10b.buckets", buckets)

# %% 10b.buckets | the longest gaps
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).double().log() / 0.301).floor().long()

check("10b.buckets", buckets)

# %% 10b.buckets | they must be integers
def buckets(gap_seconds):
    return (gap_seconds.abs().clamp(min=1).double().log() / 0.301).clamp(max=128)

check("10b.buckets", buckets)

# %% 10b.silu_backward | product rule
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate).tril() / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | keys after i
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = (dy @ v.T) * gate * (1 + s * (1 - gate)) / n
    return ds @ k, ds.T @ q, (s * gate / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | times too large
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril()
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | dk: the matrix is not turned around
def backward(q, k, v, dy, n):                   # dk by row: ds is not turned around
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds @ k, ds @ q, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | no autograd
def backward(q, k, v, dy, n):
    q, k, v = (tensor.requires_grad_() for tensor in (q, k, v))
    y = (torch.nn.functional.silu(q @ k.T) / n).tril() @ v
    return torch.autograd.grad(y, (q, k, v), dy)

check("10b.silu_backward", backward)

# %% 10b.silu_backward | dq: row i is influenced by keys after i
def backward(q, k, v, dy, n):                   # the mask of the forward pass only
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = (dy @ v.T) * gate * (1 + s * (1 - gate)) / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | dq and dk are exchanged
def backward(q, k, v, dy, n):
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds.T @ q, ds @ k, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | n is 16 here
def backward(q, k, v, dy, n):                   # divides by the number of tokens
    n = len(q)
    s = q @ k.T
    gate = torch.sigmoid(s)
    ds = ((dy @ v.T) * gate * (1 + s * (1 - gate))).tril() / n
    return ds @ k, ds.T @ q, ((s * gate).tril() / n).T @ dy

check("10b.silu_backward", backward)

# %% 10b.silu_backward | no autograd
def backward(q, k, v, dy, n):                   # autograd by its functional name
    y = lambda q, k, v: (torch.nn.functional.silu(q @ k.T) / n).tril() @ v
    return torch.func.vjp(y, q, k, v)[1](dy)

check("10b.silu_backward", backward)

# %% 10b.silu_backward | no autograd
def backward(q, k, v, dy, n):                   # in grad mode, on copies of its own
    with torch.inference_mode(False), torch.enable_grad():
        q, k, v, dy = (tensor.clone().requires_grad_() for tensor in (q, k, v, dy))
        y = (torch.nn.functional.silu(q @ k.T) / n).tril() @ v
        return torch.autograd.grad(y, (q, k, v), dy.detach())

check("10b.silu_backward", backward)

# %% 10b.silu_backward | no autograd
def backward(q, k, v, dy, n):
    y = lambda q, k, v: ((torch.nn.functional.silu(q @ k.T) / n).tril() @ v * dy).sum()
    return torch.func.grad(y, argnums=(0, 1, 2))(q, k, v)

check("10b.silu_backward", backward)

# %% 10b.next_event | the next user's
def next_event(seconds, offsets):
    return torch.cat([seconds[1:], seconds[-1:]])

check("10b.next_event", next_event)

# %% 10b.next_event | has the time of row 0
def next_event(seconds, offsets):
    return seconds.roll(-1)

check("10b.next_event", next_event)

# %% 10b.next_event | users without an event between others
def next_event(seconds, offsets):               # a user without events mends somebody else's row
    after = seconds.roll(-1)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        after[end - 1] = seconds[start] if end == start and start < len(seconds) else seconds[end - 1]
    return after

check("10b.next_event", next_event)

# %% 10b.next_event | you have changed what you were given
def next_event(seconds, offsets):
    last = (offsets[1:].long() - 1)[offsets.diff() > 0]
    kept = seconds[last]
    seconds[:-1] = seconds[1:].clone()
    seconds[last] = kept
    return seconds

check("10b.next_event", next_event)

# %% 10b.next_event | times are int64
def next_event(seconds, offsets):
    after = seconds.roll(-1).float()
    last = (offsets[1:].long() - 1)[offsets.diff() > 0]
    after[last] = seconds[last].float()
    return after

check("10b.next_event", next_event)

# %% 10b.padded_scores | the LONGEST
def padded_scores(lengths):
    return sum(n * n for n in lengths), sum(n * (n + 1) // 2 for n in lengths)

check("10b.padded_scores", padded_scores)

# %% 10b.padded_scores | nobody sees the future
def padded_scores(lengths):
    return len(lengths) * max(lengths) ** 2, sum(n * n for n in lengths)

check("10b.padded_scores", padded_scores)

# %% 10b.padded_scores | an event also sees itself
def padded_scores(lengths):
    return len(lengths) * max(lengths) ** 2, sum(n * (n - 1) // 2 for n in lengths)

check("10b.padded_scores", padded_scores)

# %% 10b.padded_scores | an empty history is padded
def padded_scores(lengths):
    real = [n for n in lengths if n]
    return len(real) * max(lengths) ** 2, sum(n * (n + 1) // 2 for n in lengths)

check("10b.padded_scores", padded_scores)

# %% 10b.padded_scores | is the order
def padded_scores(lengths):
    return sum(n * (n + 1) // 2 for n in lengths), len(lengths) * max(lengths) ** 2

check("10b.padded_scores", padded_scores)

# %% 10b.silu_backward | no autograd
def backward(q, k, v, dy, n):                   # forwards: a dual number for each direction
    import torch.autograd.forward_ad as forward

    def along(which, direction):
        with forward.dual_level():
            parts = [forward.make_dual(t, direction) if at == which else t for at, t in enumerate((q, k, v))]
            y = (torch.nn.functional.silu(parts[0] @ parts[1].T) / n).tril() @ parts[2]
            return (forward.unpack_dual(y).tangent * dy).sum()

    units = torch.eye(q.numel(), dtype=q.dtype).unflatten(1, q.shape)
    return tuple(torch.stack([along(at, unit) for unit in units]).view_as(q) for at in range(3))

check("10b.silu_backward", backward)
