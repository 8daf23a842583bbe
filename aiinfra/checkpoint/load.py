"""From a name, a folder or a file to a model that is ready, and its tokenizer."""

from collections.abc import Callable
from pathlib import Path

import torch

from aiinfra.checkpoint.fill import WeightFile, fill
from aiinfra.checkpoint.gguf_weights import GGUFWeights
from aiinfra.checkpoint.hub import DEFAULT_MODEL, resolve
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.checkpoint.tokenizer import Tokenizer
from aiinfra.compress.packed import PlacePacked, can_pack
from aiinfra.compress.place import PlacePlain, WeightPlace
from aiinfra.compress.quantized import PlaceQuantized, check_scheme
from aiinfra.device import as_device, as_dtype
from aiinfra.errors import LoadError
from aiinfra.model import Transformer


def load(name_or_path: str | Path = DEFAULT_MODEL, dtype: str | torch.dtype | None = None,
         device: str | torch.device | None = None, packed: bool = True,
         cache: str | Path | None = None, quantize: str | None = None,
         share: Callable[[WeightFile], WeightFile] | None = None) -> tuple[Transformer, Tokenizer]:
    """A pretrained model, ready for inference, and its tokenizer.

    name_or_path: a catalogue name (fetched once), a Hugging Face folder (config.json, safetensors,
    tokenizer.json) or a .gguf file. dtype: None is float32 on a CPU and bfloat16 on a GPU. packed:
    lay out float32 CPU weights once for oneDNN; False keeps plain parameters, as training needs.
    quantize: "int8" or "int4" weights, one layer after another as they are read; see compress/quantized.py.
    share: what is read in place of the whole file, a part of it for one of several ranks.
    Raises LoadError naming the file (and tensor) for what is missing, damaged or not supported.
    """
    if quantize is not None:
        check_scheme(quantize)
    path = resolve(name_or_path, cache)
    device = as_device(device)
    dtype = as_dtype(dtype, device)
    source, tokenizer = _open(path)
    ends = (*source.config.eos_token_ids, *tokenizer.eos_ids)
    tokenizer.eos_ids = tuple(dict.fromkeys(ends))
    if share is not None:
        source = share(source)
    with torch.device("meta"):                    # shapes only: no random numbers, no memory
        model = Transformer(source.config)
    model.rotary.to(device)                       # computed from the config, not filled from the file
    place: WeightPlace = PlacePlain()
    if packed and can_pack(dtype, device):
        place = PlacePacked(model)
    if quantize is not None:
        place = PlaceQuantized(model, quantize, otherwise=place)
    fill(model, source, place, dtype, device)
    return model.eval(), tokenizer


def _open(path: Path) -> tuple[WeightFile, Tokenizer]:
    """The weights and the tokenizer at that path, by its kind."""
    if path.is_dir():
        return HuggingFaceFolder(path), Tokenizer.from_folder(path)
    if path.suffix != ".gguf":
        raise LoadError(f"{path.name} is neither a folder nor a .gguf file. Give a Hugging Face folder, "
                        f"a .gguf file, or a name such as {DEFAULT_MODEL!r}.")
    source = GGUFWeights(path)
    tokenizer = Tokenizer.from_gguf(source.file.metadata, path.name)
    source.file.drop_vocabulary()
    return source, tokenizer
