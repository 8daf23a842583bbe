"""A Hugging Face folder, read: config.json, and safetensors in one file or in shards with an index.

    config.json                       the shape
    model.safetensors                 header (name -> type, shape, place), then the bytes
    model.safetensors.index.json      or: name -> shard, for model-00001-of-00003.safetensors …

Tensors are read one at a time. Every error names folder, file and tensor. Some files hold the decoder alone,
without "model." before each name, or a tied embedding under the last layer's name, and Mixtral has words of
its own for experts: what they have is found by its usual name.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aiinfra.checkpoint.huggingface_config import config_from_json
from aiinfra.checkpoint.names import fused_part, huggingface_parts, usual_name
from aiinfra.errors import LoadError, nearest, reading
from aiinfra.files import read_json

_ROWS_AT_ONCE = 4096      # of two tables that are compared
_FLOATS = ("F64", "F32", "F16", "BF16")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_OTHER_FORMS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors")


class TensorPlace(NamedTuple):
    """Where a tensor lies, and what it is called there."""

    shard: str
    name: str


class HuggingFaceFolder:
    """A folder's config and weights: a `WeightFile`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()            # "." has no name to put into an error
        self.label = self.folder.name
        source = f"{self.label}/config.json"
        if not (self.folder / "config.json").exists():
            raise LoadError(f"{self.label} has no config.json: {_what_it_is(self.folder)}.")
        raw = read_json(self.folder / "config.json")
        with reading(source):
            self.config = config_from_json(raw, source)
        self._not_needed = _guessing_layers(raw)            # beginnings of names
        self._open: dict[str, Any] = {}                     # file name -> open file
        self._shard_of = self._index()                      # tensor's name in the files -> file name
        self._places = self._by_usual_names()
        self._head_is_a_copy = False
        if self.config.tie_word_embeddings and _HEAD in self._places:
            self._settle_tie()

    def names(self) -> set[str]:
        """See WeightFile. A last layer that is only a copy of the tied embedding does not count, nor layers
        behind the last that guess further tokens."""
        found = set(self._places)
        for shard in set(self._shard_of.values()):        # a shard may hold more than the index tells
            found.update(name for name in self._file(shard).keys() if name not in self._shard_of)
        if self._head_is_a_copy:
            found.remove(_HEAD)
        return {name for name in found if not name.startswith(self._not_needed)}

    def parts(self, ours: str) -> list[str]:
        """See WeightFile. Where a file keeps all parts in one matrix, as we do, it is that one."""
        fused = fused_part(ours)
        return [fused] if fused in self._places else huggingface_parts(ours, self.config)

    def shape(self, name: str) -> tuple[int, ...]:
        """See WeightFile."""
        return tuple(self._tensor(name, lambda file, there: file.get_slice(there).get_shape()))

    def read_into(self, name: str, out: Tensor) -> None:
        """See WeightFile. Raises LoadError naming tensor and file."""
        self._refuse_integers(name)
        out.copy_(self._tensor(name, lambda file, there: file.get_tensor(there)))

    def read_slice(self, name: str, where: tuple[slice, ...], out: Tensor) -> None:
        """See WeightFile. Nothing else of the file is read."""
        self._refuse_integers(name)
        out.copy_(self._tensor(name, lambda file, there: file.get_slice(there)[where]))

    def blocks(self, ours: str) -> None:
        """See WeightFile: these folders hold floats."""
        return None

    def _refuse_integers(self, name: str) -> None:
        kind = self._tensor(name, lambda file, there: file.get_slice(there).get_dtype())
        if kind not in _FLOATS:
            shard = self._places[name].shard
            raise LoadError(f"{self.label}/{shard}: tensor {name} is stored as {kind}: weights that were "
                            f"quantised by other rules are not read here, only {', '.join(_FLOATS)}.")

    def _settle_tie(self) -> None:
        """The config ties the last layer to the embedding, and the file has both. Where they differ, the file
        is right and the config wrong, as in transformers."""
        pairs = zip(self._rows(_EMBEDDING), self._rows(_HEAD))
        if self.shape(_EMBEDDING) == self.shape(_HEAD):
            self._head_is_a_copy = all(torch.equal(ours, theirs) for ours, theirs in pairs)
        if not self._head_is_a_copy:
            self.config = replace(self.config, tie_word_embeddings=False)

    def _rows(self, name: str) -> Iterator[Tensor]:
        """The tensor in pieces of a few thousand rows: two tables are compared in little memory."""
        for first in range(0, self.shape(name)[0], _ROWS_AT_ONCE):
            piece = slice(first, first + _ROWS_AT_ONCE)
            yield self._tensor(name, lambda file, there: file.get_slice(there)[piece])

    def _tensor(self, name: str, read: Callable[[Any, str], Any]) -> Any:
        if name not in self._places:
            close = nearest(name, self._places)
            raise LoadError(f"{self.label}: the weights have no tensor {name}.{close}")
        shard, there = self._places[name]
        try:
            return read(self._file(shard), there)
        except SafetensorError as error:
            raise LoadError(f"{self.label}/{shard}: tensor {name} cannot be read ({error}).") from error

    def _by_usual_names(self) -> dict[str, TensorPlace]:
        places = {name: TensorPlace(shard, name) for name, shard in self._shard_of.items()}
        if self.config.moe is not None:
            places = {usual_name(name): place for name, place in places.items()}
        if not any(name.startswith("model.") for name in places):
            places = {name if name == _HEAD else f"model.{name}": place for name, place in places.items()}
        if self.config.tie_word_embeddings and _EMBEDDING not in places and _HEAD in places:
            places[_EMBEDDING] = places.pop(_HEAD)
        return places

    def _index(self) -> dict[str, str]:
        """Which file has which tensor. Where there are both, one file goes before shards, as in
        transformers."""
        whole, index = self.folder / "model.safetensors", self.folder / "model.safetensors.index.json"
        for path in (whole, index):
            if path.is_symlink() and not path.exists():
                raise LoadError(f"{self.label}/{path.name} is a link to a file that is gone "
                                f"({path.readlink()}). Fetch the model again.")
        if whole.exists():
            return dict.fromkeys(self._file(whole.name).keys(), whole.name)
        if not index.exists():
            others = [name for name in _OTHER_FORMS if (self.folder / name).exists()]
            instead = f", only {', '.join(others)}, which is not read here" if others else ""
            raise LoadError(f"{self.label} has neither model.safetensors nor {index.name}{instead}.")
        with reading(f"{self.label}/{index.name}"):
            shards = dict(read_json(index)["weight_map"])
        for shard in sorted(set(shards.values())):
            if not (self.folder / shard).exists():
                raise LoadError(f"{self.label}: shard {shard} is missing; {index.name} names it. "
                                "Fetch the whole folder.")
        return shards

    def _file(self, shard: str) -> Any:
        if shard not in self._open:
            path = self.folder / shard
            try:
                self._open[shard] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                why = _what_is_cut(path)
                raise LoadError(f"{self.label}/{shard} {why} ({error}). Fetch it again.") from error
        return self._open[shard]


def _guessing_layers(raw: dict[str, Any]) -> tuple[str, ...]:
    """How names of layers begin that stand behind the last one and guess the tokens after the next
    (DeepSeek-V3's multi-token prediction): the model does not need them."""
    more = raw.get("num_nextn_predict_layers")
    if not isinstance(more, int):
        return ()
    last = raw["num_hidden_layers"]
    return tuple(f"model.layers.{number}." for number in range(last, last + more))


def _what_it_is(folder: Path) -> str:
    """What a folder without config.json is, for an error."""
    snapshots = sorted(path.name for path in folder.glob("snapshots/*"))
    if snapshots:
        return f"it is a folder of the Hub's cache; give one of its snapshots, as snapshots/{snapshots[-1]}"
    if (folder / "adapter_config.json").exists():
        return "it has adapter_config.json, so it is an adapter (LoRA); merge it into its base model first"
    return "it is not a Hugging Face model folder"


def _what_is_cut(path: Path) -> str:
    """Why a safetensors file will not open: the first tensor that its header puts beyond its end."""
    size = path.stat().st_size
    header, header_bytes = _header(path)
    with suppress(LookupError, TypeError, AttributeError):        # a header of another form says nothing
        header.pop("__metadata__", None)
        ends = {name: entry["data_offsets"][1] for name, entry in header.items()}
        for name in sorted(ends, key=ends.get):
            end = 8 + header_bytes + ends[name]
            if end > size:
                return f"is cut short: tensor {name} needs bytes up to {end:,}, and the file ends at {size:,}"
    return f"is damaged: its header cannot be read ({size:,} bytes)"


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, empty if it is none, and its length in bytes as the file states it."""
    with path.open("rb") as f:
        header_bytes = int.from_bytes(f.read(8), "little")
        if header_bytes >= path.stat().st_size:
            return {}, header_bytes
        try:
            return json.loads(f.read(header_bytes)), header_bytes
        except ValueError:
            return {}, header_bytes
