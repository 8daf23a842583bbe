"""transformers on the same model, in its two ways of serving many requests.

    StaticBatches    `generate`: requests in batches, padded to the longest prompt, run to the longest answer
    GenerateBatch    `generate_batch`: batches continuously, over a paged cache
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aiinfra.bench.load import Server, Token
from aiinfra.model import ModelConfig

_SHARED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")


class _Ask(NamedTuple):
    """A request that waits."""

    request: int
    prompt: list[int]
    output_tokens: int


def transformers_model(path: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, str] | None:
    """The weights of `path` in transformers, and its name with version; None if it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = {"pretrained_model_name_or_path": path}
    if path.is_file():
        place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    peer = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=dtype)
    return peer.eval().to(device), f"transformers {transformers.__version__}"


def transformers_twin(config: ModelConfig, dtype: torch.dtype,
                      device: torch.device) -> tuple[Any, str] | None:
    """transformers' model of this shape (dense Llama, or Qwen3 if it normalises q and k), with random
    weights, and its name with version and kind of attention; None if it is not installed. Raises
    ValueError for a mixture of experts."""
    if config.moe is not None:
        raise ValueError("no twin is made of a mixture of experts: give a dense model.")
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    theirs = transformers.Qwen3Config if config.qk_norm else transformers.LlamaConfig
    shape = theirs(
        **{name: getattr(config, name) for name in _SHARED},
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    with torch.device(device):
        peer = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype)
    name = f"transformers {transformers.__version__}, {peer.config._attn_implementation} attention"
    return peer.eval().requires_grad_(False), name


def static_servers(path: Path, dtype: torch.dtype, device: torch.device,
                   batch_sizes: tuple[int, ...]) -> list[Callable[[], Server]]:
    """For each batch size, what makes a server of static batches; none if transformers is not installed."""
    peer = transformers_model(path, dtype, device)
    if peer is None:
        return []
    return [partial(StaticBatches, *peer, size) for size in batch_sizes]


class _Queue:
    """What is the same for both ways: requests wait, and each step serves some of them to the end."""

    def __init__(self) -> None:
        self._waiting: deque[_Ask] = deque()

    @property
    def unfinished(self) -> int:
        """Requests that wait; between steps none runs."""
        return len(self._waiting)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Queue a request."""
        self._waiting.append(_Ask(request, prompt, output_tokens))


class StaticBatches(_Queue):
    """transformers as a server: takes up to `batch_size` waiting requests, in order, and serves them to the
    end before it looks at its door again. Tokens that a row makes after its own last are dropped."""

    def __init__(self, model: Any, name: str, batch_size: int) -> None:
        super().__init__()
        self.model, self.batch_size = model, batch_size
        self.name = f"{name}, static batches of {batch_size}"

    def step(self) -> list[Token]:
        """Serve one batch to its end."""
        batch = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        widest = max(len(ask.prompt) for ask in batch)
        longest = max(ask.output_tokens for ask in batch)
        ids, mask = self._padded(batch, widest)
        clocks: list[float] = []
        out = self.model.generate(
            ids, attention_mask=mask, stopping_criteria=[_clock_into(clocks)], **_greedy(longest))
        rows = out[:, widest:].tolist()
        made = []
        for ask, row in zip(batch, rows):
            useful = zip(row[:ask.output_tokens], clocks)
            made += [Token(ask.request, token, clock) for token, clock in useful]
        return made

    def _padded(self, batch: list[_Ask], widest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts side by side, padded on the left, and where they are: both [B, T]."""
        ids, mask = [], []
        for ask in batch:
            padding = [0] * (widest - len(ask.prompt))
            ids.append(padding + ask.prompt)
            mask.append(padding + [1] * len(ask.prompt))
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class GenerateBatch(_Queue):
    """transformers' continuous batching as a server: a step serves all that wait to the end. What it prepares
    for that (its cache, CUDA graphs) is kept from step to step, until `close`."""

    def __init__(self, model: Any, name: str) -> None:
        import transformers
        super().__init__()
        self.model, self.name = model, f"{name}, generate_batch"
        greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1)
        sizes = {}                                               # on a GPU it takes the memory that is free
        if model.device.type != "cuda":                          # elsewhere it would, too: everybody's
            sizes = {"num_blocks": 64, "max_batch_tokens": 512}  # blocks of 256 tokens
        settings = transformers.ContinuousBatchingConfig(**sizes)
        manager = model.continuous_batching_context_manager
        self._manager = partial(manager, greedy, continuous_batching_config=settings, persistent_manager=True)
        with self._manager():
            pass                                                         # it warms up

    def step(self) -> list[Token]:
        """Serve everybody. Raises RuntimeError if its thread ends before that."""
        batch, made = list(self._waiting), []
        self._waiting.clear()
        with self._manager() as manager:
            for request, prompt, wanted in batch:
                manager.add_request(prompt, str(request), wanted, record_timestamps=True)
            for _ in batch:
                done = _next_result(manager)
                request = int(done.request_id)
                new = zip(done.generated_tokens, done.timestamps)
                made += [Token(request, token, clock) for token, clock in new]
        return made

    def close(self) -> None:
        """Give its cache back."""
        self.model.destroy_cached_continuous_batching_manager()


def _next_result(manager: Any) -> Any:
    while (done := manager.get_result(timeout=1)) is None:
        if not manager.is_running():
            raise RuntimeError("transformers' generate_batch stopped before it had served all requests.")
    return done


def transformers_generate(model: Any, prompt: list[int], output_tokens: int) -> list[int]:
    """The tokens that transformers writes after one prompt."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **_greedy(output_tokens))
    return out[0, len(prompt):].tolist()


def _greedy(output_tokens: int) -> dict[str, Any]:
    return {
        "do_sample": False,
        "max_new_tokens": output_tokens,
        "min_new_tokens": output_tokens,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def _clock_into(clocks: list[float]) -> Callable[..., torch.Tensor]:
    """A stopping criterion that never stops anything: it is called once a token, and notes the time."""
    def note(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        clocks.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    return note
