"""The settings of an engine: each with its sentence and its default, and all of them checked once.

    Engine(model, max_running=8)  ──> EngineOptions ── resolve ──> the same with nothing left open
    LLM(…, max_running=8)         ─┘     what is None here is chosen there, for this model and its device

Integers and words only: nothing here needs a model, a device or PyTorch, so a command line can read the
names and the scheduler can have its share checked without them. Notebooks 12 to 14 and 16 turn these knobs.
"""

from dataclasses import fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from aiinfra.config import config

if TYPE_CHECKING:
    from aiinfra.engine.speculative import Proposer

Mode = Literal["one", "static", "continuous"]

_DEFAULT_CACHE_BYTES = 1 << 30
_CHUNK_ON_CPU = 128          # more would delay those who decode
_OR_NONE = ("cuda_graphs", "overlap")


@config
class EngineOptions:
    """What an engine may be told beside its model. Raises ValueError for what makes no sense, and
    TypeError, with the nearest name, for a setting that does not exist."""

    # Memory for keys and values. None: on a GPU the share below; on a CPU 1 GiB, or what one full context
    # needs if that is more.
    cache_bytes: int | None = None
    # Of what is free on a GPU beside the weights; the rest is for activations and graphs. A CPU has no use
    # for it.
    gpu_memory_utilization: float = 0.8
    block_size: int = 16                 # tokens in a block of that memory
    max_model_len: int | None = None     # tokens of a prompt and its answer; None: the model's context
    token_budget: int = 512              # tokens in a step, of all requests together
    max_running: int = 32                # requests that run side by side
    # Who may enter: "one" at a time, "static" batches that all end before the next begins, or whoever finds
    # room.
    mode: Mode = "continuous"
    chunked: bool = True                 # read long prompts in pieces, over several steps
    # Tokens of prompts in a step, beside requests that decode. None: 128 on a CPU, all of token_budget on a
    # GPU.
    chunk_tokens: int | None = None
    prefix_caching: bool = True          # a prompt that begins like an earlier one starts with its blocks
    # Guess several tokens and check them in one step: "prompt_lookup" or a Proposer, whose `k` is the most
    # guesses for a request in a step.
    speculative: "str | Proposer | None" = None
    # Record decode steps and replay them. None: on a GPU. True on a CPU runs them padded as on a GPU, for
    # tests.
    cuda_graphs: bool | None = None
    # Run one step ahead. None: on a GPU. It waits for its turn while somebody has a repetition penalty or
    # guesses.
    overlap: bool | None = None

    def __post_init__(self) -> None:
        if self.max_model_len is not None:
            _check_whole("max_model_len", self.max_model_len)
        _check_whole("block_size", self.block_size)
        for name in ("chunked", "prefix_caching", *_OR_NONE):
            _check_either(name, getattr(self, name))
        share = self.gpu_memory_utilization
        if not isinstance(share, Real) or not 0 < share <= 1:
            raise ValueError(f"gpu_memory_utilization={share!r}; it must be above 0 and at most 1 (0.8 is "
                             "usual).")
        if self.block_size < 1:
            raise ValueError(f"block_size={self.block_size}; it must be at least 1 (16 is usual).")
        check_steps(self.token_budget, self.max_running, self.mode, self.chunk_tokens)

    @classmethod
    def names(cls) -> list[str]:
        """All settings that there are, in the order of this class."""
        return [field.name for field in fields(cls)]

    def resolve(self, context: int, block_bytes: int, free_bytes: int | None) -> "EngineOptions":
        """The same with nothing left open. context: of the model, in tokens. block_bytes: of one block of
        this `block_size`. free_bytes: on the GPU; None on a CPU. Raises ValueError where model and memory
        set a limit."""
        on_gpu = free_bytes is not None
        max_model_len = _or(self.max_model_len, context)
        if not 1 <= max_model_len <= context:
            raise ValueError(f"max_model_len={max_model_len}; the model's context is {context:,} tokens: "
                             f"choose 1 to {context:,}.")
        cache_bytes = self.cache_bytes
        if cache_bytes is None and on_gpu:
            cache_bytes = int(self.gpu_memory_utilization * free_bytes)
        elif cache_bytes is None:
            blocks = -(-max_model_len // self.block_size)
            cache_bytes = max(_DEFAULT_CACHE_BYTES, blocks * block_bytes)
        if not isinstance(cache_bytes, int) or cache_bytes < block_bytes:
            raise ValueError(f"cache_bytes={cache_bytes!r}; it must be a whole number, and one block of "
                             f"{self.block_size} tokens is {block_bytes:,} bytes. Give it more.")
        chunk_tokens = self.token_budget if on_gpu else _CHUNK_ON_CPU
        return replace(
            self,
            max_model_len=max_model_len,
            cache_bytes=cache_bytes,
            chunk_tokens=_or(self.chunk_tokens, chunk_tokens),
            cuda_graphs=_or(self.cuda_graphs, on_gpu),
            overlap=_or(self.overlap, on_gpu),
        )


def check_steps(token_budget: int, max_running: int, mode: str, chunk_tokens: int | None) -> None:
    """Raise ValueError if no step could be planned with these, which are the scheduler's share."""
    if mode not in ("one", "static", "continuous"):
        raise ValueError(f"mode={mode!r} is not known. Use 'one', 'static' or 'continuous'.")
    _check_whole("token_budget", token_budget)
    _check_whole("max_running", max_running)
    if mode == "one":
        max_running = 1
    if max_running < 1 or token_budget < max_running:
        raise ValueError(f"token_budget={token_budget}, max_running={max_running}; a step must have room for "
                         "one token of every running request: token_budget >= max_running >= 1.")
    if chunk_tokens is None:
        return
    _check_whole("chunk_tokens", chunk_tokens)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens={chunk_tokens}; a prompt must move by at least 1 token a step. "
                         "None: by token_budget.")


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={value!r}; it must be a whole number.")


def _check_either(name: str, value: Any) -> None:
    if isinstance(value, bool) or (value is None and name in _OR_NONE):
        return
    choices = "True or False"
    if name in _OR_NONE:
        choices += ", or None for what suits the device"
    raise ValueError(f"{name}={value!r}; it must be {choices}.")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
