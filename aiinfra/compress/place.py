"""Where a layer's values go while a model is read: as they are, packed, or quantised.

`checkpoint/fill.py` reads one layer after another and hands its values to a place: PlacePlain here,
PlacePacked (packed.py) or PlaceQuantized (quantized.py). So reading knows no bit width, and packing no file.
"""

from collections.abc import Collection
from typing import Protocol

from torch import Tensor

from aiinfra.kernels.quant_matmul import PackedWeight
from aiinfra.model.layers import set_parameters
from aiinfra.model.transformer import Transformer

Values = dict[str, Tensor | PackedWeight]      # a layer's parameters by name: weight, bias


class WeightPlace(Protocol):
    """Puts a layer's values into a model; it may replace the layer by another kind."""

    transient: Collection[str]                 # layers that do not keep their plain weight
    takes_blocks: Collection[str]              # layers that take a file's 4-bit blocks as they are

    def __call__(self, model: Transformer, layer: str, values: Values) -> None:
        """Give the layer of that name its values."""
        ...


class PlacePlain:
    """The place for values that stay as they are: parameters, not to be trained unless somebody says so."""

    transient: Collection[str] = ()
    takes_blocks: Collection[str] = ()

    def __call__(self, model: Transformer, layer: str, values: Values) -> None:
        """See WeightPlace."""
        set_parameters(model.get_submodule(layer), values)
