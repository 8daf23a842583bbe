"""Known-wrong answers of notebook 00: each section names words of the message it must get."""

# %% setup
import math

from aiinfra.lab import check

# %% 00.rate | conversation is missing
def rate(parameters, bytes_per_weight, context, kv_bytes, bandwidth):
    return bandwidth / (parameters * bytes_per_weight)

check("00.rate", rate)

# %% 00.rate | seconds per token
def rate(parameters, bytes_per_weight, context, kv_bytes, bandwidth):
    return (parameters * bytes_per_weight + context * kv_bytes) / bandwidth

check("00.rate", rate)

# %% 00.rate | cache of one token
def rate(parameters, bytes_per_weight, context, kv_bytes, bandwidth):
    return bandwidth / (parameters * bytes_per_weight + kv_bytes)

check("00.rate", rate)

# %% 00.rate | in bytes already
def rate(parameters, bytes_per_weight, context, kv_bytes, bandwidth):
    return bandwidth / ((parameters + context * kv_bytes) * bytes_per_weight)

check("00.rate", rate)

# %% 00.full_batch | twice too large
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return math.ceil(flops_per_second * bytes_per_weight / bandwidth)

check("00.full_batch", full_batch)

# %% 00.full_batch | how wide a weight is
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return math.ceil(flops_per_second / (2 * bandwidth))

check("00.full_batch", full_batch)

# %% 00.full_batch | that is the ridge
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return math.ceil(flops_per_second / bandwidth)

check("00.full_batch", full_batch)

# %% 00.full_batch | one too few
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return int(flops_per_second * bytes_per_weight / (2 * bandwidth) - 1e-9)

check("00.full_batch", full_batch)

# %% 00.full_batch | whole numbers
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return flops_per_second * bytes_per_weight / (2 * bandwidth)

check("00.full_batch", full_batch)

# %% 00.full_batch | one too many
def full_batch(bytes_per_weight, flops_per_second, bandwidth):
    return int(flops_per_second * bytes_per_weight / (2 * bandwidth)) + 1

check("00.full_batch", full_batch)

# %% 00.gpus | no room for the users
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    n = 1
    while n * gpu_bytes * usable < weight_bytes:
        n *= 2
    return n

check("00.gpus", gpus)

# %% 00.gpus | every byte of every GPU
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    n = 1
    while n * gpu_bytes < weight_bytes + users * context * kv_bytes:
        n *= 2
    return n

check("00.gpus", gpus)

# %% 00.gpus | is cut in 1, 2, 4, 8
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    return max(1, math.ceil((weight_bytes + users * context * kv_bytes) / (gpu_bytes * usable)))

check("00.gpus", gpus)

# %% 00.gpus | one user
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    n = 1
    while n * gpu_bytes * usable < weight_bytes + (users > 0) * context * kv_bytes:
        n *= 2
    return n

check("00.gpus", gpus)

# %% 00.gpus | cut as well
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    n = 1                                       # the weights on each GPU, only the caches cut: never enough
    while n * gpu_bytes * usable < n * weight_bytes + users * context * kv_bytes:
        n *= 2
    return n

check("00.gpus", gpus)

# %% 00.gpus | cut as well
def gpus(weight_bytes, users, context, kv_bytes, gpu_bytes, usable):
    left, n = gpu_bytes * usable - weight_bytes, 1
    while left > 0 and n * left < users * context * kv_bytes:
        n *= 2
    return n if left > 0 else math.inf

check("00.gpus", gpus)

# %% 00.diagnose | overlaps them
def diagnose(seconds, nbytes, flops, operations, sheet):
    floors = {"memory": nbytes / sheet.bandwidth, "compute": flops / sheet.bfloat16,
              "dispatch": operations * sheet.dispatch_seconds}
    return max(floors, key=floors.get), sum(floors.values()) / seconds

check("00.diagnose", diagnose)

# %% 00.diagnose | Did you count the asking
def diagnose(seconds, nbytes, flops, operations, sheet):
    memory, compute = nbytes / sheet.bandwidth, flops / sheet.bfloat16
    return ("memory", memory / seconds) if memory > compute else ("compute", compute / seconds)

check("00.diagnose", diagnose)

# %% 00.diagnose | more than all of it
def diagnose(seconds, nbytes, flops, operations, sheet):
    floors = {"memory": nbytes / sheet.bandwidth, "compute": flops / sheet.bfloat16,
              "dispatch": operations * sheet.dispatch_seconds}
    limit = max(floors, key=floors.get)
    return limit, seconds / floors[limit]

check("00.diagnose", diagnose)

# %% 00.diagnose | LEAST
def diagnose(seconds, nbytes, flops, operations, sheet):
    rates = {"memory": nbytes / sheet.bandwidth, "compute": flops / sheet.bfloat16,
             "dispatch": operations * sheet.dispatch_seconds}
    limit = min(rates, key=rates.get)
    return limit, rates[limit] / seconds

check("00.diagnose", diagnose)

# %% 00.diagnose | cannot exceed the measured time
def diagnose(seconds, nbytes, flops, operations, sheet):
    floors = {"memory": nbytes / sheet.bandwidth, "compute": flops / sheet.float32,
              "dispatch": operations * sheet.dispatch_seconds}
    limit = max(floors, key=floors.get)
    return limit, floors[limit] / seconds

check("00.diagnose", diagnose)

# %% 00.experts | 3 tokens, 2 of 8 experts: as if no two tokens ever wanted the same
def expert_bytes_per_token(batch, experts, chosen, expert_bytes):
    return chosen * expert_bytes

check("00.experts", expert_bytes_per_token)

# %% 00.experts | read once for both
def expert_bytes_per_token(batch, experts, chosen, expert_bytes):
    return min(experts, batch * chosen) * expert_bytes / batch

check("00.experts", expert_bytes_per_token)

# %% 00.experts | cannot collide with itself
def expert_bytes_per_token(batch, experts, chosen, expert_bytes):
    return experts * (1 - (1 - 1 / experts) ** (batch * chosen)) * expert_bytes / batch

check("00.experts", expert_bytes_per_token)

# %% 00.experts | 3 tokens, 2 of 8 experts: those are the bytes of the whole step
def expert_bytes_per_token(batch, experts, chosen, expert_bytes):
    return experts * (1 - (1 - chosen / experts) ** batch) * expert_bytes

check("00.experts", expert_bytes_per_token)

# %% 00.machines | on top
def machines(nbytes, bandwidth, syncs, latency, target):
    return math.ceil(nbytes / (bandwidth * target))

check("00.machines", machines)

# %% 00.machines | math.inf
def machines(nbytes, bandwidth, syncs, latency, target):
    left = target - syncs * latency
    return 1 if nbytes / bandwidth <= target else math.ceil(nbytes / (bandwidth * left))

check("00.machines", machines)

# %% 00.machines | nobody to wait for
def machines(nbytes, bandwidth, syncs, latency, target):
    left = target - syncs * latency
    return math.inf if left <= 0 else max(2, math.ceil(nbytes / (bandwidth * left)))

check("00.machines", machines)

# %% 00.machines | one too few
def machines(nbytes, bandwidth, syncs, latency, target):
    left = target - syncs * latency
    if nbytes / bandwidth <= target:
        return 1
    return math.inf if left <= 0 else math.floor(nbytes / (bandwidth * left))

check("00.machines", machines)
