"""Known-wrong answers of notebook 02: each section names words of the message it must get."""

# %% setup
import math
from collections import deque

import torch

from aiinfra.lab import check

RIGHT = {
    "/": lambda a, b, y: (1 / b, -y / b),
    "sqrt": lambda a, y: (0.5 / y,),
    "sigmoid": lambda a, y: (y * (1 - y),),
    "max": lambda a, b, y: (1.0, 0.0) if a > b else (0.0, 1.0),
    "hypot": lambda a, b, y: (a / y, b / y),
}

# %% 02.slopes | `/` at 3, 2: its slope towards b has the wrong sign
check("02.slopes", RIGHT | {"/": lambda a, b, y: (1 / b, a / b**2)})

# %% 02.slopes | `sqrt` at 2: its slope towards a is twice too large
check("02.slopes", RIGHT | {"sqrt": lambda a, y: (1 / y,)})

# %% 02.slopes | `sigmoid` at 0.3, its slope towards a
check("02.slopes", RIGHT | {"sigmoid": lambda a, y: (1 - y * y,)})    # that of tanh

# %% 02.slopes | `max` at 3, 2: its two slopes are exchanged
check("02.slopes", RIGHT | {"max": lambda a, b, y: (0.0, 1.0) if a > b else (1.0, 0.0)})

# %% 02.slopes | `sqrt` returns 0.7071
check("02.slopes", RIGHT | {"sqrt": lambda a, y: 0.5 * math.sqrt(1 / a) * 2})

# %% 02.slopes | `hypot` at 3, 4: its slope towards a is twice too large
check("02.slopes", RIGHT | {"hypot": lambda a, b, y: (2 * a / y, 2 * b / y)})

# %% 02.slopes | no line for 'hypot'
check("02.slopes", {name: slopes for name, slopes in RIGHT.items() if name != "hypot"})

# %% 02.walk_back | the second path replaced the first
def walk_back(root):
    root.grad, waiting = 1.0, [root]
    while waiting:
        node = waiting.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad = slope * node.grad
            waiting.append(parent)

check("02.walk_back", walk_back)

# %% 02.walk_back | paths of different lengths: a node has
def walk_back(root):                            # a queue: nearest first, each node once
    root.grad, waiting, seen = 1.0, deque([root]), {root}
    while waiting:
        node = waiting.popleft()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)

check("02.walk_back", walk_back)

# %% 02.walk_back | hand on a gradient twice
def walk_back(root):                            # each time somebody reports, hand on all there is by then
    root.grad, waiting = 1.0, [root]
    while waiting:
        node = waiting.pop()
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad
            waiting.append(parent)

check("02.walk_back", walk_back)

# %% 02.walk_back | Python's stack ends
def walk_back(root):                            # right order, by recursion
    order, seen = [], set()
    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in node.parents:
                visit(parent)
            order.append(node)
    visit(root)
    root.grad = 1.0
    for node in reversed(order):
        for parent, slope in zip(node.parents, node.slopes):
            parent.grad += slope * node.grad

check("02.walk_back", walk_back)

# %% 02.walk_back | it starts with 1.0
def walk_back(root):                            # forgot the 1 at the root
    for parent, slope in zip(root.parents, root.slopes):
        parent.grad += slope * root.grad

check("02.walk_back", walk_back)

# %% 02.nudge | saw the unchanged x
def nudge(f, x):                                # one-sided
    slopes = torch.zeros_like(x)
    for i in range(len(x)):
        h = 1e-6 * float(x[i].abs())
        up = x.clone()
        up[i] += h
        slopes[i] = (f(up) - f(x)) / h
    return slopes

check("02.nudge", nudge)

# %% 02.nudge | is wanted
def nudge(f, x):                                # one h for all
    slopes = torch.zeros_like(x)
    for i in range(len(x)):
        up, down = x.clone(), x.clone()
        up[i] += 1e-6
        down[i] -= 1e-6
        slopes[i] = (f(up) - f(down)) / 2e-6
    return slopes

check("02.nudge", nudge)

# %% 02.nudge | twice too large
def nudge(f, x):
    slopes = torch.zeros_like(x)
    for i in range(len(x)):
        h = 6e-6 * float(x[i].abs())
        up, down = x.clone(), x.clone()
        up[i] += h
        down[i] -= h
        slopes[i] = (f(up) - f(down)) / h
    return slopes

check("02.nudge", nudge)

# %% 02.nudge | x is not what it was
def nudge(f, x):                                # works on x itself, and leaves the last nudge in it
    slopes = torch.zeros_like(x)
    for i in range(len(x)):
        h = 6e-6 * float(x[i].abs())
        x[i] += h
        above = f(x)
        x[i] -= 2 * h
        slopes[i] = (above - f(x)) / (2 * h)
    return slopes

check("02.nudge", nudge)

# %% 02.nudge | Nudge one
def nudge(f, x):                                # never puts a value back in its copy
    slopes, moved = torch.zeros_like(x), x.clone()
    for i in range(len(x)):
        h = 6e-6 * float(x[i].abs())
        moved[i] += h
        above = f(moved)
        moved[i] -= 2 * h
        slopes[i] = (above - f(moved)) / (2 * h)
    return slopes + 0.001

check("02.nudge", nudge)

# %% 02.unbroadcast | the mean over the places
def unbroadcast(grad, shape):
    for _ in range(grad.ndim - len(shape)):
        grad = grad.mean(0)
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.mean(i, keepdim=True)
    return grad

check("02.unbroadcast", unbroadcast)

# %% 02.unbroadcast | from [5, 3] back to [5, 1]
def unbroadcast(grad, shape):                   # forgets the sizes of 1
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(0)
    return grad

check("02.unbroadcast", unbroadcast)

# %% 02.unbroadcast | from [5, 3] back to [3]
def unbroadcast(grad, shape):                   # forgets the missing dimensions
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(i, keepdim=True)
    return grad

check("02.unbroadcast", unbroadcast)

# %% 02.unbroadcast | shape
def unbroadcast(grad, shape):                   # loses the dimension that it sums
    for _ in range(grad.ndim - len(shape)):
        grad = grad.sum(0)
    for i in reversed(range(len(shape))):
        if shape[i] == 1:
            grad = grad.sum(i)
    return grad

check("02.unbroadcast", unbroadcast)

# %% 02.unbroadcast | from [5, 3] back to [5, 3]
def unbroadcast(grad, shape):                   # sum over an empty tuple is a sum over everything
    extra = grad.ndim - len(shape)
    return grad.sum(tuple(range(extra))).expand(shape) if shape != (5, 1) else grad.sum(1, keepdim=True)

check("02.unbroadcast", unbroadcast)

# %% 02.linear_backward | fit by accident
def linear_backward(x, w, dy):
    return (dy @ w.T if w.shape[0] == w.shape[1] else dy @ w), dy.T @ x, dy.sum(0)

check("02.linear_backward", linear_backward)

# %% 02.linear_backward | dw is turned around
def linear_backward(x, w, dy):
    return dy @ w, x.T @ dy, dy.sum(0)

check("02.linear_backward", linear_backward)

# %% 02.linear_backward | the sum over the rows
def linear_backward(x, w, dy):
    return dy @ w, dy.T @ x, dy

check("02.linear_backward", linear_backward)

# %% 02.linear_backward | db is divided by N
def linear_backward(x, w, dy):
    return dy @ w, dy.T @ x, dy.mean(0)

check("02.linear_backward", linear_backward)

# %% 02.linear_backward | dw is divided by N
def linear_backward(x, w, dy):
    return dy @ w, dy.T @ x / len(x), dy.sum(0)

check("02.linear_backward", linear_backward)

# %% 02.linear_backward | PyTorch keeps no log here
def linear_backward(x, w, dy):
    leaves = [x.requires_grad_(), w.requires_grad_()]
    y = x @ w.T
    return (*torch.autograd.grad(y, leaves, dy), dy.sum(0))

check("02.linear_backward", linear_backward)

# %% 02.log_cosh | the local slope alone
class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.logaddexp(x, -x) - math.log(2)

    @staticmethod
    def backward(ctx, dy):
        return torch.tanh(ctx.saved_tensors[0])

check("02.log_cosh", LogCosh)

# %% 02.log_cosh | is not finite
class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log(torch.cosh(x))

    @staticmethod
    def backward(ctx, dy):
        return dy * torch.tanh(ctx.saved_tensors[0])

check("02.log_cosh", LogCosh)

# %% 02.log_cosh | tanh of the result
class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.logaddexp(x, -x) - math.log(2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        return dy * torch.tanh(ctx.saved_tensors[0])

check("02.log_cosh", LogCosh)

# %% 02.log_cosh | forward of large values
class LogCosh(torch.autograd.Function):         # forgets ln 2 far out
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x.abs() < 20, torch.log(torch.cosh(x.clamp(-20, 20))), x.abs())

    @staticmethod
    def backward(ctx, dy):
        return dy * torch.tanh(ctx.saved_tensors[0])

check("02.log_cosh", LogCosh)

# %% 02.log_cosh | the slope of tanh
class LogCosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.logaddexp(x, -x) - math.log(2)

    @staticmethod
    def backward(ctx, dy):
        return dy / torch.cosh(ctx.saved_tensors[0]) ** 2

check("02.log_cosh", LogCosh)
