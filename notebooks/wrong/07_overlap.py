"""Known-wrong answers of notebook 07: each section names words of the message it must get."""

# %% setup
from concurrent.futures import ThreadPoolExecutor
from aiinfra.lab import check

# %% 07.exposed | in the other order
def exposed(computing, transfers):
    hidden = sum(max(0.0, min(b, d) - max(a, c)) for a, b in computing for c, d in transfers)
    return sum(d - c for c, d in transfers) - hidden, hidden

check("07.exposed", exposed)

# %% 07.exposed | the shorter of the two sums is the most
def exposed(computing, transfers):                        # as if all could hide each other
    link, busy = sum(d - c for c, d in transfers), sum(b - a for a, b in computing)
    return min(link, busy), link - min(link, busy)

check("07.exposed", exposed)

# %% 07.exposed | compare each with each
def exposed(computing, transfers):
    hidden = sum(max(0.0, min(b, d) - max(a, c)) for (a, b), (c, d) in zip(computing, transfers))
    return hidden, sum(d - c for c, d in transfers) - hidden

check("07.exposed", exposed)

# %% 07.exposed | not a negative number
def exposed(computing, transfers):
    hidden = sum(min(b, d) - max(a, c) for a, b in computing for c, d in transfers)
    return hidden, sum(d - c for c, d in transfers) - hidden

check("07.exposed", exposed)

# %% 07.exposed | the time in which nothing is computed
def exposed(computing, transfers):
    hidden = sum(max(0.0, min(b, d) - max(a, c)) for a, b in computing for c, d in transfers)
    whole = max(computing[-1][1], transfers[-1][1]) - min(computing[0][0], transfers[0][0])
    return hidden, whole - sum(b - a for a, b in computing)

check("07.exposed", exposed)

# %% 07.exposed | two numbers are wanted
def exposed(computing, transfers):
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in computing for c, d in transfers)

check("07.exposed", exposed)

# %% 07.fill_buckets | Its gradient comes last of all
def fill_buckets(sizes, limit):                           # from the first layer on
    buckets, filled = [[]], 0
    for i, size in enumerate(sizes):
        if buckets[-1] and filled + size > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += size
    return buckets

check("07.fill_buckets", fill_buckets)

# %% 07.fill_buckets | are allowed
def fill_buckets(sizes, limit):                           # full when it has run over
    buckets, filled = [[]], 0
    for i in reversed(range(len(sizes))):
        buckets[-1].append(i)
        filled += sizes[i]
        if filled >= limit:
            buckets.append([])
            filled = 0
    return [bucket for bucket in buckets if bucket]

check("07.fill_buckets", fill_buckets)

# %% 07.fill_buckets | is in no bucket
def fill_buckets(sizes, limit):                           # the last bucket is forgotten
    buckets, bucket = [], []
    for i in reversed(range(len(sizes))):
        if bucket and sum(sizes[j] for j in bucket) + sizes[i] > limit:
            buckets.append(bucket)
            bucket = []
        bucket.append(i)
    return buckets

check("07.fill_buckets", fill_buckets)

# %% 07.fill_buckets | is empty
def fill_buckets(sizes, limit):
    buckets, filled = [[]], 0
    for i in reversed(range(len(sizes))):
        if filled + sizes[i] > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += sizes[i]
    return buckets

check("07.fill_buckets", fill_buckets)

# %% 07.fill_buckets | a bucket takes whatever still fits
def fill_buckets(sizes, limit):                           # each by itself
    return [[i] for i in reversed(range(len(sizes)))]

check("07.fill_buckets", fill_buckets)

# %% 07.fill_buckets | Do not sort by size
def fill_buckets(sizes, limit):
    buckets, filled = [], 0
    for i in sorted(range(len(sizes)), key=lambda j: -sizes[j]):
        if not buckets or filled + sizes[i] > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += sizes[i]
    return buckets

check("07.fill_buckets", fill_buckets)

# %% 07.step_seconds | the step without overlap
def step_seconds(forward, layers, latency, bandwidth):
    return forward + sum(seconds + latency + nbytes / bandwidth for seconds, nbytes in layers)

check("07.step_seconds", step_seconds)

# %% 07.step_seconds | the longer of the two alone
def step_seconds(forward, layers, latency, bandwidth):
    computing = forward + sum(seconds for seconds, _ in layers)
    return max(computing, sum(latency + nbytes / bandwidth for _, nbytes in layers))

check("07.step_seconds", step_seconds)

# %% 07.step_seconds | as soon as the forward pass is over
def step_seconds(forward, layers, latency, bandwidth):
    computing = forward + sum(seconds for seconds, _ in layers)
    return max(computing, forward + sum(latency + nbytes / bandwidth for _, nbytes in layers))

check("07.step_seconds", step_seconds)

# %% 07.step_seconds | one after another
def step_seconds(forward, layers, latency, bandwidth):
    now, end = forward, 0.0
    for seconds, nbytes in layers:
        now += seconds
        end = max(end, now + latency + nbytes / bandwidth)
    return end

check("07.step_seconds", step_seconds)

# %% 07.step_seconds | the latency is missing
def step_seconds(forward, layers, latency, bandwidth):
    now, free = forward, 0.0
    for seconds, nbytes in layers:
        now += seconds
        free = max(now, free) + nbytes / bandwidth
    return free

check("07.step_seconds", step_seconds)

# %% 07.bucket_count | hides nothing
def bucket_count(forward, backward, nbytes, latency, bandwidth, most):
    return 1

check("07.bucket_count", bucket_count)

# %% 07.bucket_count | every bucket pays a latency
def bucket_count(forward, backward, nbytes, latency, bandwidth, most):
    return most

check("07.bucket_count", bucket_count)

# %% 07.bucket_count | a whole number from 1
def bucket_count(forward, backward, nbytes, latency, bandwidth, most):
    return range(most)[-1] + 2

check("07.bucket_count", bucket_count)

# %% 07.bucket_count | the step takes
def bucket_count(forward, backward, nbytes, latency, bandwidth, most):      # only the square root
    return max(1, min(most, round((backward / latency) ** 0.5 / 2)))

check("07.bucket_count", bucket_count)

# %% 07.ahead | nothing overlaps
def ahead(source, work):
    for item in source:
        yield work(item)

check("07.ahead", ahead)

# %% 07.ahead | more would fill the memory
def ahead(source, work):
    with ThreadPoolExecutor(1) as pool:
        yield from [job.result() for job in [pool.submit(work, item) for item in source]]

check("07.ahead", ahead)

# %% 07.ahead | of yours is left
def ahead(source, work):
    pool, pending = ThreadPoolExecutor(1), None           # nobody shuts it down
    for item in source:
        done = pending.result() if pending else None
        first, pending = pending is None, pool.submit(work, item)
        if not first:
            yield done
    if pending:
        yield pending.result()
    ahead.kept = getattr(ahead, "kept", []) + [pool]

check("07.ahead", ahead)

# %% 07.ahead | are wanted
def ahead(source, work):                                  # the last one stays in the pipe
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in source:
            done = pending.result() if pending else None
            first, pending = pending is None, pool.submit(work, item)
            if not first:
                yield done

check("07.ahead", ahead)

# %% 07.ahead | nobody works on item
def ahead(source, work):                                  # submitted, and waited for at once
    with ThreadPoolExecutor(1) as pool:
        for item in source:
            yield pool.submit(work, item).result()

check("07.ahead", ahead)

# %% 07.together | has left without an answer
def together(batches, everybody):                         # who is dry goes without a word
    for item in batches:
        if not everybody(True):
            return
        yield item

check("07.together", together)

# %% 07.together | ask before you yield
def together(batches, everybody):
    going = True
    while going:
        item = next(batches, None)
        if item is not None:
            yield item
        going = everybody(item is not None)

check("07.together", together)

# %% 07.together | waits for an answer that never comes
def together(batches, everybody):                         # those that have more go on asking
    for item in batches:
        if everybody(True):
            yield item
    everybody(False)

check("07.together", together)

# %% 07.together | is wanted
def together(batches, everybody):                         # 0 is a batch, too
    while True:
        item = next(batches, None)
        if not everybody(bool(item)):
            return
        yield item

check("07.together", together)
