"""The vocabulary cut among ranks: each has some of the words, at both ends of the model.

    embed     a rank looks up the words that it has, and 0 for others; the sum over ranks is the embedding
    lm_head   a rank gives logits [N, V/T] of its words
    loss      log sum exp over all words = log sum exp over ranks of each rank's own

So the loss needs two numbers a token from each rank, and never the other ranks' logits; nor are a rank's own
there all at once. A vocabulary that is no multiple of T leaves the last rank fewer words. A word outside the
vocabulary is an error, as in one process: the outermost ranks look it up, and do not find it. Notebook 06.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Replicate, Shard

from aiinfra.kernels.cross_entropy import chunk_rows
from aiinfra.model.layers import Embedding, Linear
from aiinfra.parallel.layout import TokenLayout


@dataclass(frozen=True)
class Words:
    """The words of one rank: `first` … `first + count - 1`."""

    first: int
    count: int
    outermost_low: bool                # the rank of the first words: it answers for ids below 0
    outermost_high: bool               # the rank of the last words: it answers for ids beyond

    @classmethod
    def of_rank(cls, rank: int, ranks: int, vocabulary: int) -> "Words":
        """As `torch.chunk` cuts them. Raises ValueError if a rank would have none."""
        share = -(-vocabulary // ranks)
        first = rank * share
        last = ranks - 1
        if last * share >= vocabulary:
            cut = f"a vocabulary of {vocabulary:,} words, {share:,} a rank"
            raise ValueError(f"{cut}, leaves nothing for the last of {ranks} ranks. Use fewer ranks.")
        count = min(share, vocabulary - first)
        return cls(first=first, count=count, outermost_low=rank == 0, outermost_high=rank == last)

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(which of `ids` this rank answers for, their rows of its table, 0 for others)."""
        rows = ids - self.first
        mine = torch.ones_like(rows, dtype=torch.bool)
        if not self.outermost_low:
            mine &= rows >= 0
        if not self.outermost_high:
            mine &= rows < self.count
        return mine, rows.where(mine, 0)

    def look_up(self, ids: Tensor, table: Tensor) -> Tensor:
        """Rows [..., D] of this rank's `table`, 0 for words of others. Raises IndexError for an id outside
        the vocabulary, on a CPU."""
        mine, rows = self.find(ids)
        return F.embedding(rows, table).masked_fill(~mine.unsqueeze(-1), 0.0)


def words_of(layout: TokenLayout, vocabulary: int) -> Words:
    """The words of this process."""
    mesh = layout.mesh
    return Words.of_rank(mesh.get_local_rank(), mesh.size(), vocabulary)


class VocabularyEmbedding(Embedding):
    """An embedding whose table, a DTensor [V, D], is cut by words."""

    def __init__(self, weight: nn.Parameter, layout: TokenLayout) -> None:
        super().__init__(*weight.shape, device="meta")
        self.weight = weight
        self.layout = layout
        self.words = words_of(layout, len(weight))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words.look_up(tokens, self.weight.to_local())
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))      # one rank's row and zeros: the sum is exact
        return self.layout.leave(x)


class VocabularyHead(Linear):
    """A last layer whose weight, a DTensor [V, D], is cut by words. Its logits are whole on every rank."""

    def __init__(self, weight: nn.Parameter, layout: TokenLayout) -> None:
        words, width = weight.shape
        super().__init__(width, words, bias=False, device="meta")
        self.weight = weight
        self.layout = layout
        self.words = words_of(layout, words)

    def forward(self, x: Tensor) -> Tensor:
        own = F.linear(self.layout.enter(x), self.weight.to_local())             # [..., V/T]
        shape = torch.Size([*own.shape[:-1], self.out_features])
        strides = torch.empty(shape, device="meta").stride()
        logits = DTensor.from_local(own, self.layout.mesh, [Shard(-1)], shape=shape, stride=strides)
        return logits.redistribute(placements=[Replicate()]).to_local()


def vocabulary_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, words: Words,
                             group: ProcessGroup, ignore_index: int = -100, *,
                             total: float | None = None) -> Tensor:
    """As `kernels.cross_entropy.linear_cross_entropy`, of which each rank has `weight` [V/T, D], its words.

    hidden [N, D] and targets [N] are the same on all ranks of `group`, and so is the loss. The gradient in
    hidden is a rank's part: the sum over ranks is the whole.
    """
    rows = chunk_rows(*hidden.shape, len(weight))
    gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _VocabularyCrossEntropy.apply(hidden, weight, targets, words, group, ignore_index, total, rows,
                                         gradient)


class _VocabularyCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, words, group, ignore_index, total, rows, gradient):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        count = (targets != ignore_index).sum().to(wide)
        if total is not None:
            count = torch.full_like(count, total)
        loss = torch.zeros_like(count)
        dhidden = torch.empty_like(hidden)
        # float32: hundreds of bfloat16 additions of small chunks would lose the last of them
        dweight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for at in range(0, len(hidden), rows):
            part, labels = hidden[at:at + rows], targets[at:at + rows]
            logits = F.linear(part, weight).to(wide)                             # [C, V/T]
            counted = labels != ignore_index
            mine, own = words.find(labels.where(counted, words.first))
            log_sum, picked = _over_ranks(logits, mine, own, group)
            loss += (log_sum - picked).where(counted, 0.0).sum()
            if gradient:
                slope = _slope(logits, log_sum, mine, own)
                slope = (slope / count).where(counted[:, None], 0.0).to(weight.dtype)
                dhidden[at:at + rows] = slope @ weight
                dweight += slope.T @ part.to(weight.dtype)
        if gradient:
            ctx.save_for_backward(dhidden, dweight.to(weight.dtype))
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dhidden, dweight = (gradient * dloss.to(gradient.dtype) for gradient in ctx.saved_tensors)
        return dhidden, dweight, *[None] * 7


def _over_ranks(logits: Tensor, mine: Tensor, own: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """(log sum exp over the whole vocabulary, the target's logit), each [C]: the two numbers of each rank."""
    picked = logits.gather(-1, own[:, None]).squeeze(-1).where(mine, 0.0)
    pair = torch.stack([torch.logsumexp(logits, -1), picked])                    # [2, C]
    ranks = dist.get_world_size(group)
    pairs = pair.new_empty(ranks, *pair.shape)
    dist.all_gather_into_tensor(pairs.flatten(0, 1), pair, group=group)
    return torch.logsumexp(pairs[:, 0], 0), pairs[:, 1].sum(0)


def _slope(logits: Tensor, log_sum: Tensor, mine: Tensor, own: Tensor) -> Tensor:
    """softmax(logits) - onehot(target), over this rank's words: [C, V/T]."""
    slope = torch.exp(logits - log_sum[:, None])
    hit = mine.to(slope.dtype)[:, None]
    return slope.scatter_add_(-1, own[:, None], -hit)
