"""A file is whole or not there."""

import json
from dataclasses import dataclass

import pytest

from aiinfra.files import save_json


def test_saving_is_whole_or_not_at_all(tmp_path) -> None:
    @dataclass
    class Row:
        value: object
    path = tmp_path / "folder" / "rows.json"
    save_json([Row(1.5)], {"device": "x"}, path)
    before = path.read_text()
    assert json.loads(before) == {"settings": {"device": "x"}, "rows": [{"value": 1.5}]}
    with pytest.raises(TypeError):
        save_json([Row(object())], {}, path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]
