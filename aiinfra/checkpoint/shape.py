"""A model's shape without its weights: what a plan needs of a checkpoint that may not even be here.

    a known name, a .gguf file      its header
    a Hugging Face folder           its config.json; no weights need lie beside it
    a .json file                    a config.json under any name
"""

from pathlib import Path

from aiinfra.checkpoint.gguf_weights import GGUFWeights
from aiinfra.checkpoint.hub import resolve
from aiinfra.checkpoint.huggingface_config import config_from_json
from aiinfra.errors import LoadError, reading
from aiinfra.files import read_json
from aiinfra.model import ModelConfig


def read_config(name_or_path: str | Path) -> ModelConfig:
    """The config of a model. Raises LoadError for what does not exist or cannot be computed here."""
    path = resolve(name_or_path)
    if path.suffix == ".gguf":
        return GGUFWeights(path).config
    source = path
    if path.is_dir():
        source = path / "config.json"
    if source.suffix != ".json" or not source.exists():
        raise LoadError(f"{path.name} has no config.json. Give a folder that has one, a .json file, "
                        "a .gguf file, or a known name.")
    label = f"{source.absolute().parent.name}/{source.name}"
    with reading(label):
        return config_from_json(read_json(source), label)
