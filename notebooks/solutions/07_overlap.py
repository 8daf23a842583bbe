"""Solutions of notebook 07, each the whole of its exercise cell. Look here after the third hint."""

# %% 07.exposed
def exposed(computing, transfers):                        # lists of (start, end) -> (hidden, exposed)
    hidden = sum(max(0.0, min(b, d) - max(a, c)) for a, b in computing for c, d in transfers)
    return hidden, sum(end - start for start, end in transfers) - hidden

check("07.exposed", exposed)

# %% 07.fill_buckets
def fill_buckets(sizes, limit):                           # -> lists of parameters' numbers
    buckets, filled = [], 0
    for i in reversed(range(len(sizes))):                 # the last layer's gradients come first
        if not buckets or filled + sizes[i] > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += sizes[i]
    return buckets

check("07.fill_buckets", fill_buckets)

# %% 07.step_seconds
def step_seconds(forward, layers, latency, bandwidth):    # layers: (backward seconds, bytes), as they come
    now, free = forward, 0.0
    for seconds, nbytes in layers:
        now += seconds
        free = max(now, free) + latency + nbytes / bandwidth
    return free

check("07.step_seconds", step_seconds)

# %% 07.bucket_count
def bucket_count(forward, backward, nbytes, latency, bandwidth, most):      # -> 1 … most
    def seconds(count):
        free = 0.0
        for i in range(1, count + 1):
            free = max(free, forward + backward * i / count) + latency + nbytes / count / bandwidth
        return free
    return min(range(1, most + 1), key=seconds)

check("07.bucket_count", bucket_count)

# %% 07.ahead
from concurrent.futures import ThreadPoolExecutor

def ahead(source, work):                                  # yields work(item), one item ahead of the caller
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in source:
            done = pending.result() if pending else None
            first, pending = pending is None, pool.submit(work, item)
            if not first:
                yield done
        if pending:
            yield pending.result()

check("07.ahead", ahead)

# %% 07.together
END = object()                                            # nobody has this as a batch

def together(batches, everybody):                         # everybody(True or False) -> True if all said True
    while True:
        item = next(batches, END)
        if not everybody(item is not END):
            return
        yield item

check("07.together", together)
