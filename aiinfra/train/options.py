"""The settings of a run, which need no PyTorch: the command line reads them before it is imported."""

from aiinfra.config import config


@config
class TrainOptions:
    """The settings of a run; the defaults are a model of a million parameters that learns on a laptop."""

    steps: int = 1000
    seed: int = 0
    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 344          # of one expert, if there are experts
    experts: int = 0                 # of each layer; 0: one plain feed-forward
    experts_per_token: int = 2
    balance_loss: float = 0.01       # times the loss that asks for an even load of the experts
    vocabulary: int = 1024           # at most; a small text gives fewer
    length: int = 128                # tokens a row
    rows: int = 8                    # rows a micro-batch
    accumulate: int = 1              # micro-batches a step
    learning_rate: float = 3e-3
    warmup: int = 50                 # steps; at most a tenth of all
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    save_every: int = 100            # steps between checkpoints
    keep: int = 2                    # checkpoints that stay, besides the best
    recompute: str = "none"          # activation checkpointing; see recompute.py
    compile: bool = False
    device: str | None = None        # None: a GPU if there is one
    dtype: str | None = None         # to compute in; None: bfloat16 on a GPU, float32 on a CPU


# What a resumed run may do otherwise. All else would make it another run.
MAY_DIFFER = frozenset({"steps", "save_every", "keep", "recompute", "compile", "device"})
