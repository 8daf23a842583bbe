"""Every way in which an engine asks a GPU for its steps makes the same tokens.

    plain        each kernel asked for, each step waited for        the tokens that count
    graphs       a step recorded, and replayed padded                = the same?
    one ahead    the next step asked for before this one is read     = the same?
    guesses      several tokens checked in a step                    = the same?

In float32, where rounding decides no argmax of a random model. Notebook 14.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import torch

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.row import Row
from aiinfra.device import default_device
from aiinfra.engine.engine import Engine
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer

WAYS = {
    "graphs": {"cuda_graphs": True, "overlap": False},
    "one step ahead": {"cuda_graphs": False, "overlap": True},
    "graphs and one ahead": {"cuda_graphs": True, "overlap": True},
    "graphs and guesses": {"cuda_graphs": True, "speculative": "prompt_lookup"},
}
_REQUESTS, _TOKENS, _LAYERS = 12, 40, 4


def token_rows(device: torch.device | None = None) -> Iterator[Row]:
    """A row a way: the share of equal tokens, in per cent; its note begins with "failed" if not all are."""
    shape = replace(bench_gpu.SHAPES["SmolLM2-135M"], num_hidden_layers=_LAYERS)
    model = bench_gpu.random_model(shape, device or default_device(), torch.float32)
    wanted = _tokens(model, cuda_graphs=False, overlap=False)
    count = sum(map(len, wanted))
    for name, options in WAYS.items():
        made = _tokens(model, **options)
        equal = 0
        for mine, plain in zip(made, wanted):
            equal += sum(a == b for a, b in zip(mine, plain))
        note = f"{equal} of {count} equal those of plain steps"
        if made != wanted:
            note = f"failed: {note}"
        yield Row(f"tokens, {name}", 100 * equal / count, "%", note=note)


def _tokens(model: Transformer, **options: bool | str) -> list[list[int]]:
    """The answers to some prompts of different lengths, half of them with a repetition to guess from."""
    engine = Engine(model, max_running=8, max_model_len=256, cache_bytes=1 << 28, **options)
    rng = random.Random(0)
    for number in range(_REQUESTS):
        prompt = [rng.randrange(1000) for _ in range(5 + 7 * number)]
        if number % 2:
            prompt += prompt
        engine.add(str(number), prompt, SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True))
    answers: dict[str, list[int]] = {str(number): [] for number in range(_REQUESTS)}
    for record in engine.stream():
        for one in record.made:
            answers[one.request_id].append(one.token_id)
    return list(answers.values())
