"""`python -m aiinfra bench decode`: one request, ours against others, in one run, on one machine, doing the
same work.

    a prompt of 32 tokens, 64 out     against transformers' generate in the same numbers, and in 4 bits
                                      against llama.cpp on the same file
    the same through the engine       what its cache in blocks leaves of the model's speed with a dense one
    prefill of 512 tokens             against transformers

All get the same file, the same threads and the same token ids. In float32 both sides must return the same
tokens. They take turns, so that a machine that slows down slows all. A figure is the median of the turns.
Notebooks 11, 16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.bench.peers.llama_cpp import llama_cpp_for
from aiinfra.bench.peers.transformers import transformers_generate, transformers_model
from aiinfra.bench.row import Row
from aiinfra.checkpoint import load
from aiinfra.checkpoint.hub import resolve
from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import KVCache, Transformer
from aiinfra.perf import percentile, time_call
from aiinfra.perf.hardware import read_bandwidth

PROMPT_TOKENS, NEW_TOKENS, PREFILL_TOKENS = 32, 64, 512
_SENTENCE = "The sea was calm that morning, and the harbour"
_BLOCK = 16


def _no_seconds() -> dict[str, list[float]]:
    return {"decode": [], "short": [], "long": []}


@dataclass
class Side:
    """One contestant: both calls return token ids. `exact`: float32 throughout, so its tokens must be ours.
    seconds: of each turn's decode, of the short prompt's prefill, and of the long one's."""

    name: str
    decode: Callable[[list[int]], list[int]]
    prefill: Callable[[list[int]], list[int]]
    exact: bool
    seconds: dict[str, list[float]] = field(default_factory=_no_seconds)

    @property
    def decode_rate(self) -> float:
        """Tokens a second of decoding alone: the prefill of the short prompt, which makes the first token, is
        taken off."""
        prefill_seconds = percentile(self.seconds["short"], 50)
        return NEW_TOKENS / (percentile(self.seconds["decode"], 50) - prefill_seconds)

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second."""
        return PREFILL_TOKENS / percentile(self.seconds["long"], 50)


def bench_decode(model_name: str, turns: int = 5) -> Iterator[Row]:
    """Decode of one request (C1) and prefill (C5) in float32 on the CPU, or bfloat16 on a GPU; decode again
    through the engine; on the CPU also in 4 bits (C2), against llama.cpp if that is installed and the model
    is a .gguf file.

    Raises RuntimeError if in float32 the two sides do not return the same tokens (in bfloat16 near-ties may
    fall either way, so there only their number is the same).
    """
    path = resolve(model_name)
    model, tokenizer = load(path)
    prompt = (tokenizer.encode(_SENTENCE) * PREFILL_TOKENS)[:PREFILL_TOKENS]
    sides = _sides(path, model)
    take_turns(list(sides.values()), prompt, turns)
    yield from _decode_rows(sides, model)


def _sides(path: Path, model: Transformer) -> dict[str, Side]:
    exact = model.dtype == torch.float32
    sides = {
        "ours": ours(model, "aiinfra", exact),
        "engine": through_engine(model, "aiinfra's engine", exact),
    }
    peer = transformers_model(path, model.dtype, model.device)
    if peer:
        sides["transformers"] = theirs(*peer, exact)
    if model.device.type == "cpu":
        quantized, _ = load(path, quantize="int4")
        sides["ours int4"] = ours(quantized, "aiinfra int4", exact=False)
    longest = PREFILL_TOKENS + NEW_TOKENS + 1
    llama = llama_cpp_for(path, model.device, sequences=1, context_tokens=longest)
    if llama:
        sides["llama.cpp"] = _side(llama.name, llama.generate, exact=False)
    return sides


def _decode_rows(sides: dict[str, Side], model: Transformer) -> Iterator[Row]:
    def against(name: str, rate: str) -> dict[str, Any]:
        if name not in sides:
            return {}
        return {"peer": getattr(sides[name], rate), "peer_name": sides[name].name}

    mine = sides["ours"]
    transformers = against("transformers", "decode_rate")
    yield Row("decode, 1 request", mine.decode_rate, "tok/s", **transformers, target="C1")
    dense = {"peer": mine.decode_rate, "peer_name": "dense cache"}
    yield Row("   the same through the engine", sides["engine"].decode_rate, "tok/s", **dense)
    yield _bandwidth_row(mine, model)
    if "ours int4" in sides:
        llama = against("llama.cpp", "decode_rate")
        yield Row("decode, 1 request, int4", sides["ours int4"].decode_rate, "tok/s", **llama, target="C2")
    transformers = against("transformers", "prefill_rate")
    yield Row(f"prefill, {PREFILL_TOKENS} tokens", mine.prefill_rate, "tok/s", **transformers, target="C5")


def _bandwidth_row(mine: Side, model: Transformer) -> Row:
    """Every token reads all weights once: what share of what memory can give is that?"""
    weights, bandwidth = model.weight_bytes(), read_bandwidth(model.device)
    share = mine.decode_rate * weights / bandwidth
    note = f"{weights / 1e6:.0f} MB of weights a token; {bandwidth / 1e9:.1f} GB/s read, measured in this run"
    return Row("   share of read bandwidth", 100 * share, "%", note=note)


def take_turns(sides: list[Side], prompt: list[int], turns: int) -> None:
    """Time every side's decode of the short prompt, its prefill alone, and the long prefill, `turns` times in
    turn. Raises RuntimeError if the exact ones do not return the same tokens, or any another number of
    them."""
    short = prompt[:PROMPT_TOKENS]
    _check_same_tokens(sides, short, prompt)
    for _ in tqdm(range(turns), desc="turns", disable=None):
        for side in sides:
            side.seconds["decode"].append(_seconds(side.decode, short))
            side.seconds["short"].append(_seconds(side.prefill, short))
            side.seconds["long"].append(_seconds(side.prefill, prompt))


def _check_same_tokens(sides: list[Side], short: list[int], prompt: list[int]) -> None:
    """All work once, which warms them up, too."""
    answers = [(side.decode(short), side.prefill(prompt)) for side in sides]
    exact = [answer for side, answer in zip(sides, answers) if side.exact]
    same_tokens = all(answer == exact[0] for answer in exact)
    same_number = all(len(decoded) == NEW_TOKENS + 1 for decoded, _ in answers)
    if not (same_tokens and same_number):
        raise RuntimeError("the sides returned different tokens: the comparison would be of different work.")


def _seconds(call: Callable[[list[int]], list[int]], prompt: list[int]) -> float:
    [seconds] = time_call(lambda: call(prompt), warmup=0, budget_seconds=0, at_least=1).seconds
    return seconds


def _side(name: str, make: Callable[[list[int], int], list[int]], exact: bool) -> Side:
    """A side that is one function: make(prompt, tokens to be made)."""
    return Side(
        name=name,
        decode=lambda prompt: make(prompt, NEW_TOKENS + 1),
        prefill=lambda prompt: make(prompt, 1),
        exact=exact,
    )


def ours(model: Transformer, name: str, exact: bool) -> Side:
    """Our model alone with one request, without the engine."""
    def decode(prompt: list[int]) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS + 1, ignore_eos=True)
        return [step.token_id for step in generate_cached(model, prompt, params)]

    @torch.inference_mode()
    def prefill(prompt: list[int]) -> list[int]:
        cache = KVCache(model.config, len(prompt), dtype=model.dtype, device=model.device)
        tokens = torch.tensor([prompt], device=model.device)                    # [1, T]
        last = model.hidden(tokens, kv=cache)[0, -1]                            # [D]
        return [int(model.lm_head(last).argmax())]
    return Side(name, decode, prefill, exact=exact)


def through_engine(model: Transformer, name: str, exact: bool) -> Side:
    """The same model through `Engine`, alone in it: the cache is in blocks, and every token is scheduled and
    recorded. Its prefix cache is off, or it would know the prompt of the turn before. Its cache has room for
    this request and no other, so that a GPU has some left for the other sides."""
    longest = PREFILL_TOKENS + NEW_TOKENS + 1
    blocks = -(-longest // _BLOCK)
    engine = Engine(
        model,
        cache_bytes=blocks * PagedCache.block_bytes(model.config, _BLOCK, model.dtype),
        block_size=_BLOCK,
        max_model_len=longest,
        token_budget=PREFILL_TOKENS,
        max_running=1,
        prefix_caching=False,
    )

    def make(prompt: list[int], tokens: int) -> list[int]:
        engine.add("the only one", prompt, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
        return [made.token_id for record in engine.stream() for made in record.made]
    return _side(name, make, exact)


def theirs(model: Any, name: str, exact: bool) -> Side:
    """transformers with one request."""
    def make(prompt: list[int], tokens: int) -> list[int]:
        return transformers_generate(model, prompt, tokens)
    return _side(name, make, exact)
