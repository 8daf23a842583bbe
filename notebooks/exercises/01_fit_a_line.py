"""Judges and hints of notebook 01, fit a line. Every judge works on fresh data, never on the page's."""

import torch

from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import explain, same


def _data(seed: int, n: int = 23, low: float = 2.0, high: float = 12.0) -> tuple[torch.Tensor, torch.Tensor]:
    """n noisy points around a line, x in [low, high), float64."""
    random = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(n, generator=random, dtype=torch.float64)
    noise = 3 * torch.randn(n, generator=random, dtype=torch.float64)
    return x, 6 * x + 78 + noise


def _line(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Weighted least squares, [2] = slope and intercept, by QR: not the way a reader would do it."""
    root = w.sqrt()[:, None]                                       # [n, 1]
    design = torch.stack([x, torch.ones_like(x)], 1)               # [n, 2]
    solved = torch.linalg.lstsq(design * root, y[:, None] * root)
    return solved.solution[:, 0]


def _mean(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (w * v).sum() / w.sum()


def _curvatures(x: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the mean squared error's Hessian for a line on x, smallest first: [2]."""
    design = torch.stack([x, torch.ones_like(x)], 1)
    return torch.linalg.eigvalsh(2 * design.T @ design / len(x))


def _same(got, want) -> bool:
    return same(got, want, rtol=1e-4)


@exercise("01.weighted_fit", hints=(
    "Start from the loss: the mean of w·error² instead of the mean of error². Which means in the formula "
    "change?",
    "Every plain mean becomes a weighted one, mean_w(v) = (w·v).sum() / w.sum(): those of x and y, and then "
    "those of the products (x − x̄)(y − ȳ) and (x − x̄)².",
    "Define `mean = lambda v: (w * v).sum() / w.sum()`, then dx = x − mean(x), dy = y − mean(y), "
    "a = mean(dx·dy) / mean(dx·dx), b = mean(y) − a·mean(x).",
))
def weighted_fit(fit):
    for seed, low in ((1, 2.0), (2, 1990.0)):             # ages, then years: large offsets need centring
        x, y = _data(seed, low=low, high=low + 10)
        random = torch.Generator().manual_seed(seed + 9)
        w = torch.rand(len(x), generator=random, dtype=torch.float64) ** 3
        got = fit(x, y, w)
        want = _line(x, y, w)
        if _same(got, want):
            continue
        dx, dy = x - x.mean(), y - y.mean()
        slope = (w * dx * dy).sum() / (w * dx * dx).sum()
        plainly = [slope, y.mean() - slope * x.mean()]
        halfway = [slope, _mean(y, w) - slope * _mean(x, w)]
        if _same(got, plainly) or _same(got, halfway):
            raise Wrong("the products are weighted, but x and y are centred by their plain means. The line "
                        "goes through the weighted average child.")
        if _same(got, want.flip(0)):
            raise Wrong("the two are swapped: (a, b), the slope first.")
        unweighted = _line(x, y, torch.ones_like(w))
        if _same(got, unweighted):
            raise Wrong("this is the line without weights: a point of weight 0 must not count at all.")
        twice = _line(x, y, w * w)
        if _same(got, twice):
            raise Wrong("the weights count twice (w² instead of w): where do they enter a second time?")
        close(got, want, "(a, b)", rtol=1e-4)
    return "A point of weight 3 counts exactly as three equal points of weight 1."


@exercise("01.largest_rate", hints=(
    "On a page of this notebook the largest stable rate was read off one property of the loss. Which?",
    "It is 2 / (largest eigenvalue of the Hessian). For mean((a·x + b − y)²) the Hessian depends on x alone: "
    "2·[[mean(x²), mean(x)], [mean(x), 1]].",
    "Build the 2×2 tensor `h` above from x and return `2 / torch.linalg.eigvalsh(h).max()`.",
))
def largest_rate(largest):
    cases = (
        (3, 2, 12),
        (4, -1, 1),
        (5, 10, 80),
    )
    for seed, low, high in cases:
        x, _ = _data(seed, low=low, high=high)
        smallest, biggest = _curvatures(x).tolist()
        got, want = largest(x), 2 / biggest
        corner = float((x * x).mean())
        explain(got, {
            want / 2:
                "half of the largest: 1/curvature kills the error in one step, and twice that still "
                "converges.",
            want * 2:
                "twice too large: the square in the loss puts a factor 2 into the Hessian.",
            2 / smallest:
                "set by the SMALLEST curvature. The steepest direction explodes first.",
            2 / (smallest + biggest):
                "safe, but not the largest: the trace is the sum of both curvatures.",
            1 / corner:
                "that takes a corner of H, 2·mean(x²), for its largest eigenvalue. The steepest direction "
                "turns both knobs, and is steeper than either alone.",
            want / len(x):
                "the Hessian of the sum of the squares. The loss is their mean: divide by the number of "
                "points.",
        }, unless=want, rtol=1e-4)
        close(got, want, f"the largest rate for x in [{low}, {high}]", rtol=1e-4)
    return "You can now size a step before you take one."


@exercise("01.unscale", hints=(
    "The model learned t = a_z·z + b_z. Write z and t out in years and centimetres and collect what "
    "multiplies x.",
    "z = (x − x_mean)/x_std and t = (y − y_mean)/y_std, so y = y_mean + y_std·(a_z·(x − x_mean)/x_std + "
    "b_z).",
    "a = a_z·y_std/x_std. All that is left when x = 0 is b = y_mean + y_std·b_z − a·x_mean.",
))
def unscale(convert):
    scales = ((0.9, 0.1, 7.0, 3.2, 120.0, 19.0), (-2.0, 0.5, -40.0, 0.25, 3.0, 8.0))
    for a_z, b_z, x_mean, x_std, y_mean, y_std in scales:
        got = convert(a_z, b_z, x_mean, x_std, y_mean, y_std)
        a = a_z * y_std / x_std
        b = y_mean + y_std * b_z - a * x_mean
        two = isinstance(got, (tuple, list, torch.Tensor)) and len(got) == 2
        require(two, "return two numbers: (a, b).")
        slope, intercept = got
        if _same(slope, a_z * x_std / y_std):
            raise Wrong("the slope is upside down: its unit is cm per year, so y_std belongs on top.")
        close(slope, a, "the slope a")
        if _same(intercept, y_mean + y_std * b_z):
            raise Wrong("the intercept is the height at age 0, but you gave the height at the mean age: "
                        "x_mean is missing.")
        if _same(intercept, b_z * y_std - a * x_mean):
            raise Wrong("the intercept lost y_mean: the model's t = 0 means an average height, not 0 cm.")
        close(intercept, b, "the intercept b")
    return "Same line, other units. Lose these four numbers and the model answers in nonsense."


_THETA = torch.tensor([1.0, 2.0], dtype=torch.float64)


def _gradient(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of the mean squared error: [2]."""
    error = theta[0] * x + theta[1] - y
    return 2 * torch.stack([(error * x).mean(), error.mean()])


@exercise("01.shards", hints=(
    "Write the loss over all examples as a sum, and split the sum by worker. What does each worker have, and "
    "what is divided out?",
    "A worker's gradient is a mean over its own examples. Multiplied by its number of examples it becomes a "
    "sum, and sums add.",
    "(gradients · sizes as a column).sum over workers, divided by sizes.sum(): `(gradients * sizes[:, "
    "None]).sum(0) / sizes.sum()`.",
))
def shards(combine):
    x, y = _data(6, n=30)
    right = _gradient(_THETA, x, y)
    cases = (
        (10, 10, 10),
        (2, 7, 21),
        (1, 29),
    )
    for cuts in cases:
        order = torch.arange(30)
        if cuts[0] != 10:
            order = torch.argsort(x)                       # sorted: the shards really differ
        parts = zip(x[order].split(cuts), y[order].split(cuts), strict=True)
        gradients = torch.stack([_gradient(_THETA, *part) for part in parts])      # [R, 2]
        sizes = torch.tensor(cuts, dtype=torch.float64)
        got = combine(gradients, sizes)
        if _same(got, right):
            continue
        named = f"shards of {', '.join(map(str, cuts))}"
        if _same(got, gradients.mean(0)):
            raise Wrong(f"with {named} examples, you average the workers, not the examples.")
        total = right * len(x)
        if _same(got, total):
            raise Wrong("that is the gradient of the sum over all examples. Divide by how many there are, "
                        "sizes.sum().")
        if _same(got, total / len(cuts)):
            raise Wrong("divided by the number of workers: divide by the number of examples, sizes.sum().")
        if _same(got, gradients.sum(0)):
            raise Wrong("the sum over workers grows with their number: the learning rate would silently grow "
                        "with it.")
        close(got, right, f"the gradient from {named}")
    return "Equal, to the last digits, to one machine that saw all 30 examples: that is data parallelism."


@exercise("01.fewer_steps", hints=(
    "Nobody says that all steps must have the same rate. Each step leaves 1 − rate·λ of an error: which rate "
    "kills the slow one at once?",
    "Two gradients are enough: which error is left after a step of 1/largest, and what does 1/smallest do to "
    "it? Or let a step remember the last one (momentum): velocity = keep·velocity − rate·gradient; theta = "
    "theta + velocity. Along the valley such steps add up, across it they cancel.",
    "Start at zeros(2); for each rate in (1/smallest, 1/largest): theta = theta − rate·gradient(theta). With "
    "momentum: s = √smallest, l = √largest, rate = 4/(l + s)², keep = ((l − s)/(l + s))² (Polyak, 1964), 200 "
    "times.",
))
def fewer_steps(descend):
    calls = 0
    for seed, low, high in ((7, 2, 12), (8, 3, 13)):
        x, y = _data(seed, low=low, high=high)
        calls = 0
        best = _line(x, y, torch.ones_like(x))

        def gradient(theta):
            nonlocal calls
            calls += 1
            require(calls <= 250, "the budget is 250 gradients, and you asked for one more.")
            return _gradient(theta, x, y)

        smallest, largest = _curvatures(x).tolist()
        theta = descend(gradient, smallest, largest)
        require(isinstance(theta, torch.Tensor),
                f"return theta as a tensor [2]; you returned {type(theta).__name__}.")
        require(theta.shape == (2,), f"return theta with shape [2]; yours is {list(theta.shape)}.")
        got = theta.detach().double()
        size = got.abs().max()
        require(bool(torch.isfinite(got).all()) and size < 1e6,
                f"it exploded: in {calls} gradients theta grew to {size:.3g}. A rate that is kept needs rate "
                "× largest below 2, and momentum may not keep everything.")
        off_slope, off_intercept = got - best
        worst = float((off_slope * x + off_intercept).abs().max())
        require(worst < 0.1, f"after {calls} gradients the line is still {worst:.3g} cm away at its worst "
                             "age; 0.1 cm "
                "is wanted.")
    return f"Done with {calls} gradients; plain descent needs more than 1,000."
