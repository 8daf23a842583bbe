"""llama.cpp on the same file: its C interface, through the Python package `llama_cpp` (not among the
requirements).

Several sequences share one context; each step decodes all that run, and reads prompts with the tokens left.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aiinfra.bench.load import Server, Token
from aiinfra.bench.trace import TraceRequest
from aiinfra.errors import LoadError

SEQUENCES = 32                       # of a server's context


def llama_cpp_module() -> Any | None:
    """The package `llama_cpp`, silenced; None if it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    from llama_cpp._logger import set_verbose
    set_verbose(False)
    return llama_cpp


def llama_cpp_for(path: Path, device: torch.device, sequences: int, context_tokens: int,
                  shared_cache: bool = False) -> "LlamaCpp | None":
    """llama.cpp on this file; None if it is not installed, cannot read such a file, or would run
    elsewhere."""
    api = llama_cpp_module()
    if api is None or path.suffix != ".gguf" or device.type != "cpu":
        return None
    return LlamaCpp(api, path, sequences, context_tokens, shared_cache)


def llama_servers(path: Path, device: torch.device, trace: Sequence[TraceRequest],
                  shared_caches: tuple[bool, ...]) -> list[Callable[[], Server]]:
    """For each kind of cache, what makes a server with room for this trace: always the same one, for it
    empties its own cache. None if there is no llama.cpp for this file."""
    longest = max(len(request.prompt) + request.output_tokens for request in trace)
    servers = [llama_cpp_for(path, device, SEQUENCES, longest, shared) for shared in shared_caches]
    return [partial(_same, server) for server in servers if server]


def _same(server: Server) -> Server:
    return server


@dataclass(eq=False)
class _Sequence:
    """One of llama.cpp's sequences: tokens[:run] are in its cache."""

    number: int
    request: int
    tokens: list[int]
    end: int                    # tokens when it is finished
    run: int = 0

    @property
    def pending(self) -> int:
        """Tokens that must be run before the next one can be made."""
        return len(self.tokens) - self.run


class LlamaCpp:
    """llama.cpp as a server, with continuous batching: a step is one `llama_decode` of at most
    `batch_tokens`.

    sequences: how many run at once. context_tokens: the most that one may grow to. shared_cache: one cache
    for all (its `kv_unified`) or one for each. Everything else is its own default. Raises LoadError if it
    cannot load the file.
    """

    def __init__(self, api: Any, path: Path, sequences: int, context_tokens: int, shared_cache: bool = False,
                 batch_tokens: int = 512, threads: int | None = None) -> None:
        self.api, self.batch_tokens = api, batch_tokens
        threads = threads or torch.get_num_threads()
        kind = ""
        if sequences > 1:
            kind = ", one cache" if shared_cache else ", a cache each"
        version = f"llama-cpp-python {api.__version__}"
        self.name = f"{version}, {path.name}, {threads} threads, {sequences} sequences{kind}"
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        params = api.llama_context_default_params()
        params.n_ctx = sequences * context_tokens
        params.n_seq_max = sequences
        params.kv_unified = shared_cache
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            raise LoadError(f"llama.cpp cannot load {path.name}, or make a context of {sequences} × "
                            f"{context_tokens} tokens.")
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
            self._begin(*self._waiting.popleft())
        ready = self._fill()
        if self.api.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode failed with {self._batch.n_tokens} tokens "
                               f"of {len(self._running)} sequences.")
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

    def _begin(self, request: int, prompt: list[int], wanted: int) -> None:
        sequence = _Sequence(
            number=self._free.popleft(), request=request, tokens=list(prompt), end=len(prompt) + wanted)
        self._running.append(sequence)

    def _fill(self) -> list[tuple[_Sequence, int]]:
        """Write the next batch; returns the sequences that will have a new token, and the rows of their
        logits."""
        batch, ready = self._batch, []
        batch.n_tokens = 0
        for sequence in sorted(self._running, key=lambda s: s.pending > 1):          # decodes first
            room = self.batch_tokens - batch.n_tokens
            for token in sequence.tokens[sequence.run:sequence.run + room]:
                row = batch.n_tokens
                batch.token[row] = token
                batch.pos[row] = sequence.run
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence.number
                batch.n_tokens += 1
                sequence.run += 1
                batch.logits[row] = sequence.pending == 0
            if not sequence.pending:
                ready.append((sequence, batch.n_tokens - 1))
        return ready

    def _best(self, row: int) -> int:
        logits = self.api.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())

    def _release(self, sequence: _Sequence) -> None:
        self.api.llama_memory_seq_rm(self.api.llama_get_memory(self._context), sequence.number, -1, -1)
        self._running.remove(sequence)
        self._free.append(sequence.number)
