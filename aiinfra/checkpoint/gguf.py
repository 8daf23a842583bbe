"""Reading a GGUF file: a header of typed key/value pairs, a table of tensors, then their bytes.

    "GGUF" version | n tensors | n pairs | key type value … | name shape type offset … | ░ data ░

The `gguf` package knows the block formats and turns them back into numbers; its reader keeps every
string of the vocabulary as several arrays and needs seconds, so the header is read here. Each
length is checked against the file's size before it is believed: a cut or damaged file ends in one
sentence that names the tensor. Source: the GGUF specification in ggml's docs.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import torch

from aiinfra.errors import LoadError, nearest

# The format's number of a type -> Python's letter for it; all are little-endian.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}
_STRING, _ARRAY = 8, 9
_FLOATS = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `shape` is in PyTorch's order; `start` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    nbytes: int


class GGUFFile:
    """A GGUF file's metadata and, on request, its tensors in float32.

    Raises LoadError, naming file and tensor, if the file is cut short, damaged or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.size = self.path.stat().st_size
        with self.path.open("rb") as f:
            try:
                self.metadata, self.tensors = self._read_header(f)
            except (struct.error, EOFError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
                if isinstance(error, LoadError):
                    raise
                raise LoadError(f"{self.path.name}: the GGUF header is damaged or cut short at byte "
                                f"{f.tell():,} of {self.size:,} ({error}). Fetch the file again.") from error
        for info in self.tensors.values():
            end = info.start + info.nbytes
            if end > self.size:
                raise LoadError(f"{self.path.name}: tensor {info.name} needs bytes up to {end:,}, and the "
                                f"file ends at {self.size:,}. It is cut short: fetch it again.")

    def info(self, name: str) -> TensorInfo:
        """Where the tensor lies. Raises LoadError if there is none of that name."""
        if name not in self.tensors:
            raise LoadError(f"{self.path.name} has no tensor {name}.{nearest(name, self.tensors)}")
        return self.tensors[name]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in float32, de-quantised."""
        out = torch.empty(self.info(name).shape)
        self.read_into(name, out)
        return out

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """De-quantise the tensor into `out`, of the same shape, a few hundred rows at a time."""
        kind = self.info(name).kind
        into = out.view(-1, out.shape[-1])
        try:
            for first in range(0, len(into), 256):      # the gguf package needs several times its result
                blocks = self.raw(name, first, 256)
                values = gguf.quants.dequantize(blocks, kind)
                values = values.astype(np.float32, copy=False)
                into[first:first + len(blocks)] = torch.from_numpy(values)
        except NotImplementedError as error:
            raise LoadError(f"{self.path.name}: tensor {name} is stored as {kind.name}, "
                            "which the gguf package cannot turn into float32.") from error

    def drop_vocabulary(self) -> None:
        """Forget the lists of tokens and merges: a tokenizer built from them has its own copy."""
        for key in ("tokens", "merges", "scores", "token_type"):
            self.metadata.pop(f"tokenizer.ggml.{key}", None)

    def raw(self, name: str, first: int = 0, rows: int | None = None) -> np.ndarray:
        """`rows` rows (default: all) of the stored blocks from row `first` on: uint8, or floats. Read, not
        mapped: mapped pages would count as this process's memory."""
        info = self.info(name)
        total = math.prod(info.shape[:-1])
        row_bytes = info.nbytes // total
        left = total - first
        rows = left if rows is None else min(left, rows)
        start = info.start + first * row_bytes
        data = np.fromfile(self.path, np.uint8, rows * row_bytes, offset=start)
        return data.view(_FLOATS.get(info.kind, np.uint8)).reshape(rows, -1)

    def _read_header(self, f: BinaryIO) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        magic = f.read(4)
        if magic != b"GGUF":
            raise LoadError(f"{self.path.name} starts with {magic!r}, not b'GGUF': it is not a GGUF file.")
        version, n_tensors, n_pairs = struct.unpack("<IQQ", self._take(f, 20))
        if version not in (2, 3):
            raise LoadError(f"{self.path.name}: GGUF version {version} is not supported; 2 and 3 are.")
        metadata = {}
        for _ in range(n_pairs):
            key = self._string(f)
            metadata[key] = self._value(f, self._scalar(f, 4))
        entries = [self._entry(f) for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        data_start = -(-f.tell() // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in entries:
            tensors[name] = self._info(name, shape, kind, data_start + offset)
        return metadata, tensors

    def _entry(self, f: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(f)
        n_dims = self._scalar(f, 4)
        if n_dims > 4:
            raise LoadError(f"{self.path.name}: tensor {name!r} claims {n_dims} dimensions; GGUF allows 4. "
                            "The header is damaged: fetch the file again.")
        shape = struct.unpack(f"<{n_dims}Q", self._take(f, 8 * n_dims))
        kind = self._scalar(f, 4)
        offset = self._scalar(f, 10)
        return name, shape[::-1], kind, offset         # GGUF writes the dimension that runs fastest first

    def _info(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> TensorInfo:
        kind = gguf.GGMLQuantizationType(kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(shape)
        if shape and shape[-1] % block:
            raise LoadError(f"{self.path.name}: tensor {name} has rows of {shape[-1]} values; "
                            f"{kind.name} stores blocks of {block}.")
        nbytes = count // block * block_bytes
        return TensorInfo(name=name, shape=shape, kind=kind, start=start, nbytes=nbytes)

    def _take(self, f: BinaryIO, n: int) -> bytes:
        left = self.size - f.tell()
        if n > left:
            raise EOFError(f"{n:,} bytes wanted, {left:,} left")
        return f.read(n)

    def _scalar(self, f: BinaryIO, kind: int) -> Any:
        form = _SCALARS[kind]
        raw = self._take(f, struct.calcsize(form))
        return struct.unpack(form, raw)[0]

    def _string(self, f: BinaryIO) -> str:
        length = self._scalar(f, 10)
        return self._take(f, length).decode("utf-8")

    def _value(self, f: BinaryIO, kind: int) -> Any:
        if kind == _STRING:
            return self._string(f)
        if kind != _ARRAY:
            return self._scalar(f, kind)
        item, count = self._scalar(f, 4), self._scalar(f, 10)
        if item in _SCALARS:
            form = _SCALARS[item]
            raw = self._take(f, count * struct.calcsize(form))
            return list(struct.unpack(f"<{count}{form[1]}", raw))
        return [self._value(f, item) for _ in range(count)]
