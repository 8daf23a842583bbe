"""`python -m aiinfra bench decode | load`: ours against others, in one run, on one machine, doing the same work.

    decode   one request: prompt of 32 tokens, 64 out; then prefill of 512 tokens; against transformers' generate in
             the same numbers, and in 4 bits against llama.cpp on the same file; and what the engine with its cache in
             blocks leaves of the model's own speed with a dense cache
    load     a fresh process: seconds to the first token, and the peak of its memory

All get the same file, the same threads and the same token ids. In float32 both sides must return the same tokens.
They take turns, so that a machine that slows down slows all. A figure is the median of the turns.
`bench_serving.py` has many requests; `peers.py` has the others.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.bench.peers import LlamaCpp, llama_cpp_module, transformers_generate, transformers_model
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.checkpoint import load
from aiinfra.model import KVCache, Transformer
from aiinfra.checkpoint.hub import resolve
from aiinfra.perf import percentile, time_call
from aiinfra.perf.hardware import read_bandwidth

PROMPT_TOKENS, NEW_TOKENS, PREFILL_TOKENS = 32, 64, 512
_LESS_IS_BETTER = ("s", "ms")


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: a value with its unit, and the peer's where there is one. ours: None if it could not
    be measured; the note says why."""

    name: str
    ours: float | None
    unit: str
    peer: float | None = None
    peer_name: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer: ours over theirs for a rate, theirs over ours for a time."""
        if not self.peer:
            return None
        return self.peer / self.ours if self.unit in _LESS_IS_BETTER else self.ours / self.peer

    def __str__(self) -> str:
        against = f"{digits(self.peer):>8s} {self.peer_name}   × {self.ratio:.2f}" if self.peer else ""
        ours = "–" if self.ours is None else digits(self.ours)
        return f"{self.name:40s} {ours:>8s} {self.unit:6s} {against}  {self.note}".rstrip()


def digits(value: float) -> str:
    """A figure with three significant digits, or all before the point: 1.09, 54.3, 1,234."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


@dataclass
class Side:
    """One contestant: both calls return token ids. `exact`: float32 throughout, so its tokens must be ours."""

    name: str
    decode: Callable[[list[int]], list[int]]
    prefill: Callable[[list[int]], list[int]]
    exact: bool
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"decode": [], "short": [], "long": []})

    @property
    def decode_rate(self) -> float:
        """Tokens a second of decoding alone: the prefill of the short prompt, which makes the first token, is taken off."""
        return NEW_TOKENS / (percentile(self.seconds["decode"], 50) - percentile(self.seconds["short"], 50))

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second."""
        return PREFILL_TOKENS / percentile(self.seconds["long"], 50)


def bench_decode(model_name: str, turns: int = 5) -> Iterator[Row]:
    """Rows C1 (decode, one request) and C5 (prefill) of float32 on the CPU, or bfloat16 on a GPU; C1 again through the
    engine; on the CPU also C2, decode in 4 bits, against llama.cpp if that is installed and the model is a .gguf file.

    Raises RuntimeError if in float32 the two sides do not return the same tokens (in bfloat16 near-ties may fall
    either way, so there only their number is the same).
    """
    path = resolve(model_name)
    model, tokenizer = load(path)
    prompt = (tokenizer.encode("The sea was calm that morning, and the harbour") * PREFILL_TOKENS)[:PREFILL_TOKENS]
    exact = model.dtype == torch.float32
    sides = {"ours": ours(model, "aiinfra", exact), "engine": through_engine(model, "aiinfra's engine", exact)}
    peer = transformers_model(path, model.dtype, model.device)
    if peer:
        sides["transformers"] = theirs(*peer, exact)
    if model.device.type == "cpu":
        sides["ours int4"] = ours(load(path, quantize="int4")[0], "aiinfra int4", exact=False)
    llama = _llama_cpp(path, model.device)
    if llama:
        sides["llama.cpp"] = Side(llama.name, lambda prompt: llama.generate(prompt, NEW_TOKENS + 1),
                                  lambda prompt: llama.generate(prompt, 1), exact=False)
    take_turns(list(sides.values()), prompt, turns)
    yield from _decode_rows(sides, model)


def _decode_rows(sides: dict[str, Side], model: Transformer) -> Iterator[Row]:
    def against(name: str, rate: str) -> tuple:
        return (getattr(sides[name], rate), sides[name].name) if name in sides else ()
    yield Row("C1 decode, 1 request", sides["ours"].decode_rate, "tok/s", *against("transformers", "decode_rate"))
    yield Row("   the same through the engine", sides["engine"].decode_rate, "tok/s", sides["ours"].decode_rate, "dense cache")
    bandwidth = read_bandwidth(model.device)
    yield Row("   share of read bandwidth", 100 * sides["ours"].decode_rate * model.weight_bytes() / bandwidth, "%", note=(
        f"{model.weight_bytes() / 1e6:.0f} MB of weights a token; {bandwidth / 1e9:.1f} GB/s read, measured in this run"))
    if "ours int4" in sides:
        yield Row("C2 decode, 1 request, int4", sides["ours int4"].decode_rate, "tok/s", *against("llama.cpp", "decode_rate"))
    yield Row(f"C5 prefill, {PREFILL_TOKENS} tokens", sides["ours"].prefill_rate, "tok/s",
              *against("transformers", "prefill_rate"))


def take_turns(sides: list[Side], prompt: list[int], turns: int) -> None:
    """Time every side's decode of the short prompt, its prefill alone, and the long prefill, `turns` times in turn.
    Raises RuntimeError if the exact ones do not return the same tokens, or any another number of them."""
    short = prompt[:PROMPT_TOKENS]
    answers = [(side.decode(short), side.prefill(prompt)) for side in sides]            # warm-up, and same work
    exact = [answer for side, answer in zip(sides, answers) if side.exact]
    if any(answer != exact[0] for answer in exact) or any(len(decoded) != NEW_TOKENS + 1 for decoded, _ in answers):
        raise RuntimeError("the sides returned different tokens: the comparison would be of different work.")
    for _ in tqdm(range(turns), desc="turns", disable=None):
        for side in sides:
            for key, call in (("decode", lambda: side.decode(short)), ("short", lambda: side.prefill(short)),
                              ("long", lambda: side.prefill(prompt))):
                side.seconds[key] += time_call(call, warmup=0, budget_seconds=0, at_least=1).seconds


def ours(model: Transformer, name: str, exact: bool) -> Side:
    """Our model alone with one request, without the engine."""
    def decode(prompt: list[int]) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS + 1, ignore_eos=True)
        return [step.token_id for step in generate_cached(model, prompt, params)]

    @torch.inference_mode()
    def prefill(prompt: list[int]) -> list[int]:
        cache = KVCache(model.config, len(prompt), dtype=model.dtype, device=model.device)
        hidden = model.hidden(torch.tensor([prompt], device=model.device), kv=cache)
        return [int(model.lm_head(hidden[0, -1]).argmax())]
    return Side(name, decode, prefill, exact)


def through_engine(model: Transformer, name: str, exact: bool) -> Side:
    """The same model through `Engine`, alone in it: the cache is in blocks, and every token is scheduled and recorded.
    It does not know a prompt again. Its cache has room for this, so that a GPU has some left for the others."""
    longest, size = PREFILL_TOKENS + NEW_TOKENS + 1, 16
    cache_bytes = -(-longest // size) * PagedCache.block_bytes(model.config, size, model.dtype)
    engine = Engine(model, cache_bytes, size, longest, token_budget=PREFILL_TOKENS, max_running=1, prefix_caching=False)

    def make(prompt: list[int], tokens: int) -> list[int]:
        engine.add("the only one", prompt, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
        return [made.token_id for record in engine.stream() for made in record.made]
    return Side(name, lambda prompt: make(prompt, NEW_TOKENS + 1), lambda prompt: make(prompt, 1), exact)


def theirs(model: object, name: str, exact: bool) -> Side:
    """transformers with one request."""
    return Side(name, lambda prompt: transformers_generate(model, prompt, NEW_TOKENS + 1),
                lambda prompt: transformers_generate(model, prompt, 1), exact)


def _llama_cpp(path: Path, device: torch.device) -> LlamaCpp | None:
    api = llama_cpp_module()
    if api is None or path.suffix != ".gguf" or device.type != "cpu":
        return None
    return LlamaCpp(api, path, sequences=1, context_tokens=PREFILL_TOKENS + NEW_TOKENS + 1)


_LOAD = """
import time; start = time.perf_counter()
import json, resource, torch
from aiinfra.engine import LLM, SamplingParams
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
llm = LLM({model!r}, dtype="float32", device="cpu")
llm.generate("The sea is", SamplingParams(max_tokens=1, temperature=0))
weights = llm.model.weight_bytes() + (0 if llm.model.config.tie_word_embeddings else llm.model.embed.weight.nbytes)
print(json.dumps([time.perf_counter() - start, peak() - before, weights]))
"""


def bench_load(model_name: str) -> Iterator[Row]:
    """A fresh process: seconds from its first import to the first token, and what its memory grew by at the peak."""
    resolve(model_name)                                                  # a download is not part of it
    result = subprocess.run([sys.executable, "-c", _LOAD.format(model=model_name)], capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise RuntimeError(f"the measured process failed: {said[-1]}")
    seconds, grown, weights = json.loads(result.stdout.splitlines()[-1])
    yield Row("load to first token", seconds, "s", note="imports included")
    yield Row("peak memory ÷ float32 weights", grown / weights, "", note=f"{grown / 1e6:.0f} MB over {weights / 1e6:.0f} MB")
