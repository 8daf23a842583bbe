"""The numbers of a mixture of experts, under Hugging Face's names.

    dense  dense  sparse  sparse  sparse        a sparse layer has E feed-forwards, of which a token takes k
    └ first_k_dense_replace                     (and n_shared_experts that every token takes)

What families differ in: Mixtral and Qwen3 weigh experts by a softmax, DeepSeek-V3 by a sigmoid each, chosen
with a bias that evens out their load, from a few groups only. Notebook 17.
"""

from aiinfra.config import config
from aiinfra.errors import LoadError, nearest

SCORING = ("softmax", "sigmoid")
_COUNTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group",
           "decoder_sparse_step")


@config
class MoEConfig:
    """What a sparse layer is, and which layers are sparse. Raises LoadError if the numbers cannot belong
    together."""

    num_experts: int                       # E, of each sparse layer
    num_experts_per_tok: int               # k
    moe_intermediate_size: int             # F of one expert
    n_shared_experts: int = 0              # taken by every token, as one feed-forward of so many times F
    scoring_func: str = "softmax"          # "sigmoid": each expert by itself, and chosen with a bias
    norm_topk_prob: bool = True            # the k weights of a token are made to add up to 1
    routed_scaling_factor: float = 1.0     # and are multiplied by this
    n_group: int = 1                       # experts stand in so many groups,
    topk_group: int = 1                    # and a token takes from the best so many of them
    first_k_dense_replace: int = 0         # the first layers that are dense
    decoder_sparse_step: int = 1           # of the others, every so manieth is sparse: numbers step - 1, …
    mlp_only_layers: tuple[int, ...] = ()  # and these are dense all the same
    router_aux_loss_coef: float = 0.0      # of the loss that asks for even load
    bias_update_speed: float = 0.001       # of the bias, a step of training (DeepSeek-V3's gamma)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise LoadError(f"{name}={value!r}; it must be an integer of at least 1.")
        if self.scoring_func not in SCORING:
            raise LoadError(f"scoring_func={self.scoring_func!r} is not known."
                            f"{nearest(self.scoring_func, SCORING)} Known: {', '.join(SCORING)}.")
        self._check_choice()

    def _check_choice(self) -> None:
        experts, groups = self.num_experts, self.n_group
        if experts % groups:
            raise LoadError(f"num_experts={experts} is not a multiple of n_group={groups}.")
        if self.topk_group > groups:
            raise LoadError(f"topk_group={self.topk_group} is more than n_group={groups}.")
        eligible = experts // groups * self.topk_group
        if self.num_experts_per_tok > eligible:
            raise LoadError(f"num_experts_per_tok={self.num_experts_per_tok}; a token may choose among "
                            f"{eligible} experts only.")
        if groups > 1 and (self.scoring_func != "sigmoid" or experts // groups < 2):
            raise LoadError(f"n_group={groups}: groups are known with scoring_func='sigmoid' only, and with "
                            "two experts or more in each.")

    @property
    def has_bias(self) -> bool:
        """True if experts are chosen by score and bias, which evens out their load."""
        return self.scoring_func == "sigmoid"

    def is_sparse(self, layer: int) -> bool:
        """True if the layer of that number has experts."""
        if layer < self.first_k_dense_replace or layer in self.mlp_only_layers:
            return False
        return (layer + 1) % self.decoder_sparse_step == 0
