"""Judges and hints of notebook 02, autograd. Slopes are judged in float64, by nudging and by PyTorch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, answered, explain, same, several

_OPERATIONS: dict[str, tuple[Callable[..., float], tuple[tuple[float, ...], ...]]] = {
    "/": (lambda a, b: a / b, ((3.0, 2.0), (-1.5, 0.25))),
    "sqrt": (math.sqrt, ((2.0,), (0.09,))),
    "sigmoid": (lambda a: 1 / (1 + math.exp(-a)), ((0.3,), (-2.0,))),
    "max": (max, ((3.0, 2.0), (-1.5, 0.25))),
    "hypot": (math.hypot, ((3.0, 4.0), (-1.5, 0.25))),
}


def _slope(function: Callable[..., float], at: Sequence[float], place: int) -> float:
    """The slope towards input number `place`, by a step up and a step down."""
    h = 1e-5
    up, down = list(at), list(at)
    up[place] += h
    down[place] -= h
    return (function(*up) - function(*down)) / (2 * h)


@exercise("02.slopes", hints=(
    "Write each operation as a formula, and differentiate with respect to one input at a time, as if the "
    "other were a constant. Then see whether the result y helps to say it shorter.",
    "a/b: with b fixed it is a · (1/b); with a fixed it is a · b⁻¹, whose slope is −a/b². sqrt: y·y = a, "
    "so 2y · slope = 1. sigmoid: its slope can be written with y alone. hypot: y² = a² + b², so 2y · "
    "slope = 2a.",
    "/: (1/b, −y/b). sqrt: (0.5/y,). sigmoid: (y·(1 − y),). max: (1.0, 0.0) if a > b, else (0.0, 1.0). "
    "hypot: (a/y, b/y). One input: mind the comma that makes a tuple.",
))
def slopes(table):
    require(isinstance(table, dict), "give a dict: operation -> function of the inputs and y.")
    missing = [name for name in _OPERATIONS if name not in table]
    require(not missing, f"the table has no line for {', '.join(map(repr, missing))}.")
    wrong = [told for name in _OPERATIONS if (told := _said_of(name, table[name]))]
    require(not wrong, "\n".join(wrong))
    return "Five operations, a line each. PyTorch has some thousands of such lines."


def _said_of(name: str, answer: Any) -> str:
    """What is wrong with the slopes of one operation, with its name; "" if nothing is."""
    function, points = _OPERATIONS[name]
    try:
        for at in points:
            _judge_operation(function, answer, at)
    except Wrong as wrong:
        return f"`{name}` {wrong}"
    except (TypeError, ValueError, ArithmeticError) as error:
        return f"`{name}` fails: {type(error).__name__}: {error}."
    return ""


def _judge_operation(function: Callable[..., float], answer: Any, at: tuple[float, ...]) -> None:
    y = function(*at)
    got = answered(answer(*at, y))
    place_names = ", ".join(f"{value:g}" for value in at)
    where = f"at {place_names}"
    require(isinstance(got, tuple | list),
            f"returns {got!r}, and not a tuple with a slope for each input. For one input: `(slope,)`.")
    require(len(got) == len(at), f"returns {len(got)} slopes for {len(at)} inputs.")
    want = [_slope(function, at, place) for place in range(len(at))]
    explain(got, ((want[::-1], f"{where}: its two slopes are exchanged."),), unless=want, rtol=1e-6)
    for letter, mine, right in zip("ab", got, want):
        explain(mine, (
            (-right, f"{where}: its slope towards {letter} has the wrong sign."),
            (2 * right, f"{where}: its slope towards {letter} is twice too large."),
        ), unless=right)
        close(mine, right, f"{where}, its slope towards {letter}", rtol=1e-6)


class _Made:
    """A node of a graph that came from a file."""

    def __init__(self, *parents: "_Made", slopes: Sequence[float] = ()) -> None:
        self.parents = tuple(parents)
        self.slopes = tuple(slopes)
        self.grad = 0.0


def _one_product() -> tuple[list[_Made], list[float]]:
    x = _Made()
    y = _Made(x, slopes=(5.0,))
    return [y, x], [1.0, 5.0]


def _own_product() -> tuple[list[_Made], list[float]]:
    x = _Made()
    y = _Made(x, x, slopes=(3.0, 3.0))
    return [y, x], [1.0, 6.0]


def _unequal_paths() -> tuple[list[_Made], list[float]]:
    """x goes to the root at once, and by two detours that share a node."""
    x = _Made()
    near = _Made(x, slopes=(2.0,))
    middle = _Made(near, x, slopes=(3.0, 5.0))
    far = _Made(middle, slopes=(7.0,))
    root = _Made(near, far, x, slopes=(11.0, 13.0, 17.0))
    at_middle = 13.0 * 7.0
    at_near = 11.0 + 3.0 * at_middle
    return [root, far, middle, near, x], [1.0, 13.0, at_middle, at_near, 2 * at_near + 5 * at_middle + 17.0]


def _diamonds(floors: int) -> tuple[list[_Made], list[float]]:
    """Each floor is used twice by the one above: 2 ** floors paths."""
    first = top = _Made()
    for _ in range(floors):
        left, right = _Made(top, slopes=(0.5,)), _Made(top, slopes=(0.25,))
        top = _Made(left, right, slopes=(1.0, 1.0))
    return [top, first], [1.0, 0.75**floors]


def _chain(length: int) -> tuple[list[_Made], list[float]]:
    first = last = _Made()
    for place in range(length):
        last = _Made(last, slopes=(2.0 if place % 2 else 0.5,))
    return [last, first], [1.0, 1.0]


@exercise("02.walk_back", hints=(
    "When may a node hand on its gradient? What do you have to know about it, that you could count in a "
    "first walk over the graph?",
    "Count for each node how often it occurs as a parent, among all nodes behind the root (each visited "
    "once, by a list of what waits; recursion is too deep for 20,000). In the second walk a node hands "
    "on only when as many have reported as were counted: the job scheduler's rule.",
    "uses = Counter(); walk once with seen = {root}: for each node, uses[parent] += 1 for parent in "
    "node.parents, and append unseen ones. Then root.grad = 1.0; ready = [root]; while ready: node = "
    "ready.pop(); for parent, slope in zip(node.parents, node.slopes): parent.grad += slope · node.grad; "
    "uses[parent] −= 1; if it is 0, ready.append(parent).",
))
def walk_back(walk):
    cases = (
        ("one product", _one_product),
        ("x · x", _own_product),
        ("paths of different lengths", _unequal_paths),
        ("a diamond of 60 floors", lambda: _diamonds(60)),
        ("a chain of 20,000 nodes", lambda: _chain(20_000)),
    )
    for case, build in cases:
        nodes, want = build()
        with about(case):
            _run_walk(walk, nodes[0])
            got = [node.grad for node in nodes]
            require(got[0] == 1.0, f"root.grad is {got[0]!r}; it starts with 1.0.")
            _judge_gradients(case, got, want)
    return "Counting who has reported works for any graph without a circle, one call deep."


def _run_walk(walk: Callable, root: _Made) -> None:
    try:
        walk(root)
    except RecursionError:
        raise Wrong("RecursionError: Python's stack ends at some 1,000 calls. Keep a list of what waits, "
                    "and loop.") from None


def _judge_gradients(case: str, got: list[float], want: list[float]) -> None:
    if case == "x · x":
        require(got[1] != 3.0, "x has 3, and 6 is wanted: the second path replaced the first. Add: `+=`.")
    for mine, right in zip(got, want):
        if not math.isclose(mine, right, rel_tol=1e-9):
            why = "Did somebody hand on a gradient twice?"
            if abs(mine) < abs(right):
                why = "Some of its gradient came after it had handed on what it had, or was never handed on."
            raise Wrong(f"a node has {mine:.6g}; {right:.6g} is wanted. {why}")


def _watched(function: Callable[[Tensor], Tensor], calls: list[Tensor]) -> Callable[[Tensor], float]:
    def called(x: Tensor) -> float:
        calls.append(x.clone())
        return float(function(x))
    return called


def _bumpy(x: Tensor) -> Tensor:
    weights = torch.arange(1, len(x) + 1)
    return (x.sin() * weights).sum() + x[0] * x[-1]


def _scales(x: Tensor) -> Tensor:
    """Every value matters here, whatever its size: a sum of logarithms and of their squares."""
    logs = x.abs().log()
    return (logs + 0.1 * logs.square()).sum()


@exercise("02.nudge", hints=(
    "One value at a time: up, evaluate, down, evaluate. What must happen to that value before the next "
    "one's turn?",
    "h[i] = 6e-6 · |x[i]|. The distance between the two evaluations is 2h. Work on a copy, and make a "
    "fresh one for each value, so that nothing is left of the last nudge.",
    "slopes = torch.zeros_like(x); for i in range(len(x)): h = 6e-6 · float(x[i].abs()); up, down = "
    "x.clone(), x.clone(); up[i] += h; down[i] −= h; slopes[i] = (f(up) − f(down)) / (2·h); return "
    "slopes.",
))
def nudge(nudge):
    cases = (
        ("values around 1", _bumpy, torch.tensor([0.5, -1.2, 0.9, 2.0], dtype=torch.float64)),
        ("values of all sizes", _scales, torch.tensor([1e6, -3.0, 2e-6, 40.0], dtype=torch.float64)),
    )
    for case, function, x in cases:
        leaf = x.clone().requires_grad_()
        want = torch.autograd.grad(function(leaf), leaf)[0]
        calls: list[Tensor] = []
        given = x.clone()
        with about(case):
            got = answered(nudge(_watched(function, calls), given))
            require(torch.equal(given, x), "x is not what it was: put each value back, or work on a copy.")
            require(isinstance(got, Tensor) and got.dtype == torch.float64,
                    "return a float64 tensor [n], such as torch.zeros_like(x) filled by you.")
            close(torch.zeros_like(got), torch.zeros_like(want), "the slopes")
            _explain_nudge(got, want, calls, x)
            close(got, want, "the slopes", rtol=1e-6)
    return "Some ten digits, and 2n evaluations: a judge for gradients, and no way to compute them."


def _explain_nudge(got: Tensor, want: Tensor, calls: list[Tensor], x: Tensor) -> None:
    explain(got, (
        (2 * want, "twice too large: the two evaluations are 2h apart."),
        (want / 2, "half of what it should be: divide by 2h once."),
        (-want, "the sign is wrong: up minus down."),
    ), unless=want, rtol=1e-4)
    if same(got, want, rtol=1e-6):
        return
    moved = [int((call != x).sum()) for call in calls]
    most = max(moved, default=1)
    require(most <= 1, f"an evaluation had {most} values changed at once. Nudge one, from the original x.")
    same_x = moved.count(0)
    require(same_x == 0, f"{same_x} of your {len(calls)} evaluations saw the unchanged x: a step to one side "
                         "has only 8 digits, or your h is lost beside a large value.")
    off = (got - want).abs() / want.abs()
    worst = int(off.argmax())
    raise Wrong(f"towards x[{worst}] = {x[worst]:g} you have {got[worst]:.8g}; {want[worst]:.8g} is wanted. "
                "Is h in proportion to the value, and neither too large nor lost in rounding?")


@exercise("02.unbroadcast", hints=(
    "Broadcasting used one value in several places. Over which dimensions of `grad` must be summed so "
    "that what is left has the wanted shape?",
    "First the dimensions that `shape` does not have: grad.ndim − len(shape) of them, at the left; sum "
    "them away. Then those in which `shape` has a 1 and grad has more: sum them, but keep the dimension.",
    "extra = grad.ndim − len(shape); grad = grad.sum(tuple(range(extra))) if extra > 0; for i, size in "
    "enumerate(shape): if size == 1: grad = grad.sum(i, keepdim=True); return grad. (sum over an empty "
    "tuple would sum over everything.)",
))
def unbroadcast(unbroadcast):
    cases = (
        ((5, 3), (3,)),
        ((5, 3), (5, 1)),
        ((5, 3), (5, 3)),
        ((4, 5, 3), (1, 3)),
        ((2, 4, 5, 3), (4, 1, 3)),
        ((5, 1), (5, 1)),
        ((5, 3), ()),
        ((3, 3), (3,)),
        ((3, 3), (3, 1)),
    )
    for large, small in cases:
        leaf = torch.zeros(small, dtype=torch.float64, requires_grad=True)
        grad = torch.arange(1.0, 1 + math.prod(large), dtype=torch.float64).reshape(large)
        want = torch.autograd.grad(leaf.expand(large), leaf, grad)[0]
        with about(f"from {list(large)} back to {list(small)}"):
            _judge_broadcast(unbroadcast(grad.clone(), small), grad, want)
    return "The gradient always has the shape of the value. PyTorch calls this step `sum_to_size`."


def _judge_broadcast(got: Any, grad: Tensor, want: Tensor) -> None:
    got = answered(got)
    require(isinstance(got, Tensor), f"return a tensor; you returned {type(got).__name__}.")
    if got.shape == want.shape:
        mean = want * want.numel() / grad.numel()
        told = "this is the mean over the places. A value used five times is called from five places: add up."
        explain(got, ((mean, told),), unless=want)
    close(got, want, "the gradient")


@exercise("02.linear_backward", hints=(
    "Write the shapes down: x [N, I], w [O, I], dy [N, O]. Which product has the shape of x? Which one "
    "that of w?",
    "dx is made of dy [N, O] and w [O, I]: nothing needs to be turned. dw [O, I] needs dy turned around: "
    "[O, N] times [N, I]; its sum over N adds up what each row asks for. b is used for each of N rows: "
    "exercise 4.",
    "return dy @ w, dy.T @ x, dy.sum(0)",
))
def linear_backward(backward):
    for rows, inputs, outputs in ((7, 4, 3), (5, 3, 3), (1, 2, 6)):
        x = _randn(rows, inputs, seed=1)
        w = _randn(outputs, inputs, seed=2)
        b = _randn(outputs, seed=3)
        dy = _randn(rows, outputs, seed=4)
        leaves = [part.clone().requires_grad_() for part in (x, w, b)]
        want = torch.autograd.grad(torch.nn.functional.linear(*leaves), leaves, dy)
        with torch.inference_mode(), about(f"{rows} rows, {inputs} inputs, {outputs} outputs"):
            got = _without_log(backward, x.clone(), w.clone(), dy.clone())
            several(got, 3, "return three tensors: (dx, dw, db).")
            _explain_linear(got, want, w, dy, rows)
            for mine, right, name in zip(got, want, ("dx", "dw", "db")):
                close(mine, right, name)
    return "Two matrix products, for one in the forward pass: here is the factor of 2."


def _randn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _without_log(backward: Callable, *tensors: Tensor) -> Any:
    try:
        return backward(*tensors)
    except RuntimeError as error:
        if "does not require grad" in str(error):
            raise Wrong("by hand: PyTorch keeps no log here, so it has nothing to walk back.") from None
        raise


def _explain_linear(got: Sequence[Tensor], want: Sequence[Tensor], w: Tensor, dy: Tensor, rows: int) -> None:
    dx, dw, db = want
    outputs, inputs = w.shape
    if outputs == inputs:
        told = "dx: w is turned around. Here O = I, so the shapes fit by accident."
        explain(got[0], ((dy @ w.T, told),), unless=dx)
    explain(got[1], (
        (dw.T, "dw is turned around: w is [O, I], and so is its gradient."),
        (dw / rows, "dw is divided by N: the rows' shares add up, nobody asked for a mean."),
    ), unless=dw)
    explain(got[2], (
        (dy, "db: b was used for each row, so its gradient is the sum over the rows: [O]."),
        (db / rows, "db is divided by N: the rows' shares add up, nobody asked for a mean."),
        (dy[0], "db: this is the share of the first row alone."),
    ), unless=db)


@exercise("02.log_cosh", hints=(
    "Two separate tasks: a way of writing log cosh x in which no exponential can overflow, and a "
    "backward that respects what comes from above.",
    "cosh x = (e^x + e^−x)/2 = e^|x| · (1 + e^(−2|x|))/2. Take the logarithm: |x| + log1p(e^(−2|x|)) − "
    "ln 2. For the slope: the chain rule says local slope times dy.",
    "forward: ctx.save_for_backward(x); size = x.abs(); return size + torch.log1p(torch.exp(−2 · size)) "
    "− math.log(2). backward: x, = ctx.saved_tensors; return dy · torch.tanh(x).",
))
def log_cosh(operation):
    is_function = isinstance(operation, type) and issubclass(operation, torch.autograd.Function)
    require(is_function, "give the class itself, a torch.autograd.Function with forward and backward.")
    x = torch.tensor([-3.0, -0.5, 0.0, 0.2, 1.5], dtype=torch.float64)
    close(operation.apply(x.clone()), torch.log(torch.cosh(x)), "forward")
    for dtype in (torch.float32, torch.float64):
        far = torch.tensor([-1000.0, 800.0, 1e5], dtype=dtype)
        got = operation.apply(far.clone())
        close(got, far.abs() - math.log(2), f"forward of large values in {dtype}", rtol=1e-6)
    _judge_backward(operation, x)
    numbers = _randn(3, 4, seed=2).requires_grad_()
    good = torch.autograd.gradcheck(operation.apply, (numbers,), raise_exception=False)
    require(good, "backward: `torch.autograd.gradcheck` finds other slopes by nudging.")
    return "`gradcheck` passes: the operation may stand in anybody's graph, next to PyTorch's own."


def _judge_backward(operation: Any, x: Tensor) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    above = torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    try:
        got = torch.autograd.grad(operation.apply(leaf), leaf, above)[0]
    except RuntimeError as error:
        raise Wrong(f"backward: {error}") from None
    slope = torch.tanh(x)
    want = slope * above
    of_result = torch.tanh(torch.cosh(x).log()) * above
    explain(got, (
        (slope, "backward: this is the local slope alone. Multiply in what came from above, dy."),
        (above, "backward: this hands on dy as it came; the local slope is missing."),
        (above / torch.cosh(x).square(), "backward: 1/cosh² is the slope of tanh; yours is tanh."),
        (-want, "backward: the sign is wrong."),
        (of_result, "backward: tanh of the result was taken; keep x, not y."),
        (above * x, "backward: the local slope is tanh(x), not x."),
    ), unless=want)
    close(got, want, "backward")
