"""What a cache keeps is what the model would compute again."""

import pytest
import torch

from aiinfra.model import KVCache, ModelConfig, Transformer


def test_chunked_prefill_equals_one_pass(ours) -> None:
    model, tokenizer = ours
    ids = torch.tensor(
        [tokenizer.encode("One forward pass over a prompt, or several over its pieces: the same logits.")]
    )
    cache = KVCache(model.config, ids.shape[1])
    with torch.inference_mode():
        whole = model(ids)
        pieces = [model(piece, torch.arange(cache.length, cache.length + piece.shape[1]), cache)
                  for piece in ids.split([1, 5, 2, ids.shape[1] - 8], dim=1)]
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-3


def test_a_full_cache_says_so() -> None:
    config = ModelConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
                         num_attention_heads=2,
                         num_key_value_heads=1, head_dim=4)
    cache = KVCache(config, capacity=3)
    model = Transformer(config)
    model(torch.tensor([[1, 2]]), kv=cache)
    assert cache.length == 2 and cache.nbytes == 3 * config.kv_bytes_per_token
    with pytest.raises(ValueError, match="holds 3 tokens and 4 are needed"):
        model(torch.tensor([[3, 4]]), kv=cache)
    assert cache.length == 2
