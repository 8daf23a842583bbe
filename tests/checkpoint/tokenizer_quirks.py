"""Quirks of tokenizers: what training runs leave behind, and what companion files add."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tests.checkpoint.corpus_parts import (
    CHATML,
    LLAMA3_CUT,
    QWEN2_CUT,
    READING,
    begins_with,
    byte_fallback,
    byte_level,
    chatml_folder,
    edit,
    save,
    small_model,
    with_a_word,
)
from tests.checkpoint.corpus_says import TEXTS, Says, quirk, refused, transformers_says

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")


def without_tokens(folder: Path, *texts: str) -> dict[str, int]:
    """Take added tokens out of tokenizer.json; their ids, for whoever puts them elsewhere."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    ids = {token["content"]: token["id"] for token in raw["added_tokens"] if token["content"] in texts}
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] not in texts]
    path.write_text(json.dumps(raw))
    return ids


def as_dicts(ids: dict[str, int], special: bool = True) -> dict[str, dict]:
    """added_tokens_decoder's form."""
    return {
        str(i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": special,
        }
        for text, i in ids.items()
    }


@quirk
def truncation_left_by_training(folder: Path) -> Says:
    chatml_folder(folder)
    edit(
        folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    )
    return transformers_says(folder)


@quirk
def padding_left_by_training(folder: Path) -> Says:
    chatml_folder(folder)
    edit(
        folder / "tokenizer.json",
        padding={
            "strategy": {"Fixed": 32},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
    )
    return transformers_says(folder)


@quirk
def truncation_and_padding_on_the_left(folder: Path) -> Says:
    chatml_folder(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(3, direction="left")
    backend.enable_padding(direction="left", pad_to_multiple_of=8)
    backend.save(str(folder / "tokenizer.json"))
    return transformers_says(folder)


@quirk
def chat_tokens_only_in_added_tokens_decoder(folder: Path) -> Says:
    chatml_folder(folder)
    edit(
        folder / "tokenizer_config.json", added_tokens_decoder=as_dicts(without_tokens(folder, *CHAT_TOKENS))
    )
    return transformers_says(folder)


@quirk
def chat_tokens_only_in_added_tokens_json(folder: Path) -> Says:
    chatml_folder(folder)
    edit(folder / "added_tokens.json", **without_tokens(folder, *CHAT_TOKENS))
    return transformers_says(folder)


@quirk
def chat_tokens_only_in_special_tokens_map(folder: Path) -> Says:
    chatml_folder(folder, bos_token=None, eos_token=None)
    without_tokens(folder, *CHAT_TOKENS)
    edit(
        folder / "special_tokens_map.json",
        additional_special_tokens=list(CHAT_TOKENS),
        eos_token="<|im_end|>",
    )
    return transformers_says(folder)


@quirk
def end_token_as_an_object_in_special_tokens_map(folder: Path) -> Says:
    chatml_folder(folder, eos_token=None, bos_token=None)
    one = as_dicts({"<|im_end|>": 0})["0"]
    edit(folder / "special_tokens_map.json", eos_token=one, pad_token="<|endoftext|>")
    return transformers_says(folder)


@quirk
def more_special_tokens_in_tokenizer_config(folder: Path) -> Says:
    chatml_folder(folder, model=small_model("llama", 400))
    edit(folder / "tokenizer_config.json", additional_special_tokens=["<|tool|>", "<|/tool|>"])
    return transformers_says(folder, texts=(*TEXTS, "a<|tool|>b<|/tool|> c"))


@quirk
def named_tokens_of_one_model(folder: Path) -> Says:
    chatml_folder(folder, model=small_model("llama", 400))
    edit(
        folder / "tokenizer_config.json",
        image_token="<image>",
        extra_special_tokens={"audio_token": "<audio>"},
    )
    return transformers_says(folder, texts=(*TEXTS, "a<image>b<audio> c"))


@quirk
def a_token_that_one_file_calls_special_and_the_other_not(folder: Path) -> Says:
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>")
    save(folder, small_model("llama", backend.get_vocab_size()), backend, eos_token="<|im_end|>")
    ids = {"<think>": backend.token_to_id("<think>")}
    edit(folder / "tokenizer_config.json", added_tokens_decoder=as_dicts(ids, special=False))
    return transformers_says(folder, texts=(*TEXTS, "<think>hm</think>"))


@quirk
def companion_files_beside_truncation(folder: Path) -> Says:
    chat_tokens_only_in_added_tokens_decoder(folder)
    edit(
        folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    )
    return transformers_says(folder)


@quirk
def tokens_that_eat_the_space_beside_them(folder: Path) -> Says:
    backend = byte_fallback()
    backend.add_tokens(
        [
            AddedToken("<|user|>", rstrip=True, normalized=False),
            AddedToken("<mask>", lstrip=True),
            AddedToken("cat", single_word=True),
            AddedToken("sat", normalized=True),
        ]
    )
    save(
        folder,
        small_model("llama", backend.get_vocab_size()),
        backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    return transformers_says(
        folder, texts=(*TEXTS, "<|user|> \n hi", "a <mask> b", "cat concat cat.", "sat  sat")
    )


@quirk
def byte_fallback_vocabulary(folder: Path) -> Says:
    backend = byte_fallback("<|im_start|>", "<|im_end|>")
    save(
        folder,
        small_model("llama", backend.get_vocab_size()),
        backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHATML,
    )
    return transformers_says(folder)


def llama_class(folder: Path, legacy: bool, kind: str = "llama", **settings: Any) -> Says:
    """A folder that names transformers' own class for Llama 2."""
    backend = byte_fallback()
    model = small_model(kind, backend.get_vocab_size(), **settings)
    save(folder, model, backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", legacy=legacy, backend=None)
    return transformers_says(folder)


@quirk
def llama_2_class(folder: Path) -> Says:
    return llama_class(folder, legacy=False)


@quirk
def llama_2_class_in_a_mistral(folder: Path) -> Says:
    return llama_class(folder, legacy=False, kind="mistral", sliding_window=None)


@quirk
def llama_2_class_in_a_phi_3(folder: Path) -> Says:
    return llama_class(folder, legacy=False, kind="phi3", sliding_window=None)


@quirk
def llama_2_class_of_the_older_kind(folder: Path) -> Says:
    return llama_class(folder, legacy=True)


@quirk
def qwen_2_class_and_composed_letters(folder: Path) -> Says:
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", cut=QWEN2_CUT)
    backend.normalizer = normalizers.NFC()
    save(
        folder,
        small_model("qwen2", backend.get_vocab_size()),
        backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="Qwen2Tokenizer",
        backend=None,
        add_prefix_space=False,
        added_tokens_decoder=as_dicts({t: backend.token_to_id(t) for t in ("<|endoftext|>", *CHAT_TOKENS)}),
    )
    return transformers_says(folder, texts=(*TEXTS, "cafe\u0301 e\u0301e\u0301", "12 345"))


@quirk
def words_looked_up_before_merges(folder: Path) -> Says:
    """Llama 3: `ignore_merges`, and a sequence of post-processors that puts <|begin_of_text|> first."""
    backend = byte_level("<|begin_of_text|>", "<|eot_id|>", cut=LLAMA3_CUT)
    backend = with_a_word(backend, "Ġunreachable", ignore_merges=True)
    backend.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), begins_with(backend, "<|begin_of_text|>")]
    )
    save(
        folder,
        small_model("llama", backend.get_vocab_size()),
        backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )
    return transformers_says(folder, texts=(*TEXTS, "an unreachable word"))


@quirk
def a_space_before_the_first_word(folder: Path) -> Says:
    backend = byte_level("<|endoftext|>")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    save(folder, small_model("llama", backend.get_vocab_size()), backend, eos_token="<|endoftext|>")
    return transformers_says(folder)


@quirk
def metaspace_and_control_tokens(folder: Path) -> Says:
    """Mistral's third version: ▁ by a pre-tokenizer, [INST] as control tokens."""
    backend = byte_fallback("[INST]", "[/INST]")
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    save(
        folder,
        small_model("mistral", backend.get_vocab_size(), sliding_window=None),
        backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    return transformers_says(folder)


@quirk
def unigram_pieces(folder: Path) -> Says:
    pieces = sorted(
        {word for text in READING for word in text.split()} | set("abcdefghijklmnopqrstuvwxyz▁.,é世界")
    )
    backend = tokenizers.Tokenizer(
        models.Unigram(
            [
                ("<unk>", -20.0),
                ("<s>", 0.0),
                ("</s>", 0.0),
                *((f"▁{p}" if len(p) > 2 else p, -float(len(p))) for p in pieces),
            ],
            0,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    save(
        folder,
        small_model("llama", backend.get_vocab_size()),
        backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    return transformers_says(folder)


@quirk
def a_bos_that_only_the_config_asks_for(folder: Path) -> Says:
    chatml_folder(folder)
    edit(folder / "tokenizer_config.json", add_bos_token=True)
    return transformers_says(folder)


@quirk
def a_bos_that_only_the_config_denies(folder: Path) -> Says:
    byte_fallback_vocabulary(folder)
    edit(folder / "tokenizer_config.json", add_bos_token=False)
    return transformers_says(folder)


@quirk
def special_tokens_that_are_split(folder: Path) -> Says:
    chatml_folder(folder)
    edit(folder / "tokenizer_config.json", split_special_tokens=True)
    return transformers_says(folder)


@quirk
def spaces_to_be_cleaned_up(folder: Path) -> Says:
    chatml_folder(folder)
    edit(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers_says(
        folder,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        texts=(*TEXTS, "a , b . c ! do n't"),
    )


@quirk
def no_tokenizer_config(folder: Path) -> Says:
    chatml_folder(folder, chat_template=None)
    (folder / "tokenizer_config.json").unlink()
    return transformers_says(folder)


@quirk
def an_embedding_wider_than_the_vocabulary(folder: Path) -> Says:
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", cut=QWEN2_CUT)
    save(folder, small_model("qwen2", backend.get_vocab_size() + 29), backend, eos_token="<|im_end|>")
    return transformers_says(folder)


@refused("no tokenizer.json.*tokenizer.model")
def only_a_sentencepiece_model(folder: Path) -> Path:
    chatml_folder(folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    return folder
