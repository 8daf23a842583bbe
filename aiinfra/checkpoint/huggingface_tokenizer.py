"""The tokenizer in a Hugging Face folder: tokenizer.json, and what the files beside it add.

    tokenizer.json            vocabulary, merges, rules; also what a training run set for itself: left out
    tokenizer_config.json     roles of tokens, more tokens, the chat template
    special_tokens_map.json   the same in older folders, with added_tokens.json
    chat_template.jinja       the template, if it has a file of its own
    generation_config.json    where an answer ends

Files overlap and contradict each other. The order here is that of transformers 5
(tokenization_utils_base.py, `_from_pretrained`; tokenization_utils_tokenizers.py, `TokenizersBackend`).
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers

from aiinfra.checkpoint.fields import token_ids
from aiinfra.checkpoint.vocabulary import Vocabulary, ends_by_text
from aiinfra.errors import LoadError, reading
from aiinfra.files import read_json

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OTHER_KINDS = ("tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")
_LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_OWN_RULES = ("mistral", "phi3")          # they name that class, and their tokenizer.json is followed


def vocabulary_from_folder(folder: str | Path) -> Vocabulary:
    """The folder's tokenizer. Raises LoadError, naming the file, for what is missing, damaged or of another
    kind."""
    folder = Path(folder).absolute()
    backend = _backend(folder)
    config = _optional(folder, "tokenizer_config.json")
    model_type = _optional(folder, "config.json").get("model_type")
    if config.get("tokenizer_class") in _LLAMA_CLASSES and model_type not in _OWN_RULES:
        _as_llama_class(backend, legacy=config.get("legacy", False))
    with reading(f"{folder.name}/tokenizer_config.json"):
        if "added_tokens_decoder" not in config:
            config |= _optional(folder, "special_tokens_map.json")
        roles = _roles(config)
        _add_tokens(backend, folder, config, list(roles.values()))
        backend.encode_special_tokens = bool(config.get("split_special_tokens"))
        template = _template(folder, config)
    eos = backend.token_to_id(roles.get("eos_token", ""))
    ends = [] if eos is None else [eos]
    generation = _optional(folder, "generation_config.json")
    ends += token_ids(generation, "eos_token_id", f"{folder.name}/generation_config.json")
    ends += ends_by_text(_special_tokens(backend))
    return Vocabulary(
        backend=backend,
        special=roles,
        eos_ids=tuple(dict.fromkeys(ends)),
        template=template)


def _backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        found = [name for name in _OTHER_KINDS if (folder / name).exists()]
        instead = f" ({', '.join(found)} is of a kind that is not read here)" if found else ""
        raise LoadError(f"{folder.name} has no tokenizer.json{instead}. Save it with the model "
                        "(transformers: AutoTokenizer.from_pretrained(…).save_pretrained(folder)).")
    read_json(path)                                           # a clear error for what is not JSON
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:                                # the Rust side raises bare Exception
        raise LoadError(f"{folder.name}/tokenizer.json cannot be used ({error}).") from error
    backend.no_truncation()                                   # left by a training run: no rule of its own
    backend.no_padding()
    return backend


def _optional(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object, empty if there is no such file."""
    path = folder / name
    return read_json(path) if path.exists() else {}


def _as_llama_class(backend: tokenizers.Tokenizer, legacy: bool) -> None:
    """transformers 5 does not ask tokenizer.json how a `LlamaTokenizer` cuts: the class does, unless it is
    byte-level (Llama 3). A space comes before the text, not before each part between special tokens."""
    if "ByteLevel" in repr(backend.pre_tokenizer) + repr(backend.decoder):
        return
    first = "always" if legacy else "first"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=first, split=False)
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _roles(config: dict[str, Any]) -> dict[str, str]:
    """Role -> token: the usual ones, and those that a model has for itself, as `image_token`."""
    names = [key for key in config if key.endswith("_token") and not key.startswith(("add_", "use_"))]
    found = {key: _content(config[key]) for key in dict.fromkeys((*_ROLES, *names)) if config.get(key)}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        found |= {key: _content(token) for key, token in extra.items()}
    return {key: text for key, text in found.items() if text}


def _content(token: Any) -> str:
    """Files write a token as a string or as an object with its content."""
    if isinstance(token, dict):
        return token.get("content", "")
    return token if isinstance(token, str) else ""


def _add_tokens(backend: tokenizers.Tokenizer, folder: Path, config: dict[str, Any],
                named: list[str]) -> None:
    """Add what the companion files know and tokenizer.json does not, in the order of their ids."""
    more = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    special = [*named, *(_content(token) for token in more)]
    listed = _listed_tokens(folder, config, special)
    _add_missing(backend, [token for _, token in sorted(listed.items())])
    for token_id, token in listed.items():
        if backend.token_to_id(token.content) != token_id:
            there = backend.token_to_id(token.content)
            raise LoadError(f"{folder.name}: token {token.content!r} is {token_id} in tokenizer_config.json "
                            f"or added_tokens.json, and {there} in tokenizer.json.")
    _add_missing(backend, [AddedToken(text, special=True, normalized=False) for text in special if text])


def _listed_tokens(folder: Path, config: dict[str, Any], special: list[str]) -> dict[int, AddedToken]:
    """Id -> token of `added_tokens_decoder` or, in older folders, of added_tokens.json."""
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"].items()
        return {int(token_id): AddedToken(**token) for token_id, token in listed}
    older = _optional(folder, "added_tokens.json")
    return {token_id: AddedToken(text, special=text in special, normalized=text not in special)
            for text, token_id in older.items()}


def _add_missing(backend: tokenizers.Tokenizer, tokens: list[AddedToken]) -> None:
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in tokens if token.content not in known])


def _special_tokens(backend: tokenizers.Tokenizer) -> list[tuple[str, int]]:
    added = backend.get_added_tokens_decoder()
    return [(token.content, token_id) for token_id, token in added.items() if token.special]


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        with reading(f"{folder.name}/{path.name}"):
            return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):                            # several, by name: transformers 4's form
        template = {one.get("name"): one.get("template") for one in template}
    return template.get("default") if isinstance(template, dict) else template
