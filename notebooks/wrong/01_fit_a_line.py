"""Known-wrong answers of notebook 01: each section names words of the message it must get."""

# %% setup
import torch

from aiinfra.lab import check

# %% 01.weighted_fit | without weights
def fit(x, y, w):
    dx, dy = x - x.mean(), y - y.mean()
    a = (dx * dy).mean() / (dx * dx).mean()
    return a, y.mean() - a * x.mean()

check("01.weighted_fit", fit)

# %% 01.weighted_fit | count twice
def fit(x, y, w):
    x, y, one = x * w, y * w, w                 # weights the residual, so its square gets w²
    design = torch.stack([x, one], 1)
    return torch.linalg.lstsq(design, y[:, None]).solution[:, 0]

check("01.weighted_fit", fit)

# %% 01.weighted_fit | centred by their plain means
def fit(x, y, w):                               # centred by the plain means, then weighted
    dx, dy = x - x.mean(), y - y.mean()
    a = (w * dx * dy).sum() / (w * dx * dx).sum()
    return a, y.mean() - a * x.mean()

check("01.weighted_fit", fit)

# %% 01.weighted_fit | centred by their plain means
def fit(x, y, w):                               # the slope centred by plain means, the intercept by weighted ones
    dx, dy = x - x.mean(), y - y.mean()
    a = (w * dx * dy).sum() / (w * dx * dx).sum()
    return a, ((y - a * x) * w).sum() / w.sum()

check("01.weighted_fit", fit)

# %% 01.weighted_fit | swapped
def fit(x, y, w):
    root = w.sqrt()
    design = torch.stack([torch.ones_like(x), x], 1) * root[:, None]
    return torch.linalg.lstsq(design, (y * root)[:, None]).solution[:, 0]

check("01.weighted_fit", fit)

# %% 01.weighted_fit | None
def fit(x, y, w):
    a = (x * y * w).sum()

check("01.weighted_fit", fit)

# %% 01.largest_rate | half of the largest
def rate(x):
    h = 2 * torch.stack([torch.stack([(x * x).mean(), x.mean()]), torch.stack([x.mean(), torch.ones_like(x).mean()])])
    return 1 / torch.linalg.eigvalsh(h).max()

check("01.largest_rate", rate)

# %% 01.largest_rate | factor 2
def rate(x):
    design = torch.stack([x, torch.ones_like(x)], 1)
    return 2 / torch.linalg.eigvalsh(design.T @ design / len(x)).max()

check("01.largest_rate", rate)

# %% 01.largest_rate | SMALLEST
def rate(x):
    design = torch.stack([x, torch.ones_like(x)], 1)
    return 2 / torch.linalg.eigvalsh(2 * design.T @ design / len(x)).min()

check("01.largest_rate", rate)

# %% 01.largest_rate | trace
def rate(x):
    return 2 / (2 * (x * x).mean() + 2)

check("01.largest_rate", rate)

# %% 01.largest_rate | in line 2 of your cell: `return 2 / torch.linalg.eigvals(x).max()`
def rate(x):
    return 2 / torch.linalg.eigvals(x).max()

check("01.largest_rate", rate)

# %% 01.largest_rate | corner of H
def rate(x):
    return 2 / (2 * (x * x).mean())

check("01.largest_rate", rate)

# %% 01.largest_rate | Hessian of the sum
def rate(x):
    design = torch.stack([x, torch.ones_like(x)], 1)
    return 2 / torch.linalg.eigvalsh(2 * design.T @ design).max()

check("01.largest_rate", rate)

# %% 01.unscale | upside down
def unscale(a_z, b_z, x_mean, x_std, y_mean, y_std):
    a = a_z * x_std / y_std
    return a, y_mean + y_std * b_z - a * x_mean

check("01.unscale", unscale)

# %% 01.unscale | x_mean is missing
def unscale(a_z, b_z, x_mean, x_std, y_mean, y_std):
    return a_z * y_std / x_std, y_mean + y_std * b_z

check("01.unscale", unscale)

# %% 01.unscale | lost y_mean
def unscale(a_z, b_z, x_mean, x_std, y_mean, y_std):
    a = a_z * y_std / x_std
    return a, b_z * y_std - a * x_mean

check("01.unscale", unscale)

# %% 01.shards | average the workers
def combine(gradients, sizes):
    return gradients.mean(0)

check("01.shards", combine)

# %% 01.shards | sum over workers
def combine(gradients, sizes):
    return gradients.sum(0)

check("01.shards", combine)

# %% 01.shards | the gradient from shards
def combine(gradients, sizes):                  # weights upside down
    return (gradients / sizes[:, None]).sum(0) / (1 / sizes).sum()

check("01.shards", combine)

# %% 01.shards | sum over all examples
def combine(gradients, sizes):
    return (gradients * sizes[:, None]).sum(0)

check("01.shards", combine)

# %% 01.shards | number of workers
def combine(gradients, sizes):
    return (gradients * sizes[:, None]).mean(0)

check("01.shards", combine)

# %% 01.fewer_steps | still
def descend(gradient, smallest, largest):       # plain descent at its best rate
    theta = torch.zeros(2, dtype=torch.float64)
    for _ in range(250):
        theta = theta - 2 / (smallest + largest) * gradient(theta)
    return theta

check("01.fewer_steps", descend)

# %% 01.fewer_steps | budget
def descend(gradient, smallest, largest):
    theta = torch.zeros(2, dtype=torch.float64)
    while gradient(theta).norm() > 1e-6:
        theta = theta - 1 / largest * gradient(theta)
    return theta

check("01.fewer_steps", descend)

# %% 01.fewer_steps | still
def descend(gradient, smallest, largest):       # momentum that keeps everything never settles
    theta = velocity = torch.zeros(2, dtype=torch.float64)
    for _ in range(250):
        velocity = velocity - 1 / largest * gradient(theta)
        theta = theta + velocity
    return theta

check("01.fewer_steps", descend)

# %% 01.fewer_steps | it exploded
def descend(gradient, smallest, largest):       # as if 2 / largest could be exceeded
    theta = torch.zeros(2, dtype=torch.float64)
    for _ in range(250):
        theta = theta - 2.5 / largest * gradient(theta)
    return theta

check("01.fewer_steps", descend)

# %% 01.fewer_steps | it exploded
def descend(gradient, smallest, largest):       # so much so that nothing finite is left
    theta = torch.zeros(2, dtype=torch.float64)
    for _ in range(250):
        theta = theta - gradient(theta)
    return theta

check("01.fewer_steps", descend)
