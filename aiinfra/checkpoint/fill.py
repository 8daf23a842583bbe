"""From files to a model's weights, one layer after another.

    for layer in layers_of(model):
        values = read_layer(model, source, layer, …)   one tensor at a time, its shape checked
        place(model, layer, values)                    as it is, packed or quantised: chosen once, in load.py

So the peak in memory is the model and one layer. Every parameter is filled and every tensor of the file is
used, or an error names it: nothing is left random, and nothing is left over.
"""

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor, nn

from aiinfra.checkpoint.names import NO_WEIGHTS, part_rows
from aiinfra.compress.place import Values, WeightPlace
from aiinfra.errors import LoadError, plural
from aiinfra.kernels.quant_matmul import PackedWeight
from aiinfra.model.config import ModelConfig
from aiinfra.model.transformer import Transformer

_NAMED = 3                                # tensors that an error lists before it says how many more there are


class WeightFile(Protocol):
    """A model's config and its named tensors, in files of some format."""

    label: str                                 # the file's or folder's name, for errors
    config: ModelConfig

    def names(self) -> set[str]:
        """All tensors that a model must have a place for."""
        ...

    def parts(self, ours: str) -> list[str]:
        """The file's names of the tensors that make up our parameter, in order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises LoadError if there is none of that name."""
        ...

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy one tensor into `out`, converting type and device."""
        ...

    def read_slice(self, name: str, where: tuple[slice, ...], out: Tensor) -> None:
        """As `read_into`, some rows or columns of a tensor: a slice for each dimension."""
        ...

    def blocks(self, ours: str) -> PackedWeight | None:
        """Our parameter in 4 bits, if the file stores it so."""
        ...


def fill(model: Transformer, source: WeightFile, place: WeightPlace, dtype: torch.dtype = torch.float32,
         device: torch.device | str = "cpu") -> None:
    """Give every parameter of `model` (which may be on the meta device) its values from `source`.

    place: what becomes of each layer's values. dtype, device: of the values that stay as they are. Raises
    LoadError if a tensor is missing, has no place in the model, or has another shape than the config says;
    `model` is then not fit for use.
    """
    _check_names(model, source)
    buffer = _buffer(model, place.transient, device)
    tied = model.config.tie_word_embeddings
    for layer in layers_of(model):
        if tied and layer == "lm_head":
            values: Values = {"weight": model.embed.weight}
        elif (blocks := _read_blocks(model, source, layer, place.takes_blocks)) is not None:
            values = read_layer(model, source, layer, dtype, device, leaves=["bias"])
            values["weight"] = blocks.to(device)
        else:
            reused = buffer if layer in place.transient else None
            values = read_layer(model, source, layer, dtype, device, buffer=reused)
        place(model, layer, values)


def layers_of(model: Transformer) -> list[str]:
    """The names of all layers with parameters, in reading order.

    A tied last layer comes with its embedding, while little else is in memory. Names, not modules: a list of
    modules would keep every plain weight alive until its end.
    """
    names = [name for name, module in model.named_modules() if _has_parameters(module)]
    if model.config.tie_word_embeddings:
        names.remove("lm_head")
        names.insert(names.index("embed") + 1, "lm_head")
    return names


def leaves_of(model: Transformer, layer: str) -> dict[str, Tensor]:
    """The layer's own values by name: weight, bias. A buffer (a router's bias) is one if checkpoints have
    it."""
    module = model.get_submodule(layer)
    lasting = module.state_dict().keys()
    buffers = {name: buffer for name, buffer in module.named_buffers(recurse=False) if name in lasting}
    return dict(module.named_parameters(recurse=False)) | buffers


def matrix_rows(values: Tensor) -> Tensor:
    """The values as rows that parts share: experts' matrices [E, out, in] one below another."""
    if values.ndim < 3:
        return values
    return values.flatten(0, 1)


def read_layer(model: Transformer, source: WeightFile, layer: str, dtype: torch.dtype,
               device: torch.device | str, leaves: Collection[str] = ("weight", "bias"),
               buffer: Tensor | None = None) -> Values:
    """The layer's values, in new tensors, or the weight in `buffer`, float32, which the next one overwrites.

    Raises LoadError if a tensor is missing or of another shape than the model's.
    """
    values: Values = {}
    for leaf, parameter in leaves_of(model, layer).items():
        if leaf not in leaves:
            continue
        if buffer is not None and leaf == "weight":
            out = buffer[:parameter.numel()].view(parameter.shape)
        else:
            kept = dtype if isinstance(parameter, nn.Parameter) else parameter.dtype
            out = torch.empty(parameter.shape, dtype=kept, device=device)
        stacked = matrix_rows(out)
        rows = _part_rows(model, source, f"{layer}.{leaf}", stacked.shape)
        for part, slot in zip(source.parts(f"{layer}.{leaf}"), stacked.split(rows)):
            source.read_into(part, slot)
        values[leaf] = out
    return values


def _read_blocks(model: Transformer, source: WeightFile, layer: str,
                 wanted: Collection[str]) -> PackedWeight | None:
    """The layer's weight in 4 bits, if that is wanted and the file stores it so."""
    if layer not in wanted:
        return None
    weight = f"{layer}.weight"
    _part_rows(model, source, weight, model.get_submodule(layer).weight.shape)
    return source.blocks(weight)


def _part_rows(model: Transformer, source: WeightFile, ours: str, shape: torch.Size) -> list[int]:
    """Rows of each part of our parameter. Raises LoadError unless the file's parts have these shapes."""
    parts = source.parts(ours)
    rows = [shape[0]]
    if len(parts) > 1:
        rows = part_rows(ours, model.config, shape[0])
    shapes = [source.shape(part) for part in parts]
    if shapes != [(n, *shape[1:]) for n in rows]:
        found = ", ".join(f"{part} {list(found)}" for part, found in zip(parts, shapes))
        raise LoadError(f"tensor of the wrong shape: {found}; together the model's config asks for "
                        f"{list(shape)}. The config belongs to other weights.")
    return rows


def _check_names(model: Transformer, source: WeightFile) -> None:
    """Raise LoadError unless model and file have the same tensors."""
    wanted = _parts_of(model, source)
    found = source.names()
    for name in wanted:
        if name not in found:
            source.shape(name)                 # raises, and names the nearest
    left = [name for name in sorted(found.difference(wanted)) if not NO_WEIGHTS.fullmatch(name)]
    if left:
        named = ", ".join(left[:_NAMED])
        if len(left) > _NAMED:
            named += f" and {plural(len(left) - _NAMED, 'more tensor')}"
        raise LoadError(f"{source.label}: this model has no place for {named}. Without them it would compute "
                        "something else than what was trained: its architecture is not supported, or its "
                        "config is wrong.")


def _parts_of(model: Transformer, source: WeightFile) -> list[str]:
    """The file's names of all tensors that the model asks for."""
    layers = layers_of(model)
    if model.config.tie_word_embeddings:
        layers.remove("lm_head")
    parameters = [f"{layer}.{leaf}" for layer in layers for leaf in leaves_of(model, layer)]
    return [part for ours in parameters for part in source.parts(ours)]


def _buffer(model: Transformer, transient: Collection[str], device: torch.device | str) -> Tensor:
    """Room for the largest of the weights that will not stay. One for all: freeing each would riddle the heap
    with holes. A tied last layer is read as the embedding, which stays until it is placed."""
    read_here = set(transient)
    if model.config.tie_word_embeddings:
        read_here.discard("lm_head")
    sizes = [model.get_submodule(layer).weight.numel() for layer in read_here]
    return torch.empty(max(sizes, default=0), device=device)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))
