import pytest
import torch
from torch.nn.functional import silu

from aiinfra.errors import LoadError
from aiinfra.model import KVCache, ModelConfig, MoEConfig, Transformer
from aiinfra.model.moe import Experts, MoE, Router, Routing, combine, sort_by_expert

SMALL = dict(vocab_size=61, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             head_dim=8, intermediate_size=40)
SOFTMAX = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=20)
DEEPSEEK = dict(SOFTMAX, scoring_func="sigmoid", n_group=4, topk_group=2, routed_scaling_factor=2.5,
                n_shared_experts=2, num_experts_per_tok=3)


def mixture(seed: int = 0, **changes) -> MoE:
    torch.manual_seed(seed)
    layer = MoE(48, MoEConfig(**{**SOFTMAX, **changes})).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def one_expert(layer: MoE, number: int, x: torch.Tensor) -> torch.Tensor:
    gate, up = (x @ layer.experts.gate_up.weight[number].T).chunk(2, -1)
    return silu(gate) * up @ layer.experts.down.weight[number].T


def token_by_token(layer: MoE, x: torch.Tensor) -> torch.Tensor:
    """The definition: each token's experts, one after another."""
    chosen, weights = layer.router(x)
    rows = [sum(w * one_expert(layer, e, row) for e, w in zip(experts.tolist(), of_row))
            for row, experts, of_row in zip(x, chosen, weights)]
    y = torch.stack(rows)
    return y if layer.shared is None else y + layer.shared(x)


@pytest.mark.parametrize("changes", [{}, {"norm_topk_prob": False}, DEEPSEEK],
                         ids=["norm", "plain", "sigmoid"])
def test_is_its_experts_token_by_token(changes):
    layer, x = mixture(**changes), torch.randn(2, 7, 48, dtype=torch.float64)
    torch.testing.assert_close(layer(x), token_by_token(layer, x.view(14, 48)).view(2, 7, 48))


def test_gradients():
    layer = mixture(n_shared_experts=1).eval()
    x = torch.randn(5, 48, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    weights = torch.randn(5, 48, dtype=torch.float64)
    theirs = torch.autograd.grad((token_by_token(layer, x) * weights).sum(), inputs)
    ours = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("bias, expected", [([0.0] * 6 + [9.0] * 2, {6, 7}), ([9.0] + [0.0] * 7, {0})])
def test_empty_and_overloaded_experts(bias, expected):
    layer = mixture(scoring_func="sigmoid")
    layer.router.bias.copy_(torch.tensor(bias))
    x = torch.randn(9, 48, dtype=torch.float64)
    chosen = layer.router(x).experts
    assert expected <= set(chosen.flatten().tolist()) and all(expected <= set(row) for row in chosen.tolist())
    y = layer(x)
    torch.testing.assert_close(y, token_by_token(layer, x))
    y.sum().backward()
    unused = sorted(set(range(8)) - set(chosen.flatten().tolist()))
    assert unused and not layer.experts.gate_up.weight.grad[unused].any()
    assert layer.experts.down.weight.grad[sorted(expected)].any()


def test_no_tokens():
    layer = mixture(n_shared_experts=1)
    y = layer(torch.zeros(0, 48, dtype=torch.float64))
    y.sum().backward()
    assert y.shape == (0, 48) and not layer.experts.down.weight.grad.any()


def test_the_bias_chooses_and_does_not_weigh():
    layer = mixture(scoring_func="sigmoid", norm_topk_prob=False)
    x = torch.randn(4, 48, dtype=torch.float64)
    layer.router.bias[3] = 50.0
    chosen, weights = layer.router(x)
    score = (x @ layer.router.weight[3]).sigmoid()
    assert (chosen == 3).any(-1).all()
    torch.testing.assert_close(weights[chosen == 3], score)


def test_only_the_best_groups_are_chosen_from():
    router = Router(4, MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=4, n_group=4,
                                 topk_group=1, scoring_func="sigmoid"))
    # The best expert (0) stands in a group that is worse, by its two best, than that of 2 and 3.
    scores = torch.tensor([[0.9, 0.0, 0.6, 0.5, 0.1, 0.1, 0.2, 0.2]])
    assert router.choose(scores).tolist() == [[2, 3]]


def test_the_router_is_exact_under_autocast():
    layer = mixture().float()
    x = torch.randn(6, 48)
    with torch.autocast("cpu", torch.bfloat16):
        scores = layer.router.scores(x)
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(scores, layer.router.scores(x)) and scores.dtype == torch.float32


def test_sorting_keeps_tokens_in_order_and_comes_back():
    experts = torch.tensor([[3, 0], [0, 2], [3, 2]])
    order, offsets = sort_by_expert(experts, 5)
    assert order.tolist() == [1, 2, 3, 5, 0, 4] and offsets.tolist() == [0, 2, 2, 4, 6, 6]
    rows = torch.arange(6.0)[order, None]
    weights = torch.tensor([[1.0, 10.0]] * 3)
    assert combine(rows, order, Routing(experts, weights)).flatten().tolist() == [10.0, 32.0, 54.0]


def test_a_choice_of_all_experts_is_a_dense_mean():
    layer = mixture(num_experts_per_tok=8)
    x = torch.randn(3, 48, dtype=torch.float64)
    weights = (x @ layer.router.weight.T).softmax(-1)
    wanted = sum(weights[:, e, None] * one_expert(layer, e, x) for e in range(8))
    torch.testing.assert_close(layer(x), wanted)


def test_layers_are_sparse_where_the_config_says():
    config = MoEConfig(**SOFTMAX, first_k_dense_replace=1, mlp_only_layers=(3,))
    assert [config.is_sparse(layer) for layer in range(5)] == [False, True, True, False, True]
    config = MoEConfig(**SOFTMAX, decoder_sparse_step=2)
    assert [config.is_sparse(layer) for layer in range(5)] == [False, True, False, True, False]
    model = Transformer(ModelConfig(**SMALL, moe=MoEConfig(**SOFTMAX, first_k_dense_replace=2)))
    assert [isinstance(layer.mlp, MoE) for layer in model.layers] == [False, False, True]


def test_cached_is_uncached():
    model = Transformer(ModelConfig(**SMALL, moe=MoEConfig(**DEEPSEEK))).double().eval()
    tokens = torch.randint(0, 61, (2, 9))
    cache = KVCache(model.config, capacity=9, batch=2, dtype=torch.float64)
    pieces = [model(tokens[:, a:b], kv=cache) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens))


def test_every_weight_has_a_value_of_its_kind():
    torch.manual_seed(0)
    config = ModelConfig(**{**SMALL, "num_hidden_layers": 8}, moe=MoEConfig(**DEEPSEEK))
    mlp = Transformer(config).layers[0].mlp
    assert mlp.experts.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert mlp.shared.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert mlp.experts.gate_up.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert mlp.router.weight.std().item() == pytest.approx(0.02, rel=0.2) and not mlp.router.bias.any()


def test_bytes_that_tokens_read():
    model = Transformer(ModelConfig(**SMALL, tie_word_embeddings=True, moe=MoEConfig(**SOFTMAX)))
    experts = sum(p.nbytes for name, p in model.named_parameters() if "experts" in name)
    others = sum(p.nbytes for p in model.parameters()) - experts
    assert model.weight_bytes() == others + experts * 2 // 8
    assert model.weight_bytes(tokens=10_000) == others + experts
    assert others + experts / 4 < model.weight_bytes(tokens=4) < others + experts


@pytest.mark.parametrize("changes, said", [
    ({"num_experts": 0}, "num_experts=0; it must be an integer of at least 1"),
    ({"num_experts_per_tok": 9}, "num_experts_per_tok=9; a token may choose among 8"),
    ({"scoring_func": "sigmoyd"}, "scoring_func='sigmoyd' is not known. Did you mean 'sigmoid'"),
    ({"n_group": 3, "scoring_func": "sigmoid"}, "num_experts=8 is not a multiple of n_group=3"),
    ({"n_group": 2, "topk_group": 3, "scoring_func": "sigmoid"}, "topk_group=3 is more than n_group=2"),
    ({"n_group": 4, "scoring_func": "sigmoid", "num_experts_per_tok": 3}, "among 2 experts only"),
    ({"n_group": 2}, "groups are known with scoring_func='sigmoid' only"),
    ({"n_group": 8, "topk_group": 8, "scoring_func": "sigmoid"}, "two experts or more in each"),
])
def test_numbers_that_do_not_belong_together(changes, said):
    with pytest.raises(LoadError, match=said):
        MoEConfig(**{**SOFTMAX, **changes})


def test_bias_of_a_feed_forward_is_refused():
    with pytest.raises(LoadError, match="experts have no bias"):
        ModelConfig(**SMALL, mlp_bias=True, moe=MoEConfig(**SOFTMAX))


def test_experts_run_rows_that_are_sorted():
    layer = mixture()
    rows, offsets = torch.randn(5, 48, dtype=torch.float64), torch.tensor([0, 0, 3, 3, 3, 3, 3, 3, 5]).int()
    wanted = torch.cat([one_expert(layer, 1, rows[:3]), one_expert(layer, 7, rows[3:])])
    assert isinstance(layer.experts, Experts)
    torch.testing.assert_close(layer.experts.run(rows, offsets), wanted)
