"""A corpus of checkpoints as others write them: read as their own library reads them, or refused by name.

The quirks are functions in the files `*_quirks.py` beside this one, a file a kind.
"""

from pathlib import Path

import pytest
import transformers

from aiinfra.checkpoint import load
from aiinfra.errors import LoadError
from tests.checkpoint import (
    chat_quirks,
    config_quirks,
    end_quirks,
    gguf_quirks,
    gguf_tokenizer_quirks,
    tokenizer_quirks,
    weight_quirks,
)
from tests.checkpoint.corpus_says import BUILDERS, REFUSED, same, where_it_ends

ENDS = [name for name, builder in BUILDERS.items() if builder.__module__.endswith("end_quirks")]
KINDS = (
    chat_quirks,
    config_quirks,
    end_quirks,
    gguf_quirks,
    gguf_tokenizer_quirks,
    tokenizer_quirks,
    weight_quirks,
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in REFUSED])
def test_read_as_its_own_library_reads_it(name: str, tmp_path: Path) -> None:
    says = BUILDERS[name](tmp_path)
    assert same(says) == []
    if "context" in says.more:
        assert load(says.path, device="cpu")[0].config.max_position_embeddings == says.more["context"]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    made = BUILDERS[name](tmp_path)
    with pytest.raises(LoadError, match=REFUSED[name]):
        load(made, device="cpu")


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_ends_where_the_files_say(name: str, tmp_path: Path) -> None:
    says = BUILDERS[name](tmp_path)
    for end in says.ends - {0}:
        assert where_it_ends(says, end - 1) == ([end], "stop")
    others = set(range(says.vocab - 3, says.vocab)) - says.ends
    for token in (0, *others):
        made, why = where_it_ends(says, token)
        assert why == ("stop" if made[-1] in says.ends else "length")


def test_the_corpus_is_large() -> None:
    assert len(BUILDERS) >= 180 and len(KINDS) == 7
