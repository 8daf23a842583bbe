"""What a model is before it has weights: a few numbers, under Hugging Face's names.

    ModelConfig ──> Transformer

One decoder serves a whole family: Llama (SmolLM2 is one), Qwen2 (`qkv_bias`), Qwen3 (`qk_norm`) and DeepSeek
(`mla`, `moe`). Where the numbers come from is checkpoint/'s affair; here they must only belong together.
Notebook 03.
"""

from aiinfra.config import config
from aiinfra.errors import LoadError
from aiinfra.model.mla_config import MLAConfig
from aiinfra.model.moe_config import MoEConfig

_COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "head_dim", "intermediate_size", "max_position_embeddings")


@config
class RopeScaling:
    """How rotary frequencies are stretched beyond the context a model was first trained on.

    kind "linear" divides every frequency by `factor`. kind "llama3" does so for long wavelengths,
    leaves short ones alone and blends between (Llama 3.1). kind "factors" divides frequency i by
    `factors[i]` (any of these, worked out). amplitude: cos and sin are multiplied by it (YaRN).
    score_factor: scores of latent attention are multiplied by it (DeepSeek's mscale_all_dim, squared).
    words: how its file said what was worked out, to write it again.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    factors: tuple[float, ...] = ()
    amplitude: float = 1.0
    score_factor: float = 1.0
    words: tuple[tuple[str, int | float | bool | str], ...] = ()

    def __post_init__(self) -> None:
        wrong = [factor for factor in (self.factor, *self.factors) if not factor > 0]
        if wrong:
            raise LoadError(f"rope scaling factor {min(wrong)}; it must be above 0.")


@config
class ModelConfig:
    """The shape of a decoder. Raises LoadError if the numbers cannot belong together."""

    vocab_size: int                        # V
    hidden_size: int                       # D
    num_hidden_layers: int
    num_attention_heads: int               # H
    num_key_value_heads: int               # K; each serves H / K query heads
    head_dim: int                          # Dh; not always D / H; with mla the part that is turned
    intermediate_size: int                 # F
    max_position_embeddings: int = 2048    # context length, in tokens
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False                 # of the matrix behind attention
    mlp_bias: bool = False
    qk_norm: bool = False
    moe: MoEConfig | None = None           # experts in place of the feed-forward of some layers, or of all
    mla: MLAConfig | None = None           # latent attention in place of whole keys and values
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise LoadError(f"{name}={value!r}; it must be an integer of at least 1.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise LoadError(f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                            f"num_key_value_heads={self.num_key_value_heads}: each KV head must serve "
                            "the same number of query heads.")
        if self.head_dim % 2:
            raise LoadError(f"head_dim={self.head_dim} is odd; rotary embedding turns pairs of values.")
        if self.moe is not None and self.mlp_bias:
            raise LoadError("mlp_bias=True with a mixture of experts is not known: experts have no bias.")
        if self.mla is not None:
            self._check_latent()

    def _check_latent(self) -> None:
        turned = self.mla.qk_rope_head_dim
        if self.head_dim != turned:
            raise LoadError(f"head_dim={self.head_dim}, qk_rope_head_dim={turned}; with latent attention "
                            "both are the part of a head that is turned.")
        if self.num_key_value_heads != self.num_attention_heads:
            raise LoadError(f"num_key_value_heads={self.num_key_value_heads}; with latent attention each of "
                            f"num_attention_heads={self.num_attention_heads} has keys of its own.")
        if self.qkv_bias or self.qk_norm:
            raise LoadError("qkv_bias and qk_norm are not known to latent attention; set both to False.")

    def is_sparse(self, layer: int) -> bool:
        """True if the layer of that number has experts."""
        return self.moe is not None and self.moe.is_sparse(layer)

    @property
    def kept_heads(self) -> int:
        """Key heads that a cache keeps of each token: K, or 1 for all heads of latent attention."""
        return self.num_key_value_heads if self.mla is None else 1

    @property
    def kept_size(self) -> int:
        """Values of a key as it is kept: Dh, or R + Dr, of which the first R are the value, too."""
        return self.head_dim if self.mla is None else self.mla.kept_size

    @property
    def kv_values_per_token(self) -> int:
        """Values that one token adds to the KV cache: 2 (k and v) · layers · K · Dh, or with latent attention
        layers · (R + Dr)."""
        tensors = 2 if self.mla is None else 1
        return tensors * self.num_hidden_layers * self.kept_heads * self.kept_size

    @property
    def kv_bytes_per_token(self) -> int:
        """The same in bytes of float32."""
        return 4 * self.kv_values_per_token
