"""Training on a GPU: the model's FLOPs a second, as a share of what its matrix units could do (G11).

    Llama-1B's shape, random weights in float32, autocast to bfloat16, AdamW; 4 texts of 4,096 tokens a step
    MFU = 6 FLOPs a weight and token, and attention's causal pairs / seconds / the maker's figure

Half as many texts where memory ends. What autocast, the optimizer and the loss cost counts as time, and not
as FLOPs. on_paper.py says beforehand where the time goes. Notebook 04.
"""

import re
import time
from collections.abc import Iterator

import torch

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.row import Row
from aiinfra.bench.train import random_texts
from aiinfra.device import default_device, device_name, synchronize
from aiinfra.model import ModelConfig, Transformer
from aiinfra.perf.hardware import SHEETS, matmul_flops
from aiinfra.perf.training import decoder_flops
from aiinfra.train.compiled import compile_layers
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw

SHAPE = "Llama-1B"
TEXTS, LENGTH = 4, 4096                   # of a step; tokens of each
STEPS, WARMUP = 6, 3                      # that count; before them
WAYS = (False, True)                      # whether layers are compiled


def training_rows(device: torch.device | None = None) -> Iterator[Row]:
    """Model FLOPs a second beside the units' rate, as the model is, and with its layers compiled."""
    device = device or default_device()
    config = bench_gpu.SHAPES[SHAPE]
    peak, source = units_rate(device)
    names = {False: (f"training, {SHAPE} shape", "G11"), True: ("   its layers compiled", "")}
    for compiled in WAYS:
        name, target = names[compiled]
        seconds, texts = _seconds_that_fit(config, device, compiled)
        done = decoder_flops(config, [LENGTH] * texts) / seconds
        tokens = texts * LENGTH
        yield Row(
            name=name,
            ours=done / 1e12,
            unit="TFLOP/s",
            peer=peak / 1e12,
            peer_name=source,
            note=f"{tokens:,} tokens a step of {1e3 * seconds:.4g} ms, {tokens / seconds:.4g} tok/s",
            target=target,
        )


def units_rate(device: torch.device) -> tuple[float, str]:
    """FLOP/s in bfloat16 of the maker's sheet, or where we have none, of a large product; and which."""
    name = device_name(device)
    for sheet in SHEETS.values():
        family, *_ = sheet.name.split()
        if family in re.split(r"\W", name) and sheet.bfloat16 is not None:
            return sheet.bfloat16, f"the sheet of {sheet.name}"
    return matmul_flops(device, torch.bfloat16), "its own best product"


def _seconds_that_fit(config: ModelConfig, device: torch.device, compiled: bool) -> tuple[float, int]:
    """Of a step, and of how many texts: half as many each time that memory ends."""
    texts = TEXTS
    while True:
        try:
            return _step_seconds(config, device, texts, compiled), texts
        except torch.OutOfMemoryError:
            if texts == 1:
                raise
        bench_gpu.tidy(device)
        texts //= 2


def _step_seconds(config: ModelConfig, device: torch.device, texts: int, compiled: bool) -> float:
    model: Transformer = bench_gpu.random_model(config, device, torch.float32).requires_grad_(True)
    if compiled:
        compile_layers(model)
    steps = STEPS + WARMUP
    batches = [random_texts([LENGTH] * texts, config.vocab_size, seed) for seed in range(steps)]
    schedule = Schedule(peak=1e-4, steps=steps)
    ends = []
    for _ in loop(model, batches, adamw(model), schedule, autocast=torch.bfloat16):
        synchronize(device)
        ends.append(time.perf_counter())
    return (ends[-1] - ends[WARMUP - 1]) / STEPS
