"""Other people's engines on the same model, so that ours can be measured against them. All are optional.

    transformers   its `generate`: requests in batches, padded to the longest prompt, run to the longest answer;
                   and its `generate_batch`, which batches continuously over a paged cache
    llama.cpp      its C interface through the Python package `llama_cpp` (not among the requirements): up to 32
                   sequences in one context; each step decodes all that run and reads prompts with the tokens left

Both get token ids and are made to write exactly as many tokens as asked, greedily.
"""

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aiinfra.bench.load import Token
from aiinfra.errors import LoadError
from aiinfra.model import ModelConfig


def transformers_model(path: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, str] | None:
    """The weights of `path` in transformers, and its name with version; None if it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    place = {"pretrained_model_name_or_path": path} if path.is_dir() else \
        {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    peer = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=dtype).eval().to(device)
    return peer, f"transformers {transformers.__version__}"


def transformers_twin(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> tuple[Any, str] | None:
    """transformers' model of this shape (dense Llama, or Qwen3 if it normalises q and k), with random weights, and its
    name with version and kind of attention; None if it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    transformers.logging.set_verbosity_error()
    theirs = transformers.Qwen3Config if config.qk_norm else transformers.LlamaConfig
    shared = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
              "intermediate_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    shape = theirs(**{name: getattr(config, name) for name in shared}, bos_token_id=None, eos_token_id=None,
                   rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta})
    with torch.device(device):
        peer = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype).eval().requires_grad_(False)
    return peer, f"transformers {transformers.__version__}, {peer.config._attn_implementation} attention"


class _Queue:
    """What is the same for both ways of transformers: requests wait, and each step serves some of them to the end."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, list[int], int]] = deque()

    @property
    def unfinished(self) -> int:
        """Requests that wait; between steps none runs."""
        return len(self._waiting)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Queue a request."""
        self._waiting.append((request, prompt, output_tokens))


class StaticBatches(_Queue):
    """transformers as a server: takes up to `batch_size` waiting requests, in order, and serves them to the end
    before it looks at its door again. Tokens that a row makes after its own last are dropped."""

    def __init__(self, model: Any, name: str, batch_size: int) -> None:
        super().__init__()
        self.model, self.batch_size = model, batch_size
        self.name = f"{name}, static batches of {batch_size}"

    def step(self) -> list[Token]:
        """Serve one batch to its end."""
        batch = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        widest, longest = max(len(prompt) for _, prompt, _ in batch), max(wanted for *_, wanted in batch)
        padding = [widest - len(prompt) for _, prompt, _ in batch]
        device, clocks = self.model.device, []
        ids = torch.tensor([[0] * pad + prompt for pad, (_, prompt, _) in zip(padding, batch)], device=device)
        mask = torch.tensor([[0] * pad + [1] * (widest - pad) for pad in padding], device=device)
        out = self.model.generate(ids, attention_mask=mask, stopping_criteria=[_clock_into(clocks)], **_greedy(longest))
        rows = out[:, widest:].tolist()
        return [Token(request, row[i], clocks[i]) for row, (request, _, wanted) in zip(rows, batch) for i in range(wanted)]


class GenerateBatch(_Queue):
    """transformers' continuous batching as a server: a step serves all that wait to the end. What it prepares for that
    (its cache, CUDA graphs) is kept from step to step, until `close`."""

    def __init__(self, model: Any, name: str) -> None:
        import transformers
        super().__init__()
        self.model, self.name = model, f"{name}, generate_batch"
        greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1)
        # On a GPU it takes the memory that is free. It would on a CPU, too, where that is everybody's.
        sizes = {} if model.device.type == "cuda" else {"num_blocks": 64, "max_batch_tokens": 512}         # blocks of 256 tokens
        settings = transformers.ContinuousBatchingConfig(**sizes)
        self._manager = partial(model.continuous_batching_context_manager, greedy, continuous_batching_config=settings,
                                persistent_manager=True)
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
                while (done := manager.get_result(timeout=1)) is None:
                    if not manager.is_running():
                        raise RuntimeError("transformers' generate_batch stopped before it had served all requests.")
                made += [Token(int(done.request_id), token, at) for token, at in zip(done.generated_tokens, done.timestamps)]
        return made

    def close(self) -> None:
        """Give its cache back."""
        self.model.destroy_cached_continuous_batching_manager()


def transformers_generate(model: Any, prompt: list[int], output_tokens: int) -> list[int]:
    """The tokens that transformers writes after one prompt."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **_greedy(output_tokens))
    return out[0, len(prompt):].tolist()


def _greedy(output_tokens: int) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": output_tokens, "min_new_tokens": output_tokens, "eos_token_id": None, "pad_token_id": 0}


def _clock_into(clocks: list[float]):
    """A stopping criterion that never stops anything: it is called once a token, and notes the time."""
    def note(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        clocks.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    return note


def llama_cpp_module() -> Any | None:
    """The package `llama_cpp`, silenced; None if it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    from llama_cpp._logger import set_verbose
    set_verbose(False)
    return llama_cpp


@dataclass(eq=False)
class _Sequence:
    """One of llama.cpp's sequences: tokens[:run] are in its cache."""

    number: int
    request: int
    tokens: list[int]
    end: int                    # tokens when it is finished
    run: int = 0


class LlamaCpp:
    """llama.cpp as a server, with continuous batching: a step is one `llama_decode` of at most `batch_tokens`.

    sequences: how many run at once. context_tokens: the most that one may grow to. shared_cache: one cache for all
    (its `kv_unified`) or one for each. Everything else is its own default. Raises LoadError if it cannot load the file.
    """

    def __init__(self, api: Any, path: Path, sequences: int, context_tokens: int, shared_cache: bool = False,
                 batch_tokens: int = 512, threads: int | None = None) -> None:
        self.api, self.batch_tokens = api, batch_tokens
        threads = threads or torch.get_num_threads()
        cache = f", {'one cache' if shared_cache else 'a cache each'}" if sequences > 1 else ""
        self.name = f"llama-cpp-python {api.__version__}, {path.name}, {threads} threads, {sequences} sequences{cache}"
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = sequences * context_tokens, sequences, shared_cache
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise LoadError(f"llama.cpp cannot load {path.name}, or make a context of {sequences} × {context_tokens} tokens.")
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(batch_tokens, 0, 1)
        self._waiting: deque[tuple[int, list[int], int]] = deque()
        self._running: list[_Sequence] = []
        self._free = deque(range(sequences))

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Queue a request."""
        self._waiting.append((request, prompt, output_tokens))

    def step(self) -> list[Token]:
        """One `llama_decode`: a token of every sequence that has its prompt behind it, then prompts."""
        while self._waiting and self._free:
            request, prompt, wanted = self._waiting.popleft()
            self._running.append(_Sequence(self._free.popleft(), request, list(prompt), len(prompt) + wanted))
        ready = self._fill()
        if self.api.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode failed with {self._batch.n_tokens} tokens of {len(self._running)} sequences.")
        best = [self._best(row) for _, row in ready]
        now = time.perf_counter()
        for (sequence, _), token in zip(ready, best):
            sequence.tokens.append(token)
            if len(sequence.tokens) == sequence.end:
                self._release(sequence)
        return [Token(sequence.request, token, now) for (sequence, _), token in zip(ready, best)]

    def generate(self, prompt: list[int], output_tokens: int) -> list[int]:
        """The tokens after one prompt, with nobody else there."""
        self.add(0, prompt, output_tokens)
        made = []
        while self.unfinished:
            made += [token.token_id for token in self.step()]
        return made

    def close(self) -> None:
        """Give its memory back; it cannot be used afterwards."""
        self.api.llama_batch_free(self._batch)
        self.api.llama_free(self._context)
        self.api.llama_model_free(self._model)

    def _fill(self) -> list[tuple[_Sequence, int]]:
        """Write the next batch; returns the sequences that will have a new token, and the rows of their logits."""
        batch, ready = self._batch, []
        batch.n_tokens = 0
        for sequence in sorted(self._running, key=lambda s: len(s.tokens) - s.run > 1):          # decodes first
            for token in sequence.tokens[sequence.run:sequence.run + self.batch_tokens - batch.n_tokens]:
                i = batch.n_tokens
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, sequence.run, 1, sequence.number
                batch.n_tokens, sequence.run = i + 1, sequence.run + 1
                batch.logits[i] = sequence.run == len(sequence.tokens)
                if batch.logits[i]:
                    ready.append((sequence, i))
        return ready

    def _best(self, row: int) -> int:
        import numpy
        logits = self.api.llama_get_logits_ith(self._context, row)
        return int(numpy.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())

    def _release(self, sequence: _Sequence) -> None:
        self.api.llama_memory_seq_rm(self.api.llama_get_memory(self._context), sequence.number, -1, -1)
        self._running.remove(sequence)
        self._free.append(sequence.number)
