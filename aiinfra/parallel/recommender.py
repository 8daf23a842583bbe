"""The recommender on several ranks: each has its own users, and some rows of the table of items.

    copy           histories to the device
    distribute     which rows does this batch need, and who has them: a Route            ids travel
    compute        rows come, layers, loss, gradients go back to the rows               rows travel

Everything but the table is a copy on each rank, so its gradients are to be summed; a row's gradient is whole
where the row is. Invariant: losses and gradients are those of one process with all users. Notebook 07.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model.recommender import Histories, Recommender
from aiinfra.parallel.rows import Route, RowShardedEmbedding, find_route

_IGNORED = -100                  # the target of a user's last event: Histories.next_items


def shard_items(model: Recommender, group: dist.ProcessGroup) -> None:
    """Leave each rank of `group` its rows of the table of items; from then on the model takes routes."""
    model.embedding = RowShardedEmbedding(model.embedding, group)


def dense_parameters(model: Recommender) -> list[nn.Parameter]:
    """Those of which every rank has a copy: all but the rows."""
    return [parameter for parameter in model.parameters() if parameter is not model.embedding.weight]


@dataclass(frozen=True)
class RoutedHistories:
    """Histories on the device, and the way of their items' rows to them."""

    histories: Histories
    route: Route


class RecommenderStages:
    """What happens to histories on their way to a model whose items are sharded; for an InputPipeline.

    group: for ids, of the device's tensors; counts: of CPU tensors. Both of the ranks that share the table,
    and used by nobody else while the pipeline runs.
    """

    def __init__(self, items: int, group: dist.ProcessGroup, counts: dist.ProcessGroup,
                 device: torch.device | str = "cpu") -> None:
        self.items = items
        self.group = group
        self.counts = counts
        self.device = device

    def copy(self, item: Histories) -> Histories:
        """The histories on the device."""
        return item.to(self.device)

    def distribute(self, batch: Histories) -> RoutedHistories:
        """With the way of their items' rows to them."""
        route = find_route(batch.items, self.items, self.group, self.counts)
        return RoutedHistories(batch, route)


def routed_loss(model: Recommender, batch: RoutedHistories, total: int) -> Tensor:
    """Cross-entropy of the next item, summed over this rank's events and divided by `total`, the events of
    all ranks that have a next one."""
    rows = model.embedding(batch.route)                                          # [N, D]
    known = model.mixed(rows, batch.histories)
    targets = batch.histories.next_items()
    return linear_cross_entropy(known, model.head.weight, targets, _IGNORED, total=total)
