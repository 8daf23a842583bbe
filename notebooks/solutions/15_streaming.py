"""Solutions of notebook 15, each the whole of its exercise cell. Look here after the third hint."""

# %% 15.events
def events(chunks):                            # chunks of bytes -> yields str
    rest, data = b"", []
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" ").decode())
            elif not line and data:
                yield "\n".join(data)
                data = []

check("15.events", events)

# %% 15.may_leave
def may_leave(text, stops):                    # -> (what may be shown, whether a stop string was found)
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return text[:min(found)], True
    held = 0
    for stop in stops:
        for n in range(1, len(stop)):
            if text.endswith(stop[:n]):
                held = max(held, n)
    return text[:len(text) - held], False

check("15.may_leave", may_leave)

# %% 15.waits
def waits(sent, chunks):                       # -> (first token, gaps, end to end), or None
    real = [(at, tokens) for at, tokens in chunks if tokens]
    if not real:
        return None
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, tokens) in zip(real, real[1:]):
        gaps += [(at - before) / tokens] * tokens
    return real[0][0] - sent, gaps, real[-1][0] - sent

check("15.waits", waits)

# %% 15.retry_after
import math

def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # -> int or None
    if tokens > most_tokens:
        return None
    left, made = list(queued), 0
    while len(left) + 1 > most_requests or sum(left) + tokens > most_tokens:
        made += left.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.corrected
def corrected(latencies, interval):            # milliseconds -> list of milliseconds
    full = []
    for wait in latencies:
        while wait > 0:
            full.append(wait)
            wait -= interval
    return full

check("15.corrected", corrected)

# %% 15.start_playing
def start_playing(ready, frame_seconds):       # -> seconds
    return max(at - i * frame_seconds for i, at in enumerate(ready))

check("15.start_playing", start_playing)
