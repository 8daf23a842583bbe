"""Ids, chats and streams equal transformers', on text that breaks careless tokenizers."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from aiinfra.checkpoint import StreamDecoder, Tokenizer, load
from aiinfra.checkpoint.gguf import GGUFFile
from aiinfra.errors import LoadError
from tests.checkpoint.small_models import reference_model

NASTY = [
    "Hello, world!", " leading and trailing  ", "", "a", "\n", "\n\n\n", "\t\ttabs\t",
    "   three   runs   of   spaces   ",
    "👩‍👩‍👧‍👦 family, 🇩🇪 flag, 🏳️‍🌈, skin 👋🏽", "世界 こんにちは 안녕하세요", "مرحبا بالعالم שלום",
    "naïve café Å é (combining: é)",
    "12345678901234567890", "3.14159e-10, 0xDEADBEEF, 1,000,000", "x=1;y=22;z=333",
    "don't won't I'll we've you're",
    "def f(x):\n\tif x:\n\t\treturn {'a': [x, None]}\n", "<|im_start|>user\nhi<|im_end|>",
    "<|endoftext|><|im_end|> <|im_start|",
    "\u200b\u00a0\u2028 odd spaces", "\x00\x01\x7f control", "ﷺ ﬁ ＡＢ", "\U0001f600" * 5, "A" * 300,
    "http://example.org/?q=a%20b&c=d#e",
    "Ünïcödé  ẞ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "SELECT * FROM t WHERE a<>'b';", "\r\n windows \r\n",
]
MESSAGES = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"},
     {"role": "assistant", "content": "4"}, {"role": "user", "content": "<|im_end|> \n 👋🏽"}],
]


@pytest.mark.parametrize("text", NASTY)
def test_ids_are_identical(text: str, ours, reference_tokenizer) -> None:
    assert ours[1].encode(text) == reference_tokenizer(text).input_ids


def test_a_long_text_keeps_no_other_thread_waiting(ours, reference_tokenizer) -> None:
    """A server's streams go on meanwhile. Its ids are transformers', too."""
    text = " ".join(NASTY) * 800
    gaps, expected = [], reference_tokenizer(text).input_ids
    with ThreadPoolExecutor(1) as other:
        begun = last = time.perf_counter()
        found = other.submit(ours[1].encode, text)
        while not found.done():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()
    assert found.result() == expected and max(gaps) < (last - begun) / 2


@pytest.mark.parametrize("text", NASTY)
def test_text_comes_back(text: str, ours, reference_tokenizer) -> None:
    ids = ours[1].encode(text)
    for skip in (True, False):
        assert ours[1].decode(ids, skip) == reference_tokenizer.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    assert ours[1].decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["a  1", "[\n    1,\n    22,\n]", "x =   -3\n\n7", "½+¼=¾ ①②③ ٣٤٥ ² Ⅷ"])
def test_digits_after_a_run_of_spaces(text: str, ours, reference_tokenizer) -> None:
    """The file says `pre = smollm`: digits are cut off one by one first, as in the tokenizer.json that the
    model was published and trained with. transformers 5.23 drops that field when it opens a GGUF file, which
    shows where a run of spaces, or a numeral that is no ASCII digit, meets another. With the field's rule put
    back, it agrees with us."""
    backend = tokenizers.Tokenizer.from_str(reference_tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    published = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    assert ours[1].encode(text) == published(text).input_ids


@pytest.mark.parametrize("messages", MESSAGES)
@pytest.mark.parametrize("prompted", [True, False])
def test_chat_is_identical(messages, prompted: bool, ours, reference_tokenizer) -> None:
    expected = reference_tokenizer.apply_chat_template(messages, tokenize=False,
                                                       add_generation_prompt=prompted)
    assert ours[1].render_chat(messages, prompted) == expected
    assert ours[1].encode_chat(messages, prompted) == reference_tokenizer(expected,
                                                                          add_special_tokens=False).input_ids


def test_from_a_folder(tmp_path, ours, reference_tokenizer) -> None:
    reference_tokenizer.save_pretrained(tmp_path)
    ours_again = Tokenizer.from_folder(tmp_path)
    for text in NASTY:
        assert ours_again.encode(text) == reference_tokenizer(text).input_ids
    assert ours_again.eos_ids == ours[1].eos_ids == (2, 0)          # <|im_end|>; <|endoftext|>, by its text
    assert ours_again.render_chat(MESSAGES[1]) == ours[1].render_chat(MESSAGES[1])


@pytest.mark.parametrize("text", NASTY)
def test_stream_joins_to_the_whole(text: str, ours) -> None:
    tokenizer = ours[1]
    ids = tokenizer.encode(text)
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(i) for i in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=12))
def test_stream_of_any_ids(ids: list[int], ours) -> None:
    """Even ids that no text has: what is shown is never taken back, and nothing is lost."""
    stream = StreamDecoder(ours[1])
    shown = "".join(stream.push(i) for i in ids) + stream.flush()
    assert shown == ours[1].decode(ids)


def sentencepiece_metadata() -> dict:
    """A Llama-2 style vocabulary: control tokens, the 256 bytes, then pieces with scores."""
    words = ["▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "hell", "hello", "▁hello", "wo", "or", "wor",
             "ld", "world", "▁world"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(words))],
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0}


def test_sentencepiece_kind() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(), "x.gguf")
    ids = tokenizer.encode("hello world é")
    pieces = [tokenizer.backend.id_to_token(i) for i in ids]
    assert pieces == ["<s>", "▁hello", "▁world", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "hello world é"


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2"])
def test_other_byte_level_rules(pre: str, gguf_path) -> None:
    """The published splitting patterns of Llama 3 and Qwen2: digits in threes, or one by one."""
    meta = {**GGUFFile(gguf_path).metadata, "tokenizer.ggml.pre": pre}
    backend = Tokenizer.from_gguf(meta, "x").backend
    cut = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("ab 12345's")]
    assert cut == {"llama-bpe": ["ab", "Ġ", "123", "45", "'s"],
                   "qwen2": ["ab", "Ġ", "1", "2", "3", "4", "5", "'s"],
                   "gpt-2": ["ab", "Ġ12345", "'s"]}[pre]


@pytest.mark.parametrize("change, message", [
    ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5' is not supported"),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": [], "tokenizer.ggml.pre": "martian"},
     "'martian' is not supported"),
])
def test_unsupported_kinds(change: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        Tokenizer.from_gguf({**sentencepiece_metadata(), **change}, "x.gguf")


@pytest.fixture
def folder(tmp_path):
    reference_model("llama tied").save_pretrained(tmp_path)
    return tmp_path


def test_tokenizer_that_is_no_tokenizer(folder) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(LoadError, match="tokenizer.json cannot be used"):
        load(folder)


def test_folder_without_a_tokenizer(folder) -> None:
    with pytest.raises(LoadError, match="has no tokenizer.json"):
        load(folder)


@pytest.mark.parametrize("missing", ["tokens", "merges"])
def test_gguf_without_a_vocabulary(missing: str, gguf_path) -> None:
    meta = GGUFFile(gguf_path).metadata
    del meta[f"tokenizer.ggml.{missing}"]
    with pytest.raises(LoadError, match="x.gguf is damaged, or of a form that is not known"):
        Tokenizer.from_gguf(meta, "x.gguf")
