"""Solutions of notebook 01, fit a line: one section an exercise, each the whole cell."""

# %% 01.weighted_fit
def weighted_fit(x, y, w):                      # x, y, w: [n]
    def mean(v):
        return (w * v).sum() / w.sum()
    dx, dy = x - mean(x), y - mean(y)           # centred by the weighted means
    a = mean(dx * dy) / mean(dx * dx)
    return a, mean(y) - a * mean(x)

check("01.weighted_fit", weighted_fit)

# %% 01.largest_rate
def largest_rate(x):                            # x: [n]
    mean = x.mean().item()
    hessian = 2 * torch.tensor([[(x * x).mean().item(), mean], [mean, 1.0]], dtype=x.dtype)
    return 2 / torch.linalg.eigvalsh(hessian).max()

check("01.largest_rate", largest_rate)

# %% 01.unscale
def unscale(a_z, b_z, x_mean, x_std, y_mean, y_std):
    a = a_z * y_std / x_std                     # cm per year
    return a, y_mean + y_std * b_z - a * x_mean

check("01.unscale", unscale)

# %% 01.shards
def combine(gradients, sizes):                  # gradients: [R, 2], sizes: [R], both float64
    return (gradients * sizes[:, None]).sum(0) / sizes.sum()

check("01.shards", combine)

# %% 01.fewer_steps
def fewer_steps(gradient, smallest, largest):
    s, l = smallest ** 0.5, largest ** 0.5
    rate, keep = 4 / (l + s) ** 2, ((l - s) / (l + s)) ** 2
    theta = velocity = torch.zeros(2, dtype=torch.float64)
    for _ in range(200):
        velocity = keep * velocity - rate * gradient(theta)
        theta = theta + velocity
    return theta

check("01.fewer_steps", fewer_steps)
