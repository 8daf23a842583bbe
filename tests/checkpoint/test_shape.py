import json

import pytest
import torch

from aiinfra.checkpoint.huggingface_config import config_to_json
from aiinfra.checkpoint.shape import read_config
from aiinfra.errors import LoadError
from tests.train.stories import tiny_config


def test_a_config_is_enough(tmp_path) -> None:
    """In a folder without weights, or under another name."""
    config = tiny_config()
    text = json.dumps(config_to_json(config, torch.float32))
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "mine.json").write_text(text)
    assert read_config(tmp_path) == read_config(tmp_path / "mine.json") == config


def test_what_is_missing_or_damaged_is_named(tmp_path) -> None:
    with pytest.raises(LoadError, match="no model 'smollm'"):
        read_config("smollm")
    with pytest.raises(LoadError, match="has no config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(LoadError, match="config.json"):
        read_config(tmp_path)


def test_a_known_name(real_model) -> None:
    assert read_config(real_model).hidden_size == 576
