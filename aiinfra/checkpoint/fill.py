"""From files to a model's parameters. One table of names serves every format.

    ours                          Hugging Face                      GGUF
    layers.3.attention.qkv   <──  q_proj + k_proj + v_proj     <──  attn_q + attn_k + attn_v
    layers.3.mlp.gate_up     <──  gate_proj + up_proj          <──  ffn_gate + ffn_up

One tensor at a time is read, checked, converted and put in place, so the peak in memory is the
model and one tensor. Every parameter is filled or an error names it: nothing is left random. A layer
that will be packed or quantised is, as soon as it is read; 4-bit blocks in a file are taken as they are.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import gguf
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aiinfra.errors import LoadError, nearest, reading
from aiinfra.kernels.quant_matmul import PackedWeight, from_q4_1
from aiinfra.model.config import ModelConfig, RopeScaling
from aiinfra.checkpoint.gguf import GGUFFile
from aiinfra.compress.packed import can_pack, pack_one
from aiinfra.compress.quantized import bits_for, check_any_quantized, check_finite, quantize_one
from aiinfra.model.transformer import Transformer

# ours: (Hugging Face's parts, GGUF's parts). `{}` is the layer's number. Parts stack along the output.
GLOBAL_NAMES = {
    "embed": (["model.embed_tokens"], ["token_embd"]),
    "norm": (["model.norm"], ["output_norm"]),
    "lm_head": (["lm_head"], ["output"]),
}
LAYER_NAMES = {
    "attention_norm": (["input_layernorm"], ["attn_norm"]),
    "attention.qkv": (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                      ["attn_q", "attn_k", "attn_v"]),
    "attention.q_norm": (["self_attn.q_norm"], ["attn_q_norm"]),
    "attention.k_norm": (["self_attn.k_norm"], ["attn_k_norm"]),
    "attention.out": (["self_attn.o_proj"], ["attn_output"]),
    "mlp_norm": (["post_attention_layernorm"], ["ffn_norm"]),
    "mlp.gate_up": (["mlp.gate_proj", "mlp.up_proj"], ["ffn_gate", "ffn_up"]),
    "mlp.down": (["mlp.down_proj"], ["ffn_down"]),
}


class Source(Protocol):
    """A set of named tensors in files."""

    config: ModelConfig

    def parts(self, ours: str) -> list[str]:
        """The file's names of the tensors that make up our parameter, in order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises LoadError if there is none of that name."""
        ...

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy one tensor into `out`, converting type and device."""
        ...

    def blocks(self, ours: str) -> PackedWeight | None:
        """Our parameter in 4 bits, if the file stores it so."""
        ...


class HuggingFaceFolder:
    """config.json and safetensors, in one file or in shards with an index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()             # "." has no name to put into an error
        raw = read_json(self.folder / "config.json")
        source = f"{self.folder.resolve().name}/config.json"
        with reading(source):
            self.config = ModelConfig.from_hf(raw, source)
        self._open: dict[str, Any] = {}                     # file name -> open file
        self._shard_of = self._index()                      # tensor name -> file name

    def parts(self, ours: str) -> list[str]:
        """See Source."""
        return _translate(ours, 0, "model.layers.{}.")

    def shape(self, name: str) -> tuple[int, ...]:
        """See Source."""
        return tuple(self._tensor(name, lambda file: file.get_slice(name).get_shape()))

    def read_into(self, name: str, out: Tensor) -> None:
        """See Source. Raises LoadError naming tensor and file."""
        out.copy_(self._tensor(name, lambda file: file.get_tensor(name)))

    def blocks(self, ours: str) -> PackedWeight | None:
        """See Source: these folders hold floats."""
        return None

    def _tensor(self, name: str, read: Callable[[Any], Any]) -> Any:
        if name not in self._shard_of:
            raise LoadError(f"{self.folder.name}: the weights have no tensor {name}.{nearest(name, self._shard_of)}")
        shard = self._shard_of[name]
        try:
            return read(self._file(shard))
        except SafetensorError as error:
            raise LoadError(f"{self.folder.name}/{shard}: tensor {name} cannot be read ({error}).") from error

    def _index(self) -> dict[str, str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            with reading(f"{self.folder.name}/{index.name}"):
                shards = dict(read_json(index)["weight_map"])
            for shard in sorted(set(shards.values())):
                if not (self.folder / shard).exists():
                    raise LoadError(f"{self.folder.name}: shard {shard} is missing; {index.name} names it. "
                                    "Fetch the whole folder.")
            return shards
        if not (self.folder / "model.safetensors").exists():
            raise LoadError(f"{self.folder.name} has neither model.safetensors nor {index.name}.")
        return dict.fromkeys(self._file("model.safetensors").keys(), "model.safetensors")

    def _file(self, shard: str) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(self.folder / shard, framework="pt")
            except (SafetensorError, OSError) as error:
                raise LoadError(f"{self.folder.name}/{shard} {_what_is_cut(self.folder / shard)} "
                                f"({error}). Fetch it again.") from error
        return self._open[shard]


class GGUFWeights:
    """A single GGUF file, de-quantised as it is read."""

    def __init__(self, path: str | Path) -> None:
        self.file = GGUFFile(path)
        with reading(self.file.path.name):
            self.config = ModelConfig.from_gguf(self.file.metadata, set(self.file.tensors), self.file.path.name)
        if "rope_freqs.weight" in self.file.tensors:          # Llama 3's scaling, stored as its result
            factors = tuple(self.file.tensor("rope_freqs.weight").tolist())
            self.config = ModelConfig(**{**vars(self.config), "rope_scaling": RopeScaling("factors", factors=factors)})
        self._paired_rope = self.file.metadata["general.architecture"] == "llama"

    def parts(self, ours: str) -> list[str]:
        """See Source."""
        return _translate(ours, 1, "blk.{}.")

    def shape(self, name: str) -> tuple[int, ...]:
        """See Source."""
        return self.file.info(name).shape

    def read_into(self, name: str, out: Tensor) -> None:
        """See Source. Llama's q and k rows are put back into Hugging Face's order."""
        if self._paired(name):
            out.copy_(self._unpair(self.file.tensor(name)))
        else:
            self.file.read_into(name, out)

    def blocks(self, ours: str) -> PackedWeight | None:
        """See Source: where all parts are Q4_1. Rows change places as in `read_into`, whole, so blocks stay blocks."""
        parts = self.parts(ours)
        if any(self.file.info(part).kind != gguf.GGMLQuantizationType.Q4_1 for part in parts):
            return None
        raw = [torch.from_numpy(self.file.raw(part)) for part in parts]                        # uint8 [out, in/32 · 20]
        return from_q4_1(torch.cat([self._unpair(rows) if self._paired(part) else rows
                                    for part, rows in zip(parts, raw)]).numpy())

    def _paired(self, name: str) -> bool:
        return self._paired_rope and name.split(".")[-2] in ("attn_q", "attn_k")

    def _unpair(self, rows: Tensor) -> Tensor:
        # llama.cpp turns neighbours (0,1), (2,3), …; we turn (0, Dh/2), (1, Dh/2 + 1), …
        pairs = rows.view(-1, self.config.head_dim // 2, 2, *rows.shape[1:])                   # [heads, Dh/2, 2, …]
        return pairs.transpose(1, 2).reshape(rows.shape)


def fill(model: Transformer, source: Source, dtype: torch.dtype, device: torch.device, packed: bool = False,
         scheme: str | None = None) -> None:
    """Give every parameter of `model` (which may be on the meta device) its values from `source`.

    packed: lay out each linear layer for oneDNN, where that is possible, as soon as it is filled. scheme: or
    quantise it, where that is possible; see compress/quantized.py. Raises LoadError if a tensor is missing or has
    another shape than the config says, ValueError if no layer can be quantised; `model` is then not fit for use.
    """
    packed = packed and can_pack(dtype, device)
    tied = model.config.tie_word_embeddings
    linear = {name: bits_for(name, module, scheme) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    passing = {name for name, bits in linear.items() if packed or bits}          # those whose plain weight will not stay
    # One buffer for all of them: freeing each would riddle the heap with holes.
    plain = torch.empty(_largest(model, passing - {"lm_head"} if tied else passing), device=device)
    # Names, not modules: a list of modules would keep every plain weight alive until its end.
    for name in [name for name, module in model.named_modules() if module._parameters]:
        if tied and name == "lm_head":
            continue
        blocks = _blocks(source, f"{name}.weight", model.get_submodule(name).weight.shape) if linear.get(name) == 4 else None
        for leaf, parameter in list(model.get_submodule(name)._parameters.items()):
            if parameter is not None and (blocks is None or leaf != "weight"):
                value = plain[:parameter.numel()].view(parameter.shape) if name in passing and leaf == "weight" else \
                    torch.empty(parameter.shape, dtype=dtype, device=device)
                _read(source, f"{name}.{leaf}", value)
                setattr(model.get_submodule(name), leaf, torch.nn.Parameter(value, requires_grad=False))
        if tied and name == "embed":
            model.lm_head.weight, name = model.embed.weight, "lm_head"           # at once, while little else is in memory
        if linear.get(name):
            if blocks is None:
                check_finite(model.get_submodule(name).weight, name)
            quantize_one(model, name, linear[name], blocks and blocks.to(device))
        elif name in passing:
            pack_one(model, name)
    if scheme:
        check_any_quantized(model, scheme)


def _largest(model: Transformer, names: set[str]) -> int:
    """Values of the largest weight among these layers."""
    return max((model.get_submodule(name).weight.numel() for name in names), default=0)


def _read(source: Source, name: str, out: Tensor) -> None:
    """Our parameter `name`, its parts stacked along the output, into `out`."""
    parts = source.parts(name)
    rows = _rows(source, name, out.shape)
    for part, slot in zip(parts, out.split(rows)):
        source.read_into(part, slot)


def _blocks(source: Source, name: str, shape: torch.Size) -> PackedWeight | None:
    """Our parameter in 4 bits, if the file stores it so."""
    _rows(source, name, shape)
    return source.blocks(name)


def _rows(source: Source, name: str, shape: torch.Size) -> list[int]:
    """Rows of each part of our parameter. Raises LoadError unless together they have this shape."""
    parts = source.parts(name)
    shapes = [source.shape(part) for part in parts]
    rows = [found[0] if found else 0 for found in shapes]
    if any((sum(rows), *found[1:]) != shape for found in shapes):
        found = ", ".join(f"{part} {list(shape)}" for part, shape in zip(parts, shapes))
        raise LoadError(f"tensor of the wrong shape: {found}; together the model's config asks for "
                        f"{list(shape)}. The config belongs to other weights.")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises LoadError naming the file."""
    path = path.resolve()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LoadError(f"{path.parent.name} has no {path.name}: it is not a Hugging Face model folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.parent.name}/{path.name} is not valid JSON in UTF-8 ({error}).") from error
    if not isinstance(raw, dict):
        raise LoadError(f"{path.parent.name}/{path.name} holds a {type(raw).__name__}; an object is expected.")
    return raw


def _what_is_cut(path: Path) -> str:
    """Why a safetensors file will not open: the first tensor that its header puts beyond its end."""
    size = path.stat().st_size
    with path.open("rb") as f:
        header_bytes = int.from_bytes(f.read(8), "little")
        try:
            header = json.loads(f.read(header_bytes)) if header_bytes < size else {}
        except ValueError:
            header = {}
    with suppress(LookupError, TypeError, AttributeError):        # a header of another form says nothing
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][1]):
            end = 8 + header_bytes + entry["data_offsets"][1]
            if end > size:
                return f"is cut short: tensor {name} needs bytes up to {end:,}, and the file ends at {size:,}"
    return f"is damaged: its header cannot be read ({size:,} bytes)"


def _translate(ours: str, format_index: int, layer_prefix: str) -> list[str]:
    stem, leaf = ours.rsplit(".", 1)
    if stem in GLOBAL_NAMES:
        return [f"{part}.{leaf}" for part in GLOBAL_NAMES[stem][format_index]]
    _, number, inner = stem.split(".", 2)
    return [f"{layer_prefix.format(number)}{part}.{leaf}" for part in LAYER_NAMES[inner][format_index]]
