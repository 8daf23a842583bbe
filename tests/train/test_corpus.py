from pathlib import Path

import pytest

from aiinfra.checkpoint.tokenizer import Tokenizer
from aiinfra.train.corpus import END_OF_TEXT, bytes_of_tokens, read_documents, split_documents, tokenize
from aiinfra.train.corpus import train_tokenizer
from tests.train.stories import stories


def test_documents_are_divided_by_empty_lines_or_by_the_end_of_text(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(b"One\ntwo.\r\n\r\nThree.\n\n\n\nFour.\n")
    assert read_documents(path) == ["One\ntwo.", "Three.", "Four."]
    path.write_text("One\n\nstill one\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    assert read_documents(path) == ["One\n\nstill one", "Two."]


@pytest.mark.parametrize("content, message", [
    (b"", r"stories.txt has no text in it \(0 bytes\)"),
    (b" \n\n ", r"has no text in it \(4 bytes\)"),
    (b"PK\x03\x00\x01", "stories.txt is not a text file: byte 3 is 0"),
    (b"caf\xe9", "stories.txt is not UTF-8: byte 3 is 0xE9"),
])
def test_what_is_no_text_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "stories.txt")


def test_parts_of_a_split_share_no_text() -> None:
    texts = stories(200, longest=1)                      # 125 different ones at most: many copies
    split = split_documents(texts, validation=0.1, test=0.2)
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert len(set(texts)) < len(texts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sorted(split.train + split.validation + split.test) == sorted(texts)
    assert len(parts[1]) == int(0.1 * len(set(texts))) and len(parts[2]) == int(0.2 * len(set(texts)))


def test_a_split_depends_on_the_texts_alone() -> None:
    texts = list(dict.fromkeys(stories(100)))
    split, reverse = split_documents(texts), split_documents(texts[::-1])
    assert split.validation == reverse.validation[::-1] and split.test == reverse.test[::-1]
    with pytest.raises(ValueError, match="validation=0.5 and test=0.5 are shares"):
        split_documents(texts, 0.5, 0.5)


def test_any_text_comes_back() -> None:
    tokenizer = train_tokenizer(stories(50), 400)
    for text in ("the fox found seven eggs.", "Grüße, 世界 🦊\n\ttabs", " spaces  kept "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(text)[0] == 0 and 0 not in tokenizer.encode(text)[1:]
    assert 340 < tokenizer.vocab_size < 400, "no pairs are left to merge"
    assert len(tokenizer.encode("the fox found")) < 8
    with pytest.raises(ValueError, match="at least 257"):
        train_tokenizer(stories(5), 256)


def test_bytes_of_tokens_add_up_and_special_tokens_have_none() -> None:
    tokenizer = train_tokenizer(stories(50), 400)
    sizes = bytes_of_tokens(tokenizer)
    for text in ("An empty café.", "世界 🦊"):
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())
    assert sizes[tokenizer.backend.token_to_id(END_OF_TEXT)] == 0


def test_a_corpus_has_an_end_before_and_after_each_text() -> None:
    texts = stories(7)
    tokenizer = train_tokenizer(texts, 300)
    made = tokenize(texts, tokenizer)
    assert made.documents == 7 and len(made) == len(made.tokens) - 1
    for text, start, end in zip(texts, made.starts[:-1], made.starts[1:]):
        assert made.tokens[start] == made.tokens[end] == 0
        assert tokenizer.decode(made.tokens[start + 1:end].tolist()) == text
    assert made.digest() == tokenize(texts, tokenizer).digest() != tokenize(texts[::-1], tokenizer).digest()
    with pytest.raises(ValueError, match="no end-of-text token"):
        tokenize(texts, Tokenizer(tokenizer.backend))
