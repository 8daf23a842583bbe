"""A model to a Hugging Face folder: `fill`'s loop backwards, over the same table of names.

    model.safetensors         every weight under Hugging Face's name, in the model's own dtype
    tokenizer.json …          if a tokenizer is given, with its chat template
    generation_config.json    the ids that end an answer
    config.json               last: a folder without it is no model, so half a save is not taken for a whole

transformers opens the folder and computes the same logits; so do `aiinfra.load` and most tools of the field.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from aiinfra.checkpoint.fill import layers_of, leaves_of, matrix_rows
from aiinfra.checkpoint.huggingface_config import architecture_of, config_to_json, ends_to_json
from aiinfra.checkpoint.names import huggingface_parts, mixtral_name, part_rows
from aiinfra.checkpoint.tokenizer import Tokenizer
from aiinfra.compress.packed import PackedLinear
from aiinfra.compress.quantized import QuantizedLinear
from aiinfra.files import replace_whole, write_json
from aiinfra.model.transformer import Transformer


def save(model: Transformer, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the model, and its tokenizer if one is given, to `folder`, which is made if it is absent.

    A checkpoint in one file that is there already is replaced. Raises ValueError for a model that is packed
    or quantised, for a config that Hugging Face's form has no words for, and for a folder that holds a
    checkpoint in shards, whose files would stay beside the new ones.
    """
    _refuse_compressed(model)
    raw = config_to_json(model.config, model.dtype)
    folder = Path(folder)
    if (folder / "model.safetensors.index.json").exists():
        raise ValueError(f"{folder.name} holds a checkpoint in shards; save to another folder.")
    config_path = folder / "config.json"
    # Not `replace_folder`: what else is in the folder (a README, a licence) stays. So the order must guard
    # it.
    config_path.unlink(missing_ok=True)
    weights = _named_weights(model)
    metadata = {"format": "pt"}                          # transformers asks for it
    replace_whole(folder / "model.safetensors", lambda path: save_file(weights, path, metadata))
    if tokenizer is not None:
        tokenizer.save(folder)
    write_json(folder / "generation_config.json", _generation_config(model, tokenizer))
    write_json(config_path, raw)


def _named_weights(model: Transformer) -> dict[str, Tensor]:
    """Every weight by Hugging Face's name, on the CPU. A tied last layer is not repeated."""
    weights = {}
    for layer in layers_of(model):
        if layer == "lm_head" and model.config.tie_word_embeddings:
            continue
        for leaf, parameter in leaves_of(model, layer).items():
            ours = f"{layer}.{leaf}"
            stacked = matrix_rows(parameter.detach())
            rows = part_rows(ours, model.config, len(stacked))
            for name, part in zip(huggingface_parts(ours, model.config), stacked.split(rows)):
                weights[name] = part.cpu().contiguous()
    if architecture_of(model.config) == "MixtralForCausalLM":
        return {mixtral_name(name): weight for name, weight in weights.items()}
    return weights


def _generation_config(model: Transformer, tokenizer: Tokenizer | None) -> dict[str, Any]:
    raw = ends_to_json(model.config)
    if tokenizer is not None:
        raw["eos_token_id"] = list(tokenizer.eos_ids) or None
    return raw


def _refuse_compressed(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            raise ValueError(f"{name} is packed for this machine's CPU: load the model with packed=False, "
                             "and save that.")
        if isinstance(module, QuantizedLinear):
            raise ValueError(f"{name} is kept in int{module.bits}: load the model without quantize, with "
                             "packed=False, and save that.")
