"""The engine on a compressed cache: the same tokens in every mode, and as many blocks as the formula says."""

import pytest
import torch

from aiinfra.engine.sampling_params import SamplingParams
from tests.engine.small_model import MODES, alone, cache_for, engine_with, random_model, serve
from tests.model.small_mla import LATENT


@pytest.fixture(scope="module")
def model():
    return random_model(LATENT)


def requests() -> dict[str, tuple[list[int], SamplingParams]]:
    """Prompts that share beginnings; some are drawn from, with a seed."""
    shared = [(5 * i + i * i) % 53 for i in range(40)]
    found = {}
    for i in range(8):
        prompt = shared[:3 + 4 * i] + [i, 2 * i]
        temperature = 0.8 if i % 4 == 3 else 0.0
        found[str(i)] = prompt, SamplingParams(temperature=temperature, max_tokens=6 + i, seed=i)
    return found


@pytest.mark.parametrize("extra", [{}, {"cuda_graphs": True}, {"overlap": True},
                                   {"speculative": "prompt_lookup"}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_tokens_of_one_alone(mode: str, extra: dict, model) -> None:
    settings = {"blocks": 60, **MODES[mode], **extra}
    made, records = serve(engine_with(model, **settings), requests())
    assert made == {(name, 0): alone(model, *request) for name, request in requests().items()}
    if "preempted" in mode:
        assert any(record.preempted for record in records)


def test_blocks_are_copied(model) -> None:
    cache = cache_for(model, 5)
    cache.k.normal_()
    before = cache.k.clone()
    cache.copy([(1, 3)])
    assert torch.equal(cache.k[:, 3], before[:, 1]) and torch.equal(cache.v[:, 3], before[:, 1, ..., :24])


def test_the_pool_has_the_blocks_that_fit(model) -> None:
    engine = engine_with(model, blocks=30)
    per_token = LATENT.num_hidden_layers * (LATENT.mla.kv_lora_rank + LATENT.mla.qk_rope_head_dim) * 4
    assert engine.pool.total == 30 and engine.options.cache_bytes == 30 * 4 * per_token
    cache = engine.runner.cache
    assert cache.k.nbytes == engine.options.cache_bytes
    assert cache.v.data_ptr() == cache.k.data_ptr(), "values take no memory of their own"
