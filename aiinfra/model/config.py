"""What a model is before it has weights: a few numbers, under Hugging Face's names.

    config.json ──from_hf──┐
                           ├──> ModelConfig ──> Transformer
    GGUF header ─from_gguf─┘

One decoder serves a whole family: Llama (SmolLM2 is one), Qwen2 (adds a bias to q, k, v) and
Qwen3 (normalises q and k). What this code cannot compute is refused here, by name. Notebook 03.
"""

from typing import Any

from aiinfra.config import config
from aiinfra.errors import LoadError, nearest

# family -> what it adds to the plain Llama decoder
FAMILIES: dict[str, dict[str, bool]] = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
GGUF_FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@config
class RopeScaling:
    """How rotary frequencies are stretched beyond the context a model was first trained on.

    kind "linear" divides every frequency by `factor`. kind "llama3" does so for long wavelengths,
    leaves short ones alone and blends between (Llama 3.1). kind "factors" divides frequency i by
    `factors[i]` (how a GGUF file stores the same).
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.factor > 0 or not all(factor > 0 for factor in self.factors):
            raise LoadError(f"rope scaling factor {self.factor if not self.factors else min(self.factors)}; it must be above 0.")


@config
class ModelConfig:
    """The shape of a decoder. Raises LoadError if the numbers cannot belong together."""

    vocab_size: int                        # V
    hidden_size: int                       # D
    num_hidden_layers: int
    num_attention_heads: int               # H
    num_key_value_heads: int               # K; each serves H / K query heads
    head_dim: int                          # Dh; not always D / H
    intermediate_size: int                 # F
    max_position_embeddings: int = 2048    # context length, in tokens
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise LoadError(f"{name}={value!r}; it must be an integer of at least 1.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise LoadError(f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                            f"num_key_value_heads={self.num_key_value_heads}: each KV head must serve "
                            "the same number of query heads.")
        if self.head_dim % 2:
            raise LoadError(f"head_dim={self.head_dim} is odd; rotary embedding turns pairs of values.")

    @property
    def kv_bytes_per_token(self) -> int:
        """Float32 bytes that one token adds to the KV cache: 2 (k and v) · layers · K · Dh · 4."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * 4

    @classmethod
    def from_hf(cls, raw: dict[str, Any], source: str = "config.json") -> "ModelConfig":
        """From a parsed Hugging Face `config.json`. Raises LoadError for what is not supported."""
        family = _family(raw, source)
        _refuse(raw, source)
        heads = _need(raw, "num_attention_heads", source)
        width = _need(raw, "hidden_size", source)
        rope = raw.get("rope_parameters") or {}          # transformers 5; earlier: two separate keys
        eos = raw.get("eos_token_id")
        return cls(
            vocab_size=_need(raw, "vocab_size", source), hidden_size=width,
            num_hidden_layers=_need(raw, "num_hidden_layers", source), num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or width // max(heads, 1),
            intermediate_size=_need(raw, "intermediate_size", source),
            max_position_embeddings=raw.get("max_position_embeddings", 2048),
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0,
            rope_scaling=_hf_rope_scaling(raw.get("rope_scaling") or rope, source),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            bos_token_id=raw.get("bos_token_id"), **FAMILIES[family])

    @classmethod
    def from_gguf(cls, meta: dict[str, Any], tensor_names: set[str], source: str) -> "ModelConfig":
        """From a GGUF file's metadata. Raises LoadError for what is not supported."""
        arch = meta.get("general.architecture")
        if arch not in GGUF_FAMILIES:
            raise LoadError(f"{source}: architecture {arch!r} is not supported. "
                            f"Supported: {', '.join(GGUF_FAMILIES)}.")

        def need(key: str) -> Any:
            return _need(meta, f"{arch}.{key}", source)

        heads = need("attention.head_count")
        width = need("embedding_length")
        eos = meta.get("tokenizer.ggml.eos_token_id")
        return cls(
            vocab_size=len(meta["tokenizer.ggml.tokens"]) if "tokenizer.ggml.tokens" in meta
            else need("vocab_size"),
            hidden_size=width, num_hidden_layers=need("block_count"), num_attention_heads=heads,
            num_key_value_heads=meta.get(f"{arch}.attention.head_count_kv", heads),
            head_dim=meta.get(f"{arch}.attention.key_length", width // max(heads, 1)),
            intermediate_size=need("feed_forward_length"), max_position_embeddings=need("context_length"),
            rms_norm_eps=need("attention.layer_norm_rms_epsilon"),
            rope_theta=meta.get(f"{arch}.rope.freq_base", 10_000.0),
            rope_scaling=_gguf_rope_scaling(meta, arch, source),
            tie_word_embeddings="output.weight" not in tensor_names,
            eos_token_ids=() if eos is None else (eos,),
            bos_token_id=meta.get("tokenizer.ggml.bos_token_id"), **FAMILIES[GGUF_FAMILIES[arch]])


def _need(raw: dict[str, Any], key: str, source: str) -> Any:
    if raw.get(key) is None:
        raise LoadError(f"{source} has no {key!r}, which the model's shape needs.{nearest(key, raw)}")
    return raw[key]


def _family(raw: dict[str, Any], source: str) -> str:
    names = raw.get("architectures") or [f"model_type {raw.get('model_type')!r}"]
    names = [names] if isinstance(names, str) else names
    if names[0] not in FAMILIES:
        raise LoadError(f"{source}: architecture {names[0]} is not supported. Supported: {', '.join(FAMILIES)}.")
    return names[0]


def _refuse(raw: dict[str, Any], source: str) -> None:
    """Settings that change the arithmetic and that this decoder does not compute."""
    wrong = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "quantization_config": raw.get("quantization_config") is not None,
        "partial_rotary_factor": raw.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for key in (key for key, bad in wrong.items() if bad):
        raise LoadError(f"{source}: {key}={raw[key]!r} is not supported; this decoder computes the plain "
                        "Llama, Qwen2 and Qwen3 layers in float32, bfloat16 or float16.")


def _hf_rope_scaling(raw: dict[str, Any], source: str) -> RopeScaling | None:
    kind = raw.get("rope_type") or raw.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=float(raw["factor"]))
    if kind == "llama3":
        return RopeScaling("llama3", float(raw["factor"]), float(raw["low_freq_factor"]),
                           float(raw["high_freq_factor"]), int(raw["original_max_position_embeddings"]))
    raise LoadError(f"{source}: rope_type {kind!r} is not supported. Supported: default, linear, llama3.")


def _gguf_rope_scaling(meta: dict[str, Any], arch: str, source: str) -> RopeScaling | None:
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=float(meta[f"{arch}.rope.scaling.factor"]))
    raise LoadError(f"{source}: rope scaling {kind!r} is not supported. Supported: none, linear "
                    "(and Llama 3's frequency factors, which are a tensor of the file).")
