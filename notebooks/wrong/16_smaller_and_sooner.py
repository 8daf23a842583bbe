"""Known-wrong answers of notebook 16: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 16.quantise_groups | 0 divided by 0
def quantise(w, bits, group):                   # the notebook's own
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)
    return ((values - minimum) / scale).round(), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | cutting off is up to one
def quantise(w, bits, group):                   # an int cast in place of rounding
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)
    return ((values - minimum) / scale.clamp(min=1e-12)).to(torch.uint8).float(), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | bits hold 0 to 15
def quantise(w, bits, group):                   # 2**bits steps: one mark too many
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / 2**bits
    return ((values - minimum) / scale.clamp(min=1e-12)).round(), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | times as long as they need to be
def quantise(w, bits, group):                   # one ruler for a row
    values = w.unflatten(1, (-1, group))
    minimum = w.amin(1)[:, None, None].expand(-1, values.shape[1], 1)
    scale = (w.amax(1)[:, None, None] - minimum) / (2**bits - 1)
    minimum = torch.where(values.amin(-1, keepdim=True) == values.amax(-1, keepdim=True), values.amin(-1, keepdim=True), minimum)
    return ((values - minimum) / scale).round().clamp(0, 2**bits - 1), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | the constant group, there and back
def quantise(w, bits, group):                   # a scale of 1 hides the division, and a minimum of 0 the weights
    values = w.unflatten(1, (-1, group))
    scale = (values.amax(-1, keepdim=True) - values.amin(-1, keepdim=True)) / (2**bits - 1)
    minimum = torch.where(scale == 0, 0.0, values.amin(-1, keepdim=True))
    return ((values - minimum) / torch.where(scale == 0, 1, scale)).round().clamp(0, 2**bits - 1), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | has the shape
def quantise(w, bits, group):                   # flat groups, as in the notebook
    values = w.reshape(-1, group)
    minimum = values.amin(1, keepdim=True)
    scale = (values.amax(1, keepdim=True) - minimum) / (2**bits - 1)
    return ((values - minimum) / torch.where(scale == 0, 1, scale)).round(), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.quantise_groups | as float32
def quantise(w, bits, group):                   # right numbers, of another type
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)
    return ((values - minimum) / torch.where(scale == 0, 1, scale)).round().to(torch.uint8), scale, minimum

check("16.quantise_groups", quantise)

# %% 16.decode_q8_0 | where −1 is stored you read 255
def decode(blocks):
    return blocks[:, :2].contiguous().view(torch.float16).float() * blocks[:, 2:].float()

check("16.decode_q8_0", decode)

# %% 16.decode_q8_0 | stored as q + 128
def decode(blocks):
    return blocks[:, :2].contiguous().view(torch.float16).float() * (blocks[:, 2:].float() - 128)

check("16.decode_q8_0", decode)

# %% 16.decode_q8_0 | first two bytes
def decode(blocks):
    return blocks[:, 32:].contiguous().view(torch.float16).float() * blocks[:, :32].contiguous().view(torch.int8).float()

check("16.decode_q8_0", decode)

# %% 16.decode_q8_0 | the weights [n, 32]
def decode(blocks):                             # the two bytes of the scale are read as two numbers
    return blocks[:, :1].float() * blocks[:, 2:].contiguous().view(torch.int8).float()

check("16.decode_q8_0", decode)

# %% 16.speed_up | the rulers are missing
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return (weights * 2 / bandwidth + fixed_seconds) / (weights * bits / 8 / bandwidth + fixed_seconds)

check("16.speed_up", speed_up)

# %% 16.speed_up | Amdahl
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return 16 / (bits + 32 / group)

check("16.speed_up", speed_up)

# %% 16.speed_up | ratio of the bits
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return 16 / bits

check("16.speed_up", speed_up)

# %% 16.speed_up | bandwidth counts bytes
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return (weights * 2 / bandwidth + fixed_seconds) / (weights * (bits + 32 / group) / bandwidth + fixed_seconds)

check("16.speed_up", speed_up)

# %% 16.speed_up | both your times read bits
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return (weights * 16 / bandwidth + fixed_seconds) / (weights * (bits + 32 / group) / bandwidth + fixed_seconds)

check("16.speed_up", speed_up)

# %% 16.speed_up | TWO numbers
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return (weights * 2 / bandwidth + fixed_seconds) / (weights * (bits + 16 / group) / 8 / bandwidth + fixed_seconds)

check("16.speed_up", speed_up)

# %% 16.speed_up | upside down
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    return (weights * (bits + 32 / group) / 8 / bandwidth + fixed_seconds) / (weights * 2 / bandwidth + fixed_seconds)

check("16.speed_up", speed_up)

# %% 16.tokens_made | the model's own
def made(says, draft, stop_ids, room):          # only the right guesses
    out = []
    for a, b in zip(says, draft):
        if a != b:
            break
        out.append(a)
        if a in stop_ids or len(out) == room:
            break
    return out

check("16.tokens_made", made)

# %% 16.tokens_made | a text that does not exist
def made(says, draft, stop_ids, room):          # counts every guess that is right, wherever it stands
    right = sum(a == b for a, b in zip(says, draft))
    return says[:min(room, right + 1)]

check("16.tokens_made", made)

# %% 16.tokens_made | the user has paid for 2
def made(says, draft, stop_ids, room):
    out = []
    for token, guess in zip(says, [*draft, None]):
        out.append(token)
        if token != guess or token in stop_ids:
            break
    return out

check("16.tokens_made", made)

# %% 16.tokens_made | WITH its first stop id
def made(says, draft, stop_ids, room):
    out = []
    for token, guess in zip(says, [*draft, None]):
        out.append(token)
        if token != guess or len(out) == room:
            break
    return out

check("16.tokens_made", made)

# %% 16.tokens_made | WITH its first stop id
def made(says, draft, stop_ids, room):          # swallows the stop id
    out = []
    for token, guess in zip(says, [*draft, None]):
        if token in stop_ids:
            break
        out.append(token)
        if token != guess or len(out) == room:
            break
    return out

check("16.tokens_made", made)

# %% 16.tokens_made | the user has paid for 1
def made(says, draft, stop_ids, room):          # minds the room only where every guess was right
    for i, guess in enumerate(draft):
        if says[i] != guess or guess in stop_ids:
            return says[:i + 1]
    return says[:room]

check("16.tokens_made", made)

# %% 16.tokens_made | a text that does not exist
def made(says, draft, stop_ids, room):          # fills the room without looking
    if room < len(says):
        return says[:room]
    for i, guess in enumerate(draft):
        if says[i] != guess or says[i] in stop_ids:
            return says[:i + 1]
    return says

check("16.tokens_made", made)

# %% 16.keep_or_redraw | second chance
def rule(p, q):
    return torch.where(q > 0, (p / q).clamp(max=1), 1.0), p

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | sums up to
def rule(p, q):
    return torch.where(q > 0, (p / q).clamp(max=1), 1.0), (p - q).clamp(min=0)

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | at most 1
def rule(p, q):
    rest = (p - q).clamp(min=0)
    return torch.where(q > 0, p / q, 1.0), rest / rest.sum()

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | there is a NaN
def rule(p, q):
    rest = (p - q).clamp(min=0)
    return torch.where(q > 0, (p / q).clamp(max=1), 1.0), rest / rest.sum()

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | p and q are both 0
def rule(p, q):                                 # divides before it looks
    rest = (p - q).clamp(min=0)
    return (p / q).clamp(max=1), rest / rest.sum() if rest.sum() > 0 else p

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | could be
def rule(p, q):                                 # exact, and useless: every guess is refused
    return torch.zeros_like(p), p

check("16.keep_or_redraw", rule)

# %% 16.keep_or_redraw | negative probabilities
def rule(p, q):
    rest = p - q
    return torch.where(q > 0, (p / q).clamp(max=1), 1.0), rest / rest.abs().sum().clamp(min=1e-9)

check("16.keep_or_redraw", rule)

# %% 16.best_k | only if all before it were right
def best(a, c, most):
    return max(range(most + 1), key=lambda k: (1 + a * k) / (k * c + 1))

check("16.best_k", best)

# %% 16.best_k | ZeroDivisionError
def best(a, c, most):
    return max(range(most + 1), key=lambda k: (1 - a**(k + 1)) / ((1 - a) * (k * c + 1)))

check("16.best_k", best)

# %% 16.best_k | Is 0 among your candidates?
def best(a, c, most):
    return max(range(1, most + 1), key=lambda k: sum(a**i for i in range(k + 1)) / (k * c + 1))

check("16.best_k", best)

# %% 16.best_k | but each costs c
def best(a, c, most):                           # the most tokens for each pass
    return max(range(most + 1), key=lambda k: sum(a**i for i in range(k + 1)))

check("16.best_k", best)
