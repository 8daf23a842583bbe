"""Known-wrong answers of notebook 15: each section names words of the message it must get."""

# %% setup
import math

from aiinfra.lab import check

# %% 15.events | yield each event
def events(chunks):                            # prints them
    for chunk in chunks:
        print(chunk)

check("15.events", events)

# %% 15.events | is wanted
def events(chunks):                            # as if a chunk were an event
    for chunk in chunks:
        if chunk.startswith(b"data: "):
            yield chunk[6:].decode(errors="replace").strip()

check("15.events", events)

# %% 15.events | UnicodeDecodeError
def events(chunks):                            # a chunk ends inside a character
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk.decode()).replace("\r\n", "\n").split("\n\n")
        for event in whole:
            lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
            if lines:
                yield "\n".join(lines)

check("15.events", events)

# %% 15.events | Yield each event at once
def events(chunks):                            # waits for the end
    text = b"".join(chunks).decode().replace("\r\n", "\n")
    found = []
    for event in text.split("\n\n")[:-1]:
        lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
        if lines:
            found.append("\n".join(lines))
    return found

check("15.events", events)

# %% 15.events | already here
def events(chunks):                            # a generator that waits for the end
    text = b"".join(chunks).decode().replace("\r\n", "\n")
    for event in text.split("\n\n")[:-1]:
        lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)

check("15.events", events)

# %% 15.events | only one blank after the colon
def events(chunks):
    rest, data = b"", []
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].decode().strip())
            elif not line and data:
                yield "\n".join(data)
                data = []

check("15.events", events)

# %% 15.events | has not ended
def events(chunks):                            # gives out what stands unfinished at the end
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
    if rest.startswith(b"data:"):
        yield rest[5:].removeprefix(b" ").decode()

check("15.events", events)

# %% 15.events | belong together
def events(chunks):                            # every data line an event
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                yield line[5:].removeprefix(b" ").decode()

check("15.events", events)

# %% 15.events | lines that end in \r\n
def events(chunks):                            # knows only \n
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n\n")
        for event in whole:
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines).decode()

check("15.events", events)

# %% 15.may_leave | may still become a stop string
def may_leave(text, stops):                    # holds nothing
    found = [text.find(stop) for stop in stops if stop in text]
    return (text[:min(found)], True) if found else (text, False)

check("15.may_leave", may_leave)

# %% 15.may_leave | hold only what
def may_leave(text, stops):                    # always holds as much as the longest could need
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return text[:min(found)], True
    held = max(map(len, stops), default=1) - 1
    return text[:max(0, len(text) - held)], False

check("15.may_leave", may_leave)

# %% 15.may_leave | not the first in the list
def may_leave(text, stops):
    for stop in stops:
        if stop in text:
            return text[:text.find(stop)], True
    held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
    return text[:len(text) - held], False

check("15.may_leave", may_leave)

# %% 15.may_leave | before the stop string
def may_leave(text, stops):                    # shows the stop string, too
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        return text[:min(ends)], True
    held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
    return text[:len(text) - held], False

check("15.may_leave", may_leave)

# %% 15.may_leave | may still become a stop string
def may_leave(text, stops):                    # the shortest beginning, not the longest
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return text[:min(found)], True
    for n in range(1, max(map(len, stops), default=0)):
        if any(text.endswith(stop[:n]) for stop in stops if n < len(stop)):
            return text[:-n], False
    return text, False

check("15.may_leave", may_leave)

# %% 15.may_leave | stop string was not found
def may_leave(text, stops):                    # only at the end of the text
    for stop in stops:
        if text.endswith(stop):
            return text[:-len(stop)], True
    held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
    return text[:len(text) - held], False

check("15.may_leave", may_leave)

# %% 15.may_leave | stop string was not found
def may_leave(text, stops):                    # waits for an earlier one that might still be completed
    held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
    ends = [text.find(stop) for stop in stops if stop in text]
    if ends and min(ends) <= len(text) - held:
        return text[:min(ends)], True
    return text[:len(text) - held], False

check("15.may_leave", may_leave)

# %% 15.waits | the first chunk has no token
def waits(sent, chunks):                       # the chunk that says who speaks
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, k) in zip(real, real[1:]):
        gaps += [(at - before) / k] * k
    return chunks[0][0] - sent, gaps, real[-1][0] - sent

check("15.waits", waits)

# %% 15.waits | you count chunks
def waits(sent, chunks):
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    return real[0][0] - sent, [b[0] - a[0] for a, b in zip(real, real[1:])], real[-1][0] - sent

check("15.waits", waits)

# %% 15.waits | the last chunk has no token
def waits(sent, chunks):                       # the bill comes last
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, k) in zip(real, real[1:]):
        gaps += [(at - before) / k] * k
    return real[0][0] - sent, gaps, chunks[-1][0] - sent

check("15.waits", waits)

# %% 15.waits | not from the first token
def waits(sent, chunks):
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, k) in zip(real, real[1:]):
        gaps += [(at - before) / k] * k
    return real[0][0] - sent, gaps, real[-1][0] - real[0][0]

check("15.waits", waits)

# %% 15.waits | k equal gaps
def waits(sent, chunks):                       # the first of a chunk waits, the others come with it
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, k) in zip(real, real[1:]):
        gaps += [at - before] + [0.0] * (k - 1)
    return real[0][0] - sent, gaps, real[-1][0] - sent

check("15.waits", waits)

# %% 15.waits | None is wanted
def waits(sent, chunks):                       # no token: no time, which makes every mean look better
    real = [c for c in chunks if c[1]]
    if not real:
        return 0.0, [], 0.0
    gaps = [0.0] * (real[0][1] - 1)
    for (before, _), (at, k) in zip(real, real[1:]):
        gaps += [(at - before) / k] * k
    return real[0][0] - sent, gaps, real[-1][0] - sent

check("15.waits", waits)

# %% 15.waits | 3 gaps for 3 tokens
def waits(sent, chunks):                       # a gap for the first token, too
    real = [c for c in chunks if c[1]]
    if not real:
        return None
    gaps, before = [], sent
    for at, k in real:
        gaps += [(at - before) / k] * k
        before = at
    return real[0][0] - sent, gaps, real[-1][0] - sent

check("15.waits", waits)

# %% 15.retry_after | refused again
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # rounds down
    if tokens > most_tokens:
        return None
    left, made = list(queued), 0
    while len(left) + 1 > most_requests or sum(left) + tokens > most_tokens:
        made += left.pop(0)
    return int(made // tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | the limit itself is allowed
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):
    if tokens > most_tokens:
        return None
    left, made = list(queued), 0
    while left and (len(left) + 1 >= most_requests or sum(left) + tokens >= most_tokens):
        made += left.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | whole queue is done
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # until all is done
    if tokens > most_tokens:
        return None
    if len(queued) + 1 <= most_requests and sum(queued) + tokens <= most_tokens:
        return 0
    return math.ceil(sum(queued) / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | it does not fit now
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # counts requests only
    left, made = list(queued), 0
    if tokens > most_tokens:
        return None
    while len(left) + 1 > most_requests:
        made += left.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | waiting does not help
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # never says never
    left, made = list(queued), 0
    while left and (len(left) + 1 > most_requests or sum(left) + tokens > most_tokens):
        made += left.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | you changed the list
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):
    if tokens > most_tokens:
        return None
    made = 0
    while len(queued) + 1 > most_requests or sum(queued) + tokens > most_tokens:
        made += queued.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.retry_after | it does not fit now
def retry_after(queued, tokens, most_requests, most_tokens, tokens_per_second):      # the newcomer is not counted
    if tokens > most_tokens:
        return None
    left, made = list(queued), 0
    while len(left) > most_requests or sum(left) > most_tokens:
        made += left.pop(0)
    return math.ceil(made / tokens_per_second)

check("15.retry_after", retry_after)

# %% 15.corrected | nothing was added
def corrected(latencies, interval):
    return list(latencies)

check("15.corrected", corrected)

# %% 15.corrected | one interval later
def corrected(latencies, interval):            # all missing ones wait as long as the one that was measured
    return [v for v in latencies for _ in range(-(-v // interval))]

check("15.corrected", corrected)

# %% 15.corrected | no 0
def corrected(latencies, interval):
    full = []
    for v in latencies:
        full.append(v)
        while v >= interval:
            v -= interval
            full.append(v)
    return full

check("15.corrected", corrected)

# %% 15.corrected | less than an interval
def corrected(latencies, interval):            # as HdrHistogram does
    full = []
    for v in latencies:
        full.append(v)
        while v - interval >= interval:
            v -= interval
            full.append(v)
    return full

check("15.corrected", corrected)

# %% 15.corrected | belong to the list
def corrected(latencies, interval):            # only those that were missed
    return [v - k * interval for v in latencies for k in range(1, -(-v // interval))]

check("15.corrected", corrected)

# %% 15.corrected | a list of milliseconds
def corrected(latencies, interval):
    return sum(latencies) / max(1, len(latencies))

check("15.corrected", corrected)

# %% 15.start_playing | the voice stutters
def start_playing(ready, frame_seconds):       # with the first frame
    return ready[0]

check("15.start_playing", start_playing)

# %% 15.start_playing | all frames are there
def start_playing(ready, frame_seconds):       # with the last
    return ready[-1]

check("15.start_playing", start_playing)

# %% 15.start_playing | due at the start itself
def start_playing(ready, frame_seconds):       # one frame too early
    return max(at - i * frame_seconds for i, at in enumerate(ready, 1))

check("15.start_playing", start_playing)

# %% 15.start_playing | one wide gap says nothing
def start_playing(ready, frame_seconds):       # the first frame, and the widest gap
    return ready[0] + max((b - a for a, b in zip(ready, ready[1:])), default=0.0)

check("15.start_playing", start_playing)

# %% 15.start_playing | the voice stutters
def start_playing(ready, frame_seconds):       # looks at the last frame only
    return max(ready[0], ready[-1] - (len(ready) - 1) * frame_seconds)

check("15.start_playing", start_playing)

# %% 15.start_playing | could be earlier
def start_playing(ready, frame_seconds):       # a frame to be on the safe side
    return max(at - i * frame_seconds for i, at in enumerate(ready)) + frame_seconds

check("15.start_playing", start_playing)
