"""Judges and hints of notebook 05, where memory goes. Everything is small, on the CPU, in float64."""

import random
from functools import partial

import torch
from torch import Tensor, nn

from aiinfra.lab.exercise import close, exercise, require
from aiinfra.lab.judging import about, answered, explain, number, pair


@exercise("05.floor", hints=(
    "Write the 16 bytes as a sum of three: parameters, gradients, moments. Which of them does each stage "
    "divide?",
    "Stage 1 divides 8 of the 16 by the ranks, stage 2 divides 12, stage 3 all of them.",
    "shares = [ranks if stage >= first else 1 for first in (3, 2, 1)]; return count * (4 / shares[0] + "
    "4 / shares[1] + 8 / shares[2])",
))
def floor(answer):
    for count, ranks in ((1024, 1), (4096, 8), (1 << 20, 64)):
        for stage in (0, 3, 1, 2):
            _check_floor(answer, count, ranks, stage)
    return "Stage 1 alone takes 7 of 16 bytes off with 8 ranks, and sends nothing more."


def _check_floor(answer, count: int, ranks: int, stage: int) -> None:
    def share(nbytes: int, first: int) -> float:
        """Of so many bytes a parameter, divided from stage `first` on."""
        whole = nbytes * count
        return whole / ranks if stage >= first else whole
    moments = share(8, first=1)
    rest = share(4, first=2) + share(4, first=3)
    want = moments + rest
    mixed = share(4, first=1)
    mixed += share(8, first=2)
    mixed += share(4, first=3)
    whole = 16 * count
    case = f"{count:,} parameters, {ranks} ranks, stage {stage}"
    got = number(answer(count, ranks, stage), case)
    explain(got, (
        (want / 4, f"{case}: those are numbers, or bytes of a type of one byte. In float32 each has 4."),
        (moments / 2 + rest, f"{case}: AdamW keeps two moments (numbers) for each parameter, not one."),
        (whole / ranks, f"{case}: everything is divided in stage 3 only."),
        (whole, f"{case}: that is the whole floor; this stage divides a part of it."),
        (want * ranks, f"{case}: that is all ranks together; one rank is asked for."),
        (mixed, f"{case}: gradients and moments are mixed up. The first stage divides the moments, the "
                "larger part."),
    ), unless=want)
    close(got, want, case)


def _peak(events: list[tuple[str, int]]) -> tuple[int, dict[str, int]]:
    living: dict[str, int] = {}
    most, held = 0, {}
    for name, nbytes in events:
        living[name] = living.get(name, 0) + nbytes
        if sum(living.values()) > most:
            most = sum(living.values())
            held = {who: count for who, count in living.items() if count}
    return most, held


def _allocations(seed: int) -> list[tuple[str, int]]:
    """Some tenants who come, grow, shrink and go, none of them below 0."""
    pick = random.Random(seed)
    living: dict[str, int] = {}
    events = []
    for _ in range(pick.randrange(8, 40)):
        name = pick.choice("abcde")
        nbytes = pick.randint(1, 50)
        has = living.get(name, 0)
        if has and pick.random() < 0.5:
            part = pick.randint(1, has)
            nbytes = -pick.choice([has, part])
        living[name] = living.get(name, 0) + nbytes
        events.append((name, nbytes))
    return events


@exercise("05.peak", hints=(
    "Walk through the events once, and keep a ledger: who holds how much now.",
    "After each event add up the ledger. If that is more than ever before, remember the sum and a copy of "
    "the ledger.",
    "living[name] = living.get(name, 0) + nbytes; total = sum(living.values()); if total > most: most, held "
    "= total, {who: n for who, n in living.items() if n}",
))
def peak(answer):
    cases = {
        "a step in nine events":
            "weights 10 layer1 4 layer2 4 loss 5 loss -5 layer2 -4 gradients 5 layer1 -4 gradients 5",
        "the same height twice": "a 3 b 4 b -4 c 4 a -1",
        "the peak at the first event": "a 9 a -9 b 2",
        "names that come again": "a 2 a 3 b 1 b -1 b 2",
        "no event at all": "",
    }
    for case, text in cases.items():
        _check_peak(answer, _events(text), case)
    for seed in range(60):
        events = _allocations(seed)
        _check_peak(answer, events, f"random events {events[:3]}…")
    return "With names from the stack trace this is what pytorch.org/memory_viz draws."


def _events(text: str) -> list[tuple[str, int]]:
    """a 3 b -4: two events."""
    words = text.split()
    names = words[::2]
    sizes = map(int, words[1::2])
    return list(zip(names, sizes, strict=True))


def _check_peak(answer, events: list[tuple[str, int]], case: str) -> None:
    want, who = _peak(events)
    got = answered(answer(list(events)))
    pair(got, "return two things: the most bytes, and a dict of who held them.")
    most, held = got
    total = sum(nbytes for _, nbytes in events)
    given = sum(nbytes for _, nbytes in events if nbytes > 0)
    explain(number(most, case), (
        (given, f"{case}: that is all that was ever given; some had come back before."),
        (total, f"{case}: that is what lives at the end."),
    ), unless=want)
    close(most, want, f"{case}: the most bytes")
    require(isinstance(held, dict), f"{case}: who held them is a dict; you returned {held!r}.")
    require(0 not in held.values(), f"{case}: {held} has a name with 0 bytes, who was gone.")
    _explain_holders(held, who, events, case)
    require(held == who, f"{case}: at the peak {who} lived; you have {held}.")


def _explain_holders(held: dict, who: dict, events: list[tuple[str, int]], case: str) -> None:
    """The two mistakes that are made most."""
    last: dict[str, int] = {}
    for name, nbytes in events:
        last[name] = last.get(name, 0) + nbytes
    last = {name: nbytes for name, nbytes in last.items() if nbytes}
    require(held == who or held != last, f"{case}: {held} is who lives at the end. A dict that goes on "
                                         "changing is no record: keep a copy.")
    require(held == who or sum(held.values()) != sum(who.values()),
            f"{case}: {held} is as high, but not the first moment of that height, or not what each held.")


@exercise("05.gate", hints=(
    "y is a product of silu(g) and u: each of them gets dy times the other, and g gets it through silu.",
    "silu(g) = g · s with s = sigmoid(g), so its slope is s + g · s · (1 − s).",
    "s = torch.sigmoid(gate); return dy * up * (s + gate * s * (1 - s)), dy * gate * s",
))
def gate(answer):
    generator = torch.Generator().manual_seed(0)
    for shape in ((3,), (2, 5), (4, 3, 2)):
        drawn = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        _check_gate(answer, *drawn)
    far = torch.tensor([-800.0, -30.0, 0.0, 30.0, 800.0], dtype=torch.float64)
    one = torch.ones_like(far)
    with about("gates of −800, −30, 0, 30 and 800"):
        _check_gate(answer, far, one, one)
    return "Two tensors instead of three: a fifth of what the feed-forward half of a layer keeps."


def _check_gate(answer, g: Tensor, u: Tensor, dy: Tensor) -> None:
    gate_leaf = g.clone().requires_grad_()
    up_leaf = u.clone().requires_grad_()
    y = nn.functional.silu(gate_leaf) * up_leaf
    y.backward(dy)
    want = gate_leaf.grad, up_leaf.grad
    given = [tensor.clone() for tensor in (g, u, dy)]
    with torch.no_grad():
        got = answered(answer(*given))
    pair(got, "return two tensors: dgate, dup.")
    require(all(torch.equal(a, b) for a, b in zip(given, (g, u, dy), strict=True)),
            "you wrote into one of the tensors you were given; the layer below still needs it.")
    s = torch.sigmoid(g)
    explain(got[0], (
        (want[1], "these are swapped: dgate comes first, then dup."),
        (dy * u * s, "dgate: that is the slope of g alone; sigmoid(g) changes with g, too."),
        (dy * u * s * (1 - s), "dgate: that is the slope of sigmoid(g), and silu(g) is g · sigmoid(g)."),
        (want[0] / u, "dgate: the other factor, up, is missing."),
    ), unless=want[0])
    explain(got[1], ((dy * s, "dup: the other factor is silu(g) = g · sigmoid(g), not sigmoid(g)."),
                     (dy * g, "dup: the other factor is silu(g) = g · sigmoid(g), not g.")), unless=want[1])
    close(got[0], want[0], "dgate")
    close(got[1], want[1], "dup")


class _Layer(nn.Module):
    """A matrix and dropout, which counts its calls and notes whether autograd kept anything."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6, dtype=torch.float64)
        self.kept: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(self.inner(x).tanh(), 0.4)
        self.kept.append(y.requires_grad)
        return y


def _function(forward, backward) -> type[torch.autograd.Function]:
    """The two bodies as PyTorch wants them."""
    class Dice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, run, x):
            return answered(forward(ctx, run, x))

        @staticmethod
        def backward(ctx, dy):
            return None, answered(backward(ctx, dy))
    return Dice


@exercise("05.dice", hints=(
    "What must be known in the backward pass that is not a tensor of the model? Keep it in ctx beside run.",
    "Forward keeps torch.get_rng_state() before it calls run under torch.no_grad(). Backward notes the state "
    "of now, sets the kept one, runs with gradients on, and sets the state of now again.",
    "now = torch.get_rng_state(); torch.set_rng_state(ctx.dice); with torch.enable_grad(): y = ctx.run(x); "
    "torch.set_rng_state(now); y.backward(dy); return x.grad",
))
def dice(answer):
    pair(answer, "pass both functions: (again_forward, again_backward).")
    kept = torch.get_rng_state()
    try:
        for seed in (11, 12, 13):
            _check_dice(answer, seed)
    finally:
        torch.set_rng_state(kept)
    return "That is what torch.utils.checkpoint does with preserve_rng_state=True, its default."


def _run_layer(layer: nn.Module, run, x: Tensor, seed: int) -> tuple[Tensor, Tensor, float]:
    """The layer's output, the gradient of x, and the number that is thrown next; others throw in between."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    torch.manual_seed(seed)
    y = run(x)
    torch.rand(3)
    scale = torch.arange(1.0, 7.0, dtype=torch.float64)
    loss = y.square() * scale
    loss.sum().backward()
    return y.detach(), x.grad, torch.rand(1).item()


def _check_dice(answer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = _Layer()
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    want, slope, following = _run_layer(layer, layer, x, seed)
    weights = layer.inner.weight.grad.clone()
    layer.kept.clear()
    function = _function(*answer)
    again = partial(function.apply, layer)
    got, mine, then = _run_layer(layer, again, x, seed)
    require(torch.equal(got, want), "the output is not run(x) with the dice of this moment. Nobody but the "
                                    "user seeds the generator.")
    calls = len(layer.kept)
    require(calls == 2, f"run was called {calls} times; twice is wanted, once a pass.")
    require(not layer.kept[0], "autograd kept the inside of the first run: call it under torch.no_grad().")
    require(mine is not None, "x got no gradient: return it from again_backward.")
    close(mine, slope, "the gradient of x: did the second run see the dice of the first? It is")
    require(layer.inner.weight.grad is not None, "the weights inside got no gradient: y.backward(dy) gives "
                                                 "them theirs.")
    close(layer.inner.weight.grad, weights, "the gradient of the weights inside")
    require(then == following, "afterwards the generator stands elsewhere than it would have without you: "
                               "put its state of before the second run back.")


@exercise("05.micro_batches", hints=(
    "Try the divisors of rows from 1 on: each gives a number of rows a micro-batch.",
    "The peak of k micro-batches is always + per_row · rows / k, and the gradients on top if k is above 1.",
    "for k in range(1, rows + 1): if rows % k == 0 and always + (gradients if k > 1 else 0) + per_row * "
    "(rows // k) <= budget: return k",
))
def micro_batches(answer):
    for budget in (1000, 50, 180, 179, 160, 159, 130, 129):
        _check_micro_batches(answer, 8, 100, 20, 10, budget)
    for budget in (9, 10, 25, 60):
        _check_micro_batches(answer, 12, 0, 0, 5, budget)
        _check_micro_batches(answer, 12, 0, 5, 5, budget)
        _check_micro_batches(answer, 7, 10, 1, 3, budget)
        _check_micro_batches(answer, 1, 5, 50, 5, budget)
        _check_micro_batches(answer, 6, 10, 100, 5, budget)
    pick = random.Random(1)
    for _ in range(200):
        rows = pick.choice([6, 7, 12, 16, 24])
        sizes = [pick.randint(0, 60) for _ in range(3)]
        budget = pick.randint(40, 400)
        _check_micro_batches(answer, rows, *sizes, budget)
    return "Ask for the fewest: each micro-batch more makes the products smaller, and a GPU idler."


def _check_micro_batches(answer, rows: int, always: int, gradients: int, per_row: int, budget: int) -> None:
    def peak_of(k: int, waiting: bool) -> float:
        held = always
        if waiting:
            held += gradients
        return held + per_row * rows // k
    counts = range(1, rows + 1)
    divisors = [k for k in counts if rows % k == 0]
    fitting = [k for k in divisors if peak_of(k, k > 1) <= budget]
    want = min(fitting, default=None)
    case = f"{rows} rows of {per_row}, always {always}, "
    case += f"gradients {gradients}, budget {budget}"
    got = answered(answer(rows, always, gradients, per_row, budget))
    if got == want and (got is None or isinstance(got, int)):
        return
    require(got is not None, f"{case}: {want} would do, and you returned None.")
    got = number(got, case)
    require(got in divisors, f"{case}: {got} micro-batches do not divide {rows} rows into equal parts.")
    need = peak_of(int(got), got > 1)
    require(need <= budget or got == 1 or peak_of(int(got), False) > budget,
            f"{case}: {got} need {need}. You forgot the gradients of the micro-batches before.")
    require(need <= budget, f"{case}: {got} need {need}, more than the budget.")
    if want == 1 and peak_of(1, True) > budget:
        require(got == 1, f"{case}: one micro-batch fits. Its gradients do not exist yet at that moment.")
    require(got == want, f"{case}: {got} fit, but so do {want}, which are fewer.")
