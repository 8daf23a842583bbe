from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from aiinfra.train.data import PackedStream
from aiinfra.train.loop import next_token_loss
from aiinfra.train.recompute import POLICIES, recompute
from tests.train.stories import corpus, tiny_model

TEXT = corpus()


def results(policy: str, dropout: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = tiny_model()
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda module, args, y: nn.functional.dropout(y, dropout))
    recompute(model, policy)
    batch = next(PackedStream(TEXT, 40, 3, seed=0))
    torch.manual_seed(7)
    loss = next_token_loss(model, batch, batch.valid)
    torch.rand(5)                              # the generator has moved on when the backward pass comes
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("policy", ["operation", "block"])
def test_loss_and_gradients_to_the_last_bit(policy: str, dropout: float) -> None:
    (loss, gradients), (again, same) = results("none", dropout), results(policy, dropout)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_less_is_kept_and_more_is_done() -> None:
    kept, done = {}, {}
    for policy in POLICIES:
        model = tiny_model()
        recompute(model, policy)
        batch = next(PackedStream(TEXT, 40, 3, seed=0))
        storages = {}
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = next_token_loss(model, batch, batch.valid)
        kept[policy] = sum(storages.values())
        products = []
        model.layers[0].mlp.gate_up.register_forward_hook(lambda *args: products.append(1))
        loss.backward()
        done[policy] = len(products)
    assert kept["block"] < kept["none"]
    assert done == {"none": 0, "operation": 1, "block": 1}


def test_names_stay_and_a_policy_can_be_taken_back() -> None:
    model = tiny_model()
    names = list(model.state_dict())
    recompute(model, "block")
    recompute(model, "operation")
    assert list(model.state_dict()) == names
    recompute(model, "none")
    assert "forward" not in model.layers[0].__dict__
    with pytest.raises(ValueError, match="policy 'blok' is not known. Did you mean 'block'"):
        recompute(model, "blok")


class Dropping(nn.Module):
    """A block that is linear in its weight, so that loss = weight · gradient holds if, and only if, both
    passes threw the same dice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(x), 0.4)


class OneBlock(nn.Module):
    """What `recompute` asks of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Dropping()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


def same_dice(model: OneBlock, run: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    loss = (run(torch.randn(16, 32)) * torch.linspace(0.5, 2, 32)).sum()
    torch.rand(5)
    loss.backward()
    weight = model.layers[0].inner.weight
    return torch.allclose(loss, (weight * weight.grad).sum(), rtol=1e-3)


def test_other_dice_would_be_seen() -> None:
    torch.manual_seed(0)
    model = OneBlock()
    block = model.layers[0]
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    assert not same_dice(model, model)


@pytest.mark.compile
@pytest.mark.parametrize("policy", POLICIES)
def test_compiled_dropout_throws_the_same_dice_twice(policy: str) -> None:
    """PyTorch's compiler has its own generator and its own plan of what to compute again."""
    torch.manual_seed(0)
    model = OneBlock()
    recompute(model, policy)
    assert same_dice(model, torch.compile(model.forward))
