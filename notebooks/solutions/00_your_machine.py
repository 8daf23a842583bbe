"""Solutions of notebook 00, your machine: one section an exercise, each the whole cell."""

# %% 00.rate
def rate(parameters, bytes_per_weight, context, kv_bytes, bandwidth):    # -> tokens per second
    read = parameters * bytes_per_weight + context * kv_bytes            # bytes for one token
    return bandwidth / read

check("00.rate", rate)

# %% 00.full_batch
import math

def full_batch(bytes_per_weight, flops_per_second, bandwidth):           # -> int
    reading = bytes_per_weight / bandwidth                               # seconds for one weight
    computing = 2 / flops_per_second                                     # seconds for one weight and one request
    return math.ceil(reading / computing)

check("00.full_batch", full_batch)

# %% 00.gpus
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):     # -> int
    need, n = weight_bytes + users * context * kv_bytes, 1
    while n * gpu_bytes * usable < need:
        n *= 2
    return n

check("00.gpus", gpus)

# %% 00.diagnose
def diagnose(seconds, nbytes, flops, operations, sheet):                 # -> (str, float)
    floors = {"memory": nbytes / sheet.bandwidth, "compute": flops / sheet.bfloat16,
              "dispatch": operations * sheet.dispatch_seconds}
    limit = max(floors, key=floors.get)
    return limit, floors[limit] / seconds

check("00.diagnose", diagnose)

# %% 00.experts
def expert_bytes_per_token(batch, experts, chosen, expert_bytes):        # -> bytes
    unwanted = (1 - chosen / experts) ** batch                           # chance that nobody picks a given expert
    return experts * (1 - unwanted) * expert_bytes / batch

check("00.experts", expert_bytes_per_token)

# %% 00.machines
import math

def machines(nbytes, bandwidth, syncs, latency, target):                 # -> int or math.inf
    alone, left = nbytes / bandwidth, target - syncs * latency
    if alone <= target:
        return 1
    return max(2, math.ceil(alone / left)) if left > 0 else math.inf

check("00.machines", machines)
