"""How well a model writes texts that it has not learnt from: mean loss, and bits for each byte of text."""

import math
from dataclasses import dataclass

import torch

from aiinfra.model.transformer import Transformer
from aiinfra.train.corpus import Corpus
from aiinfra.train.data import PackedStream
from aiinfra.train.loop import next_token_loss


@dataclass(frozen=True)
class Evaluation:
    """The same texts, cut into the same rows, give the same figures."""

    loss: float              # nats a token, ends of texts included
    bits_per_byte: float     # does not depend on the tokenizer
    tokens: int


@torch.no_grad()
def evaluate(model: Transformer, corpus: Corpus, length: int, rows: int = 8) -> Evaluation:
    """Loss over all of `corpus`, once, in its order, in rows of at most `length` tokens. Draws no random
    number, and leaves the model in the mode (training or not) in which it was."""
    stream = PackedStream(corpus, min(length, len(corpus)), rows, seed=None)
    training = model.training
    model.eval()
    nats, tokens, text_bytes = 0.0, 0, 0
    left = stream.rows_per_epoch
    while left:
        stream.rows = min(stream.rows, left)             # the last micro-batch ends where the epoch ends
        left -= stream.rows
        batch = next(stream).to(model.device)
        nats += float(next_token_loss(model, batch, total=1))
        tokens += batch.valid
        text_bytes += batch.text_bytes
    model.train(training)
    return Evaluation(
        loss=nats / tokens,
        bits_per_byte=nats / math.log(2) / max(1, text_bytes),
        tokens=tokens)
