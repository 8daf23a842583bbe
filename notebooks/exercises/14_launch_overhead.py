"""Judges and hints of notebook 14, launch overhead. No GPU is needed: clocks are simulated, and tensors
without numbers stand in for tensors that must not be looked at."""

import random
from collections.abc import Iterable
from itertools import combinations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import answered, explain
from aiinfra.perf import gaps


def _idle(events: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in gaps(events))


@exercise("14.idle_gaps", hints=(
    "It is the old problem of merging intervals. In which order must they be looked at?",
    "Sort by start. Keep the latest end seen so far: a gap is where the next start lies behind it.",
    "idle, until = 0, None; for start, end in sorted(events): if until is not None: idle += max(0, start - "
    "until); until = end if until is None else max(until, end)",
))
def idle_gaps(answer):
    in_order = [(0.0, 1.0), (3.0, 4.0), (4.0, 6.0)]
    close(answer(in_order), 2.0, "three kernels in order, one gap of 2")
    got = answer([(3.0, 4.0), (0.0, 1.0)])
    require(not isinstance(got, float | int) or got >= 0,
            "less than nothing was idle. A trace is not sorted by time: its events come stream by stream.")
    close(got, 2.0, "two kernels, [(3.0, 4.0), (0.0, 1.0)]: the later one is listed first")
    two_streams = [(0.0, 10.0), (1.0, 2.0), (12.0, 13.0)]
    got = answer(two_streams)
    require(got != 10.0, "one stream is busy from 0 to 10 and another from 1 to 2. You counted from 2 on, "
                         "but at 2 the first is still at work.")
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
    "Asking takes kernels · ask_seconds. In that time memory moves bandwidth · seconds bytes. How many "
    "weights are that?",
    "return kernels * ask_seconds * bandwidth / bytes_per_weight",
))
def layer_size(answer):
    cases = (
        (10, 5e-6, 3.35e12, 2),
        (10, 1.3e-6, 3.35e12, 2),
        (20, 5e-6, 4.0e12, 1),
        (12, 8e-6, 2.0e12, 0.5),
    )
    for kernels, ask, bandwidth, size in cases:
        want = kernels * ask * bandwidth / size
        got = answer(kernels, ask, bandwidth, size)
        if isinstance(got, int | float):
            explain(got, (
                (want * size, "that is bytes; the question is how many parameters they are."),
                (want / kernels, f"that is for one kernel; a layer asks for {kernels}."),
                (want * size**2, "the more bytes a weight has, the fewer weights are read in the same time."),
            ), unless=want)
        close(got, want, f"parameters for {kernels} kernels at {ask * 1e6:g} µs and {size} bytes a weight")
    return "84 million parameters a layer: a Llama-3-8B layer has 218, one of SmolLM2-135M has 3.5."


@exercise("14.fill", hints=(
    "A graph reads fixed addresses. What happens to buffers[\"tokens\"] = something_new, and what stands in "
    "the rows behind yours?",
    "Write in place (x[:n] = …), all rows of the bucket, every time. A padding row must not be written to "
    "any block, and has no keys.",
    "For each name: values = [row[i] for row in rows] + [pad] * (bucket - len(rows)), then "
    "buffers[name].copy_(torch.tensor(values)). The pads: 0, 0, -1 for slots, 0 for context_lens.",
))
def fill(answer):
    buffers = {name: torch.full((8,), 99) for name in ("tokens", "positions", "slots", "context_lens")}
    kept = dict(buffers)
    addresses = {name: tensor.data_ptr() for name, tensor in buffers.items()}
    five = [(11, 4, 20), (12, 0, 32), (13, 9, 57), (14, 2, 66), (15, 7, 87)]
    two = [(21, 5, 21), (22, 1, 33)]
    eight = [(i, i, i) for i in range(8)]
    for rows in (five, two, eight):
        answered(answer(buffers, rows))
        for name, tensor in kept.items():
            same_tensor = buffers.get(name) is tensor
            same_memory = tensor.data_ptr() == addresses[name]
            require(same_tensor and same_memory,
                    f"`{name}` is another tensor now. The graph still reads the old one: write into the "
                    "memory that is there.")
        for tensor in buffers.values():
            require(not (tensor == 99).any(), "rows behind the requests have not been written at all.")
        tokens, positions, slots = map(list, zip(*rows))
        contexts = [position + 1 for position in positions]
        want = {
            "tokens": tokens,
            "positions": positions,
            "slots": slots,
            "context_lens": contexts,
        }
        for name, values in want.items():
            close(buffers[name][:len(rows)], values, f"`{name}` of the requests")
        _judge_padding(buffers, len(rows))
    return "Five requests in a bucket of eight, then two: and no trace of the five."


def _judge_padding(buffers: dict[str, Tensor], rows: int) -> None:
    """Raise Wrong if a row behind the requests would be written to a block, or look at keys."""
    slots = buffers["slots"][rows:].tolist()
    require(set(slots) <= {-1},
            f"a padding row has slot {max(slots, default=0)}: its key would be written there, into a block "
            "that belongs to somebody.")
    for name in ("tokens", "positions"):
        least = int(buffers[name].min())
        require(least >= 0,
                f"a padding row has {least} in `{name}`: the graph computes that row too, and there is no "
                "such token or position.")
    contexts = buffers["context_lens"][rows:].tolist()
    require(set(contexts) <= {0},
            f"a padding row has a context of {max(contexts, default=0)}: it would attend to keys of others, "
            "for nothing.")


class _NoMask(TorchDispatchMode):
    """A boolean mask makes a GPU count it, and the CPU wait for the count; a meta tensor lets it pass."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_put" in func._schema.name and any(map(_is_mask, args[1])):
            raise RuntimeError("x[mask] = … has to count the mask first")
        return func(*args, **(kwargs or {}))


def _is_mask(index) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


@exercise("14.next_tokens", hints=(
    "Python's `if` needs a number on the CPU. Which operation picks between two tensors, element by element, "
    "on the GPU?",
    "Work out both answers for all rows, and choose with torch.where. Or find one formula: what must the "
    "noise be multiplied with, and what may a temperature of 0 be replaced by?",
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
        want = _one_by_one(logits, temperature, noise)
        if isinstance(got, Tensor) and got.shape == want.shape:
            for row, t in enumerate(temperature.tolist()):
                how = "its (logits / temperature + noise).argmax()"
                if t == 0:
                    how = "its logits.argmax()"
                mine, right = got[row], want[row]
                require(mine == right, f"row {row} has temperature {t:g}: {how} is {right}, you have {mine}.")
        close(got, want, f"the tokens of {plural(rows, 'request')}, every third of them greedy")
    got = _without_numbers(answer)
    require(isinstance(got, Tensor) and got.device.type == "meta",
            "right tokens, but the result is not on the device of the logits.")
    return "Both kinds of request in one batch, and the CPU has not looked once."


def _one_by_one(logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
    """The tokens, row after row: the way that looks at each temperature."""
    tokens = []
    for row, t, n in zip(logits, temperature, noise):
        scores = row if t == 0 else row / t + n
        tokens.append(scores.argmax())
    return torch.stack(tokens)


def _without_numbers(answer):
    """What the answer makes of tensors that hold nothing. Raises Wrong if it looks at a number."""
    logits = torch.empty(6, 50, device="meta")
    temperature = torch.empty(6, device="meta")
    noise = torch.empty_like(logits)
    try:
        with _NoMask():
            return answer(logits, temperature, noise)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0][:110]
        raise Wrong(f"right tokens, but somewhere you look at a number, and the CPU waits: {why}.") from None


class _Device:
    """A GPU with a clock. A step takes 10 ms; the CPU needs 6 ms to read a token and think about it."""

    STEP, HOST = 10.0, 6.0

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.started = 0
        self.reads = 0
        self.cpu = self.free = 0.0
        self.done: list[float] = []

    def start(self, after: object) -> "_Step":
        last = self.started - 1                # -1: none was started
        number = after.number if isinstance(after, _Step) else -1
        if number != last:
            raise Wrong("each step needs the token of the step before it: pass start() the handle of the "
                        "step that was started last, and None for the first.")
        if self.started > len(self.tokens) + 2:
            raise Wrong("steps are started without end.")
        self.free = max(self.cpu, self.free) + self.STEP
        self.done.append(self.free)
        self.started += 1
        return _Step(self.started - 1)

    def read(self, step: "_Step") -> int:
        there = self.done[step.number]
        self.cpu = max(self.cpu, there) + self.HOST
        self.reads += 1
        if step.number < len(self.tokens):
            return self.tokens[step.number]
        return 7


class _Step:
    """A step that was started. Its token lies on the device."""

    def __init__(self, number: int) -> None:
        self.number = number


@exercise("14.one_ahead", hints=(
    "When you read step i's token, which step should the GPU already be busy with?",
    "Before the loop start the first step. In the loop start the next one on the handle of the last, and "
    "only then read the last.",
    "step = gpu.start(None); loop: following = gpu.start(step) if fewer than limit were started; token = "
    "gpu.read(step); append; leave at stop or limit; step = following. What was in flight is never read.",
))
def one_ahead(answer):
    stories = (
        ([5, 6, 8, 9, 0], 50),
        ([4] * 30, 20),
        ([0], 50),
        ([3, 0], 2),
        ([3, 4, 5], 1),
    )
    for tokens, limit in stories:
        gpu = _Device(tokens)
        got = answered(answer(gpu, 0, limit))
        want = tokens[:limit]
        if 0 in want:
            want = want[:want.index(0) + 1]
        count = len(want)
        require(isinstance(got, list), f"return a list of tokens; you returned {type(got).__name__}.")
        require(got[:-1] != want,
                "one token too many: the step that was in flight when the stop token was seen is surplus.")
        mine, right = got[:8], want[:8]
        require(got == want,
                f"the device makes {tokens[:6]}…, the stop token is 0 and the limit {limit}: you returned "
                f"{mine}, wanted is {right}.")
        require(gpu.started <= limit,
                f"{gpu.started} steps were started for a limit of {limit}: that end is known in advance.")
        require(gpu.reads <= count,
                f"{gpu.reads} steps were read for {count} tokens: the CPU waited for a surplus step.")
        most = gpu.STEP * count + gpu.HOST
        require(gpu.cpu <= most + 1e-6,
                f"{count} tokens took {gpu.cpu:.0f} ms; {most:.0f} are enough. The GPU waited for the CPU "
                f"between its {gpu.STEP:.0f} ms steps: keep one step in flight.")
    return ("10 ms a token in place of 16: the CPU's 6 ms are hidden. The price is one surplus step for each "
            "request that stops.")


def _padding(counts: dict[int, int], buckets: Iterable[int]) -> int:
    """How many rows are computed for nobody."""
    padded = 0
    for size, steps in counts.items():
        bucket = min(bucket for bucket in buckets if bucket >= size)
        padded += steps * (bucket - size)
    return padded


# Batch size -> steps of it, and how many graphs may be recorded.
_LOADS = (
    ({1: 10, 2: 10, 3: 10, 4: 10, 8: 1}, 3),
    ({1: 500, 5: 40, 6: 45, 7: 30, 30: 100, 32: 3}, 3),
    ({3: 5}, 1),
    ({n: (n * 37) % 23 + 1 for n in range(1, 13)}, 4),
    ({2: 1, 5: 9}, 4),
)


@exercise("14.buckets", hints=(
    "Which bucket can never be left out? And is there any point in a bucket that is not a batch size that "
    "occurs?",
    "The largest size must be one. Choose the other k - 1 among the sizes that occur; with few sizes you can "
    "try all choices.",
    "itertools.combinations(sorted sizes without the largest, min(k, len(counts)) - 1), each with the "
    "largest added; keep the one with the least sum of steps · (smallest bucket that is large enough - "
    "size).",
))
def buckets(answer):
    for counts, k in _LOADS:
        got = answered(answer(dict(counts), k))
        whole = isinstance(got, list | tuple | set) and all(isinstance(bucket, int) for bucket in got)
        require(whole, "return a list of batch sizes, as integers.")
        got = sorted(got)
        different = len(set(got))
        require(different <= k, f"{different} buckets, but only {k} graphs may be recorded.")
        *smaller, largest = sorted(counts)
        require(got and got[-1] >= largest,
                f"a batch of {largest} fits into none of {got}: it would run without a graph.")
        others = combinations(smaller, min(k, len(counts)) - 1)
        best = min(_padding(counts, (*choice, largest)) for choice in others)
        mine = _padding(counts, got)
        require(mine <= best,
                f"for {counts} and {k} graphs your {got} pad {mine:,} rows; {best:,} are possible.")
    return ("The sizes that occur often get a graph of their own, the rare ones share. vLLM lets you set "
            "such a list.")
