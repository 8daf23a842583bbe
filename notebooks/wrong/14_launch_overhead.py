"""Known-wrong answers of notebook 14: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 14.layer_size | that is bytes
def layer_size(kernels, ask_seconds, bandwidth, bytes_per_weight):
    return kernels * ask_seconds * bandwidth

check("14.layer_size", layer_size)

# %% 14.layer_size | the fewer weights
def layer_size(kernels, ask_seconds, bandwidth, bytes_per_weight):
    return kernels * ask_seconds * bandwidth * bytes_per_weight

check("14.layer_size", layer_size)

# %% 14.layer_size | for one kernel
def layer_size(kernels, ask_seconds, bandwidth, bytes_per_weight):
    return ask_seconds * bandwidth / bytes_per_weight

check("14.layer_size", layer_size)

# %% 14.idle_gaps | not sorted by time
def idle_gaps(events):
    return sum(later[0] - earlier[1] for earlier, later in zip(events, events[1:]))

check("14.idle_gaps", idle_gaps)

# %% 14.idle_gaps | still at work
def idle_gaps(events):
    events = sorted(events)
    return sum(max(0.0, later[0] - earlier[1]) for earlier, later in zip(events, events[1:]))

check("14.idle_gaps", idle_gaps)

# %% 14.idle_gaps | wanted
def idle_gaps(events):                          # overlapping kernels are counted twice
    first, last = min(start for start, _ in events), max(end for _, end in events)
    return last - first - sum(end - start for start, end in events)

check("14.idle_gaps", idle_gaps)

# %% 14.fill | is another tensor now
def fill(buffers, rows):
    pad = len(buffers["tokens"]) - len(rows)
    buffers["tokens"] = torch.tensor([row[0] for row in rows] + [0] * pad)
    buffers["positions"] = torch.tensor([row[1] for row in rows] + [0] * pad)
    buffers["slots"] = torch.tensor([row[2] for row in rows] + [-1] * pad)
    buffers["context_lens"] = torch.tensor([row[1] + 1 for row in rows] + [0] * pad)

check("14.fill", fill)

# %% 14.fill | belongs to somebody
def fill(buffers, rows):
    for tensor in buffers.values():
        tensor.zero_()
    for i, (token, position, slot) in enumerate(rows):
        buffers["tokens"][i], buffers["positions"][i] = token, position
        buffers["slots"][i], buffers["context_lens"][i] = slot, position + 1

check("14.fill", fill)

# %% 14.fill | have not been written at all
def fill(buffers, rows):
    for i, (token, position, slot) in enumerate(rows):
        buffers["tokens"][i], buffers["positions"][i] = token, position
        buffers["slots"][i], buffers["context_lens"][i] = slot, position + 1

check("14.fill", fill)

# %% 14.fill | context_lens
def fill(buffers, rows):                        # the new token's own key is forgotten
    for name, pad in (("tokens", 0), ("positions", 0), ("slots", -1), ("context_lens", 0)):
        buffers[name].fill_(pad)
    for i, (token, position, slot) in enumerate(rows):
        buffers["tokens"][i], buffers["positions"][i] = token, position
        buffers["slots"][i], buffers["context_lens"][i] = slot, position

check("14.fill", fill)

# %% 14.fill | no such token
def fill(buffers, rows):                        # no embedding has the number -1
    for name, pad in (("tokens", -1), ("positions", 0), ("slots", -1), ("context_lens", 0)):
        buffers[name].fill_(pad)
    for i, (token, position, slot) in enumerate(rows):
        buffers["tokens"][i], buffers["positions"][i] = token, position
        buffers["slots"][i], buffers["context_lens"][i] = slot, position + 1

check("14.fill", fill)

# %% 14.next_tokens | you look at a number
def next_tokens(logits, temperature, noise):
    return torch.stack([row.argmax() if t == 0 else (row / t + n).argmax()
                        for row, t, n in zip(logits, temperature, noise)])

check("14.next_tokens", next_tokens)

# %% 14.next_tokens | you look at a number
def next_tokens(logits, temperature, noise):
    warm = temperature > 0
    scores = logits.clone()
    scores[warm] = logits[warm] / temperature[warm][:, None] + noise[warm]
    return scores.argmax(-1)

check("14.next_tokens", next_tokens)

# %% 14.next_tokens | row 0 has temperature 0
def next_tokens(logits, temperature, noise):    # a division by 0
    return (logits / temperature[:, None] + noise).argmax(-1)

check("14.next_tokens", next_tokens)

# %% 14.next_tokens | has temperature 0
def next_tokens(logits, temperature, noise):
    return (logits / temperature.clamp(min=1e-6)[:, None] + noise).argmax(-1) * 0 + (logits + noise).argmax(-1)

check("14.next_tokens", next_tokens)

# %% 14.one_ahead | The GPU waited for the CPU
def one_ahead(gpu, stop, limit):
    tokens, step = [], None
    while len(tokens) < limit:
        step = gpu.start(step)
        tokens.append(gpu.read(step))
        if tokens[-1] == stop:
            break
    return tokens

check("14.one_ahead", one_ahead)

# %% 14.one_ahead | a surplus step
def one_ahead(gpu, stop, limit):
    tokens, step = [], gpu.start(None)
    while True:
        following = gpu.start(step) if len(tokens) + 1 < limit else None
        tokens.append(gpu.read(step))
        if tokens[-1] == stop or following is None:
            if following:
                gpu.read(following)
            return tokens
        step = following

check("14.one_ahead", one_ahead)

# %% 14.one_ahead | is surplus
def one_ahead(gpu, stop, limit):
    tokens, step = [], gpu.start(None)
    while True:
        following = gpu.start(step) if len(tokens) + 1 < limit else None
        tokens.append(gpu.read(step))
        if tokens[-1] == stop:
            return tokens + ([gpu.read(following)] if following else [])
        if following is None:
            return tokens
        step = following

check("14.one_ahead", one_ahead)

# %% 14.one_ahead | known in advance
def one_ahead(gpu, stop, limit):
    tokens, step = [], gpu.start(None)
    while True:
        following = gpu.start(step)
        tokens.append(gpu.read(step))
        if tokens[-1] == stop or len(tokens) == limit:
            return tokens
        step = following

check("14.one_ahead", one_ahead)

# %% 14.buckets | are possible
def buckets(counts, k):                         # powers of two
    largest = max(counts)
    powers = [2**i for i in range(k - 1) if 2**i < largest]
    return powers + [largest]

check("14.buckets", buckets)

# %% 14.buckets | fits into none
def buckets(counts, k):                         # the most frequent sizes
    return sorted(counts, key=counts.get, reverse=True)[:k]

check("14.buckets", buckets)

# %% 14.buckets | may be recorded
def buckets(counts, k):
    return sorted(counts)

check("14.buckets", buckets)
