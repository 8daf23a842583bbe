"""Quirks of ends: the places that say where an answer ends. The models count upwards: each is reached."""

from pathlib import Path

from tests.checkpoint.corpus_parts import byte_level, counter, edit, save
from tests.checkpoint.corpus_says import Says, quirk, transformers_says

NAMES = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|plain|>",
    "<|im_end|>",
    "<|other|>",
    "<|eot_id|>",
    "<|mine|>",
    "<|last|>",
)


def folder_that_ends(folder: Path, names: tuple[str, ...] = NAMES, **named: str | None) -> dict[str, int]:
    """A folder in which nothing says where an answer ends, but `named`; the ids of its special tokens."""
    backend = byte_level(*names)
    save(folder, counter(backend.get_vocab_size()), backend, **named)
    edit(folder / "config.json", eos_token_id=None)
    (folder / "generation_config.json").unlink()
    return {text: backend.token_to_id(text) for text in names}


def ends(folder: Path, *texts: str, ids: dict[str, int]) -> Says:
    """What transformers says, and that the answer ends at these tokens."""
    return transformers_says(folder, ends={ids[text] for text in texts})


PLAIN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|plain|>",
    "<|mine|>",
    "<|other|>",
)  # none of them known by its text but the first


@quirk
def ends_only_in_generation_config(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:])
    edit(folder / "generation_config.json", eos_token_id=[ids["<|mine|>"], ids["<|other|>"]])
    return ends(folder, "<|mine|>", "<|other|>", ids=ids)


@quirk
def one_end_only_in_generation_config(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:])
    edit(folder / "generation_config.json", eos_token_id=ids["<|mine|>"])
    return ends(folder, "<|mine|>", ids=ids)


@quirk
def an_end_only_in_special_tokens_map(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:])
    edit(
        folder / "special_tokens_map.json",
        eos_token={
            "content": "<|mine|>",
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
        },
    )
    return ends(folder, "<|mine|>", ids=ids)


@quirk
def an_end_only_in_tokenizer_config(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:], eos_token="<|mine|>")
    return ends(folder, "<|mine|>", ids=ids)


@quirk
def each_file_with_an_end_of_its_own(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:], eos_token="<|mine|>")
    edit(folder / "config.json", eos_token_id=ids["<|other|>"])
    edit(folder / "generation_config.json", eos_token_id=[ids["<|plain|>"], ids["<|other|>"]])
    return ends(folder, "<|mine|>", "<|other|>", "<|plain|>", ids=ids)


@quirk
def ends_known_by_their_text(folder: Path) -> Says:
    """Nothing names <|im_end|> and <|eot_id|>; the template writes one of them."""
    ids = folder_that_ends(folder, eos_token="<|mine|>")
    return ends(folder, "<|mine|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", ids=ids)


@quirk
def an_end_with_the_id_0(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:])
    edit(folder / "config.json", eos_token_id=0)
    said = transformers_says(folder, ends={0})
    assert 0 not in ids.values()
    return said


@quirk
def no_end_at_all(folder: Path) -> Says:
    ids = folder_that_ends(folder, PLAIN[1:])
    return ends(folder, ids=ids)


@quirk
def an_end_token_in_a_companion_file_known_to_generation_config(folder: Path) -> Says:
    from tests.checkpoint.tokenizer_quirks import as_dicts, without_tokens

    ids = folder_that_ends(folder, PLAIN[1:])
    edit(folder / "tokenizer_config.json", added_tokens_decoder=as_dicts(without_tokens(folder, "<|other|>")))
    edit(folder / "generation_config.json", eos_token_id=[ids["<|other|>"]])
    return ends(folder, "<|other|>", ids=ids)
