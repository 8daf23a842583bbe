"""What the training loop asks of many ranks: sums over all of them, and one norm of all gradients.

                     dp 0                          dp 1
    tp 0   half of a matrix, a norm's weight    the same half, the same weight    gradients: sums over dp
    tp 1   the other half,   the same weight    the other half, the same weight   norm²: half / 2, weight / 4
    A gradient's square is divided by the number of ranks that hold the same part of it, and all ranks' are
    added: so each value counts once, however it is placed.

A parameter that is cut is a DTensor, whose placements say along which dimensions of the mesh; any other is
the same on all ranks of a stage. Gradients are sums over the tokens, never means: the loop has divided the
loss by all valid tokens already. Notebook 06.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from aiinfra.parallel.launch import rank_device
from aiinfra.parallel.mesh import data_dimensions, mesh_rank, mesh_size


class MeshRanks:
    """The loop's `Ranks` on a mesh.

    reduced: dimensions along which somebody else adds gradients (FSDP, buckets). tied: parameters of which
    other ranks hold a copy of their own, with the group of those ranks: the table that a pipeline's first and
    last stage share. finish: called before gradients are added, for work that is under way.
    """

    def __init__(self, mesh: DeviceMesh, reduced: Collection[str] = (),
                 tied: Mapping[nn.Parameter, dist.ProcessGroup] | None = None,
                 finish: Callable[[], None] | None = None) -> None:
        self.mesh = mesh
        self.tied = dict(tied or {})
        self._finish = finish
        self._open = [name for name in data_dimensions(mesh) if name not in reduced]
        others = set(mesh.mesh_dim_names) - set(data_dimensions(mesh))
        # Ranks of tp and pp see the same tokens: one of them speaks for all.
        self._speaks = all(mesh_rank(mesh, name) == 0 for name in others)

    def total(self, value: float) -> float:
        """The sum of a number over the ranks that see different tokens."""
        own = value if self._speaks else 0.0
        return self._sum_of_all(own)

    def add_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks that hold the same part of its parameter; a rank
        that has none adds nothing."""
        if self._finish is not None:
            self._finish()
        for name in self._open:
            whole = [one for one in parameters if name not in cut_dimensions(one)]
            all_reduce_together(map(local_gradient, whole), self.mesh.get_group(name))
        for parameter, group in self.tied.items():
            dist.all_reduce(local_gradient(parameter), group=group)

    def add_counts(self, counts: Tensor) -> None:
        """Replace counts by their sums over the ranks that see different tokens: whoever adds gradients up,
        nobody adds these."""
        for name in data_dimensions(self.mesh):
            dist.all_reduce(counts, group=self.mesh.get_group(name))

    def clip(self, parameters: list[nn.Parameter], limit: float) -> float:
        """Scale the gradients so that the norm of all of them is at most `limit`; returns the norm before."""
        gradients = [local_gradient(parameter) for parameter in parameters]
        squares = [norm.double() ** 2 for norm in torch._foreach_norm(gradients)]
        own = sum(square / self._holders(one) for square, one in zip(squares, parameters))
        norm = math.sqrt(self._sum_of_all(own))
        scale = limit / (norm + 1e-6)                       # as torch.nn.utils.clip_grad_norm_
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        return norm

    def _holders(self, parameter: nn.Parameter) -> int:
        """How many ranks hold the same part of this parameter."""
        apart = cut_dimensions(parameter) | {"pp"}
        alike = [mesh_size(self.mesh, name) for name in self.mesh.mesh_dim_names if name not in apart]
        if parameter in self.tied:
            alike.append(dist.get_world_size(self.tied[parameter]))
        return math.prod(alike)

    def _sum_of_all(self, value: float | Tensor) -> float:
        box = torch.tensor([float(value)], dtype=torch.float64, device=rank_device())
        dist.all_reduce(box)
        return box.item()


def cut_dimensions(parameter: Tensor) -> set[str]:
    """Names of the mesh's dimensions along which ranks hold different parts of it."""
    if not isinstance(parameter, DTensor):
        return set()
    placed = zip(parameter.device_mesh.mesh_dim_names, parameter.placements)
    return {name for name, placement in placed if not placement.is_replicate()}


def local_gradient(parameter: nn.Parameter) -> Tensor:
    """This rank's part of its gradient, to be changed in place: zeros if there is none. A sum that is still
    spread over ranks of tp is made whole first, by all of them together."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    if not isinstance(parameter, DTensor):
        return parameter.grad
    if parameter.grad.placements != parameter.placements:
        parameter.grad = parameter.grad.redistribute(placements=parameter.placements)
    return parameter.grad.to_local()


def all_reduce_together(tensors: Iterable[Tensor], group: dist.ProcessGroup) -> None:
    """Replace each tensor by its sum over the group, with one message for all of them."""
    tensors = list(tensors)
    if tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=group)
        spread(flat, tensors)


def spread(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy one long tensor's values into those that it was made of."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts):
        tensor.copy_(part.view_as(tensor))
