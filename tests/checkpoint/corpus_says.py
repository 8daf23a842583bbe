"""What a checkpoint's own library says of it, and the comparison with what we read from the same files.

    builder(folder) ──> files, by transformers, tokenizers, gguf ──> Says: ids, texts, chats, logits, ends

A builder stands in a file `*_quirks.py`, and its name is the quirk. `same` holds what we load from the files
against what is said of them; a builder that is marked `refused` must end in one sentence that names the
quirk. Nothing may differ without a word.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from aiinfra import LLM, SamplingParams
from aiinfra.checkpoint import StreamDecoder, load

TEXTS = (
    "The cat sat on the mat.",
    " leading, trailing ",
    "one  two   three\n\nfour\ttabs",
    "",
    "In 1969, 12345 x 67 = 3.14",
    "don't WE'LL they've",
    "naïve café Ünï",
    "世界 こんにちは",
    "👩‍👩‍👧 🇩🇪 done",
    "def f(x):\n    return x\r\n",
    "<s>hi</s>",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<|eot_id|> b <|end|>c",
    "[INST] hello [/INST]",
)
CHATS = (
    [{"role": "user", "content": "Hi there"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "<|im_end|> & \"quotes\" é"},
    ],
)
KNOWN_ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>")
Chat = list[dict[str, Any]]


@dataclass
class Says:
    """A checkpoint and what is said of it. What is None is not compared.

    encode: a prompt's ids, special tokens included. ends: the ids that end an answer.
    """

    path: Path
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[list[int]], str] | None = None
    render: Callable[[Chat, bool], str] | None = None
    logits: Callable[[torch.Tensor], torch.Tensor] | None = None
    ends: set[int] | None = None
    texts: tuple[str, ...] = TEXTS
    chats: tuple[Chat, ...] = CHATS
    lengths: tuple[int, ...] = (1, 40)
    vocab: int = 0
    more: dict[str, Any] = field(default_factory=dict)


BUILDERS: dict[str, Callable[[Path], Says]] = {}
REFUSED: dict[str, str] = {}


def quirk(builder: Callable[[Path], Says]) -> Callable[[Path], Says]:
    """Mark a builder whose files we read as their library does."""
    BUILDERS[builder.__name__] = builder
    return builder


def refused(words: str) -> Callable:
    """Mark a builder whose files end in a LoadError that matches `words`."""

    def mark(builder: Callable[[Path], Path]) -> Callable[[Path], Path]:
        REFUSED[builder.__name__] = words
        BUILDERS[builder.__name__] = builder
        return builder

    return mark


def transformers_says(folder: Path, **changes: Any) -> Says:
    """What transformers says of a Hugging Face folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = Says(
        path=folder,
        encode=lambda text: tokenizer(text).input_ids,
        decode=decoder_of(tokenizer),
        render=renderer_of(tokenizer) if tokenizer.chat_template else None,
        logits=logits_of(model),
        vocab=model.config.vocab_size,
        ends=ends_of(model, tokenizer),
    )
    for name, value in changes.items():
        setattr(said, name, value)
    return said


def decoder_of(tokenizer: Any) -> Callable[[list[int]], str]:
    """Its decode without the clean-up of spaces, which loses text."""
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def renderer_of(tokenizer: Any) -> Callable[[Chat, bool], str]:
    """Its chat template."""
    return lambda chat, prompted: tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=prompted
    )


def logits_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Its logits in float32."""
    return lambda tokens: model(tokens).logits.float()


def ends_of(model: Any, tokenizer: Any) -> set[int]:
    """Where transformers' own generation ends; the tokenizer's end of sequence, where vLLM ends, too; and the
    special tokens at which llama.cpp ends wherever they are."""
    eos = model.generation_config.eos_token_id
    ends = {eos} if isinstance(eos, int) else set(eos or ())
    added = tokenizer.added_tokens_decoder.items()
    known = {i for i, token in added if token.special and token.content in KNOWN_ENDS}
    return (ends | known | {tokenizer.eos_token_id}) - {None}


def same(says: Says) -> list[str]:
    """Every difference between what is said of a checkpoint and what we read from it, one sentence each."""
    model, tokenizer = load(says.path, dtype="float32", device="cpu")
    found = []
    if says.encode:
        found += [
            f"ids of {text!r}: {tokenizer.encode(text)}, not {says.encode(text)}"
            for text in says.texts
            if tokenizer.encode(text) != list(says.encode(text))
        ]
    if says.decode:
        found += text_differences(says, tokenizer)
    if says.render:
        found += chat_differences(says, tokenizer)
    if says.logits:
        found += logit_differences(says, model)
    if says.ends is not None and set(tokenizer.eos_ids) != says.ends:
        found.append(f"ends at {sorted(tokenizer.eos_ids)}, not {sorted(says.ends)}")
    return found


def text_differences(says: Says, tokenizer: Any) -> list[str]:
    """Decoded wholes, and the pieces of a stream joined."""
    found = []
    for ids in [*(tokenizer.encode(text) for text in says.texts), *strange_ids(says.vocab)]:
        whole = says.decode(ids)
        if tokenizer.decode(ids) != whole:
            found.append(f"text of {ids}: {tokenizer.decode(ids)!r}, not {whole!r}")
        stream = StreamDecoder(tokenizer)
        pieces = [stream.push(i) for i in ids] + [stream.flush()]
        if "".join(pieces) != whole:
            found.append(f"pieces of {ids}: {''.join(pieces)!r}, not {whole!r}")
    return found


def strange_ids(vocab: int) -> list[list[int]]:
    """Rows of ids that no text has."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocab, (12,), generator=draw).tolist() for _ in range(40)] if vocab else []


def chat_differences(says: Says, tokenizer: Any) -> list[str]:
    """Rendered chats, with and without the invitation to answer."""
    found = []
    for chat in says.chats:
        for prompted in (True, False):
            expected = says.render(chat, prompted)
            got = tokenizer.render_chat(chat, prompted)
            if got != expected:
                found.append(f"chat {chat}: {got!r}, not {expected!r}")
    return found


def logit_differences(says: Says, model: Any) -> list[str]:
    """Logits over random prompts of some lengths."""
    torch.manual_seed(1)
    found = []
    for length in says.lengths:
        tokens = torch.randint(0, says.vocab, (1, length))
        with torch.inference_mode():
            expected, got = says.logits(tokens), model(tokens)
        if expected.shape != got.shape:
            return [f"logits of shape {tuple(got.shape)}, not {tuple(expected.shape)}"]
        if expected.abs().max() < 0.5:
            found.append("logits near zero would agree with anything")
        if (got - expected).abs().max() > 1e-4:
            found.append(f"logits of {length} tokens differ by {(got - expected).abs().max():.2g}")
    return found


def where_it_ends(says: Says, token: int) -> tuple[list[int], str]:
    """What our engine makes after `token` on a model that counts upwards, at most four, and why it ended."""
    llm = LLM(says.path, dtype="float32", device="cpu", cache_bytes=1 << 20)
    answer = llm.generate([[token]], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)[0].outputs[
        0
    ]
    return answer.token_ids, answer.finish_reason
