"""Solutions of notebook 14, launch overhead: one section an exercise, each the whole cell."""

# %% 14.layer_size
def layer_size(kernels, ask_seconds, bandwidth, bytes_per_weight):      # -> parameters of one layer
    return kernels * ask_seconds * bandwidth / bytes_per_weight

check("14.layer_size", layer_size)

# %% 14.idle_gaps
def idle_gaps(events):                          # [(start, end), …], any order, any number of streams -> idle time
    idle, until = 0.0, None
    for start, end in sorted(events):
        if until is not None:
            idle += max(0.0, start - until)
        until = end if until is None else max(until, end)
    return idle

check("14.idle_gaps", idle_gaps)

# %% 14.fill
def fill(buffers, rows):                        # rows: (token, position, slot) of each request
    pad = len(buffers["tokens"]) - len(rows)
    columns = {"tokens": [row[0] for row in rows] + [0] * pad, "positions": [row[1] for row in rows] + [0] * pad,
               "slots": [row[2] for row in rows] + [-1] * pad, "context_lens": [row[1] + 1 for row in rows] + [0] * pad}
    for name, values in columns.items():
        buffers[name].copy_(torch.tensor(values))

check("14.fill", fill)

# %% 14.next_tokens
def next_tokens(logits, temperature, noise):    # [B, V], [B], [B, V] -> token ids [B]
    sampled = (logits / temperature[:, None] + noise).argmax(-1)       # nonsense where the temperature is 0 …
    return torch.where(temperature > 0, sampled, logits.argmax(-1))    # … and not taken there

check("14.next_tokens", next_tokens)

# %% 14.one_ahead
def one_ahead(gpu, stop, limit):                # -> tokens, the stop token included
    tokens, step = [], gpu.start(None)
    while True:
        following = gpu.start(step) if len(tokens) + 1 < limit else None
        tokens.append(gpu.read(step))
        if tokens[-1] == stop or following is None:
            return tokens                       # what is in flight is surplus
        step = following

check("14.one_ahead", one_ahead)

# %% 14.buckets
def buckets(counts, k):                         # counts: {batch size: steps}; at most k buckets
    from itertools import combinations
    *sizes, largest = sorted(counts)

    def padding(chosen):
        return sum(steps * (min(b for b in chosen if b >= size) - size) for size, steps in counts.items())

    return min(([*some, largest] for some in combinations(sizes, min(k - 1, len(sizes)))), key=padding)

check("14.buckets", buckets)
