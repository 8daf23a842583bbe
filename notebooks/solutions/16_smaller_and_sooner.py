"""Solutions of notebook 16, smaller and sooner: one section an exercise, each the whole cell."""

# %% 16.quantise_groups
def quantise_groups(w, bits, group):            # -> q, scale, minimum
    values = w.unflatten(1, (-1, group))        # [F, D/group, group]
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)
    step = torch.where(scale == 0, 1, scale)    # a constant group: all numbers 0, the minimum says it all
    return ((values - minimum) / step).round(), scale, minimum

check("16.quantise_groups", quantise_groups)

# %% 16.decode_q8_0
def decode_q8_0(blocks):                        # uint8 [n, 34] -> float32 [n, 32]
    scale = blocks[:, :2].contiguous().view(torch.float16).float()     # [n, 1]
    q = blocks[:, 2:].contiguous().view(torch.int8).float()            # [n, 32]
    return scale * q

check("16.decode_q8_0", decode_q8_0)

# %% 16.speed_up
def speed_up(weights, bits, group, bandwidth, fixed_seconds):
    before = weights * 16 / 8 / bandwidth + fixed_seconds
    after = weights * (bits + 2 * 16 / group) / 8 / bandwidth + fixed_seconds
    return before / after

check("16.speed_up", speed_up)

# %% 16.tokens_made
def tokens_made(says, draft, stop_ids, room):   # lists of ids, a set of ids, an int -> list of ids
    made = []
    for i, token in enumerate(says):
        made.append(token)
        if token in stop_ids or len(made) == room or i == len(draft) or token != draft[i]:
            break
    return made

check("16.tokens_made", tokens_made)

# %% 16.keep_or_redraw
def keep_or_redraw(p, q):                       # [V], [V] -> keep [V], redraw [V]
    keep = torch.where(q > 0, (p / q).clamp(max=1), 1.0)
    rest = (p - q).clamp(min=0)                 # what the kept ones leave missing
    redraw = rest / rest.sum() if rest.sum() > 0 else p
    return keep, redraw

check("16.keep_or_redraw", keep_or_redraw)

# %% 16.best_k
def best_k(a, c, most):
    return max(range(most + 1), key=lambda k: sum(a**i for i in range(k + 1)) / (k * c + 1))

check("16.best_k", best_k)
