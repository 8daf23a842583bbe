"""How many bytes of activations wait for their backward, now and at most, on this rank.

    forward    a layer saves what its gradient will need   +        with SavedBytes(model) as saved:
    backward   it is used, and let go                      -            …  saved.most

It hooks in where autograd saves a tensor (torch.autograd.graph.saved_tensors_hooks), so that it sees what is
really held and not what a table says. Weights are no activations, and what is saved twice is held once.
Notebook 06.
"""

import weakref
from collections import Counter

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class _Held:
    """A saved tensor; that it is let go is seen by this object's end."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedBytes:
    """Counts while its block runs; all forwards that are to be counted begin in it."""

    def __init__(self, model: nn.Module) -> None:
        self.now = 0
        self.most = 0
        self._weights = {_place(parameter) for parameter in model.parameters()}
        self._holders: Counter[int] = Counter()
        self._hooks = saved_tensors_hooks(self._save, _use)

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _save(self, tensor: Tensor) -> Tensor | _Held:
        place = _place(tensor)
        if place in self._weights:
            return tensor
        size = tensor.untyped_storage().nbytes()
        if not self._holders[place]:
            self.now += size
            self.most = max(self.most, self.now)
        self._holders[place] += 1
        held = _Held(tensor.detach())        # with its history, an output would keep its own node alive
        weakref.finalize(held, self._let_go, place, size)
        return held

    def _let_go(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            self.now -= size


def _use(saved: Tensor | _Held) -> Tensor:
    return saved.tensor if isinstance(saved, _Held) else saved


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
