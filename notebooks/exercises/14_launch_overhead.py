"""Judges and hints of notebook 14, launch overhead. No GPU is needed: clocks are simulated, and tensors without
numbers stand in for tensors that must not be looked at."""

import random
from itertools import combinations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require
from aiinfra.perf import gaps


def _idle(events: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in gaps(events))


@exercise("14.idle_gaps", hints=(
    "It is the old problem of merging intervals. In which order must they be looked at?",
    "Sort by start. Keep the latest end seen so far: a gap is where the next start lies behind it.",
    "idle, until = 0, None; for start, end in sorted(events): if until is not None: idle += max(0, start - until); "
    "until = end if until is None else max(until, end)",
))
def idle_gaps(answer):
    close(answer([(0.0, 1.0), (3.0, 4.0), (4.0, 6.0)]), 2.0, "three kernels in order, one gap of 2")
    got = answer([(3.0, 4.0), (0.0, 1.0)])
    require(not isinstance(got, float | int) or got >= 0,
            "less than nothing was idle. A trace is not sorted by time: its events come stream by stream.")
    close(got, 2.0, "two kernels, [(3.0, 4.0), (0.0, 1.0)]: the later one is listed first")
    got = answer([(0.0, 10.0), (1.0, 2.0), (12.0, 13.0)])
    require(got != 10.0, "one stream is busy from 0 to 10 and another from 1 to 2. You counted from 2 on, but at 2 the "
            "first is still at work.")
    close(got, 2.0, "a short kernel on a second stream, while a long one runs")
    rng = random.Random(0)
    for _ in range(50):
        starts = [rng.uniform(0, 10) for _ in range(rng.randrange(1, 12))]
        events = [(start, start + rng.expovariate(1.0)) for start in starts]
        close(answer(list(events)), _idle(events), f"{len(events)} random kernels")
    close(answer([(2.0, 5.0)]), 0.0, "a single kernel")
    return "The same function serves a profiler's trace, a database's lock waits and a calendar."


@exercise("14.layer_size", hints=(
    "Two times are equal: that of asking for a layer's kernels, and that of reading its weights.",
    "Asking takes kernels · ask_seconds. In that time memory moves bandwidth · seconds bytes. How many weights are that?",
    "return kernels * ask_seconds * bandwidth / bytes_per_weight",
))
def layer_size(answer):
    for case in ((12, 5e-6, 3.35e12, 2), (12, 1.3e-6, 3.35e12, 2), (20, 5e-6, 4.0e12, 1), (10, 8e-6, 2.0e12, 0.5)):
        kernels, ask, bandwidth, size = case
        want, got = kernels * ask * bandwidth / size, answer(*case)
        if isinstance(got, int | float):
            require(abs(got / want - size) > 1e-6 or size == 1, "that is bytes; the question is how many parameters they are.")
            require(abs(got / want - 1 / kernels) > 1e-6, f"that is for one kernel; a layer asks for {kernels}.")
            require(size == 1 or abs(got / want - size ** 2) > 1e-6,
                    "the more bytes a weight has, the fewer weights are read in the same time.")
        close(got, want, f"parameters for {kernels} kernels at {ask * 1e6:g} µs and {size} bytes a weight")
    return "100 million parameters a layer: a Llama-3-8B layer has 218, one of SmolLM2-135M has 3.5."


@exercise("14.fill", hints=(
    "A graph reads fixed addresses. What happens to buffers[\"tokens\"] = something_new, and what stands in the rows "
    "behind yours?",
    "Write in place (x[:n] = …), all rows of the bucket, every time. A padding row must not be written to any block, and "
    "has no keys.",
    "For each name: values = [row[i] for row in rows] + [pad] * (bucket - len(rows)), then "
    "buffers[name].copy_(torch.tensor(values)). The pads: 0, 0, -1 for slots, 0 for context_lens.",
))
def fill(answer):
    bucket = 8
    buffers = {name: torch.full((bucket,), 99) for name in ("tokens", "positions", "slots", "context_lens")}
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in buffers.items()}
    five, two = [(11, 4, 20), (12, 0, 32), (13, 9, 57), (14, 2, 66), (15, 7, 87)], [(21, 5, 21), (22, 1, 33)]
    for rows in (five, two, [(i, i, i) for i in range(8)]):
        result = answer(buffers, rows)
        if result is Ellipsis:
            raise Unsolved
        pad = bucket - len(rows)
        for name, (tensor, address) in before.items():
            require(name in buffers and buffers[name] is tensor and tensor.data_ptr() == address,
                    f"`{name}` is another tensor now. The graph still reads the old one: write into the memory that is there.")
        require(all(not (tensor == 99).any() for tensor in buffers.values()),
                "rows behind the requests have not been written at all.")
        want = {"tokens": [r[0] for r in rows], "positions": [r[1] for r in rows], "slots": [r[2] for r in rows],
                "context_lens": [r[1] + 1 for r in rows]}
        for name, values in want.items():
            close(buffers[name][:len(rows)], values, f"`{name}` of the requests")
        slots, contexts = buffers["slots"][len(rows):].tolist(), buffers["context_lens"][len(rows):].tolist()
        require(slots == [-1] * pad, f"a padding row has slot {max(slots, default=0)}: its key would be written there, "
                "into a block that belongs to somebody.")
        for name in ("tokens", "positions"):
            least = int(buffers[name].min())
            require(least >= 0, f"a padding row has {least} in `{name}`: the graph computes that row too, and there is no such "
                    "token or position.")
        require(contexts == [0] * pad, f"a padding row has a context of {max(contexts, default=0)}: it would attend to keys "
                "of others, for nothing.")
    return "Five requests in a bucket of eight, then two: and no trace of the five."


class _NoMask(TorchDispatchMode):
    """Writing through a boolean mask makes a GPU count it, and the CPU wait for the count; a meta tensor lets it pass."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_put" in func._schema.name and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]):
            raise RuntimeError("x[mask] = … has to count the mask first")
        return func(*args, **(kwargs or {}))


@exercise("14.next_tokens", hints=(
    "Python's `if` needs a number on the CPU. Which operation picks between two tensors, element by element, on the GPU?",
    "Work out both answers for all rows, and choose with torch.where. Or find one formula: what must the noise be "
    "multiplied with, and what may a temperature of 0 be replaced by?",
    "sampled = (logits / temperature[:, None] + noise).argmax(-1); greedy = logits.argmax(-1); "
    "return torch.where(temperature > 0, sampled, greedy)",
))
def next_tokens(answer):
    generator = torch.Generator().manual_seed(14)
    for rows in (1, 6, 32):
        logits = torch.randn(rows, 50, generator=generator) * 3
        noise = -torch.empty(rows, 50).exponential_(generator=generator).log()
        temperature = torch.tensor([(0.0, 0.7, 1.5)[i % 3] for i in range(rows)])
        got = answer(logits.clone(), temperature.clone(), noise.clone())
        want = torch.stack([row.argmax() if t == 0 else (row / t + n).argmax() for row, t, n in zip(logits, temperature, noise)])
        for row, t in enumerate(temperature.tolist() if isinstance(got, Tensor) and got.shape == want.shape else ()):
            how = "its logits.argmax()" if t == 0 else "its (logits / temperature + noise).argmax()"
            require(got[row] == want[row], f"row {row} has temperature {t:g}: {how} is {want[row]}, you have {got[row]}.")
        close(got, want, f"the tokens of {rows} request{'s' if rows > 1 else ''}, every third of them greedy")
    hidden = [torch.empty(shape, device="meta") for shape in ((6, 50), (6,), (6, 50))]
    try:
        with _NoMask():
            got = answer(*hidden)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0][:110]
        raise Wrong(f"right tokens, but somewhere you look at a number, and the CPU waits: {why}.") from None
    require(isinstance(got, Tensor) and got.device.type == "meta",
            "right tokens, but the result is not on the device of the logits.")
    return "Both kinds of request in one batch, and the CPU has not looked once."


class _Device:
    """A GPU with a clock. A step takes 10 ms; the CPU needs 6 ms to read a token and think about it."""

    STEP, HOST = 10.0, 6.0

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.started, self.reads = tokens, 0, 0
        self.cpu = self.free = 0.0
        self.done: list[float] = []

    def start(self, after: object) -> "_Step":
        expected = -1 if self.started == 0 else self.started - 1
        number = after.number if isinstance(after, _Step) else -1
        if number != expected:
            raise Wrong("each step needs the token of the step before it: pass start() the handle of the step that was "
                        "started last, and None for the first.")
        if self.started > len(self.tokens) + 2:
            raise Wrong("steps are started without end.")
        self.free = max(self.cpu, self.free) + self.STEP
        self.done.append(self.free)
        self.started += 1
        return _Step(self.started - 1)

    def read(self, step: "_Step") -> int:
        self.cpu = max(self.cpu, self.done[step.number]) + self.HOST
        self.reads += 1
        return self.tokens[step.number] if step.number < len(self.tokens) else 7


class _Step:
    """A step that was started. Its token lies on the device."""

    def __init__(self, number: int) -> None:
        self.number = number


@exercise("14.one_ahead", hints=(
    "When you read step i's token, which step should the GPU already be busy with?",
    "Before the loop start the first step. In the loop start the next one on the handle of the last, and only then read the last.",
    "step = gpu.start(None); loop: following = gpu.start(step) if fewer than limit were started; token = gpu.read(step); append; "
    "leave at stop or limit; step = following. What was in flight is never read.",
))
def one_ahead(answer):
    stories = [([5, 6, 8, 9, 0], 50), ([4] * 30, 20), ([0], 50), ([3, 0], 2), ([3, 4, 5], 1)]
    for tokens, limit in stories:
        gpu = _Device(tokens)
        got = answer(gpu, 0, limit)
        if got is Ellipsis:
            raise Unsolved
        want = (tokens[:tokens.index(0) + 1] if 0 in tokens else tokens)[:limit]
        require(isinstance(got, list), f"return a list of tokens; you returned {type(got).__name__}.")
        require(got[:-1] != want, "one token too many: the step that was in flight when the stop token was seen is surplus.")
        require(got == want, f"the device makes {tokens[:6]}…, the stop token is 0 and the limit {limit}: you returned "
                f"{got[:8]}, wanted is {want[:8]}.")
        require(gpu.started <= limit, f"{gpu.started} steps were started for a limit of {limit}: that end is known in advance.")
        require(gpu.reads <= len(want), f"{gpu.reads} steps were read for {len(want)} tokens: the CPU waited for a surplus step.")
        most = gpu.STEP * len(want) + gpu.HOST
        require(gpu.cpu <= most + 1e-6, f"{len(want)} tokens took {gpu.cpu:.0f} ms; {most:.0f} are enough. The GPU waited for the "
                f"CPU between its {gpu.STEP:.0f} ms steps: keep one step in flight.")
    return "10 ms a token in place of 16: the CPU's 6 ms are hidden. The price is one surplus step for each request that stops."


def _padding(counts: dict[int, int], buckets: tuple[int, ...]) -> int:
    return sum(steps * (min(b for b in buckets if b >= size) - size) for size, steps in counts.items())


@exercise("14.buckets", hints=(
    "Which bucket can never be left out? And is there any point in a bucket that is not a batch size that occurs?",
    "The largest size must be one. Choose the other k - 1 among the sizes that occur; with few sizes you can try all choices.",
    "itertools.combinations(sorted sizes without the largest, min(k, len(counts)) - 1), each with the largest added; keep the "
    "one with the least sum of steps · (smallest bucket that is large enough - size).",
))
def buckets(answer):
    for counts, k in (({1: 10, 2: 10, 3: 10, 4: 10, 8: 1}, 3), ({1: 500, 5: 40, 6: 45, 7: 30, 30: 100, 32: 3}, 3), ({3: 5}, 1),
                      ({n: (n * 37) % 23 + 1 for n in range(1, 13)}, 4), ({2: 1, 5: 9}, 4)):
        got = answer(dict(counts), k)
        if got is Ellipsis:
            raise Unsolved
        require(isinstance(got, list | tuple | set) and all(isinstance(b, int) for b in got),
                "return a list of batch sizes, as integers.")
        got, sizes = sorted(got), sorted(counts)
        require(len(set(got)) <= k, f"{len(set(got))} buckets, but only {k} graphs may be recorded.")
        require(got and got[-1] >= sizes[-1], f"a batch of {sizes[-1]} fits into none of {got}: it would run without a graph.")
        best = min(_padding(counts, (*c, sizes[-1])) for c in combinations(sizes[:-1], min(k, len(sizes)) - 1))
        mine = _padding(counts, tuple(got))
        require(mine <= best, f"for {counts} and {k} graphs your {got} pad {mine:,} rows; {best:,} are possible.")
    return "The sizes that occur often get a graph of their own, the rare ones share. vLLM lets you set such a list."
