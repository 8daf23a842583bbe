"""A small made-up text that a model can learn from, for the tests of training."""

import random

import torch

from aiinfra.model.config import ModelConfig
from aiinfra.model.transformer import Transformer
from aiinfra.train.corpus import Corpus, tokenize, train_tokenizer

_WHO = ["the fox", "an old sailor", "my sister", "the quiet engineer", "a small dog"]
_DID = ["found", "painted", "carried home", "dreamt of", "repaired"]
_WHAT = ["a red boat", "the tall clock", "seven eggs", "an empty café", "the northern light"]


def stories(count: int, seed: int = 0, longest: int = 6) -> list[str]:
    """`count` texts of 1 to `longest` sentences."""
    pick = random.Random(seed)
    return [" ".join(f"{pick.choice(_WHO)} {pick.choice(_DID)} {pick.choice(_WHAT)}.".capitalize()
                     for _ in range(pick.randint(1, longest))) for _ in range(count)]


def corpus(count: int = 30, seed: int = 0, vocab_size: int = 300) -> Corpus:
    texts = stories(count, seed)
    return tokenize(texts, train_tokenizer(texts, vocab_size))


def tiny_config(**changes) -> ModelConfig:
    sizes = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=128,
                 tie_word_embeddings=True)
    return ModelConfig(**{**sizes, **changes})


def tiny_model(seed: int = 0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(tiny_config(**changes))
