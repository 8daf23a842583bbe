"""Tensor parallel for training: every rank computes some heads, some of the feed-forward and some words.

    x ─ enter ─┬─ q, k, v: H/T heads ─ attention ─ out ──┬─ leave ─ (+)     ColwiseParallel … RowwiseParallel
               └─ gate, up: F/T ─ swiglu ─ down ─────────┘

The plan is the table of parts.py, carried out by PyTorch's styles. Parameters become DTensors, so optimizers,
FSDP2 and checkpoints know what they are parts of; activations between modules are plain tensors of this rank,
as layout.py says. Only what those styles have no word for is ours: norms whose gradients are parts, and the
vocabulary (vocabulary.py). Experts are not cut here, but computed by every rank: what divides them is expert
parallelism. Notebook 06.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, PrepareModuleInput
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

from aiinfra.model.attention import Attention
from aiinfra.model.layers import RMSNorm
from aiinfra.model.mla import MLA
from aiinfra.model.moe import GroupedLinear, Router
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.latent import RankLatentUp, RankLinear, cut_latent
from aiinfra.parallel.layout import TokenLayout, replicated
from aiinfra.parallel.parts import Parts, cut_of, split_parts
from aiinfra.parallel.vocabulary import VocabularyEmbedding, VocabularyHead, vocabulary_cross_entropy
from aiinfra.parallel.vocabulary import words_of
from aiinfra.perf.sharding import shape_of_a_rank

IGNORED = -100                     # as in training's batches: a target that is not learnt from


def tensor_parallel(model: Transformer, mesh: DeviceMesh, sequence: bool = False) -> TokenLayout:
    """Cut `model`, in place, among the ranks of `mesh`, which has one dimension; say how to read its output.

    sequence: between modules each rank holds some of the tokens only. Every rank's weights are those of the
    first. `model.hidden` gives a rank's own tokens then; `model(tokens)` and `TensorLoss` are as in one
    process. Raises ValueError, before anything is changed, if heads, KV heads or feed-forward cannot be
    divided, if a rank would have no words, for a layer that no row of parts.py knows, and for `sequence` with
    experts: a router needs all tokens.
    """
    layout = TokenLayout(mesh, sequence)
    _refuse(model, layout)
    split_parts(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, MLA):
            cut_latent(name, module, layout)
    parallelize_module(model, mesh, _plan(model, layout))
    _replace_norms(model, layout)
    _replace_vocabulary(model, layout)
    _share_uncut(model, mesh)
    for module in model.modules():
        if isinstance(module, Attention):
            module.heads //= mesh.size()
            module.kv_heads //= mesh.size()
    return layout


def _refuse(model: Transformer, layout: TokenLayout) -> None:
    """Raise ValueError for a model that cannot be cut so."""
    shape_of_a_rank(model.config, layout.mesh.size())
    words_of(layout, model.config.vocab_size)
    for name in _layers_of(model):
        cut_of(name)
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.embed.weight:
        raise ValueError("the config ties the embedding to the last layer, and they are two tables here: "
                         "something (to_empty, a copy) has parted them. Set lm_head.weight = embed.weight.")
    if layout.sequence and model.config.moe is not None:
        raise ValueError("a model with experts cannot hold parts of the sequence between its modules: its "
                         "router counts all tokens. Use tensor parallelism without sequence.")


def _layers_of(model: nn.Module) -> list[str]:
    """The names of the modules that have parameters of their own."""
    return [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]


def _plan(model: Transformer, layout: TokenLayout) -> dict[str, ParallelStyle]:
    """PyTorch's style of each matrix that is cut in columns or rows."""
    plan: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if isinstance(module, Parts):          # its input is brought together once for all of its parts
            plan[name] = PrepareModuleInput(
                input_layouts=(layout.placement,), desired_input_layouts=(Replicate(),))
    for name in _layers_of(model):
        kind = cut_of(name).kind
        module = model.get_submodule(name)
        if isinstance(module, GroupedLinear | RankLinear | RankLatentUp):
            continue
        if kind == "column":
            plan[name] = ColwiseParallel()
        elif kind == "row":
            plan[name] = RowwiseParallel(output_layouts=layout.placement)
            module.register_forward_hook(_arrived)
    return plan


def _arrived(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The sum over ranks, when it is there: a Triton kernel cannot wait for a promise."""
    if isinstance(output, AsyncCollectiveTensor):
        return output.wait()
    return output


class RankNorm(RMSNorm):
    """An RMSNorm whose weight is the same DTensor on every rank. partial: each rank norms only some of the
    rows, so the weight's gradient is summed over ranks."""

    def __init__(self, norm: RMSNorm, mesh: DeviceMesh, partial: bool) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.weight = _distributed(norm.weight, mesh, None)
        self.partial = partial

    @property
    def scale(self) -> Tensor:
        """See RMSNorm."""
        return replicated(self.weight, self.partial)


def _replace_norms(model: Transformer, layout: TokenLayout) -> None:
    for name, module in list(model.named_modules()):
        if type(module) is RMSNorm:
            before_heads = re.search(r"attention\.\w+_norm$", name)      # only its own send gradients back
            partial = before_heads is not None or layout.sequence
            model.set_submodule(name, RankNorm(module, layout.mesh, partial))


def _replace_vocabulary(model: Transformer, layout: TokenLayout) -> None:
    tied = model.lm_head.weight is model.embed.weight
    table = _distributed(model.embed.weight, layout.mesh, 0)
    head = table if tied else _distributed(model.lm_head.weight, layout.mesh, 0)
    model.embed = VocabularyEmbedding(table, layout)
    model.lm_head = VocabularyHead(head, layout)


@torch.no_grad()
def _share_uncut(model: Transformer, mesh: DeviceMesh) -> None:
    """The first rank's values, of what every rank computes for itself: routers and experts."""
    of_mixtures = [module for module in model.modules() if isinstance(module, GroupedLinear | Router)]
    for module in of_mixtures:
        for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            local = values.to_local() if isinstance(values, DTensor) else values
            if not local.is_meta:
                dist.broadcast(local, group_src=0, group=mesh.get_group())


def _distributed(weight: nn.Parameter, mesh: DeviceMesh, dimension: int | None) -> nn.Parameter:
    """The first rank's values, cut along a dimension, or whole on every rank."""
    placement = Replicate() if dimension is None else Shard(dimension)
    values = distribute_tensor(weight.detach(), mesh, [placement])
    return nn.Parameter(values, requires_grad=weight.requires_grad)


@dataclass(frozen=True)
class TensorLoss:
    """The training loop's `loss` for a model that is cut: what `next_token_loss` gives in one process."""

    layout: TokenLayout

    def __call__(self, model: Transformer, batch: Any, total: int) -> Tensor:
        """Cross-entropy of what follows each token, summed and divided by `total`."""
        batch = self.prepare(batch)
        hidden = model.hidden(batch.tokens, batch.positions, batch.documents)
        return self.from_hidden(model, hidden, batch, total)

    def prepare(self, batch: Any) -> Any:
        """The batch with as many tokens as the ranks can divide."""
        return fill_up(batch, self.layout.mesh.size()) if self.layout.sequence else batch

    def from_hidden(self, model: nn.Module, hidden: Tensor, batch: Any, total: int) -> Tensor:
        """The part behind `model.hidden`: it needs only `model.lm_head`."""
        hidden = self.layout.enter(hidden)                                       # [N, D]
        head = model.lm_head
        group = self.layout.mesh.get_group()
        return vocabulary_cross_entropy(hidden, head.weight.to_local(), batch.targets, head.words, group,
                                        IGNORED, total=total)


def fill_up(batch: Any, multiple: int) -> Any:
    """The micro-batch with a last document of tokens that nobody learns from, so that their number is a
    multiple. No loss, and no gradient of a dense model, depends on them."""
    missing = -len(batch.tokens) % multiple
    if not missing:
        return batch
    end = batch.documents.cu_seqlens[-1:] + missing
    return replace(
        batch,
        tokens=torch.cat([batch.tokens, batch.tokens.new_zeros(missing)]),
        targets=torch.cat([batch.targets, batch.targets.new_full((missing,), IGNORED)]),
        positions=torch.cat([batch.positions, torch.arange(missing, device=batch.positions.device)]),
        documents=PackedDocuments(
            cu_seqlens=torch.cat([batch.documents.cu_seqlens, end]),
            longest=max(batch.documents.longest, missing)))
