"""Right answers in other forms than the solutions': each section is one that the judge must accept."""

# %% setup
import torch

from aiinfra.lab import check

# %% 06.uneven
from aiinfra.parallel.by_hand import all_reduce

def of_all_rows(gradient, count, comm):          # sums and count travel together
    rows = torch.tensor([count], dtype=gradient.dtype)
    both = torch.cat([torch.nan_to_num(gradient).flatten() * count, rows])
    whole = all_reduce(both, comm)
    return (whole[:-1] / whole[-1]).view_as(gradient)

check("06.uneven", of_all_rows)

# %% 06.norm
from aiinfra.parallel.by_hand import all_reduce

def gradient_norm(pieces, copies, comm):         # each brings its share of the copies; returns a tensor
    mine = sum((piece.norm() ** 2 for piece in pieces), torch.zeros((), dtype=torch.float64))
    mine = mine + sum(copy.norm() ** 2 for copy in copies) / comm.size
    return all_reduce(mine, comm) ** 0.5

check("06.norm", gradient_norm)

# %% 06.gated
from aiinfra.parallel.by_hand import all_reduce

def gated(x, gate_up, down, comm):               # one product with the two parts, put together again
    F, mine = down.shape[1], down.shape[1] // comm.size
    at = torch.arange(comm.rank * mine, (comm.rank + 1) * mine)
    g, u = (x @ torch.cat([gate_up[at], gate_up[F + at]]).T).chunk(2, -1)
    return all_reduce((g * torch.sigmoid(g) * u) @ down[:, at].T, comm)

check("06.gated", gated)

# %% 06.vocabulary_loss
from aiinfra.parallel.by_hand import all_gather, all_reduce

def vocabulary_loss(logits, targets, comm):      # the largest of all ranks' maxima, then sums
    rows, words = logits.shape
    most = all_gather(logits.amax(1), torch.empty(comm.size, rows, dtype=logits.dtype), comm).amax(0)
    numbers = torch.arange(comm.rank * words, (comm.rank + 1) * words)
    hit = torch.where(targets[:, None] == numbers, logits, 0.0).sum(1)
    total = all_reduce((logits - most[:, None]).exp().sum(1), comm)
    return total.log() + most - all_reduce(hit, comm)

check("06.vocabulary_loss", vocabulary_loss)

# %% 06.makespan
def makespan(table):                             # asks backwards from the end, and remembers
    ends, asked = {}, set()

    def end(s, at):
        if (s, at) in ends:
            return ends[s, at]
        if (s, at) in asked:
            raise RecursionError("waits for itself")
        asked.add((s, at))
        row, work = table[s], table[s][at]
        i = row[:at].count(work)
        before = [end(s, at - 1)] if at else [0.0]
        there = s - 1 if work == "F" else s + 1
        if 0 <= there < len(table):
            place = [k for k, kind in enumerate(table[there]) if kind == work][i]
            before.append(end(there, place))
        elif work == "B":
            place = [k for k, kind in enumerate(row) if kind == "F"][i]
            before.append(end(s, place))
        ends[s, at] = max(before) + (1.0 if work == "F" else 2.0)
        return ends[s, at]

    try:
        return max(end(s, len(row) - 1) for s, row in enumerate(table))
    except RecursionError:
        return None

check("06.makespan", makespan)

# %% 10.flash_dq
def flash_dq(q, k, v, do, lse, delta, tile=64):  # strips are put together at the end; the mask is added
    scale, parts = q.shape[1] ** -0.5, []
    for i in range(0, len(q), tile):
        row, total = torch.arange(i, min(i + tile, len(q))), 0.0
        for j in range(0, i + len(row), tile):
            key = torch.arange(j, min(j + tile, len(k)))
            s = scale * (q[row] @ k[key].T)
            s = s + torch.where(key <= row[:, None], 0.0, -torch.inf)
            ds = torch.exp(s - lse[row]) * (do[row] @ v[key].T - delta[row])
            total = total + ds @ k[key]
        parts.append(scale * total)
    return torch.cat(parts)

check("10.flash_dq", flash_dq)

# %% 10b.next_event
def next_event(seconds, offsets):                # user by user
    bounds, parts = offsets.tolist(), [seconds[:0]]
    for start, end in zip(bounds, bounds[1:]):
        parts += [seconds[start + 1:end], seconds[end - 1:end] if end > start else seconds[:0]]
    return torch.cat(parts)

check("10b.next_event", next_event)

# %% 10b.padded_scores
def padded_scores(lengths):                      # floats, and a list in place of a tuple
    return [float(len(lengths) * max(lengths) ** 2), sum(n * n + n for n in lengths) / 2]

check("10b.padded_scores", padded_scores)

# %% 10b.silu_backward
def silu_backward(q, k, v, dy, n):               # by einsum, with a mask of its own
    s = torch.einsum("id,jd->ij", q, k)
    seen = torch.ones_like(s).tril()
    sigma = 1 / (1 + torch.exp(-s))
    ds = torch.einsum("id,jd->ij", dy, v) * (sigma + s * sigma * (1 - sigma)) * seen / n
    dv = torch.einsum("ij,id->jd", s * sigma * seen / n, dy)
    return [torch.einsum("ij,jd->id", ds, k), torch.einsum("ij,id->jd", ds, q), dv]

check("10b.silu_backward", silu_backward)

# %% 13.slots
def slots(table, start, count, block_size):      # by way of a tensor, and back
    at = torch.arange(start, start + count)
    return (torch.tensor(table)[at // block_size] * block_size + at % block_size).tolist()

check("13.slots", slots)

# %% 16.quantise_groups
def quantise_groups(w, bits, group):             # the ruler of a constant group has steps of 1
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    return ((values - minimum) / scale).round(), scale, minimum

check("16.quantise_groups", quantise_groups)

# %% 16.quantise_groups
def quantise_groups(w, bits, group):             # a scale is never below a hundred-millionth
    values = w.unflatten(1, (-1, group))
    minimum = values.amin(-1, keepdim=True)
    scale = ((values.amax(-1, keepdim=True) - minimum) / (2**bits - 1)).clamp(min=1e-8)
    return ((values - minimum) / scale).round(), scale, minimum

check("16.quantise_groups", quantise_groups)

# %% 16.keep_or_redraw
def keep_or_redraw(p, q):                        # nothing is drawn where q is 0, so any number will do there
    keep = torch.where(q > 0, p / q.clamp(min=1e-300), 0.0).clamp(max=1)
    rest = (p - q).clamp(min=0)
    return keep, rest / rest.sum().clamp(min=1e-300)

check("16.keep_or_redraw", keep_or_redraw)

# %% 15.events
import codecs

def events(chunks):                            # text, decoded bit by bit, and line by line
    decoder, text, data = codecs.getincrementaldecoder("utf-8")(), "", []
    for chunk in chunks:
        text += decoder.decode(chunk)
        while "\n" in text:
            line, text = text.split("\n", 1)
            line = line.rstrip("\r")
            if line == "" and data:
                yield "\n".join(data)
                data = []
            elif line[:5] == "data:":
                data.append(line[6:] if line[5:6] == " " else line[5:])

check("15.events", events)

# %% 15.may_leave
def may_leave(text, stops):                    # the first place where a stop string begins, or may begin
    for at in range(len(text) + 1):
        rest = text[at:]
        if any(rest.startswith(stop) for stop in stops):
            return text[:at], True
    for at in range(len(text)):
        if any(stop.startswith(text[at:]) for stop in stops):
            return text[:at], False
    return text, False

check("15.may_leave", may_leave)

# %% 15.waits
def waits(sent, chunks):                       # a time for each token, and the differences
    times, before = [], None
    for at, tokens in chunks:
        if tokens:
            start = at if before is None else before
            times += [start + (at - start) * (i + 1) / tokens for i in range(tokens)]
            before = at
    if not times:
        return None
    return times[0] - sent, [b - a for a, b in zip(times, times[1:])], times[-1] - sent

check("15.waits", waits)

# %% 15.retry_after
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # second by second
    if tokens > most_tokens:
        return None
    seconds = 0
    while True:
        left, made = list(queued), seconds * tokens_per_second
        while left and left[0] <= made:
            made -= left.pop(0)
        if len(left) < most_requests and sum(left) + tokens <= most_tokens:
            return seconds
        seconds += 1

check("15.retry_after", retry_after)

# %% 15.corrected
def corrected(latencies, interval):
    missing = [v - k * interval for v in latencies for k in range(1, v // interval + 1) if k * interval < v]
    return missing + list(latencies)

check("15.corrected", corrected)

# %% 15.start_playing
def start_playing(ready, frame_seconds):       # push the start back whenever a frame is late
    start = ready[0]
    for i, at in enumerate(ready):
        if at > start + i * frame_seconds:
            start = at - i * frame_seconds
    return start

check("15.start_playing", start_playing)
