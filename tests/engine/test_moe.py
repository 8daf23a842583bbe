"""The engine serves a mixture of experts on its paged cache, without a line of its own about experts."""

import pytest
import torch
import transformers

from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import MoEConfig, Transformer
from tests.checkpoint.small_models import our_model, reference_model
from tests.engine.small_model import MODES, SMALL, alone, engine_with, serve

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [[5, 9, 2], [7] * 9, list(range(30, 51)), [1], [40, 3, 3, 8, 11], list(range(20))]


def their_greedy(model: transformers.PreTrainedModel, prompt: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12,
                           min_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, len(prompt):].tolist()


@pytest.mark.parametrize("case", [
    "mixtral", "qwen3 moe", "deepseek v3", "deepseek v2", "deepseek v3 dense, yarn"])
def test_tokens_are_those_of_transformers(case: str, tmp_path) -> None:
    theirs = reference_model(case)
    theirs.save_pretrained(tmp_path)
    requests = {str(i): (prompt, GREEDY) for i, prompt in enumerate(PROMPTS)}
    wanted = {(str(i), 0): their_greedy(theirs, prompt) for i, prompt in enumerate(PROMPTS)}
    ours = our_model(tmp_path)
    chunked = engine_with(ours, blocks=200, max_running=4, token_budget=16)
    made, _ = serve(chunked, requests)
    assert made == wanted
    again, records = serve(chunked, requests)
    assert again == wanted and sum(count for record in records for *_, count in record.ran) < 90, "prefixes"
    made, records = serve(engine_with(ours, blocks=14, max_running=6), requests)
    assert made == wanted and any(record.preempted for record in records)


@pytest.fixture(scope="module")
def deepseek() -> Transformer:
    """DeepSeek-V3's experts, one layer dense and one sparse, with a bias that matters."""
    torch.manual_seed(1)
    moe = MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_shared_experts=1,
                    scoring_func="sigmoid", n_group=4, topk_group=2, routed_scaling_factor=2.5,
                    first_k_dense_replace=1)
    model = Transformer(type(SMALL)(**{**vars(SMALL), "moe": moe})).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.35)
    torch.nn.init.normal_(model.layers[1].mlp.router.bias, std=0.2)
    return model


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_equal(mode: str, deepseek: Transformer) -> None:
    requests = {str(i): (prompt, GREEDY) for i, prompt in enumerate(PROMPTS)}
    made, _ = serve(engine_with(deepseek, **{"blocks": 60, **MODES[mode]}), requests)
    assert made == {(str(i), 0): alone(deepseek, prompt, GREEDY) for i, prompt in enumerate(PROMPTS)}
