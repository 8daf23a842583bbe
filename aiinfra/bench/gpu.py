"""`python -m aiinfra bench gpu`: the engine on a GPU, against what its memory allows and against transformers.

    G1, G2   one request decodes, 8B and 1B parameters       bytes/s of weights ÷ read bandwidth, measured in this run
    G3       one request decodes, 135M parameters            CUDA graphs ÷ the same kernels launched one by one
    G4, G5   256 requests, 100 to 1,024 tokens in and out    useful tokens a second ÷ transformers' static batches of
                                                             the best size; ÷ its `generate_batch`
    G13      64 requests decode                              share of a profiler's trace in which no kernel runs

Speed does not depend on what has been learnt, so all but G3 have published shapes and random weights. Who is measured
has the GPU to itself: its cache takes most of the memory that is free. Notebook 14.
"""

import gc
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from aiinfra.device import as_device, as_dtype, gpu_report, synchronize
from aiinfra.bench.decode import Row
from aiinfra.bench.steps import EngineServer, decoding
from aiinfra.engine.engine import Engine
from aiinfra.bench.peers import GenerateBatch, StaticBatches, transformers_twin
from aiinfra.bench.load import Server, TraceRequest, duration, random_trace, replay
from aiinfra.checkpoint import load
from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.layers import RotaryEmbedding
from aiinfra.perf import gaps
from aiinfra.perf.hardware import read_bandwidth

# From the config.json of meta-llama/Llama-3.1-8B, meta-llama/Llama-3.2-1B and Qwen/Qwen3-0.6B, but for the context.
SHAPES = {
    "Llama-8B": ModelConfig(128_256, 4096, 32, 32, 8, 128, 14_336, 8192, 1e-5, 500_000.0),
    "Llama-1B": ModelConfig(128_256, 2048, 16, 32, 8, 64, 8192, 8192, 1e-5, 500_000.0, tie_word_embeddings=True),
    "Qwen3-0.6B": ModelConfig(151_936, 1024, 28, 16, 8, 128, 3072, 8192, 1e-6, 1e6, tie_word_embeddings=True, qk_norm=True),
}
STEPS, CONTEXT = 64, 128                  # decode steps that are timed; tokens of each prompt before them
REQUESTS, LENGTHS, BATCH_SIZES = 256, (100, 1024), (64, 128, 256)
STEP_TOKENS = 8192                        # of G4's engine: nobody waits for a next token, so prompts are read in large pieces
_CPU_MADE = 5e-6                          # kernels of one graph follow each other within about a microsecond


def bench_gpu(model_name: str, seed: int = 0, device: torch.device | None = None) -> Iterator[Row]:
    """The rows, each as soon as it is measured; `model_name` is G3's. Raises ValueError where there is no GPU."""
    if device is None and as_device(None).type != "cuda":
        raise ValueError(f"these rows are about a GPU. {gpu_report()}")
    device = as_device(device)
    yield graph_row(load(model_name, device=device)[0])
    for row, shape in (("G2", "Llama-1B"), ("G1", "Llama-8B")):
        yield bandwidth_row(row, shape, random_model(SHAPES[shape], device))
    yield from idle_rows("Qwen3-0.6B", random_model(SHAPES["Qwen3-0.6B"], device))
    yield from throughput_rows("Qwen3-0.6B", random_model(SHAPES["Qwen3-0.6B"], device), seed)


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype | None = None) -> Transformer:
    """A model of this shape with random weights, in the device's usual dtype."""
    with torch.device(device):
        model = Transformer(config).to(as_dtype(dtype, device))
    model.rotary = RotaryEmbedding(config).to(device)                    # its frequencies stay float32
    return model.eval().requires_grad_(False)


def graph_row(model: Transformer) -> Row:
    """G3."""
    graphs, eager = (1 / decode_seconds(model, cuda_graphs=graphs) for graphs in (True, False))
    return Row("G3 decode, 1 request, 135M", graphs, "tok/s", eager, "the same without CUDA graphs", _about(model))


def bandwidth_row(name: str, shape: str, model: Transformer) -> Row:
    """G1 and G2."""
    seconds = decode_seconds(model)
    return Row(f"{name} decode, 1 request, {shape} shape", model.weight_bytes() / seconds / 1e9, "GB/s",
               read_bandwidth(model.device) / 1e9, "read, measured in this run", f"{1 / seconds:.4g} tok/s, {_about(model)}")


def decode_seconds(model: Transformer, requests: int = 1, **engine_options: Any) -> float:
    """Seconds of a decode step, the mean of STEPS: one ahead, a single one has no beginning of its own."""
    server = _decoding(model, requests, **engine_options)
    start = time.perf_counter()
    for _ in range(STEPS):
        server.step()
    synchronize(model.device)
    return (time.perf_counter() - start) / STEPS


def idle_rows(shape: str, model: Transformer, requests: int = 64) -> Iterator[Row]:
    """G13: gaps that only the CPU can have made, and all of them. The profiler slows the CPU, so idleness is overstated."""
    server = _decoding(model, requests)
    spans = busy_spans(lambda: [server.step() for _ in range(STEPS)], model.device)
    idle, whole = [end - start for start, end in gaps(spans)], max(end for _, end in spans) - min(start for start, _ in spans)
    between = [gap for gap in idle if gap > _CPU_MADE]
    yield Row(f"G13 GPU idle between steps, {requests} requests", 100 * sum(between) / whole, "%", note=(
        f"{len(between)} gaps above {1e6 * _CPU_MADE:.0f} µs in {STEPS} steps of {1e3 * whole / STEPS:.3g} ms, {shape} shape, {_about(model)}"))
    yield Row("   with the gaps between a step's kernels", 100 * sum(idle) / whole, "%", note=f"{len(idle)} gaps, {len(spans)} kernels")


def busy_spans(work: Callable[[], object], device: torch.device) -> list[tuple[float, float]]:
    """When a GPU was running a kernel or a copy, or a CPU an operation: (start, end) in seconds, from a profiler's trace."""
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if device.type == "cuda" else ("cpu_op",)
    with profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]) as seen:
        work()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return [(1e-6 * e["ts"], 1e-6 * (e["ts"] + e["dur"])) for e in events if e.get("cat") in kinds]


def throughput_rows(shape: str, model: Transformer, seed: int = 0) -> Iterator[Row]:
    """G4 and G5."""
    trace = random_trace(REQUESTS, model.config.vocab_size, seed, LENGTHS, LENGTHS)
    longest = max(len(r.prompt) + r.output_tokens for r in trace)
    ours, _ = _served(trace, model.device, lambda: EngineServer(Engine(
        model, max_model_len=longest, max_running=REQUESTS, token_budget=STEP_TOKENS)))
    twin = transformers_twin(model.config, model.dtype, model.device)
    if twin is None:
        yield Row(f"G4 {REQUESTS} requests, {shape} shape", ours, "tok/s", note="transformers is not installed")
        return
    static = max(_static(trace, twin, size) for size in BATCH_SIZES)
    work = f"{sum(len(r.prompt) for r in trace):,} tokens in, {sum(r.output_tokens for r in trace):,} out, {_about(model)}"
    yield Row(f"G4 {REQUESTS} requests, {shape} shape", ours, "tok/s", *static, work)
    yield Row(f"G5 {REQUESTS} requests, {shape} shape", ours, "tok/s", *_served(trace, model.device, lambda: GenerateBatch(*twin)), work)


def _static(trace: list[TraceRequest], twin: tuple[Any, str], size: int) -> tuple[float, str]:
    server = StaticBatches(*twin, size)
    try:
        return _served(trace, twin[0].device, lambda: server)
    except torch.OutOfMemoryError:                       # its caches grow with the longest of the batch
        return 0.0, f"{server.name}: out of memory"


def _served(trace: list[TraceRequest], device: torch.device, make: Callable[[], Server]) -> tuple[float, str]:
    """Useful tokens a second, and the server's name; nothing of it is left on the GPU."""
    server = make()
    try:
        replay(server, [TraceRequest(r.prompt, 2) for r in trace[:2]])                   # warm-up
        return sum(r.output_tokens for r in trace) / duration(replay(server, trace)), server.name
    finally:
        if isinstance(server, GenerateBatch):
            server.close()
        del server
        _tidy(device)


def _tidy(device: torch.device) -> None:
    """Give back what nobody uses any more: the next one sizes its cache by what is free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _decoding(model: Transformer, requests: int, **engine_options: Any) -> EngineServer:
    _tidy(model.device)
    output = 4 * STEPS
    engine = Engine(model, max_model_len=CONTEXT + output, max_running=requests, token_budget=max(512, requests), **engine_options)
    return decoding(engine, requests, CONTEXT, output, random.Random(0))


def _about(model: Transformer) -> str:
    return str(model.dtype).removeprefix("torch.")
