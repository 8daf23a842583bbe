"""Known-wrong answers of notebook 04: each section names words of the message it must get."""

# %% setup
import math

import torch
from aiinfra.lab import check

# %% 04.encode | leftmost
def encode(word, merges):                      # whatever can be joined first from the left
    pieces, known = list(word), set(merges)
    at = 0
    while at < len(pieces) - 1:
        if (pieces[at], pieces[at + 1]) in known:
            pieces[at:at + 2] = [pieces[at] + pieces[at + 1]]
            at = 0
        else:
            at += 1
    return pieces

check("04.encode", encode)

# %% 04.encode | the longest piece
def encode(word, merges):                      # greedy, by length
    known, pieces = {left + right for left, right in merges}, []
    while word:
        size = max([n for n in range(2, len(word) + 1) if word[:n] in known], default=1)
        pieces.append(word[:size])
        word = word[size:]
    return pieces

check("04.encode", encode)

# %% 04.encode | wherever it stands
def encode(word, merges):                      # each merge once
    pieces = list(word)
    for pair in merges:
        places = list(zip(pieces, pieces[1:]))
        if pair in places:
            at = places.index(pair)
            pieces[at:at + 2] = ["".join(pair)]
    return pieces

check("04.encode", encode)

# %% 04.encode | do not spell the word
def encode(word, merges):                      # a joined piece is there twice
    pieces = list(word)
    for left, right in merges:
        for at in range(len(pieces) - 1):
            if (pieces[at], pieces[at + 1]) == (left, right):
                pieces[at] = left + right
    return pieces

check("04.encode", encode)

# %% 04.encode | Nothing was joined
def encode(word, merges):
    return list(word)

check("04.encode", encode)

# %% 04.row_pieces | is none
def row_pieces(lengths, row_length, row):      # documents that only touch the row
    low, high = row * row_length, (row + 1) * row_length
    pieces, begin = [], 0
    for document, length in enumerate(lengths):
        start, end = max(low, begin), min(high, begin + length)
        if start <= end:
            pieces.append((document, start - begin, end - begin))
        begin += length
    return pieces

check("04.row_pieces", row_pieces)

# %% 04.row_pieces | as in a slice
def row_pieces(lengths, row_length, row):
    low, high = row * row_length, (row + 1) * row_length
    pieces, begin = [], 0
    for document, length in enumerate(lengths):
        start, end = max(low, begin), min(high, begin + length)
        if start < end:
            pieces.append((document, start - begin, end - begin - 1))
        begin += length
    return pieces

check("04.row_pieces", row_pieces)

# %% 04.row_pieces | neither from the line's
def row_pieces(lengths, row_length, row):      # places in the line
    low, high = row * row_length, (row + 1) * row_length
    pieces, begin = [], 0
    for document, length in enumerate(lengths):
        start, end = max(low, begin), min(high, begin + length)
        if start < end:
            pieces.append((document, start, end))
        begin += length
    return pieces

check("04.row_pieces", row_pieces)

# %% 04.row_pieces | this row has
def row_pieces(lengths, row_length, row):      # a row for each document, cut off at the row's length
    if row >= len(lengths):
        return []
    return [(row, 0, min(lengths[row], row_length))]

check("04.row_pieces", row_pieces)

# %% 04.row_pieces | neither from the line's
def row_pieces(lengths, row_length, row):      # places in the row
    low, high = row * row_length, (row + 1) * row_length
    pieces, begin = [], 0
    for document, length in enumerate(lengths):
        start, end = max(low, begin), min(high, begin + length)
        if start < end:
            pieces.append((document, start - low, end - low))
        begin += length
    return pieces

check("04.row_pieces", row_pieces)

# %% 04.learning_rate | the rate of the step before
def learning_rate(step, peak, warmup, steps, floor):     # as most libraries: step 1 learns nothing
    step -= 1
    if step < warmup:
        return peak * step / warmup
    gone = min(1, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2)

check("04.learning_rate", learning_rate)

# %% 04.learning_rate | a straight line
def learning_rate(step, peak, warmup, steps, floor):
    if step < warmup:
        return peak * step / warmup
    gone = min(1, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * (1 - gone))

check("04.learning_rate", learning_rate)

# %% 04.learning_rate | falls towards 0
def learning_rate(step, peak, warmup, steps, floor):
    if step < warmup:
        return peak * step / warmup
    gone = min(1, (step - warmup) / max(1, steps - warmup))
    return peak * (1 + math.cos(math.pi * gone)) / 2

check("04.learning_rate", learning_rate)

# %% 04.learning_rate | begins at step 0
def learning_rate(step, peak, warmup, steps, floor):
    if step < warmup:
        return peak * step / warmup
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1, step / steps))) / 2)

check("04.learning_rate", learning_rate)

# %% 04.learning_rate | rises again
def learning_rate(step, peak, warmup, steps, floor):
    if step < warmup:
        return peak * step / warmup
    gone = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2)

check("04.learning_rate", learning_rate)

# %% 04.learning_rate | falls towards 0
def learning_rate(step, peak, warmup, steps, floor):
    if step < warmup:
        return peak * step / warmup
    gone = min(1, (step - warmup) / max(1, steps - warmup))
    return peak * max(floor, (1 + math.cos(math.pi * gone)) / 2)

check("04.learning_rate", learning_rate)

# %% 04.window_loss | mean of the micro-batches' means
def window_loss(losses, masks):
    return [(loss * mask).sum() / max(int(mask.sum()), 1) / len(losses) for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.window_loss | added up: the gradient grows
def window_loss(losses, masks):
    return [(loss * mask).sum() / max(int(mask.sum()), 1) for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.window_loss | 0 / 0
def window_loss(losses, masks):                # a window in which nothing counts
    total = sum(int(mask.sum()) for mask in masks)
    return [(loss * mask).sum() / total for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.window_loss | counted in the divisor
def window_loss(losses, masks):
    total = sum(len(loss) for loss in losses)
    return [(loss * mask).sum() / total for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.window_loss | also for one in which nothing counts
def window_loss(losses, masks):                # empty micro-batches are left out
    total = max(1, sum(int(mask.sum()) for mask in masks))
    return [(loss * mask).sum() / total for loss, mask in zip(losses, masks) if mask.any()]

check("04.window_loss", window_loss)

# %% 04.window_loss | no gradient flows
def window_loss(losses, masks):
    total = max(1, sum(int(mask.sum()) for mask in masks))
    return [(loss * mask).sum().detach() / total for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.clip | each tensor is clipped for itself
def clip(gradients, longest):
    norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients))
    for g in gradients:
        if g.norm() > longest:
            g *= longest / g.norm()
    return norm

check("04.clip", clip)

# %% 04.clip | you lengthen it
def clip(gradients, longest):                  # always to the same length
    norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients))
    for g in gradients:
        g *= longest / max(norm, 1e-12)
    return norm

check("04.clip", clip)

# %% 04.clip | each number is cut off
def clip(gradients, longest):
    norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients))
    for g in gradients:
        g.clamp_(-longest, longest)
    return norm

check("04.clip", clip)

# %% 04.clip | have not changed
def clip(gradients, longest):                  # new tensors, which nobody sees
    norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients))
    if norm > longest:
        gradients = [g * longest / norm for g in gradients]
    return norm

check("04.clip", clip)

# %% 04.clip | the length after clipping
def clip(gradients, longest):
    norm = math.sqrt(sum(float((g ** 2).sum()) for g in gradients))
    if norm > longest:
        for g in gradients:
            g *= longest / norm
    return min(norm, longest)

check("04.clip", clip)

# %% 04.clip | not finite any more
def clip(gradients, longest):                  # a gradient of zeros
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for g in gradients:
        g *= torch.minimum(torch.tensor(1.0), longest / norm) if norm > longest else norm / norm
    return float(norm)

check("04.clip", clip)
