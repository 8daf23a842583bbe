"""Solutions of notebook 02, autograd: one section an exercise, each the whole cell."""

# %% 02.slopes
more_slopes = {
    "/": lambda a, b, y: (1 / b, -y / b),
    "sqrt": lambda a, y: (0.5 / y,),
    "sigmoid": lambda a, y: (y * (1 - y),),
    "max": lambda a, b, y: (1.0, 0.0) if a > b else (0.0, 1.0),
    "hypot": lambda a, b, y: (a / y, b / y),
}

check("02.slopes", more_slopes)

# %% 02.walk_back
from collections import Counter as Tally

def walk_back(root):  # sets .grad of each node behind root
    uses, seen, waiting = Tally(), {root}, [root]
    while waiting:
        for parent in waiting.pop().parents:
            uses[parent] += 1  # so many will report to it
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    root.grad, ready = 1.0, [root]
    while ready:
        node = ready.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad
            uses[parent] -= 1
            if uses[parent] == 0:  # all have reported
                ready.append(parent)

check("02.walk_back", walk_back)

# %% 02.nudge
def nudge(f, x):  # f: float64 [n] -> float;  x: float64 [n]  ->  float64 [n]
    slopes = torch.zeros_like(x)
    for i in range(len(x)):
        h = 6e-6 * float(x[i].abs())
        up, down = x.clone(), x.clone()
        up[i] += h
        down[i] -= h
        slopes[i] = (f(up) - f(down)) / (2 * h)
    return slopes

check("02.nudge", nudge)

# %% 02.unbroadcast
def unbroadcast(grad, shape):  # grad: a tensor; shape: a tuple -> tensor of that shape
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(0)  # a dimension that was missing
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(i, keepdim=True)  # a size of 1 that was repeated
    return grad

check("02.unbroadcast", unbroadcast)

# %% 02.linear_backward
def linear_backward(x, w, dy):  # -> dx [N, I], dw [O, I], db [O]
    return dy @ w, dy.T @ x, dy.sum(0)

check("02.linear_backward", linear_backward)

# %% 02.log_cosh
class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        size = x.abs()
        return size + torch.log1p(torch.exp(-2 * size)) - math.log(2)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * torch.tanh(x)

check("02.log_cosh", LogCosh)
