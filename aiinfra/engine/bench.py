"""`python -m aiinfra bench …`: ours against others, in one run, on one machine, doing the same work.

    decode   one request: prompt of 32 tokens, 64 out; then prefill of 512 tokens; against transformers' generate
    load     a fresh process: seconds to the first token, and the peak of its memory
    throughput   64 requests of mixed lengths at once: the engine against transformers in static batches

Both sides get the same file, the same float32 weights, the same threads and the same token ids, and must return
the same tokens. They take turns, so that a machine that slows down slows both. A figure is the median of the turns.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import KVCache, Transformer, load
from aiinfra.model.hub import resolve
from aiinfra.perf import percentile, time_call
from aiinfra.perf.hardware import read_bandwidth

PROMPT_TOKENS, NEW_TOKENS, PREFILL_TOKENS = 32, 64, 512


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: a value with its unit, and the peer's where there is one."""

    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's; above 1 we are faster."""
        return self.ours / self.peer if self.peer else None

    def __str__(self) -> str:
        against = f"{self.peer:10.1f} {self.peer_name}   × {self.ratio:.2f}" if self.peer else ""
        return f"{self.name:34s} {self.ours:10.1f} {self.unit:6s} {against}  {self.note}".rstrip()


def bench_decode(model_name: str, turns: int = 5) -> Iterator[Row]:
    """Rows C1 (decode, one request) and C5 (prefill) of float32 on the CPU, or bfloat16 on a GPU.

    Raises RuntimeError if in float32 the two sides do not return the same tokens (in bfloat16 near-ties may fall
    either way, so there only their number is the same).
    """
    model, tokenizer = load(model_name)
    prompt = (tokenizer.encode("The sea was calm that morning, and the harbour") * PREFILL_TOKENS)[:PREFILL_TOKENS]
    peer, peer_name = _transformers(model_name, model)
    sides = [_ours(model)] + ([_theirs(peer)] if peer is not None else [])
    decode, prefill = _take_turns(sides, prompt, turns, exact=model.dtype == torch.float32)
    bandwidth = read_bandwidth(model.device)
    per_token = [NEW_TOKENS / seconds for seconds in decode]
    share = per_token[0] * model.weight_bytes() / bandwidth
    yield Row("C1 decode, 1 request", per_token[0], "tok/s", *((per_token[1], peer_name) if peer is not None else ()))
    yield Row("   share of read bandwidth", 100 * share, "%", note=(
        f"{model.weight_bytes() / 1e6:.0f} MB of weights a token; {bandwidth / 1e9:.1f} GB/s read, measured in this run"))
    rates = [PREFILL_TOKENS / seconds for seconds in prefill]
    yield Row(f"C5 prefill, {PREFILL_TOKENS} tokens", rates[0], "tok/s", *((rates[1], peer_name) if peer is not None else ()))


@dataclass(frozen=True)
class _Side:
    """One contestant: both calls return token ids."""

    decode: Callable[[list[int]], list[int]]
    prefill: Callable[[list[int]], list[int]]


def _take_turns(sides: list[_Side], prompt: list[int], turns: int, exact: bool) -> tuple[list[float], list[float]]:
    """Median seconds of decode alone (prefill of the short prompt taken off) and of the long prefill, a side each."""
    short = prompt[:PROMPT_TOKENS]
    answers = [(side.decode(short), side.prefill(prompt)) for side in sides]            # warm-up, and same work
    if exact and any(answer != answers[0] for answer in answers):
        raise RuntimeError("the two sides returned different tokens: the comparison would be of different work.")
    seconds: list[dict[str, list[float]]] = [{"all": [], "short": [], "long": []} for _ in sides]
    for _ in tqdm(range(turns), desc="turns", disable=None):
        for side, kept in zip(sides, seconds):
            for key, call in (("all", lambda: side.decode(short)), ("short", lambda: side.prefill(short)),
                              ("long", lambda: side.prefill(prompt))):
                kept[key] += time_call(call, warmup=0, budget_seconds=0, at_least=1).seconds
    median = [{key: percentile(values, 50) for key, values in kept.items()} for kept in seconds]
    # Prefill of the short prompt makes the first token, which is one of the NEW_TOKENS + 1 made.
    return [m["all"] - m["short"] for m in median], [m["long"] for m in median]


def _ours(model: Transformer) -> _Side:
    def decode(prompt: list[int]) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS + 1, ignore_eos=True)
        return [step.token_id for step in generate_cached(model, prompt, params)]

    @torch.inference_mode()
    def prefill(prompt: list[int]) -> list[int]:
        cache = KVCache(model.config, len(prompt), dtype=model.dtype, device=model.device)
        hidden = model.hidden(torch.tensor([prompt], device=model.device), kv=cache)
        return [int(model.lm_head(hidden[0, -1]).argmax())]
    return _Side(decode, prefill)


def _theirs(peer: Any) -> _Side:
    def generate(prompt: list[int], new_tokens: int) -> list[int]:
        ids = torch.tensor([prompt], device=peer.device)
        out = peer.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens,
                            min_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0)
        return out[0, len(prompt):].tolist()
    return _Side(lambda prompt: generate(prompt, NEW_TOKENS + 1), lambda prompt: generate(prompt, 1))


def _transformers(model_name: str, model: Transformer) -> tuple[Any, str]:
    """The same weights in transformers, and its name with version; (None, "") if it is not installed."""
    try:
        import transformers
    except ImportError:
        return None, ""
    path = resolve(model_name)
    place = {"pretrained_model_name_or_path": path} if path.is_dir() else \
        {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    peer = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=model.dtype).eval().to(model.device)
    return peer, f"transformers {transformers.__version__}"


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


def bench_throughput(model_name: str, requests: int = 64, seed: int = 0, batch_sizes: tuple[int, ...] = (16, 32)) -> Iterator[Row]:
    """Row C3: useful tokens a second over a seeded trace (prompts of 16 to 256 tokens, answers of 16 to 128), ours
    against transformers' padded static batches of the best of `batch_sizes`; and C6, time outside the model.

    Padding and the tokens that a finished row still makes in its batch are work, but not useful: they do not count.
    """
    model, tokenizer = load(model_name)
    rng = random.Random(seed)
    text = tokenizer.encode("The harbour was quiet. A boat, two gulls and a man with a lamp were all that moved. " * 40)
    trace = [([*text[rng.randrange(200):]][:rng.randint(16, 256)], rng.randint(16, 128)) for _ in range(requests)]
    wanted = sum(new for _, new in trace)
    ours, outside = _serve_trace(Engine(model), trace)
    peer, peer_name = _transformers(model_name, model)
    sizes = {size: _static_batches(peer, trace, size) for size in tqdm(batch_sizes, desc=peer_name, disable=None)} if peer else {}
    best = min(sizes, key=sizes.get) if sizes else 0
    against = (wanted / sizes[best], f"{peer_name}, static batches of {best}") if sizes else ()
    yield Row("C3 mixed trace", wanted / ours, "tok/s", *against,
              note=f"{requests} requests, {sum(len(p) for p, _ in trace):,} tokens in, {wanted:,} out")
    yield Row("C6 time outside the model", 100 * outside / ours, "%", note="planning, sampling and bookkeeping")


def _serve_trace(engine: Engine, trace: list[tuple[list[int], int]]) -> tuple[float, float]:
    """Seconds to serve the trace, and how many of them were not spent in the model."""
    for i, (prompt, new) in enumerate(trace):
        engine.add(str(i), prompt, SamplingParams(temperature=0, max_tokens=new, ignore_eos=True))
    start, model_seconds = time.perf_counter(), 0.0
    with tqdm(total=len(trace), desc="ours", disable=None) as bar:
        while engine.unfinished:
            record = engine.step()
            model_seconds += record.model_seconds
            bar.update(sum(m.finish_reason is not None for m in record.made))
    seconds = time.perf_counter() - start
    return seconds, seconds - model_seconds


def _static_batches(peer: Any, trace: list[tuple[list[int], int]], size: int) -> float:
    """Seconds that transformers needs: batches in order of arrival, padded left, each as long as its longest answer."""
    start = time.perf_counter()
    for first in range(0, len(trace), size):
        batch = trace[first:first + size]
        widest, longest = max(len(p) for p, _ in batch), max(new for _, new in batch)
        ids = torch.tensor([[0] * (widest - len(p)) + p for p, _ in batch], device=peer.device)
        mask = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p, _ in batch], device=peer.device)
        peer.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=longest, min_new_tokens=longest,
                      eos_token_id=None, pad_token_id=0)
    return time.perf_counter() - start


def bench_load(model_name: str) -> Iterator[Row]:
    """A fresh process: seconds from its first import to the first token, and what its memory grew by at the peak."""
    resolve(model_name)                                                  # a download is not part of it
    result = subprocess.run([sys.executable, "-c", _LOAD.format(model=model_name)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the measured process failed: {(result.stderr.strip().splitlines() or [f'exit status {result.returncode}'])[-1]}")
    seconds, grown, weights = json.loads(result.stdout.splitlines()[-1])
    yield Row("load to first token", seconds, "s", note="imports included")
    yield Row("peak memory ÷ float32 weights", grown / weights, "", note=f"{grown / 1e6:.0f} MB over {weights / 1e6:.0f} MB")
