"""What a rank holds: against figures that were published, and what cannot be spread is refused."""

import pytest

from aiinfra.perf.memory import parameter_count
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import MODELS
from aiinfra.plan.split import PRECISIONS, ServingSplit, experts_of, holding_of, kv_bytes_per_token

DEEPSEEK, QWEN, LLAMA = MODELS["deepseek-r1"], MODELS["qwen3-235b-a22b"], MODELS["llama-3.1-70b"]
H20 = read_machine("H20")


@pytest.mark.parametrize("name", MODELS)
def test_one_rank_holds_all_matrices(name: str) -> None:
    """All but norms and biases, which are under a thousandth."""
    model = MODELS[name]
    held = holding_of(model, H20, ServingSplit()).weight_bytes
    assert held == pytest.approx(2 * parameter_count(model.config), rel=1e-3)


@pytest.mark.parametrize("split", [
    ServingSplit(tp=8), ServingSplit(tp=2, dp=4, ep=8), ServingSplit(dp=8, ep=8)])
def test_experts_are_divided_by_any_split(split: ServingSplit) -> None:
    whole = experts_of(DEEPSEEK, ServingSplit(), PRECISIONS["fp8"])
    part = experts_of(DEEPSEEK, split, PRECISIONS["fp8"])
    assert 8 * part.slots * part.nbytes == whole.slots * whole.nbytes


def test_latent_attention_is_copied_where_heads_are_divided() -> None:
    """Tensor parallelism divides KV heads, while there are some; of a latent vector every rank keeps all."""
    assert kv_bytes_per_token(LLAMA, 8, 16) == kv_bytes_per_token(LLAMA, 1, 16) / 8 == 80 * 2 * 128 * 2
    assert kv_bytes_per_token(QWEN, 8, 16) == kv_bytes_per_token(QWEN, 4, 16), "4 KV heads on 8 ranks"
    assert kv_bytes_per_token(DEEPSEEK, 8, 16) == kv_bytes_per_token(DEEPSEEK, 1, 16) == 61 * 576 * 2
    together = holding_of(DEEPSEEK, read_machine("H200"), ServingSplit(tp=8), "fp8").kv_tokens
    apart = 8 * holding_of(DEEPSEEK, read_machine("H200"), ServingSplit(dp=8, ep=8), "fp8").kv_tokens
    assert apart > 4 * together, "each of 8 groups has a cache of its own"


def test_qwen_on_h20_as_reported() -> None:
    """Qwen3-235B in bf16 runs out of memory on 4 H20 and loads on 8: 440 GiB (vLLM issue 17327)."""
    four = holding_of(QWEN, H20, ServingSplit(tp=4))
    eight = holding_of(QWEN, H20, ServingSplit(tp=8))
    assert four.free_bytes < 0 < eight.free_bytes
    assert 8 * eight.weight_bytes / 2**30 == pytest.approx(440, rel=0.02)


def test_what_cannot_be_spread_says_what_can() -> None:
    with pytest.raises(ValueError, match="tp=3 does not divide llama-3.1-70b's 64 heads. Choose one of 1, 2"):
        ServingSplit(tp=3).check(LLAMA)
    with pytest.raises(ValueError, match="has no experts"):
        ServingSplit(tp=8, ep=8).check(LLAMA)
    with pytest.raises(ValueError, match="redundant_experts=32"):
        ServingSplit(dp=72, ep=72).check(DEEPSEEK)
    with pytest.raises(ValueError, match="ep=3 does not divide"):
        ServingSplit(tp=8, ep=3)
    with pytest.raises(ValueError, match="at least 1"):
        ServingSplit(tp=0)
    with pytest.raises(ValueError, match="'fp8'"):
        holding_of(LLAMA, H20, ServingSplit(), "fp9")
