"""Where activations are between the modules of a model that is cut among tensor-parallel ranks.

                    between modules          enters a cut layer        leaves it
    whole           each rank has all        as it is                  all-reduce
    sequence        each rank has N/T rows   all-gather                reduce-scatter
    (backward)                               its sum over ranks        the other way round

Both move as many bytes: an all-reduce is a reduce-scatter and an all-gather. With `sequence` the norms and
the residual stream are not done, and not kept, T times over; but then each rank's gradient of a norm's weight
is only what its own rows give: `replicated` sums it. A norm of single heads (q_norm, k_norm) always sees only
its rank's heads. Where that sum is forgotten, the copies of a weight drift apart and no error is raised
(Megatron-LM #7452 found several). Shoeybi et al. 2019, arXiv 1909.08053; Korthikanti et al. 2022, arXiv
2205.05198. Notebook 06.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement

TOKENS = -2                    # activations are [..., T, D]


@dataclass(frozen=True)
class TokenLayout:
    """How the ranks of `mesh`, which has one dimension, hold [..., T, D] between two modules."""

    mesh: DeviceMesh
    sequence: bool = False

    @property
    def placement(self) -> Placement:
        """The same as PyTorch says it."""
        return Shard(TOKENS) if self.sequence else Replicate()

    def enter(self, x: Tensor) -> Tensor:
        """All tokens, for a layer of which each rank has a part; backward sums the ranks' gradients."""
        here = DTensor.from_local(x, self.mesh, [self.placement], run_check=False)
        return here.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])

    def leave(self, x: Tensor) -> Tensor:
        """The sum of what each rank of a cut layer gives for all tokens."""
        parts = DTensor.from_local(x, self.mesh, [Partial()], run_check=False)
        return parts.redistribute(placements=[self.placement]).to_local()


def replicated(weight: DTensor, partial: bool) -> Tensor:
    """The values of a weight that every rank has whole. partial: each rank's gradient is a part of the whole
    one, and is summed over the ranks in the backward pass."""
    if not partial:
        return weight.to_local()
    # The same placement: nothing is moved forward, and the sum is made backward.
    same = weight.redistribute(placements=weight.placements)
    return same.to_local(grad_placements=[Partial()])
