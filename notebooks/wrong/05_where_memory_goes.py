"""Known-wrong answers of notebook 05: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 05.floor | two moments
def floor_bytes(count, ranks, stage):
    return count * (4 / (ranks if stage > 2 else 1) + 4 / (ranks if stage > 1 else 1)
                    + 4 / (ranks if stage > 0 else 1))

check("05.floor", floor_bytes)

# %% 05.floor | in stage 3 only
def floor_bytes(count, ranks, stage):
    return 16 * count / ranks if stage else 16 * count

check("05.floor", floor_bytes)

# %% 05.floor | the whole floor
def floor_bytes(count, ranks, stage):
    return 16 * count

check("05.floor", floor_bytes)

# %% 05.floor | those are numbers
def floor_bytes(count, ranks, stage):
    parts = [1 / ranks if stage >= first else 1 for first in (3, 2, 1)]
    return count * (parts[0] + parts[1] + 2 * parts[2])

check("05.floor", floor_bytes)

# %% 05.floor | mixed up
def floor_bytes(count, ranks, stage):
    parts = [1 / ranks if stage >= first else 1 for first in (3, 1, 2)]
    return count * (4 * parts[0] + 4 * parts[1] + 8 * parts[2])

check("05.floor", floor_bytes)

# %% 05.peak | ever given
def find_peak(events):
    living = {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + max(0, nbytes)
    return sum(living.values()), living

check("05.peak", find_peak)

# %% 05.peak | at the end
def find_peak(events):
    living = {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + nbytes
    return sum(living.values()), {name: n for name, n in living.items() if n}

check("05.peak", find_peak)

# %% 05.peak | keep a copy
def find_peak(events):
    living, most, held = {}, 0, {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + nbytes
        if not living[name]:
            del living[name]
        if sum(living.values()) > most:
            most, held = sum(living.values()), living
    return most, held

check("05.peak", find_peak)

# %% 05.peak | a name with 0 bytes
def find_peak(events):
    living, most, held = {}, 0, {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + nbytes
        if sum(living.values()) > most:
            most, held = sum(living.values()), dict(living)
    return most, held

check("05.peak", find_peak)

# %% 05.peak | not the first moment
def find_peak(events):
    living, most, held = {}, 0, {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + nbytes
        if sum(living.values()) >= most:
            most, held = sum(living.values()), {who: n for who, n in living.items() if n}
    return most, held

check("05.peak", find_peak)

# %% 05.peak | the most bytes
def find_peak(events):
    living, most, held = {}, 0, {}
    for name, nbytes in events:
        living[name] = nbytes
        if sum(living.values()) > most:
            most, held = sum(living.values()), dict(living)
    return most, held

check("05.peak", find_peak)

# %% 05.gate | changes with g, too
def gate_backward(gate, up, dy):
    s = torch.sigmoid(gate)
    return dy * up * s, dy * gate * s

check("05.gate", gate_backward)

# %% 05.gate | the slope of sigmoid(g)
def gate_backward(gate, up, dy):
    s = torch.sigmoid(gate)
    return dy * up * s * (1 - s), dy * gate * s

check("05.gate", gate_backward)

# %% 05.gate | swapped
def gate_backward(gate, up, dy):
    s = torch.sigmoid(gate)
    return dy * gate * s, dy * up * (s + gate * s * (1 - s))

check("05.gate", gate_backward)

# %% 05.gate | up, is missing
def gate_backward(gate, up, dy):
    s = torch.sigmoid(gate)
    return dy * (s + gate * s * (1 - s)), dy * gate * s

check("05.gate", gate_backward)

# %% 05.gate | not g
def gate_backward(gate, up, dy):
    s = torch.sigmoid(gate)
    return dy * up * (s + gate * s * (1 - s)), dy * gate

check("05.gate", gate_backward)

# %% 05.gate | does not require grad
def gate_backward(gate, up, dy):
    gate.requires_grad_()
    y = torch.nn.functional.silu(gate) * up
    return torch.autograd.grad(y, gate, dy)[0], dy * torch.nn.functional.silu(gate)

check("05.gate", gate_backward)

# %% 05.gate | not finite
def gate_backward(gate, up, dy):
    s = torch.exp(gate) / (1 + torch.exp(gate))
    return dy * up * (s + gate * s * (1 - s)), dy * gate * s

check("05.gate", gate_backward)

# %% 05.dice | did the second run see the dice of the first
def again_forward(ctx, run, x):
    ctx.run = run
    ctx.save_for_backward(x)
    with torch.no_grad():
        return run(x)

def again_backward(ctx, dy):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    now = torch.get_rng_state()
    with torch.enable_grad():
        y = ctx.run(x)
    torch.set_rng_state(now)
    y.backward(dy)
    return x.grad

check("05.dice", (again_forward, again_backward))

# %% 05.dice | the generator stands elsewhere
def again_forward(ctx, run, x):
    ctx.run, ctx.dice = run, torch.get_rng_state()
    ctx.save_for_backward(x)
    with torch.no_grad():
        return run(x)

def again_backward(ctx, dy):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    torch.set_rng_state(ctx.dice)
    with torch.enable_grad():
        y = ctx.run(x)
    y.backward(dy)
    return x.grad

check("05.dice", (again_forward, again_backward))

# %% 05.dice | Nobody but the user seeds
def again_forward(ctx, run, x):
    ctx.run = run
    ctx.save_for_backward(x)
    torch.manual_seed(0)
    with torch.no_grad():
        return run(x)

def again_backward(ctx, dy):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    torch.manual_seed(0)
    with torch.enable_grad():
        y = ctx.run(x)
    y.backward(dy)
    return x.grad

check("05.dice", (again_forward, again_backward))

# %% 05.dice | under torch.no_grad()
def again_forward(ctx, run, x):
    ctx.run, ctx.dice = run, torch.get_rng_state()
    ctx.save_for_backward(x)
    with torch.enable_grad():
        return run(x).detach()

def again_backward(ctx, dy):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    now = torch.get_rng_state()
    torch.set_rng_state(ctx.dice)
    with torch.enable_grad():
        y = ctx.run(x)
    torch.set_rng_state(now)
    y.backward(dy)
    return x.grad

check("05.dice", (again_forward, again_backward))

# %% 05.dice | twice is wanted
def again_forward(ctx, run, x):
    ctx.x = x.detach().requires_grad_()
    with torch.enable_grad():
        ctx.y = run(ctx.x)
    return ctx.y.detach()

def again_backward(ctx, dy):
    ctx.y.backward(dy)
    return ctx.x.grad

check("05.dice", (again_forward, again_backward))

# %% 05.dice | the weights inside got no gradient
def again_forward(ctx, run, x):
    ctx.run, ctx.dice = run, torch.get_rng_state()
    ctx.save_for_backward(x)
    with torch.no_grad():
        return run(x)

def again_backward(ctx, dy):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    now = torch.get_rng_state()
    torch.set_rng_state(ctx.dice)
    with torch.enable_grad():
        y = ctx.run(x)
    torch.set_rng_state(now)
    return torch.autograd.grad(y, x, dy)[0]

check("05.dice", (again_forward, again_backward))

# %% 05.micro_batches | forgot the gradients
def micro_batches(rows, always, gradients, per_row, budget):
    for k in range(1, rows + 1):
        if rows % k == 0 and always + per_row * (rows // k) <= budget:
            return k

check("05.micro_batches", micro_batches)

# %% 05.micro_batches | do not exist yet
def micro_batches(rows, always, gradients, per_row, budget):
    for k in range(1, rows + 1):
        if rows % k == 0 and always + gradients + per_row * (rows // k) <= budget:
            return k

check("05.micro_batches", micro_batches)

# %% 05.micro_batches | equal parts
def micro_batches(rows, always, gradients, per_row, budget):
    for k in range(1, rows + 1):
        if always + (gradients if k > 1 else 0) + per_row * (rows // k) <= budget:
            return k

check("05.micro_batches", micro_batches)

# %% 05.micro_batches | which are fewer
def micro_batches(rows, always, gradients, per_row, budget):
    for k in range(rows, 0, -1):
        if rows % k == 0 and always + (gradients if k > 1 else 0) + per_row * (rows // k) <= budget:
            return k

check("05.micro_batches", micro_batches)

# %% 05.micro_batches | more than the budget
def micro_batches(rows, always, gradients, per_row, budget):
    for k in range(1, rows + 1):
        if rows % k == 0 and always + (gradients if k > 1 else 0) + per_row * (rows // k) <= budget:
            return k
    return rows

check("05.micro_batches", micro_batches)
