"""A model for inference on several ranks: each holds a share, and together they give the logits of one.

    tokens ─ embed (own words) ─ sum ─┬─ attention (own heads) ─ out ─ sum ─(+)─┬─ mlp (own part) ─ sum ─(+) …
             … norm ─ lm_head (own words) ─ gather ─> logits of all words, on every rank

Two sums over ranks a layer, of [N, D] each. Norms and the residual stream are done by all. The stacks stay
fused, so a decoding step has as few products as in one process. All ranks must call the model with the same
tokens, in the same order: who plans, and tells the others, is serve/'s affair. Notebook 17.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.functional import pad

from aiinfra.checkpoint.hub import DEFAULT_MODEL
from aiinfra.checkpoint.load import load
from aiinfra.checkpoint.tokenizer import Tokenizer
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.share import RankFile
from aiinfra.parallel.vocabulary import Words


def load_share(name_or_path: str | Path = DEFAULT_MODEL, group: ProcessGroup | None = None,
               dtype: str | torch.dtype | None = None, device: str | torch.device | None = None, *,
               cache: str | Path | None = None, quantize: str | None = None,
               packed: bool = True) -> tuple[Transformer, Tokenizer]:
    """This rank's share of a pretrained model, ready for inference together with the others of `group`, and
    its tokenizer; arguments else as of `aiinfra.load`.

    group: None is all ranks. Raises ValueError, with the figures, where the number of ranks does not divide
    heads, KV heads or feed-forward; LoadError as `load` does.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    model, tokenizer = load(name_or_path, dtype, device, packed, cache, quantize,
                            share=lambda source: RankFile(source, rank, ranks))
    join_ranks(model, group, tokens_in_all(model.config.vocab_size, group, model.device))
    return model, tokenizer


def tokens_in_all(own: int, group: ProcessGroup | None, device: torch.device) -> int:
    """The size of a vocabulary of which each rank has `own` words."""
    count = torch.tensor(own, device=device)
    dist.all_reduce(count, group=group)
    return int(count)


def join_ranks(model: Transformer, group: ProcessGroup | None, vocabulary: int) -> None:
    """Have a model that holds a rank's share (of a `RankFile`) compute the whole together with the others.

    Its config keeps the share's heads, of which caches are made, and gets the size of the whole vocabulary.
    """
    ranks = dist.get_world_size(group)
    if ranks == 1:
        return
    words = Words.of_rank(dist.get_rank(group), ranks, vocabulary)
    model.config = replace(model.config, vocab_size=vocabulary)
    model.embed = OwnWords(model.embed, words, group)
    model.lm_head.register_forward_hook(_Gather(group, vocabulary))
    for layer in model.layers:
        layer.attention.out.register_forward_hook(_Sum(group))
        layer.mlp.register_forward_hook(_Sum(group))


class OwnWords(nn.Module):
    """An embedding of some words: others' are 0, and the sum over ranks is the whole embedding."""

    def __init__(self, table: nn.Module, words: Words, group: ProcessGroup | None) -> None:
        super().__init__()
        self.table = table                               # plain, packed or quantised
        self.words = words
        self.group = group

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [...] -> [..., D]."""
        mine, rows = self.words.find(tokens)
        x = self.table(rows).masked_fill(~mine.unsqueeze(-1), 0.0)
        dist.all_reduce(x, group=self.group)
        return x


class _Sum:
    """A forward hook: the sum over ranks in place of a rank's part."""

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.contiguous()
        dist.all_reduce(output, group=self.group)
        return output


class _Gather:
    """A forward hook: the logits of all words in place of a rank's own."""

    def __init__(self, group: ProcessGroup | None, vocabulary: int) -> None:
        self.group = group
        self.ranks = dist.get_world_size(group)
        self.vocabulary = vocabulary
        self.share = -(-vocabulary // self.ranks)

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        own = pad(output, (0, self.share - output.shape[-1]))          # the last rank may have fewer words
        own = own.flatten(0, -2)                                       # [N, share]
        of_all = own.new_empty(self.ranks, *own.shape)
        dist.all_gather_into_tensor(of_all.flatten(0, 1), own, group=self.group)
        logits = of_all.transpose(0, 1).flatten(1)                     # [N, ranks · share]
        return logits[:, :self.vocabulary].view(*output.shape[:-1], self.vocabulary)
