"""A Hugging Face folder, read: config.json, and safetensors in one file or in shards with an index.

    config.json                       the shape
    model.safetensors                 header (name -> type, shape, place), then the bytes
    model.safetensors.index.json      or: name -> shard, for model-00001-of-00003.safetensors …

Tensors are read one at a time. Every error names folder, file and tensor.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aiinfra.checkpoint.huggingface_config import config_from_json
from aiinfra.checkpoint.names import huggingface_parts
from aiinfra.errors import LoadError, nearest, reading
from aiinfra.files import read_json

_ROWS_AT_ONCE = 4096      # of two tables that are compared


class HuggingFaceFolder:
    """A folder's config and weights: a `WeightFile`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()             # "." has no name to put into an error
        self.label = self.folder.name
        source = f"{self.label}/config.json"
        raw = read_json(self.folder / "config.json")
        with reading(source):
            self.config = config_from_json(raw, source)
        self._open: dict[str, Any] = {}                     # file name -> open file
        self._shard_of = self._index()                      # tensor name -> file name
        self._head_is_a_copy = False
        if self.config.tie_word_embeddings and "lm_head.weight" in self._shard_of:
            self._settle_tie()

    def names(self) -> set[str]:
        """See WeightFile. A last layer that is only a copy of the tied embedding does not count."""
        found = set(self._shard_of)
        for shard in set(self._shard_of.values()):        # a shard may hold more than the index tells
            found.update(self._file(shard).keys())
        if self._head_is_a_copy:
            found.remove("lm_head.weight")
        return found

    def parts(self, ours: str) -> list[str]:
        """See WeightFile."""
        return huggingface_parts(ours)

    def shape(self, name: str) -> tuple[int, ...]:
        """See WeightFile."""
        return tuple(self._tensor(name, lambda file: file.get_slice(name).get_shape()))

    def read_into(self, name: str, out: Tensor) -> None:
        """See WeightFile. Raises LoadError naming tensor and file."""
        out.copy_(self._tensor(name, lambda file: file.get_tensor(name)))

    def blocks(self, ours: str) -> None:
        """See WeightFile: these folders hold floats."""
        return None

    def _settle_tie(self) -> None:
        """The config ties the last layer to the embedding, and the file has both. Where they differ, the file
        is right and the config wrong, as in transformers."""
        pairs = zip(self._rows("model.embed_tokens.weight"), self._rows("lm_head.weight"))
        if self.shape("model.embed_tokens.weight") == self.shape("lm_head.weight"):
            self._head_is_a_copy = all(torch.equal(ours, theirs) for ours, theirs in pairs)
        if not self._head_is_a_copy:
            self.config = replace(self.config, tie_word_embeddings=False)

    def _rows(self, name: str) -> Iterator[Tensor]:
        """The tensor in pieces of a few thousand rows: two tables are compared in little memory."""
        for first in range(0, self.shape(name)[0], _ROWS_AT_ONCE):
            piece = slice(first, first + _ROWS_AT_ONCE)
            yield self._tensor(name, lambda file: file.get_slice(name)[piece])

    def _tensor(self, name: str, read: Callable[[Any], Any]) -> Any:
        if name not in self._shard_of:
            close = nearest(name, self._shard_of)
            raise LoadError(f"{self.label}: the weights have no tensor {name}.{close}")
        shard = self._shard_of[name]
        try:
            return read(self._file(shard))
        except SafetensorError as error:
            raise LoadError(f"{self.label}/{shard}: tensor {name} cannot be read ({error}).") from error

    def _index(self) -> dict[str, str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            with reading(f"{self.label}/{index.name}"):
                shards = dict(read_json(index)["weight_map"])
            for shard in sorted(set(shards.values())):
                if not (self.folder / shard).exists():
                    raise LoadError(f"{self.label}: shard {shard} is missing; {index.name} names it. "
                                    "Fetch the whole folder.")
            return shards
        if not (self.folder / "model.safetensors").exists():
            raise LoadError(f"{self.label} has neither model.safetensors nor {index.name}.")
        return dict.fromkeys(self._file("model.safetensors").keys(), "model.safetensors")

    def _file(self, shard: str) -> Any:
        if shard not in self._open:
            path = self.folder / shard
            try:
                self._open[shard] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                why = _what_is_cut(path)
                raise LoadError(f"{self.label}/{shard} {why} ({error}). Fetch it again.") from error
        return self._open[shard]


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
