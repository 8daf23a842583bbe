"""The numbers of multi-head latent attention (MLA), under Hugging Face's names.

    a head's query and key     [ qk_nope_head_dim | qk_rope_head_dim ]      the second part is turned
    a head's value             [ v_head_dim ]
    kept of a token            [ kv_lora_rank     | qk_rope_head_dim ]      for all heads together

DeepSeek-V3 keeps 512 + 64 values a layer; its 128 heads by themselves would be 128 · (192 + 128).
Notebook 17.
"""

from aiinfra.config import config
from aiinfra.errors import LoadError


@config
class MLAConfig:
    """What latent attention is. Raises LoadError if the numbers cannot be."""

    kv_lora_rank: int                      # R
    qk_nope_head_dim: int                  # Dn
    qk_rope_head_dim: int                  # Dr
    v_head_dim: int                        # Dv
    q_lora_rank: int | None = None         # queries come from so many values; None: from the input itself
    rope_interleave: bool = True           # values that turn together stand side by side

    def __post_init__(self) -> None:
        sizes = ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"]
        if self.q_lora_rank is not None:
            sizes.append("q_lora_rank")
        for name in sizes:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise LoadError(f"{name}={value!r}; it must be an integer of at least 1.")

    @property
    def qk_head_dim(self) -> int:
        """Values of a whole head's query or key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def kept_size(self) -> int:
        """Values that a layer keeps of a token."""
        return self.kv_lora_rank + self.qk_rope_head_dim
