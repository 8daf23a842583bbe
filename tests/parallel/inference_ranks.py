"""What ranks do in test_inference.py: each calls the model with the same tokens."""

import torch
import torch.distributed as dist

from aiinfra.checkpoint import load
from aiinfra.checkpoint.fill import fill
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.compress.packed import PlacePacked
from aiinfra.compress.place import PlacePlain
from aiinfra.engine import LLM, SamplingParams
from aiinfra.engine.engine import Engine
from aiinfra.model import KVCache, Transformer
from aiinfra.parallel.inference import join_ranks, load_share
from aiinfra.parallel.share import RankFile


def our_model(folder, packed=False, share=None):
    """The model of a folder, or of the share of it; no rank needs transformers for that."""
    source = HuggingFaceFolder(folder)
    if share is not None:
        source = share(source)
    model = Transformer(source.config)
    fill(model, source, PlacePacked(model) if packed else PlacePlain())
    return model.eval()


def logits(folder, packed):
    """Of a prefill, and of a token after it; and the config's heads and words."""
    share = load_weights(folder, packed)
    tokens = torch.randint(0, share.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cache = KVCache(share.config, 16, batch=2)
        first = share(tokens, kv=cache)
        both = torch.cat([first, share(tokens[:, :1], kv=cache)], 1)
        alone = our_model(folder, packed)
        cache = KVCache(alone.config, 16, batch=2)
        expected = torch.cat([alone(tokens, kv=cache), alone(tokens[:, :1], kv=cache)], 1)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4)
    assert share.config.num_attention_heads * dist.get_world_size() == alone.config.num_attention_heads
    return share.weight_bytes(), alone.weight_bytes()


def load_weights(folder, packed):
    """As `load_share`, of a folder that has no tokenizer."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    share = our_model(folder, packed, share=lambda source: RankFile(source, rank, ranks))
    words = torch.tensor(share.config.vocab_size)
    dist.all_reduce(words)
    join_ranks(share, None, int(words))
    return share


def tokens_of(model, tokenizer, prompts):
    """Token ids of each prompt through the paged engine: greedy, and drawn."""
    llm = LLM.around(Engine(model, max_running=4, cache_bytes=1 << 24), tokenizer)
    kinds = [SamplingParams(temperature=t, max_tokens=20, seed=7) for t in (0.0, 1.0)]
    return [[output.outputs[0].token_ids for output in llm.generate(prompts, kind)] for kind in kinds]


def answers(name, prompts):
    """Every rank runs the engine for itself; all come to the same plan."""
    return tokens_of(*load_share(name, dtype="float32", device="cpu"), prompts)


def answers_alone(name, prompts):
    return tokens_of(*load(name, dtype="float32", device="cpu"), prompts)


def words(name):
    """What is said to a number of ranks that does not divide the heads."""
    try:
        load_share(name, dtype="float32", device="cpu")
    except ValueError as error:
        return str(error)
