"""What the builders share: two small vocabularies, small models with sharp logits, edits of JSON files."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_CUT = LLAMA3_CUT.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
READING = [
    "The cat sat on the mat and the dog sat on the log.",
    "In 1969 there were 12345 of them, in 2024 there are 67.",
    "don't you think we'll see that they've been here?",
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(f(i))\n",
    "naïve café Ünïcode über",
    "世界 こんにちは 世界",
    "The quick brown fox jumps over the lazy dog.",
    "one  two   three    four",
    "hello hello there, there is a hello in the hall",
    "user assistant system user assistant system",
] * 3


@cache
def _trained(cut: str | None, size: int) -> str:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = byte_level_cut(cut)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(READING, trainer)
    backend.decoder = decoders.ByteLevel()
    return backend.to_str()


def byte_level_cut(cut: str | None) -> pre_tokenizers.PreTokenizer:
    """GPT-2's rule (None), or a published pattern before byte letters."""
    if cut is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(cut), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(*special: str, cut: str | None = None, size: int = 380) -> tokenizers.Tokenizer:
    """A byte-level vocabulary (GPT-2, Llama 3, Qwen), then these special tokens at its end."""
    backend = tokenizers.Tokenizer.from_str(_trained(cut, size))
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return backend


def with_a_word(backend: tokenizers.Tokenizer, word: str, **model: Any) -> tokenizers.Tokenizer:
    """The same vocabulary and one more piece, which no merges make. model: other settings of its BPE."""
    raw = json.loads(backend.to_str())
    vocab = raw["model"]["vocab"]
    vocab.update({token["content"]: token["id"] for token in raw["added_tokens"]})
    vocab[word] = max(vocab.values()) + 1
    raw["model"].update(model)
    return tokenizers.Tokenizer.from_str(json.dumps(raw))


@cache
def _trained_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    kept = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=kept, show_progress=False)
    backend.train_from_iterator(
        [word for text in READING[:8] for word in text.split() if word.isascii()], trainer
    )
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def byte_fallback(*special: str) -> tokenizers.Tokenizer:
    """A Llama-2 vocabulary: pieces that begin with ▁, bytes for what has no piece, `<s>` before a prompt."""
    vocab, merges = _trained_pieces()
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    named = ["<unk>", "<s>", "</s>", *special]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in named])
    backend.post_processor = begins_with(backend, "<s>")
    return backend


def begins_with(backend: tokenizers.Tokenizer, bos: str) -> processors.PostProcessor:
    """Puts `bos` before a prompt."""
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
KINDS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "mistral": transformers.MistralConfig,
    "phi3": transformers.Phi3Config,
    "gemma3": transformers.Gemma3TextConfig,
}


def small_model(kind: str, vocab: int, seed: int = 0, **settings: Any) -> Any:
    """A random model whose every parameter matters."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "head_dim": 16} if kind == "qwen3" else SIZES
    config = KINDS[kind](
        vocab_size=vocab,
        **{**sizes, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **settings},
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            spread = 0.5 if parameter.ndim == 1 else 0.2
            parameter.normal_(mean, spread)
    return model


def counter(vocab: int, **settings: Any) -> Any:
    """A model that answers token t with t + 1: so every end of an answer can be reached."""
    model = small_model("llama", vocab, **settings)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        rows = torch.nn.functional.normalize(torch.randn(vocab, model.config.hidden_size), dim=-1)
        model.model.embed_tokens.weight.copy_(rows)
        model.lm_head.weight.copy_(rows.roll(1, 0))
    return model


def save(folder: Path, model: Any, backend: tokenizers.Tokenizer, **named: Any) -> Path:
    """Model and tokenizer as their libraries write them. named: bos_token, eos_token, …, chat_template."""
    model.save_pretrained(folder)
    wrap(backend, **named).save_pretrained(folder)
    return folder


def wrap(backend: tokenizers.Tokenizer, **named: Any) -> Any:
    """transformers' tokenizer around it."""
    template = named.pop("chat_template", None)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    wrapped.chat_template = template
    return wrapped


def edit(path: Path, change: Callable[[dict], object] | None = None, **values: Any) -> None:
    """Change a JSON file: by a function that gets its object, or by values; None removes a key."""
    raw = json.loads(path.read_text()) if path.exists() else {}
    if change:
        change(raw)
    raw.update(values)
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def chatml_folder(folder: Path, model: Any = None, **named: Any) -> Path:
    """A usual folder: byte-level vocabulary, ChatML, ends at <|im_end|>."""
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    model = model or small_model(
        "llama", backend.get_vocab_size(), eos_token_id=backend.token_to_id("<|im_end|>")
    )
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML, **named}
    return save(folder, model, backend, **named)
