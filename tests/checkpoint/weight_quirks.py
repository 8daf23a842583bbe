"""Quirks of weights: tied or not, left over, of other types, in other places."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.config_quirks import config, folder_of
from tests.checkpoint.corpus_parts import byte_level, save, small_model
from tests.checkpoint.corpus_says import Says, quirk, refused, transformers_says

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.1."


def tensors(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    """Change the weights of a folder with one file."""
    path = folder / "model.safetensors"
    held = load_file(path)
    held = change(held) or held
    save_file({name: value.contiguous() for name, value in held.items()}, path, metadata={"format": "pt"})
    return folder


def put(**added: torch.Tensor) -> Callable[[Tensors], Any]:
    """Add tensors; `__` stands for a dot."""
    return lambda held: held.update({LAYER + name.replace("__", "."): value for name, value in added.items()})


@quirk
def tied_with_only_the_head_in_the_file(folder: Path) -> Says:
    folder_of(folder, tie_word_embeddings=True)
    return transformers_says(
        tensors(folder, lambda held: held.update({"lm_head.weight": held.pop("model.embed_tokens.weight")}))
    )


@quirk
def tied_with_the_same_head_in_the_file(folder: Path) -> Says:
    folder_of(folder, tie_word_embeddings=True)
    return transformers_says(
        tensors(
            folder, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"].clone()})
        )
    )


@quirk
def tied_with_another_head_in_the_file(folder: Path) -> Says:
    folder_of(folder, tie_word_embeddings=False)
    return transformers_says(config(folder, tie_word_embeddings=True))


@quirk
def tied_by_default_and_not_said(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder), tie_word_embeddings=None))


@quirk
def frequencies_in_the_file(folder: Path) -> Says:
    folder_of(folder)
    return transformers_says(tensors(folder, put(self_attn__rotary_emb__inv_freq=torch.arange(6.0))))


@quirk
def tied_and_saved_without_the_model_prefix(folder: Path) -> Says:
    folder_of(folder, tie_word_embeddings=True)
    return transformers_says(
        tensors(folder, lambda held: {name.removeprefix("model."): value for name, value in held.items()})
    )


@quirk
def many_types_in_one_file(folder: Path) -> Says:
    folder_of(folder)
    return transformers_says(
        tensors(
            folder,
            lambda held: {
                name: value.to([torch.float16, torch.bfloat16, torch.float32][i % 3])
                for i, (name, value) in enumerate(held.items())
            },
        )
    )


@quirk
def shards_beside_a_newer_single_file(folder: Path) -> Says:
    """Saved in shards, later again in one file: transformers reads the single one."""
    backend = byte_level("<|endoftext|>")
    small_model("llama", backend.get_vocab_size(), seed=1).save_pretrained(folder, max_shard_size="40KB")
    newer = small_model("llama", backend.get_vocab_size(), seed=2)
    (folder / "newer").mkdir()
    save(folder / "newer", newer, backend)
    for path in (folder / "newer").iterdir():
        path.rename(folder / path.name)
    assert (folder / "model.safetensors.index.json").exists() and (folder / "model.safetensors").exists()
    return transformers_says(folder)


@quirk
def links_into_the_hubs_cache(folder: Path) -> Says:
    """huggingface_hub's layout: a snapshot of links to blobs that have no names."""
    snapshot, blobs = (
        folder / "models--me--small" / "snapshots" / "0123abcd",
        folder / "models--me--small" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    folder_of(folder / "plain", "qwen2")
    for i, path in enumerate(sorted((folder / "plain").iterdir())):
        path.rename(blobs / f"{i:040x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{i:040x}")
    return transformers_says(snapshot)


@refused("0123abcd/config.json is not valid JSON")
def a_damaged_file_in_the_hubs_cache(folder: Path) -> Path:
    snapshot = links_into_the_hubs_cache(folder).path
    (snapshot / "config.json").resolve().write_text("{")
    return snapshot


@refused("model.safetensors.*link|link.*model.safetensors")
def a_link_to_a_blob_that_is_gone(folder: Path) -> Path:
    snapshot = links_into_the_hubs_cache(folder).path
    (snapshot / "model.safetensors").resolve().unlink()
    return snapshot


@refused(r"snapshots")
def the_hubs_folder_itself(folder: Path) -> Path:
    return links_into_the_hubs_cache(folder).path.parent.parent


@refused(r"layers\.0\.self_attn\.q_proj\.bias")
def biases_that_the_config_denies(folder: Path) -> Path:
    folder_of(folder, attention_bias=True)
    return config(folder, attention_bias=False)


@refused(r"self_attn\.[qk]_norm")
def norms_that_the_family_has_not(folder: Path) -> Path:
    folder_of(folder)
    return tensors(
        folder, put(self_attn__q_norm__weight=torch.ones(12), self_attn__k_norm__weight=torch.ones(12))
    )


@refused(r"mlp\.experts\.0")
def experts_beside_a_dense_model(folder: Path) -> Path:
    folder_of(folder)
    return tensors(
        folder, put(mlp__experts__0__up_proj__weight=torch.ones(80, 48), mlp__gate__weight=torch.ones(4, 48))
    )


@refused(r"q_proj\.weight_scale")
def int8_weights_with_a_scale(folder: Path) -> Path:
    folder_of(folder)

    def quantise(held: Tensors) -> None:
        held[LAYER + "self_attn.q_proj.weight"] = torch.randint(-127, 127, (48, 48), dtype=torch.int8)
        held[LAYER + "self_attn.q_proj.weight_scale"] = torch.full((48, 1), 0.01)

    return tensors(folder, quantise)


@refused(r"q_proj\.weight is stored as I8")
def int8_weights_without_a_scale(folder: Path) -> Path:
    folder_of(folder)
    return tensors(
        folder, put(self_attn__q_proj__weight=torch.randint(-127, 127, (48, 48), dtype=torch.int8))
    )


@refused(r"q_proj\.weight_scale_inv")
def fp8_weights(folder: Path) -> Path:
    folder_of(folder)
    return tensors(
        folder,
        put(
            self_attn__q_proj__weight=torch.ones(48, 48).to(torch.float8_e4m3fn),
            self_attn__q_proj__weight_scale_inv=torch.ones(1, 1),
        ),
    )


@refused(r"layers\.1\.")
def more_layers_in_the_file_than_in_the_config(folder: Path) -> Path:
    return config(folder_of(folder), num_hidden_layers=1)


@refused(r"lm_head\.weight")
def untied_without_a_head(folder: Path) -> Path:
    return config(folder_of(folder, tie_word_embeddings=True), tie_word_embeddings=False)


@refused(r"pytorch_model\.bin")
def only_pickled_weights(folder: Path) -> Path:
    folder_of(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@refused(r"score\.weight")
def a_second_head(folder: Path) -> Path:
    folder_of(folder)
    return tensors(folder, lambda held: held.update({"score.weight": torch.ones(2, 48)}))


@refused(r"lora_A")
def adapters_beside_the_weights(folder: Path) -> Path:
    folder_of(folder)
    return tensors(folder, put(self_attn__q_proj__lora_A__weight=torch.ones(4, 48)))
