"""Judges and hints of notebook 15, streaming. Bytes, times and integers: no answer needs a server."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from aiinfra.engine.output import cut_at_stop
from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, number, pair, same, several
from aiinfra.lab.streams import Chunks, CutWire, Queued, answers, cut, queues, stopped_texts, testers, voices
from aiinfra.lab.streams import wire_cases


@exercise("15.events", hints=(
    "Keep two things from one chunk to the next: the bytes of an unfinished line, and the data lines of an "
    "unfinished event. Work in bytes: a whole line never ends inside a character.",
    "*lines, rest = (rest + chunk).split(b\"\\n\") gives the whole lines. A line that begins with b\"data:\" "
    "adds to the event, an empty one ends it; take b\"\\r\" off the end first.",
    "for line in lines: line = line.removesuffix(b\"\\r\"); if line.startswith(b\"data:\"): "
    "data.append(line[5:].removeprefix(b\" \").decode()); elif not line and data: yield \"\\n\".join(data); "
    "data = []",
))
def events(read):
    for what, text, want in wire_cases():
        for size in (len(text), 1, 2, 7):
            with about(f"{what}, in chunks of {plural(size, 'byte')}"):
                _judge_events(read, cut(text, size), want)
    _judge_soon(read)
    return "Cut anywhere, also inside an emoji, and each event is out with the byte that completes it."


def _judge_events(read: Callable, chunks: list[bytes], want: list[str]) -> None:
    got = _listed(read, CutWire(chunks))
    if got == want:
        return
    require(all(isinstance(one, str) for one in got), f"you gave {got!r}; each event is a str.")
    bare = [one.strip() for one in got]
    extra = got[len(want):]
    require(bare != [one.strip() for one in want],
            f"you gave {got!r}, and {want!r} is wanted: only one blank after the colon is no data.")
    require(got[:len(want)] != want, f"you gave {extra!r} too many. An event without an empty line behind it "
                                     "has not ended, and a comment is no data.")
    require("".join(got) != "".join("".join(want).split("\n")),
            f"you gave {got!r}: data lines of one event belong together, joined by a new line.")
    raise Wrong(f"you gave {got!r}; {want!r} is wanted.")


def _listed(read: Callable, wire: Iterable[bytes]) -> list:
    found = answered(read(wire))
    require(found is not None, "your function returned None: yield each event.")
    return list(found)


def _judge_soon(read: Callable) -> None:
    """An event must be there before the next chunk is asked for."""
    chunks = [b"data: one\n", b"\n", b"data: two\n\n", b"data: three\n\n"]
    wire = CutWire(chunks)
    taken = []
    for _ in read(wire):
        taken.append(wire.taken)
    late = f"when your events came out, you had read {taken} of {len(chunks)} chunks; [2, 3, 4] is wanted. "
    require(inspect.isgenerator(read(CutWire([]))) or taken == [2, 3, 4],
            late + "Yield each event at once: a list at the end is no stream.")
    require(taken == [2, 3, 4], late + "The user waits for an event that is already here.")


@exercise("15.may_leave", hints=(
    "Two questions, one after the other. Is a stop string in the text? If not: does the text end with the "
    "beginning of one?",
    "Found: cut at the smallest text.find(stop). Not found: for each stop and each n below its length, if "
    "text.endswith(stop[:n]), n characters must be held; the largest n counts.",
    "at = [text.find(stop) for stop in stops if stop in text]; if at: return text[:min(at)], True; held = "
    "max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0); return "
    "text[:len(text) - held], False",
))
def may_leave(leave):
    for text, stops in stopped_texts():
        shown, stop = cut_at_stop(text, stops, final=False)
        got = answered(leave(text, list(stops)))
        with about(f"{text!r}, stops {list(stops)}"):
            pair(got, f"you returned {got!r}; (text to show, True if a stop string was found) is wanted.")
            _judge_leave(got, (shown, stop is not None), text, stops)
    return ("Nothing that was shown is ever taken back, and no more is held than must be: one or two "
            "characters, a few times in an answer.")


def _judge_leave(got: tuple, want: tuple[str, bool], text: str, stops: Sequence[str]) -> None:
    shown, found = got
    right, ends = want
    if (shown, bool(found)) == want:
        return
    require(isinstance(shown, str), f"you returned {got!r}; the first of the two must be a str.")
    require(bool(found) == ends, f"you say that a stop string was {'' if found else 'not '}found.")
    inside = [stop for stop in stops if stop in text]
    if ends:
        first = inside[0]
        require(shown != text[:text.find(first)], f"you show {shown!r}: the stop string that begins first in "
                                                  "the text ends it, not the first in the list.")
        require(not any(stop in shown for stop in stops), f"you show {shown!r}: the text ends before the "
                                                          "stop string.")
    require(len(shown) <= len(right), f"you show {shown!r}; {text[len(right):]!r} may still become a stop "
                                      "string, and what is shown cannot be taken back.")
    raise Wrong(f"you show {shown!r}, and {right!r} may leave: hold only what a stop string begins with.")


@exercise("15.waits", hints=(
    "Throw the chunks without tokens away first: the one that only says who speaks, and the one with the "
    "bill. What is left tells everything.",
    "First token: the first chunk that is left, minus sent. End: the last one, minus sent. A chunk with k "
    "tokens, g seconds after the one before it: k gaps of g / k. The k tokens of the very first: k - 1 gaps "
    "of 0.",
    "real = [c for c in chunks if c[1]]; if not real: return None; gaps = [0.0] * (real[0][1] - 1); for "
    "(before, _), (now, k) in zip(real, real[1:]): gaps += [(now - before) / k] * k; return "
    "real[0][0] - sent, gaps, real[-1][0] - sent",
))
def waits(measure):
    for sent, chunks in answers():
        got = answered(measure(sent, list(chunks)))
        with about(f"sent at {sent:g}, chunks {chunks}"):
            _judge_waits(got, sent, chunks)
    return ("As many gaps as tokens, less one, and their sum is the end-to-end time less the first token's. "
            "Load generators have got each of these wrong.")


def _judge_waits(got, sent: float, chunks: Chunks) -> None:
    real = [chunk for chunk in chunks if chunk[1]]
    if not real:
        require(got is None, f"no token came: None is wanted, you returned {got!r}.")
        return
    several(got, 3, f"you returned {got!r}; (first token, gaps, end to end) is wanted.")
    first, gaps, whole = got
    begin, end = real[0][0] - sent, real[-1][0] - sent
    explain(number(first, "the time to first token"), (
        (chunks[0][0] - sent, "time to first token: the first chunk has no token; nothing can be seen."),
        (real[0][0], "time to first token: count from the moment when the request was sent."),
    ), unless=begin)
    close(first, begin, "the time to first token")
    explain(number(whole, "end to end"), (
        (chunks[-1][0] - sent, "end to end: the last chunk has no token. The answer was there before it."),
        (end - begin, "end to end counts from when the request was sent, not from the first token."),
    ), unless=end)
    close(whole, end, "end to end")
    _judge_gaps(list(gaps), real, chunks)


def _judge_gaps(gaps: list, real: Chunks, chunks: Chunks) -> None:
    tokens = sum(count for _, count in real)
    want = [0.0] * (real[0][1] - 1)
    for (before, _), (now, count) in pairwise(real):
        want += [(now - before) / count] * count
    if same(gaps, want):
        return
    seen = f"{plural(len(gaps), 'gap')} for {plural(tokens, 'token')}"
    for way in (_between(real), _between(chunks)):
        require(not gaps or not same(gaps, way),
                f"{seen}: you count chunks. Some tokens share a chunk, or a chunk has none.")
    require(len(gaps) == len(want), f"{seen}; {len(want)} are wanted.")
    require(not same(sum(gaps), sum(want)),
            f"gaps {_short(gaps)}: they add up, but a chunk of k tokens counts as k equal gaps: "
            f"{_short(want)}.")
    close(gaps, want, "the gaps")


def _between(chunks: Chunks) -> list[float]:
    times = [at for at, _ in chunks]
    return [after - before for before, after in pairwise(times)]


def _short(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


@exercise("15.retry_after", hints=(
    "Three answers. Never (it is larger than the whole queue), now, or later. For later: let those at the "
    "head of the queue leave, one after another, until both limits hold.",
    "While len(queued) + 1 > most_requests or sum(queued) + tokens > most_tokens: the head leaves, and its "
    "tokens have to be made first. The tokens made by then, divided by tokens_per_second, are the seconds: "
    "rounded up, for a second too early is a refusal again.",
    "if tokens > most_tokens: return None; made = 0; queued = list(queued); while len(queued) + 1 > "
    "most_requests or sum(queued) + tokens > most_tokens: made += queued.pop(0); return math.ceil(made / "
    "tokens_per_second)",
))
def retry_after(seconds):
    for door in queues():
        given = list(door.queued)
        got = answered(seconds(given, door.tokens, door.most_requests, door.most_tokens, door.rate))
        require(given == door.queued, "you changed the list of those that queue: make a copy.")
        most = plural(door.most_requests, "request")
        with about(f"{door.queued} in the queue, {door.tokens} tokens come, at most {most} and "
                   f"{door.most_tokens} tokens, {door.rate:g} tokens/s: you have {got!r}"):
            _judge_door(got, door)
    return ("Both limits are asked in one place, before anything is queued, and who is refused knows for how "
            "long. That is a 429 with Retry-After.")


def _judge_door(got, door: Queued) -> None:
    want = door.seconds
    if want is None:
        require(got is None, "it has more tokens than the queue may ever hold: waiting does not help, and "
                             "None says so.")
        return
    require(got is not None, "it fits, sooner or later: None is only for what never does.")
    got = number(got, "seconds")
    if got == want:
        return
    require(want > 0, "it fits now, the newcomer counted: at most means that the limit itself is allowed.")
    requests = len(door.queued) + 1
    tokens = sum(door.queued) + door.tokens
    exact = door.made_until_room / door.rate
    whole_queue = sum(door.queued) / door.rate
    explain(got, (
        (math.floor(exact), "that is rounded down: it would be refused again."),
        (exact, "Retry-After is in whole seconds: round up."),
        (math.ceil(whole_queue), "that is when the whole queue is done. Earlier there is room for one."),
    ), unless=want)
    require(got > 0, f"it does not fit now. {requests} requests and {tokens} tokens it would be.")
    raise Wrong(f"after {want} s there is room: requests leave from the head, whole; both limits must hold.")


@exercise("15.corrected", hints=(
    "Take one slow answer of v. When would the tester have sent, had it not stood and waited? And how long "
    " would each of these have waited until the server moved again?",
    "At interval, 2 · interval, … as long as that is before v. The one sent at k · interval would have "
    "waited v - k · interval.",
    "full = []; for v in latencies: while v > 0: full.append(v); v -= interval. return full",
))
def corrected(correct):
    for interval, latencies in testers():
        given = list(latencies)
        got = answered(correct(given, interval))
        with about(f"{latencies}, one every {interval} ms"):
            require(isinstance(got, list | tuple), f"you returned {got!r}; a list of milliseconds is wanted.")
            require(given == latencies, "you changed the list that you were given: make a new one.")
            _judge_corrected(sorted(got), latencies, interval)
    return ("One freeze of two seconds is one bad sample for a tester that waits, and twenty for its users, "
            "at ten requests a second.")


def _judge_corrected(got: list, latencies: list[int], interval: int) -> None:
    missed = [wait for took in latencies for wait in _missed(took, interval)]
    want = sorted([*latencies, *missed])
    if got == want:
        return
    alike = [took for took in latencies for _ in _missed(took, interval)]
    zeros = [0 for took in latencies if took % interval == 0]
    long = [wait for wait in missed if wait >= interval]
    _refuse(got, missed, "those that were measured belong to the list, too.")
    _refuse(got, latencies, "nothing was added: somebody who waits for an answer sends nothing.")
    _refuse(got, [*latencies, *alike], "those that were not sent would not all have waited for the whole "
                                       "time: each is one interval later.")
    _refuse(got, [*want, *zeros], "a request that is due just when the answer comes was not missed: no 0.")
    _refuse(got, [*latencies, *long], "a request that would have waited for less than an interval is "
                                      "missing, too.")
    require(len(got) == len(want), f"{len(got)} waits; {len(want)} are wanted: {want}.")
    raise Wrong(f"you have {got}; {want} is wanted.")


def _missed(took: int, interval: int) -> list[int]:
    """What those would have waited that were not sent during one answer."""
    waited = range(took - interval, 0, -interval)
    return list(waited)


def _refuse(got: list, mistake: list, message: str) -> None:
    require(got != sorted(mistake), message)


@exercise("15.start_playing", hints=(
    "If the first frame is played at time s, when is frame number i played? And when is it ready?",
    "Frame i is due at s + i · frame_seconds and must be ready by then: s ≥ ready[i] - i · frame_seconds, "
    "for every i, the first among them.",
    "return max(at - i * frame_seconds for i, at in enumerate(ready))",
))
def start_playing(start):
    for frame, ready in voices():
        got = number(start(list(ready), frame), "the start")
        with about(f"ready at {ready}, {frame:g} s a frame"):
            _judge_start(got, ready, frame)
    return ("A voice needs no more than this: the largest lateness of any frame. A model that is faster than "
            "speech can start with its first frame.")


def _judge_start(got: float, ready: list[float], frame: float) -> None:
    want = _smooth(ready, frame, first=0)
    widest = max((after - before for before, after in pairwise(ready)), default=0.0)
    explain(got, (
        (ready[-1], f"you have {got:g}: that is when all frames are there. It can start earlier."),
        (_smooth(ready, frame, first=1),
         f"you have {got:g}: frame 0 is due at the start itself, frame 1 one frame later."),
        (ready[0] + widest, f"you have {got:g}: one wide gap says nothing if frames lie in store before it."),
    ), unless=want)
    for i, at in enumerate(ready):
        due = got + i * frame
        require(at <= due + 1e-9, f"you have {got:g}: frame {i} is due at {due:g} s and ready at {at:g}; the "
                                  "voice stutters.")
    close(got, want, "the start (nothing stutters, but it could be earlier)")


def _smooth(ready: list[float], frame: float, first: int) -> float:
    """The earliest start, if the first frame is due `first` frames after it."""
    return max(at - i * frame for i, at in enumerate(ready, first))
