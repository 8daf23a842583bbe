"""A table of rows that is cut among ranks: ids travel to the rows, and rows back to whoever asked.

    rank 0  asks 7 2 9 ──┐  all-to-all   ┌─ rank 0 has rows 0 … 4    answers 2, 1
    rank 1  asks 1 9   ──┘   of ids      └─ rank 1 has rows 5 … 9    answers 7 9, 9
                             of rows: as many come back as were asked for; gradients take the same way again

An id that a rank's batch has many times is asked for once. Who asks whom for how many depends on the ids
alone, not on weights: `Route` can be made while the model is still busy with the batch before. Invariant:
rows and gradients are those of one table on one rank. TorchRec calls this row-wise sharding. Notebook 07.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd


@dataclass(frozen=True)
class Route:
    """What this rank asks others for, and they it."""

    asked: list[int]           # rows that this rank wants of each rank
    owed: list[int]            # rows that each rank wants of this one
    owed_rows: Tensor          # [sum(owed)] int64: which, counted from this rank's first, by who asked
    place: Tensor              # [N] int64: where each of this rank's N ids is among the rows that come back


def rows_of_a_rank(rows: int, ranks: int) -> int:
    """Rows of every rank but the last ones, which may have fewer."""
    return -(-rows // ranks)


def find_route(ids: Tensor, rows: int, group: dist.ProcessGroup, counts: dist.ProcessGroup) -> Route:
    """Who needs which rows. Every rank of `group` calls this, each with its own ids: int64, any number of
    them, in 0 … rows - 1.

    counts: a group of the same ranks for CPU tensors, by which they first tell one another how many; the same
    as `group` on a CPU. Raises IndexError for an id that is not in the table, before anything is sent.
    """
    wanted, place = ids.unique(return_inverse=True)
    if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < rows:
        raise IndexError(f"ids reach from {int(wanted[0])} to {int(wanted[-1])}; the table has rows 0 to "
                         f"{rows - 1}.")
    ranks, rank = group.size(), group.rank()
    share = rows_of_a_rank(rows, ranks)
    asked = torch.bincount(wanted // share, minlength=ranks).cpu()          # sorted ids are sorted by owner
    owed = torch.empty_like(asked)
    dist.all_to_all_single(owed, asked, group=counts)
    owed_rows = wanted.new_empty(int(owed.sum()))
    dist.all_to_all_single(owed_rows, wanted, owed.tolist(), asked.tolist(), group=group)
    return Route(
        asked=asked.tolist(),
        owed=owed.tolist(),
        owed_rows=owed_rows - rank * share,
        place=place)


class RowShardedEmbedding(nn.Module):
    """This rank's rows of a table; `forward` takes a Route in place of ids."""

    def __init__(self, embedding: nn.Embedding, group: dist.ProcessGroup) -> None:
        super().__init__()
        share = rows_of_a_rank(embedding.num_embeddings, group.size())
        first = group.rank() * share
        mine = embedding.weight.detach()[first:first + share]
        self.weight = nn.Parameter(mine.clone())            # [share or fewer, D]
        self.rows = embedding.num_embeddings
        self.group = group

    def forward(self, route: Route) -> Tensor:
        """[N, D], a row for each id from which the route was made."""
        answers = self.weight[route.owed_rows]
        rows = all_to_all_single_autograd(answers, route.asked, route.owed, self.group)
        return rows[route.place]
