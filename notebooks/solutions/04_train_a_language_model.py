"""Solutions of notebook 04, each the whole of its exercise cell. Look here after the third hint."""

# %% 04.encode
def encode(word, merges):                      # -> the pieces, a list of strings
    pieces = list(word)
    for left, right in merges:                 # what was learned first joins first
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == (left, right):
                pieces[at:at + 2] = [left + right]
            at += 1
    return pieces

check("04.encode", encode)

# %% 04.row_pieces
def row_pieces(lengths, row_length, row):      # -> [(document, start, end), …]
    low, high = row * row_length, (row + 1) * row_length
    pieces, begin = [], 0
    for document, length in enumerate(lengths):
        start, end = max(low, begin), min(high, begin + length)
        if start < end:
            pieces.append((document, start - begin, end - begin))
        begin += length
    return pieces

check("04.row_pieces", row_pieces)

# %% 04.learning_rate
import math

def learning_rate(step, peak, warmup, steps, floor):     # of step 1, 2, …
    if step < warmup:
        return peak * step / warmup
    gone = min(1, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * gone)) / 2)

check("04.learning_rate", learning_rate)

# %% 04.window_loss
def window_loss(losses, masks):                # -> one scalar tensor for each micro-batch
    total = sum(int(mask.sum()) for mask in masks)
    return [(loss * mask).sum() / max(total, 1) for loss, mask in zip(losses, masks)]

check("04.window_loss", window_loss)

# %% 04.clip
def clip(gradients, longest):                  # changes the gradients; -> their length before
    norm = sum(float((gradient ** 2).sum()) for gradient in gradients) ** 0.5
    if norm > longest:
        for gradient in gradients:
            gradient *= longest / norm
    return norm

check("04.clip", clip)
