"""Quirks of GGUF files: families, rope, ends, and what else a file may hold.

Where an answer ends is llama.cpp's rule: src/llama-vocab.cpp, "tokens that cause end-of-generation".
"""

from pathlib import Path

import gguf
import numpy as np
import torch

from tests.checkpoint.config_quirks import LLAMA3_ROPE
from tests.checkpoint.corpus_gguf import SPECIAL, WIDE, ends_at, model_of, says_of, vocabulary_of, write
from tests.checkpoint.corpus_parts import byte_level, counter, small_model
from tests.checkpoint.corpus_says import Says, logits_of, quirk, refused

# Families and layouts


@quirk
def gguf_llama(folder: Path) -> Says:
    return says_of(write(folder / "m.gguf", model_of()), ends=ends_at("<|end_of_mine|>"))


@quirk
def gguf_qwen_2(folder: Path) -> Says:
    return says_of(write(folder / "m.gguf", model_of("qwen2"), "qwen2"))


@quirk
def gguf_qwen_3(folder: Path) -> Says:
    model = model_of("qwen3", rms_norm_eps=1e-5)
    return says_of(write(folder / "m.gguf", model, "qwen3"), logits=logits_of(model))


@quirk
def gguf_tied(folder: Path) -> Says:
    return says_of(write(folder / "m.gguf", model_of(tie_word_embeddings=True)))


@quirk
def gguf_in_blocks_of_8_bits(folder: Path) -> Says:
    return says_of(write(folder / "m.gguf", model_of(), quantise=gguf.GGMLQuantizationType.Q8_0))


@quirk
def gguf_in_blocks_of_4_bits(folder: Path) -> Says:
    return says_of(write(folder / "m.gguf", model_of(), quantise=gguf.GGMLQuantizationType.Q4_1))


@quirk
def gguf_behind_a_link(folder: Path) -> Says:
    says = gguf_llama(folder)
    (folder / "blob").mkdir()
    says.path.rename(folder / "blob" / "0123")
    says.path.symlink_to(folder / "blob" / "0123")
    return says


@quirk
def gguf_with_one_number_a_layer(folder: Path) -> Says:
    """Per-layer lists whose numbers are all the same."""
    model = model_of()
    return says_of(
        write(
            folder / "m.gguf",
            model,
            keys={"attention.head_count_kv": [2, 2], "feed_forward_length": [96, 96]},
        ),
        logits=logits_of(model),
    )


@quirk
def gguf_biases_of_attention(folder: Path) -> Says:
    model = model_of(attention_bias=True)
    return says_of(write(folder / "m.gguf", model), logits=logits_of(model))


# Rope


@quirk
def gguf_scale_linear(folder: Path) -> Says:
    """The older key: positions are divided by it."""
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model = model_of(rope_parameters=rope)
    return says_of(
        write(folder / "m.gguf", model, keys={"rope.scale_linear": 4.0}),
        logits=logits_of(model),
        lengths=(1, 150),
    )


@quirk
def gguf_linear_scaling(folder: Path) -> Says:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model = model_of(rope_parameters=rope)
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    return says_of(write(folder / "m.gguf", model, keys=keys), logits=logits_of(model), lengths=(1, 150))


@quirk
def gguf_yarn_scaling(folder: Path) -> Says:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    model = model_of("qwen2", rope_parameters=rope)
    keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 64,
    }
    return says_of(
        write(folder / "m.gguf", model, "qwen2", keys=keys), logits=logits_of(model), lengths=(1, 150)
    )


@quirk
def gguf_llama_3_factors(folder: Path) -> Says:
    model = model_of(rope_parameters={**LLAMA3_ROPE, "rope_theta": 10000.0})
    frequency = 1.0 / 10000.0 ** (torch.arange(0, 16, 2) / 16)
    factors = (frequency / model.model.rotary_emb.inv_freq).numpy()
    return says_of(
        write(folder / "m.gguf", model, more={"rope_freqs.weight": factors}),
        logits=logits_of(model),
        lengths=(1, 150),
    )


@quirk
def gguf_window(folder: Path) -> Says:
    model = small_model("mistral", byte_level(*SPECIAL).get_vocab_size(), sliding_window=32, **WIDE)
    return says_of(
        write(folder / "m.gguf", model, keys={"attention.sliding_window": 32}),
        logits=logits_of(model),
        lengths=(1, 32),
        more={"context": 32},
    )


@refused("rope.dimension_count")
def gguf_a_part_of_each_head_turned(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"rope.dimension_count": 8})


@refused("rope.scaling.type|longrope")
def gguf_longrope(folder: Path) -> Path:
    return write(
        folder / "m.gguf", model_of(), keys={"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}
    )


# What the model does not compute


@refused("value_length")
def gguf_values_of_another_size(folder: Path) -> Path:
    return write(
        folder / "m.gguf", model_of(), keys={"attention.key_length": 16, "attention.value_length": 32}
    )


@refused("logit_scale")
def gguf_scaled_logits(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"logit_scale": 0.25})


@refused("attn_logit_softcapping")
def gguf_soft_caps(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"attn_logit_softcapping": 50.0})


@refused("invented_tomorrow")
def gguf_a_key_that_nobody_knows(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"invented_tomorrow": 2})


@refused("expert")
def gguf_experts(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"expert_count": 4, "expert_used_count": 2})


@refused("ffn_gate_exps")
def gguf_experts_beside_a_dense_model(folder: Path) -> Path:
    return write(
        folder / "m.gguf", model_of(), more={"blk.1.ffn_gate_exps.weight": np.ones((2, 96, 64), np.float32)}
    )


@refused("attn_q_norm")
def gguf_norms_that_the_family_has_not(folder: Path) -> Path:
    norms = {f"blk.{i}.attn_{which}_norm.weight": np.ones(16, np.float32) for i in (0, 1) for which in "qk"}
    return write(folder / "m.gguf", model_of("qwen2"), "qwen2", more=norms)


@refused(r"ffn_down\.scale|attn_q\.scale")
def gguf_scales_beside_weights(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), more={"blk.0.attn_q.scale": np.full(1, 0.5, np.float32)})


@refused(r"blk\.1\.")
def gguf_more_layers_than_it_says(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"block_count": 1})


@refused("head_count_kv|feed_forward_length")
def gguf_layers_of_several_sizes(folder: Path) -> Path:
    return write(folder / "m.gguf", model_of(), keys={"attention.head_count_kv": [2, 1]})


@refused("split|part 1 of 2")
def gguf_in_parts(folder: Path) -> Path:
    return write(
        folder / "m-00001-of-00002.gguf",
        model_of(),
        keys={"split.no": 0, "split.count": 2, "split.tensors.count": 99},
    )


@refused("I8|int8")
def gguf_plain_integers(folder: Path) -> Path:
    model = model_of()
    quantity = np.ones((64, 64), np.int8)
    return write(folder / "m.gguf", model, more={"blk.0.attn_output.weight": quantity})


# Ends


def gguf_counter(folder: Path, names: tuple[str, ...], ends: tuple[str, ...], **keys: str) -> Says:
    """A file that counts upwards. keys: `tokenizer.ggml.` ids by token; ends: where an answer ends."""
    backend = byte_level(*names)
    model = counter(backend.get_vocab_size(), **WIDE)
    ids = {key: backend.token_to_id(text) for key, text in keys.items()}
    path = write(folder / "m.gguf", model, vocabulary=vocabulary_of(backend, "gpt2", "gpt-2", **ids))
    return says_of(path, backend, logits_of(model), ends=ends_at(*ends, backend=backend))


@quirk
def gguf_ends_at_eot_and_eom(folder: Path) -> Says:
    return gguf_counter(
        folder,
        ("<|a|>", "<|b|>", "<|c|>", "<|d|>"),
        ("<|b|>", "<|c|>", "<|d|>"),
        eos_token_id="<|b|>",
        eot_token_id="<|c|>",
        eom_token_id="<|d|>",
    )


@quirk
def gguf_ends_known_by_their_text(folder: Path) -> Says:
    names = (
        "<|a|>",
        "<|eot_id|>",
        "<|b|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|c|>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "<|d|>",
    )
    return gguf_counter(
        folder,
        names,
        ("<|b|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end_of_text|>"),
        eos_token_id="<|b|>",
    )


@quirk
def gguf_ends_of_a_file_that_names_none(folder: Path) -> Says:
    return gguf_counter(folder, ("<|a|>", "<|endoftext|>", "<|b|>", "<|c|>"), ("<|endoftext|>",))


@quirk
def gguf_an_end_that_is_no_end_in_harmony(folder: Path) -> Says:
    return gguf_counter(
        folder,
        ("<|a|>", "<|end|>", "<|b|>", "<|return|>", "<|call|>", "<|c|>"),
        ("<|return|>", "<|call|>"),
        eos_token_id="<|return|>",
    )
