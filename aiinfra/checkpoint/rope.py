"""How config files stretch rotary frequencies beyond the context of the first training, under our words.

    linear     every frequency divided by one factor
    llama3     long waves divided, short ones kept, a ramp between (worked out in model/layers.py)
    yarn       the same idea with another ramp, and cos and sin a little larger (Peng et al. 2023)
    longrope   a factor for each frequency, from a list; beyond the original context another (Ding 2024)
    dynamic    nothing within max_position_embeddings, where a model of ours stays

yarn and longrope come out as a list of factors. Of longrope's two lists the one for short texts is taken, and
the context ends where it ends: a cache whose first keys were turned by one list cannot go on with the other.
Source: transformers, modeling_rope_utils.py.
"""

import math
from typing import Any

from aiinfra.checkpoint.fields import count, number, required, truth
from aiinfra.errors import LoadError
from aiinfra.model.config import RopeScaling

_YARN_WORDS = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate")
KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def rope_from_json(raw: dict[str, Any], source: str, head_dim: int,
                   context: int) -> tuple[float, RopeScaling | None, int]:
    """(theta, scaling, context) of a parsed config.json. context: what the config says it is; it comes back
    shorter where the scaling ends earlier."""
    rope = rope_words(raw)
    _check_whole(raw, rope, source)
    theta = number(rope, "rope_theta", source, number(raw, "rope_theta", source, 10_000.0))
    original = _original_context(raw, rope, source, context)
    kind = rope_kind(raw)
    if kind in ("default", "dynamic"):
        return theta, None, context
    if kind == "linear":
        return theta, RopeScaling("linear", factor=number(rope, "factor", source)), context
    if kind == "llama3":
        return theta, _llama3(rope, source, original), context
    if kind == "yarn":
        factor = number(rope, "factor", source, context / original)
        return theta, _yarn_from_json(rope, source, head_dim, theta, factor, original), context
    if kind == "longrope":
        return theta, _longrope(rope, source, context, original), min(context, original)
    raise LoadError(f"{source}: rope_type {kind!r} is not supported. Supported: {', '.join(KINDS)}.")


def rope_words(raw: dict[str, Any]) -> dict[str, Any]:
    """What a config says of its rotation: one key in transformers 5, and earlier two."""
    return raw.get("rope_scaling") or raw.get("rope_parameters") or {}


def _check_whole(raw: dict[str, Any], rope: dict[str, Any], source: str) -> None:
    """Raise LoadError unless all of each head is turned, and every layer's heads alike."""
    if any(isinstance(value, dict) for value in rope.values()):
        raise LoadError(f"{source}: rope_parameters that differ from layer to layer are not supported.")
    for part in (raw, rope):
        share = number(part, "partial_rotary_factor", source, 1.0)
        if share != 1.0:
            raise LoadError(f"{source}: partial_rotary_factor={share} is not supported: here whole heads are "
                            "turned.")


def rope_kind(raw: dict[str, Any]) -> str:
    """One of KINDS, or what else the config says."""
    rope = rope_words(raw)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if raw.get("model_type") == "phi3" and kind in ("su", "yarn"):      # what Phi-3 called it at first
        return "longrope"
    return kind


def _original_context(raw: dict[str, Any], rope: dict[str, Any], source: str, context: int) -> int:
    """Tokens of the first training; the config's own key, which Phi-3 has, goes before the scaling's."""
    key = "original_max_position_embeddings"
    for part in (raw, rope):
        if part.get(key) is not None:
            return count(part, key, source)
    return context


def rope_from_gguf(meta: dict[str, Any], arch: str, source: str,
                   head_dim: int) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) of a GGUF file's metadata."""
    rope = {key.removeprefix(f"{arch}.rope."): value for key, value in meta.items()}
    theta = number(rope, "freq_base", source, 10_000.0)
    kind = rope.get("scaling.type", "none")
    if kind == "linear":
        return theta, RopeScaling("linear", factor=number(rope, "scaling.factor", source))
    if kind == "yarn":
        factor = number(rope, "scaling.factor", source)
        scaling = yarn(
            head_dim=head_dim,
            theta=theta,
            factor=factor,
            original=number(rope, "scaling.original_context_length", source),
            fast=number(rope, "scaling.yarn_beta_fast", source, 32.0),
            slow=number(rope, "scaling.yarn_beta_slow", source, 1.0),
            amplitude=number(rope, "scaling.attn_factor", source, 1.0) * yarn_amplitude(factor))
        return theta, scaling
    if kind != "none":
        raise LoadError(f"{source}: rope.scaling.type {kind!r} is not supported. Supported: none, linear, "
                        "yarn (and Llama 3's frequency factors, which are a tensor of the file).")
    older = number(rope, "scale_linear", source, 1.0)
    return theta, None if older == 1.0 else RopeScaling("linear", factor=older)


def yarn(head_dim: int, theta: float, factor: float, original: float, fast: float, slow: float,
         amplitude: float, whole: bool = True, words: tuple[tuple[str, Any], ...] = ()) -> RopeScaling:
    """YaRN's factors. Frequencies that turn more than `fast` times within the original context are kept,
    those that turn less than `slow` times are divided by `factor`; whole: the ramp between begins and ends at
    whole pairs. words: of a file, to write it again."""
    low = _pair_that_turns(fast, head_dim, theta, original)
    high = _pair_that_turns(slow, head_dim, theta, original)
    if whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    length = high - low or 0.001
    factors = []
    for pair in range(head_dim // 2):
        divided = min(max((pair - low) / length, 0.0), 1.0)
        factors.append(1.0 / (divided / factor + 1.0 - divided))
    return RopeScaling("factors", factors=tuple(factors), amplitude=amplitude, words=words)


def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """How much larger cos and sin are made."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _pair_that_turns(times: float, head_dim: int, theta: float, original: float) -> float:
    """The pair of a head that turns so many times within the original context; between two pairs in
    general."""
    return head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))


def _yarn_from_json(rope: dict[str, Any], source: str, head_dim: int, theta: float, factor: float,
                    original: float) -> RopeScaling:
    amplitude = number(rope, "attention_factor", source, 0.0)
    if not amplitude:
        amplitude = yarn_amplitude(factor)
        mscale, all_dim = number(rope, "mscale", source, 0.0), number(rope, "mscale_all_dim", source, 0.0)
        if mscale and all_dim:
            amplitude = yarn_amplitude(factor, mscale) / yarn_amplitude(factor, all_dim)
    return yarn(
        head_dim=head_dim,
        theta=theta,
        factor=factor,
        original=original,
        fast=number(rope, "beta_fast", source, 32.0) or 32.0,
        slow=number(rope, "beta_slow", source, 1.0) or 1.0,
        amplitude=amplitude,
        whole=truth(rope, "truncate", source, True),
        words=_words_to_keep(rope, factor, original))


def _words_to_keep(rope: dict[str, Any], factor: float, original: float) -> tuple[tuple[str, Any], ...]:
    """What to write for it again: `RopeScaling.words`."""
    given = {key: rope[key] for key in _YARN_WORDS if rope.get(key) is not None}
    given |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    return tuple(sorted(given.items()))


def _longrope(rope: dict[str, Any], source: str, context: int, original: int) -> RopeScaling:
    factor = number(rope, "factor", source, context / original)
    amplitude = number(rope, "attention_factor", source, 0.0)
    if not amplitude:
        amplitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = required(rope, "short_factor", source)
    return RopeScaling("factors", factors=tuple(float(one) for one in short), amplitude=amplitude)


def _llama3(rope: dict[str, Any], source: str, original: int) -> RopeScaling:
    return RopeScaling(
        kind="llama3",
        factor=number(rope, "factor", source),
        low_freq_factor=number(rope, "low_freq_factor", source),
        high_freq_factor=number(rope, "high_freq_factor", source),
        original_max_position_embeddings=original)
