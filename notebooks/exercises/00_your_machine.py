"""Judges and hints of notebook 00, your machine. Nothing is timed: every figure is the judge's own."""

import math
from typing import NamedTuple

import torch

from aiinfra.errors import plural
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import pair
from aiinfra.perf import Hardware


def _is(got, value: float) -> bool:
    """True if `got` is that number, to a millionth."""
    return isinstance(got, int | float) and math.isclose(got, value, rel_tol=1e-6)


def _known(got, want: float, mistakes: dict[float, str]) -> None:
    """Raise Wrong with the message of the first mistake that gives `got`, unless `got` is right."""
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if _is(got, want):
        return
    for value, message in mistakes.items():
        if _is(got, value):
            raise Wrong(message)


def _whole(got, want: int, what: str) -> None:
    close(got, want, what)
    require(float(got) == int(got), f"{what}: {got} is not a whole number.")


# name: parameters, bytes of a weight, tokens of context, bytes of cache a token, bytes/s
_READERS = {
    "Llama-3.1-8B in bfloat16 on one H100, 8,192 tokens of context": (8.03e9, 2, 8192, 131_072, 3.35e12),
    "a 1-billion model in 4 bits on a laptop, at its first token": (1e9, 0.5, 0, 65_536, 60e9),
    "a 70-billion model in FP8 on 8 H20, 100,000 tokens of context": (70e9, 1, 100_000, 327_680, 32e12),
}


@exercise("00.rate", hints=(
    "Which bytes does one new token read? There are two kinds: some are the same for every token, some grow "
    "with the conversation.",
    "Bytes per token = weights + cache. Seconds per token ≥ bytes / bandwidth, and tokens per second is the "
    "reciprocal.",
    "`bandwidth / (parameters * bytes_per_weight + context * kv_bytes)`.",
))
def rate(answer):
    for name, (parameters, width, context, kv, bandwidth) in _READERS.items():
        got = answer(parameters, width, context, kv, bandwidth)
        weights = parameters * width
        cache = context * kv
        want = bandwidth / (weights + cache)
        seconds = (weights + cache) / bandwidth
        _known(got, want, {
            seconds:
                "that is seconds per token. Asked for: tokens per second.",
            bandwidth / weights:
                "the conversation is missing: each new token reads the cache of all earlier ones.",
            bandwidth / parameters:
                "a weight is not a byte: how many bytes does each take?",
            bandwidth / (weights + kv):
                "the cache of one token only; all `context` tokens left theirs.",
            bandwidth / (weights + cache * width):
                "kv_bytes is in bytes already: `bytes_per_weight` belongs to the weights alone.",
        })
        close(got, want, f"tokens/s of {name}")
    return ("At 8,192 tokens the cache of Llama-3.1-8B costs 6 % of its speed; at 100,000, nearly half. "
            "Notebook 11 goes after that.")


_MACHINES = {                                  # name: bytes of a weight, FLOP/s, bytes/s
    "a CPU in float32": (4, 103e9, 31.5e9),
    "an H20 in bfloat16, at 3.6 TB/s": (2, 148e12, 3.6e12),
    "an H20 in bfloat16, at 4 TB/s": (2, 148e12, 4.0e12),
    "4-bit weights, bfloat16 arithmetic, on an A100": (0.5, 312e12, 2.039e12),
    "an H100 in FP8": (1, 1979e12, 3.35e12),
}


@exercise("00.full_batch", hints=(
    "Write down two times for `batch` requests and one weight: to read it, and to compute with it. One "
    "depends on the batch.",
    "Reading takes bytes_per_weight / bandwidth, computing 2 · batch / flops_per_second. Set them equal, "
    "solve for batch, round up.",
    "`math.ceil(flops_per_second * bytes_per_weight / (2 * bandwidth))`: half the ridge, times the bytes of "
    "a weight.",
))
def full_batch(answer):
    for name, (width, flops, bandwidth) in _MACHINES.items():
        got = answer(width, flops, bandwidth)
        exact = flops * width / (2 * bandwidth)
        want = math.ceil(exact)
        _known(got, want, {
            math.ceil(2 * exact):
                "twice too large: a multiply-add counts as two operations.",
            math.ceil(exact / width):
                "that ignores how wide a weight is: 4-bit weights arrive eight times as fast as float32.",
            math.ceil(2 * exact / width):
                "that is the ridge, in FLOPs per byte. How many FLOPs does one request do with each byte?",
            math.floor(exact):
                "one too few: with that batch, reading still takes longer.",
            exact:
                "requests come in whole numbers, and one too few is not enough.",
            math.floor(exact) + 1:
                f"one too many: with {want} computing takes exactly as long as reading, and that is enough.",
            math.ceil(1 / exact):
                "upside down: more bandwidth lets a smaller batch reach the arithmetic, not a larger one.",
        })
        _whole(got, want, f"the batch for {name}")
    return ("By their data sheets 37 on an H20 and 296 on an H100, in bfloat16: two machines for two kinds "
            "of business.")


# name: bytes of weights, users, tokens of context each, bytes of cache a token, bytes of a GPU, usable share
_HOUSES = {
    "37 billion weights in bfloat16, no user yet": (74e9, 0, 0, 0, 80e9, 0.9),
    "70 billion in bfloat16, no user yet": (141e9, 0, 0, 0, 80e9, 0.85),
    "8 billion, 5 users who send whole libraries": (16.06e9, 5, 500_000, 131_072, 80e9, 0.9),
    "R1 on H20, 64 users": (671e9, 64, 4096, 70_272, 96e9, 0.9),
    "R1 on H20, 300 users": (671e9, 300, 4096, 70_272, 96e9, 0.9),
    "a model that fills half a GPU, all it may use": (40e9, 0, 0, 0, 80e9, 0.5),
}


@exercise("00.gpus", hints=(
    "Add up all bytes that have to be somewhere. Then ask what one GPU really offers.",
    "Need: weights + users · context · kv_bytes. Offer: gpu_bytes · usable for each GPU. Round up, then up "
    "again to a power of two.",
    "`n = 1`, then `while n * gpu_bytes * usable < need: n *= 2`, and return n.",
))
def gpus(answer):
    for name, (weights, users, context, kv, size, usable) in _HOUSES.items():
        a_user = context * kv
        need = weights + users * a_user
        offer = size * usable
        want = _power(need / offer)
        copied = (f"{name}: no number of GPUs is enough if each holds all weights. Here the weights are cut "
                  "as well: every GPU holds its part of them.")
        try:
            got = answer(weights, users, context, kv, size, usable)
        except OverflowError:                 # doubled for ever
            raise Wrong(copied) from None
        require(not (isinstance(got, int | float) and got > 1e12), copied)
        enough = math.ceil(need / offer)
        _known(got, want, {
            _power(weights / offer):
                f"{name}: the weights fit, and then there is no room for the users' caches.",
            _power(need / size):
                f"{name}: that uses every byte of every GPU; an engine may use only {usable:.0%}.",
            enough:
                f"{name}: {enough} would be enough bytes, but the model is cut in 1, 2, 4, 8, … parts.",
            _power((weights + a_user) / offer):
                f"{name}: that has room for one user.",
        })
        _whole(got, want, f"GPUs for {name}")
    return ("At the maker's 96 GB, a tenth kept back, 64 users of R1 fit on 8 H20. 300 need 16, and on 16 "
            "there is room for 2,400: the weights are paid for once.")


def _power(least: float) -> int:
    """The smallest power of two that is at least `least`, at least 1."""
    if least <= 1:
        return 1
    return 2 ** math.ceil(math.log2(least) - 1e-12)


class _Step(NamedTuple):
    """A measured step of some model, and which limit it runs into."""

    name: str
    seconds: float
    nbytes: float
    flops: float
    operations: int
    limit: str


_STEPS = (
    _Step("one user of an 8B model", 6.1e-3, nbytes=16e9, flops=16e9, operations=600, limit="memory"),
    _Step("a prompt of 4,096 tokens", 0.125, nbytes=17e9, flops=66e12, operations=600, limit=("compute")),
    _Step("one user of a 135M model", 9.2e-3, nbytes=0.27e9, flops=0.27e9, operations=1554,
          limit="dispatch"),
    _Step("256 users of a 1B model", 5e-3, nbytes=9e9, flops=0.6e12, operations=400, limit="memory"),
)
_SHEET = Hardware(
    name="a GPU",
    memory_bytes=80e9,
    bandwidth=3.0e12,
    float32=60e12,
    bfloat16=700e12,
    dispatch_seconds=5e-6,
)


@exercise("00.diagnose", hints=(
    "Each of the three limits, alone, gives a least time. On a GPU that overlaps them, which one does the "
    "step have to wait for?",
    "nbytes / sheet.bandwidth, flops / sheet.bfloat16, operations · sheet.dispatch_seconds. The largest is "
    "the limit; its share is largest / seconds.",
    "`floors = {\"memory\": …, \"compute\": …, \"dispatch\": …}`; `name = max(floors, key=floors.get)`; "
    "return name, floors[name] / seconds.",
))
def diagnose(answer):
    for step in _STEPS:
        floors = {
            "memory": step.nbytes / 3.0e12,
            "compute": step.flops / 700e12,
            "dispatch": step.operations * 5e-6,
        }
        got = answer(step.seconds, step.nbytes, step.flops, step.operations, _SHEET)
        pair(got, "return two things: (name, share).")
        found, share = got
        _judge_limit(step, floors, found)
        _judge_share(step, floors, share)
    return ("Memory-bound: use fewer bytes. Compute-bound: buy arithmetic. Dispatch-bound: neither helps; "
            "ask less often.")


def _judge_limit(step: _Step, floors: dict[str, float], found) -> None:
    require(found in floors, f'the name must be "memory", "compute" or "dispatch"; yours is {found!r}.')
    name, limit = step.name, step.limit
    milliseconds = {key: 1e3 * seconds for key, seconds in floors.items()}
    if found == min(floors, key=floors.get):
        raise Wrong(f"{name}: {found} takes the LEAST time of the three; the step waits for the one that "
                    "takes longest.")
    if limit == "dispatch" and found != limit:
        raise Wrong(f"{name}: {step.operations:,} calls of 5 µs take {milliseconds['dispatch']:.1f} ms, and "
                    f"{found} only {milliseconds[found]:.2f} ms. Did you count the asking?")
    require(found == limit,
            f"{name}: {limit} needs {milliseconds[limit]:.2f} ms, {found} {milliseconds[found]:.2f} ms.")


def _judge_share(step: _Step, floors: dict[str, float], share) -> None:
    name, seconds = step.name, step.seconds
    best = floors[step.limit] / seconds
    _known(share, best, {
        1 / best:
            f"{name}: a share of {1 / best:.2f} is more than all of it; the floor belongs on top.",
        sum(floors.values()) / seconds:
            f"{name}: that adds up the three limits, but this GPU overlaps them.",
        1 - best:
            f"{name}: that is the share which the limit does NOT explain.",
        100 * best:
            f"{name}: a share is between 0 and 1, not in percent.",
        step.flops / _SHEET.float32 / seconds:
            f"{name}: you divided by float32, and this sheet's bfloat16 is larger. A share above 1 gives it "
            "away: a floor cannot exceed the measured time.",
    })
    close(share, best, f"the share for {name}")


@exercise("00.experts", hints=(
    "Look at ONE expert and at the chance that nobody in the batch wants it. Then add up over all experts.",
    "One token leaves an expert alone with probability 1 − chosen/experts, a whole batch with that to the "
    "power of batch. Expected experts read: experts · (1 − that).",
    "`touched = experts * (1 - (1 - chosen / experts) ** batch)`; return touched * expert_bytes / batch.",
))
def experts(answer):
    cases = (
        (1, 256, 8, 44e6),
        (3, 8, 2, 176e6),
        (32, 256, 8, 44e6),
        (5, 16, 1, 10e6),
        (128, 64, 6, 17e6),
    )
    for batch, total, chosen, size in cases:
        name = f"{plural(batch, 'token')}, {chosen} of {total} experts"
        per_token = size / batch
        untouched = (1 - chosen / total) ** batch
        touched = total * (1 - untouched)
        one_by_one = (1 - 1 / total) ** (batch * chosen)           # as if a token could pick an expert twice
        want = touched * per_token
        got = answer(batch, total, chosen, size)
        _known(got, want, {
            touched * size:
                f"{name}: those are the bytes of the whole step; asked for are the bytes for each token.",
            chosen * size:
                f"{name}: as if no two tokens ever wanted the same expert. When they do, it is read once for "
                "both.",
            chosen * per_token:
                f"{name}: as if all tokens wanted the same experts. They choose independently.",
            total * per_token:
                f"{name}: as if every expert were always wanted by someone.",
            total * (1 - one_by_one) * per_token:
                f"{name}: close, but one token picks {chosen} DIFFERENT experts: it cannot collide with "
                "itself.",
        })
        close(got, want, name)
    return ("For R1 a token alone reads 8 experts a layer, in a batch of 128 only 2: sharing works, later "
            "than in a dense model.")


# name: bytes to read, bytes/s, synchronisations a token, seconds each, seconds that are allowed
_NETWORKS = {
    "R1 over a good network": (37e9, 31.5e9, 122, 20e-6, 10e-3),
    "R1 over a slow one": (37e9, 31.5e9, 122, 500e-6, 50e-3),
    "a model that needs no company": (0.27e9, 31.5e9, 60, 500e-6, 10e-3),
    "just above one machine": (0.4e9, 31.5e9, 60, 50e-6, 12e-3),
    "R1 on NVLink, H20": (37e9, 4.0e12, 122, 22.7e-6, 5e-3),
}


def _least_machines(alone: float, left: float, target: float) -> float:
    """How many machines it takes: 1, math.inf, or enough to read in the time that synchronising leaves."""
    if alone <= target:
        return 1
    if left <= 0:
        return math.inf
    return max(2, math.ceil(alone / left))


@exercise("00.machines", hints=(
    "Which part of a token's time shrinks with n, and which does not? If what cannot shrink is already too "
    "much, no n helps. And n = 1 is special.",
    "Reading: nbytes / (n · bandwidth). Synchronising: syncs · latency for every n above 1. First try n = 1; "
    "then ask how much time is left for reading.",
    "left = target − syncs·latency. If nbytes/bandwidth ≤ target: 1. If left ≤ 0: math.inf. Else max(2, "
    "math.ceil(nbytes / (bandwidth·left))).",
))
def machines(answer):
    for name, (nbytes, bandwidth, syncs, latency, target) in _NETWORKS.items():
        alone = nbytes / bandwidth
        waits = syncs * latency
        left = target - waits
        want = _least_machines(alone, left, target)
        got = answer(nbytes, bandwidth, syncs, latency, target)
        if want == math.inf:
            require(got == want, f"{name}: {syncs} synchronisations alone take {1e3 * waits:.0f} ms of a "
                                 "target of "
                    f"{1e3 * target:.0f} ms. No number of machines helps: math.inf.")
            continue
        if want == 1:
            require(got == 1, f"{name}: one machine does it in {1e3 * alone:.1f} ms, and alone it has nobody "
                              "to wait "
                    "for.")
        _known(got, want, {
            math.ceil(alone / target):
                f"{name}: that many machines read fast enough, and then synchronise for {1e3 * waits:.2f} ms "
                "on top.",
            math.floor(alone / left):
                f"{name}: one too few, it just misses the target.",
            alone / left:
                f"{name}: machines come in whole numbers.",
        })
        _whole(got, want, f"machines for {name}")
    return "What cannot be divided decides. Amdahl said so in 1967, about mainframes."
