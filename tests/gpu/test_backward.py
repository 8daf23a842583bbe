"""The backward pass in Python gives what PyTorch's engine gives, to the last bit."""

from dataclasses import replace

import pytest
import torch
from tests.engine.fake_traffic import CONFIGS
from torch import Tensor, nn

from aiinfra.gpu.backward import walk
from aiinfra.gpu.fake import fake_gpu
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model import Transformer
from aiinfra.train.recompute import recompute


def loss_of(model: Transformer, autocast: bool = False) -> Tensor:
    tokens = torch.arange(24) % 19
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model.hidden(tokens[None]).flatten(0, 1)
        return linear_cross_entropy(hidden, model.lm_head.weight, tokens.roll(-1))


def gradients(model: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind, policy, autocast", [
    ("norms of q and k", "none", False), ("norms of q and k", "block", False), ("experts", "none", False),
    ("plain", "none", True)])
def test_the_gradients_of_the_engine(kind: str, policy: str, autocast: bool) -> None:
    """Also where one parameter is used twice, where two passes add up, and where layers are done again."""
    torch.manual_seed(0)
    model = Transformer(replace(CONFIGS[kind], vocab_size=64))
    recompute(model, policy)
    for _ in range(2):
        loss_of(model, autocast).backward()
    expected = gradients(model)
    for _ in range(2):
        walk((loss_of(model, autocast),), (torch.tensor(1.0),))
    for ours, theirs in zip(gradients(model), expected, strict=True):
        assert torch.equal(ours, theirs)


class Pair(torch.autograd.Function):
    """Two outputs, of which one is not used; a number among the inputs; a gradient of another dtype."""

    @staticmethod
    def forward(ctx, factor, x, y):
        ctx.factor = factor
        return factor * x, x + y

    @staticmethod
    def backward(ctx, dx, dy):
        return None, (ctx.factor * dx + dy).double(), dy


@pytest.mark.parametrize("used", [0, 1])
def test_a_function_of_ours(used: int) -> None:
    found = []
    for back in (lambda y: y.backward(), lambda y: walk((y,), (torch.tensor(1.0),))):
        x, y = torch.ones(3, requires_grad=True), torch.ones(3)
        back((Pair.apply(2.0, x, y)[used] * torch.ones(2, 3)).sum())
        found.append(x.grad)
    assert torch.equal(*found) and found[0].dtype == torch.float32


def test_what_only_the_engine_does_is_refused_on_a_fake_gpu() -> None:
    with fake_gpu() as gpu:
        x = torch.ones(3, device=gpu.device, requires_grad=True)
        with pytest.raises(NotImplementedError, match="there is backward"):
            torch.autograd.grad(x.sum(), x)
        y = torch.ones(3, requires_grad=True)
        assert torch.equal(*torch.autograd.grad(y.sum(), y), torch.ones(3))
