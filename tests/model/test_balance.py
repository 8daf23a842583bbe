import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from aiinfra.model import MoEConfig
from aiinfra.model.balance import begin_step, end_step, move_bias
from aiinfra.model.moe import MoE

SIZES = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=5)


def mixture(**changes) -> MoE:
    torch.manual_seed(0)
    layer = MoE(8, MoEConfig(**{**SIZES, **changes})).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def router_gradient(layer: MoE, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    layer.zero_grad()
    (layer(x).square().sum() * scale).backward()
    return layer.router.weight.grad.clone()


def test_the_gradient_is_that_of_transformers_loss_beside_the_other():
    x = torch.randn(11, 8, dtype=torch.float64)
    without = router_gradient(mixture(), x)
    with_loss = router_gradient(mixture(router_aux_loss_coef=0.3), x)
    weight = mixture().router.weight.detach().requires_grad_()
    (0.3 * load_balancing_loss_func((x @ weight.T,), 6, 2)).backward()
    # theirs sums up probabilities in float32
    torch.testing.assert_close(with_loss - without, weight.grad, atol=1e-6, rtol=1e-5)


def test_the_output_is_the_same_with_the_loss():
    x = torch.randn(11, 8, dtype=torch.float64)
    assert torch.equal(mixture()(x), mixture(router_aux_loss_coef=0.3)(x))


def test_a_step_weighs_a_micro_batch_by_its_tokens():
    x = torch.randn(10, 8, dtype=torch.float64)
    layer, plain = mixture(router_aux_loss_coef=0.3), mixture()
    begin_step(layer, 40)
    in_step = router_gradient(layer, x, 1 / 40) - router_gradient(plain, x, 1 / 40)
    alone = router_gradient(mixture(router_aux_loss_coef=0.3), x) - router_gradient(plain, x)
    torch.testing.assert_close(in_step, alone / 4)


def test_sigmoid_scores_are_shares_in_the_loss():
    layer = mixture(router_aux_loss_coef=1.0, scoring_func="sigmoid")
    scores = torch.rand(7, 6, dtype=torch.float64)
    chosen = scores.topk(2).indices
    counts = layer.router.balance.count(chosen)
    share = counts / 7
    wanted = 6 * (share * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum()
    torch.testing.assert_close(layer.router.balance.loss(scores, counts, 2), wanted)


def test_parts_of_a_micro_batch_make_the_whole():
    scores = torch.rand(12, 6, dtype=torch.float64)
    balance = mixture(router_aux_loss_coef=0.7).router.balance
    balance.step_tokens = 12
    counts = [balance.count(part.topk(2).indices) for part in scores.split(4)]
    whole = balance.loss(scores, sum(counts), 2)
    balance.add_parts = lambda mine: sum(counts)
    parts = sum(balance.loss(part, mine, 2) for part, mine in zip(scores.split(4), counts))
    torch.testing.assert_close(parts, whole)


def test_what_is_computed_again_counts_once():
    x = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    layer = mixture(scoring_func="sigmoid", router_aux_loss_coef=0.1)
    begin_step(layer, 9)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    again = layer.router.balance.counts.clone(), layer.router.weight.grad.clone()
    layer.zero_grad()
    begin_step(layer, 9)
    layer(x).sum().backward()
    assert torch.equal(again[0], layer.router.balance.counts) and again[0].sum() == 18
    torch.testing.assert_close(again[1], layer.router.weight.grad)


def test_the_bias_moves_once_a_step_by_all_micro_batches():
    layer = mixture(scoring_func="sigmoid", bias_update_speed=0.25)
    begin_step(layer, 20)
    for seed in (1, 2):
        x = torch.randn(10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        layer(x).sum().backward()
    assert not layer.router.bias.any()                       # not before the step's end
    counts = layer.router.balance.counts.clone()
    end_step(layer, lambda counts: None)
    assert counts.sum() == 40
    assert torch.equal(layer.router.bias, 0.25 * torch.sign(40 / 6 - counts.double()))


def test_evaluation_counts_nothing():
    layer = mixture(scoring_func="sigmoid").eval()
    layer(torch.randn(3, 8, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        layer.train()(torch.randn(3, 8, dtype=torch.float64))
    assert layer.router.balance.counts is None


def test_the_bias_evens_out_the_load():
    layer = mixture(scoring_func="sigmoid", bias_update_speed=0.01)
    x = torch.randn(200, 8, dtype=torch.float64) + 1         # a mean: some experts are everybody's favourites
    loads = []
    for _ in range(120):
        begin_step(layer, 200)
        layer(x).sum().backward()
        loads.append(layer.router.balance.counts.clone())
        end_step(layer, lambda counts: None)
    mean = 400 / 6
    assert loads[0].max() > 2 * mean and loads[-1].max() < 1.2 * mean


@pytest.mark.parametrize("counts, moves", [
    ([4, 2, 0], [-1, 0, 1]), ([3, 3, 3], [0, 0, 0]), ([9, 0, 0], [-1, 1, 1])])
def test_a_move_goes_towards_the_mean(counts, moves):
    bias = torch.zeros(3)
    move_bias(bias, torch.tensor(counts), 1.0)
    assert bias.tolist() == moves


def test_a_rank_without_a_backward_pass_adds_nothing():
    layer = mixture(scoring_func="sigmoid", bias_update_speed=1.0)
    begin_step(layer, 5)
    theirs = torch.tensor([[5, 1, 0, 0, 0, 0]])
    end_step(layer, lambda counts: counts.add_(theirs))
    assert layer.router.bias.tolist() == [-1, 0, 1, 1, 1, 1]
