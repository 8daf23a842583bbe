"""`python -m aiinfra bench gpu`: the engine on a GPU, against what its memory allows and against
transformers.

    decode, 1 request, 8B and 1B       G1, G2    bytes/s of weights ÷ read bandwidth, measured in this run
    decode, 1 request, 135M            G3        CUDA graphs ÷ the same kernels launched one by one
    256 requests, 100 to 1,024 tokens  G4, G5    useful tokens a second ÷ transformers' static batches
    in and out                                   of the best size; ÷ its `generate_batch`
    64 requests decode                 G13       share of a profiler's trace in which no kernel runs

Speed does not depend on what has been learnt: published shapes, random weights, no file. A part that fails
is a row that says why, and the others are measured. Who is measured has the GPU to itself: its cache takes
most of the memory that is free. Notebook 14.
"""

import gc
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from aiinfra.bench.load import EngineServer, Server, decoding, duration, replay
from aiinfra.bench.peers.transformers import GenerateBatch, StaticBatches, transformers_twin
from aiinfra.bench.row import Row, reason_of
from aiinfra.bench.trace import TraceRequest, random_trace
from aiinfra.device import as_device, as_dtype, gpu_report, synchronize
from aiinfra.engine.engine import Engine
from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.layers import RotaryEmbedding
from aiinfra.perf import gaps
from aiinfra.perf.hardware import read_bandwidth
from aiinfra.perf.profile import ON_A_GPU

# From the config.json of HuggingFaceTB/SmolLM2-135M, meta-llama/Llama-3.1-8B, meta-llama/Llama-3.2-1B and
# Qwen/Qwen3-0.6B, but for the context.
SHAPES = {
    "SmolLM2-135M": ModelConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=1536,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
    ),
    "Llama-8B": ModelConfig(
        vocab_size=128_256,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=14_336,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
    ),
    "Llama-1B": ModelConfig(
        vocab_size=128_256,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=8192,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
    ),
    "Qwen3-0.6B": ModelConfig(
        vocab_size=151_936,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        tie_word_embeddings=True,
        qk_norm=True,
    ),
}
STEPS, CONTEXT = 64, 128                  # decode steps that are timed; tokens of each prompt before them
REQUESTS, LENGTHS = 256, (100, 1024)      # of the trace; tokens of a prompt, and of an answer
BATCH_SIZES = (64, 128, 256)              # of transformers' static batches: the best one counts
STEP_TOKENS = 8192                        # nobody waits for a next token, so prompts are read in large pieces
_CPU_MADE = 5e-6                          # kernels of one graph follow each other within about a microsecond


def bench_gpu(seed: int = 0, device: torch.device | None = None) -> Iterator[Row]:
    """The rows, each as soon as it is measured. Raises ValueError where there is no GPU."""
    if device is None and as_device(None).type != "cuda":
        raise ValueError(f"these rows are about a GPU. {gpu_report()}")
    device = as_device(device)
    for target, shape, rows in PARTS:
        yield from part_rows(target, lambda: rows(shape, random_model(SHAPES[shape], device), seed))
        tidy(device)                     # the next one has the memory to itself


def part_rows(target: str, measure: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows of a part; if it fails, those that it had, and one that says why."""
    try:
        yield from measure()
    except Exception as failed:           # whatever one part does, the others are measured
        note = f"failed: {reason_of(failed)}"
        yield Row(f"part {target}", ours=None, unit="", note=note, target=target)


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype | None = None) -> Transformer:
    """A model of this shape with random weights, in the device's usual dtype: made in it, because float32
    would take twice the memory first."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(as_dtype(dtype, device))
    try:
        with torch.device(device):
            model = Transformer(config)
    finally:
        torch.set_default_dtype(usual)
    model.rotary = RotaryEmbedding(config).to(device)                    # its frequencies stay float32
    return model.eval().requires_grad_(False)


def graph_rows(shape: str, model: Transformer, seed: int) -> Iterator[Row]:
    """Decode of one request with CUDA graphs, beside the same kernels launched one by one."""
    yield Row(
        name=f"decode, 1 request, {shape} shape",
        ours=1 / decode_seconds(model, cuda_graphs=True),
        unit="tok/s",
        peer=1 / decode_seconds(model, cuda_graphs=False),
        peer_name="the same without CUDA graphs",
        note=_about(model),
        target="G3",
    )


def bandwidth_rows(shape: str, model: Transformer, seed: int) -> Iterator[Row]:
    """Bytes of weights that one request's decode steps read a second, beside what this GPU's memory can
    give."""
    seconds = decode_seconds(model)
    yield Row(
        name=f"decode, 1 request, {shape} shape",
        ours=model.weight_bytes() / seconds / 1e9,
        unit="GB/s",
        peer=read_bandwidth(model.device) / 1e9,
        peer_name="read, measured in this run",
        note=f"{1 / seconds:.4g} tok/s, {_about(model)}",
        target={"Llama-8B": "G1", "Llama-1B": "G2"}[shape],
    )


def decode_seconds(model: Transformer, requests: int = 1, **engine_options: Any) -> float:
    """Seconds of a decode step: the mean of STEPS, because an engine that runs one step ahead begins a step
    before the last one has ended, and a single step cannot be timed."""
    server = _decoding(model, requests, **engine_options)
    start = time.perf_counter()
    for _ in range(STEPS):
        server.step()
    synchronize(model.device)
    return (time.perf_counter() - start) / STEPS


def idle_rows(shape: str, model: Transformer, seed: int, requests: int = 64) -> Iterator[Row]:
    """How long the GPU waits: in gaps that only the CPU can have made, and in all of them. The profiler slows
    the CPU, so idleness is overstated."""
    server = _decoding(model, requests)
    spans = busy_spans(partial(_steps, server), model.device)
    if not spans:
        raise RuntimeError("the profiler's trace has no kernels: it may not look into this GPU (in a "
                           "container, CUPTI needs the right to).")
    idle = [end - start for start, end in gaps(spans)]
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    between = [gap for gap in idle if gap > _CPU_MADE]
    step_milliseconds = 1e3 * whole / STEPS
    yield Row(
        name=f"GPU idle between steps, {requests} requests",
        ours=100 * sum(between) / whole,
        unit="%",
        note=f"{len(between)} gaps above {1e6 * _CPU_MADE:.0f} µs in {STEPS} steps "
             f"of {step_milliseconds:.3g} ms, {shape} shape, {_about(model)}",
        target="G13",
    )
    note = f"{len(idle)} gaps, {len(spans)} kernels"
    yield Row("   with the gaps between a step's kernels", 100 * sum(idle) / whole, "%", note=note)


def _steps(server: Server) -> None:
    for _ in range(STEPS):
        server.step()


def busy_spans(work: Callable[[], object], device: torch.device) -> list[tuple[float, float]]:
    """When a GPU was running a kernel or a copy, or a CPU an operation: (start, end) in seconds, from a
    profiler's trace."""
    activity, kinds = ProfilerActivity.CPU, ("cpu_op",)
    if device.type == "cuda":
        activity, kinds = ProfilerActivity.CUDA, ON_A_GPU
    with profile(activities=[activity]) as seen:
        work()
        synchronize(device)
    events = [event for event in _events(seen) if event.get("cat") in kinds]
    return [(1e-6 * event["ts"], 1e-6 * (event["ts"] + event["dur"])) for event in events]


def _events(seen: profile) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def throughput_rows(shape: str, model: Transformer, seed: int = 0) -> Iterator[Row]:
    """Useful tokens a second over a trace, beside transformers' static batches and its continuous ones."""
    trace = random_trace(REQUESTS, model.config.vocab_size, seed, LENGTHS, LENGTHS)
    ours, _ = _served(trace, model.device, partial(_our_server, model, trace))
    row = Row(f"{REQUESTS} requests, {shape} shape", ours, "tok/s")
    yield replace(row, name="   ours, before the others have run")
    twin = transformers_twin(model.config, model.dtype, model.device)
    if twin is None:
        yield replace(row, note="transformers is not installed", target="G4")
        return
    prompts = sum(len(request.prompt) for request in trace)
    wanted = sum(request.output_tokens for request in trace)
    row = replace(row, note=f"{prompts:,} tokens in, {wanted:,} out, {_about(model)}")
    rate, name = max(_static(trace, twin, size) for size in BATCH_SIZES)
    yield replace(row, peer=rate, peer_name=name, target="G4")
    rate, name = _served(trace, model.device, partial(GenerateBatch, *twin))
    yield replace(row, peer=rate, peer_name=name, target="G5")


def _our_server(model: Transformer, trace: list[TraceRequest]) -> EngineServer:
    longest = max(len(request.prompt) + request.output_tokens for request in trace)
    engine = Engine(model, max_model_len=longest, max_running=REQUESTS, token_budget=STEP_TOKENS)
    return EngineServer(engine)


def _static(trace: list[TraceRequest], twin: tuple[Any, str], size: int) -> tuple[float, str]:
    model, _ = twin
    server = StaticBatches(*twin, size)
    try:
        return _served(trace, model.device, lambda: server)
    except torch.OutOfMemoryError:                       # its caches grow with the longest of the batch
        return 0.0, f"{server.name}: out of memory"


def _served(trace: list[TraceRequest], device: torch.device, make: Callable[[], Server]) -> tuple[float, str]:
    """Useful tokens a second, and the server's name; nothing of it is left on the GPU."""
    server = make()
    wanted = sum(request.output_tokens for request in trace)
    try:
        replay(server, [TraceRequest(request.prompt, 2) for request in trace[:2]])       # warm-up
        return wanted / duration(replay(server, trace)), server.name
    finally:
        if isinstance(server, GenerateBatch):
            server.close()
        del server
        tidy(device)


PARTS: list[tuple[str, str, Callable[[str, Transformer, int], Iterator[Row]]]] = [
    ("G3", "SmolLM2-135M", graph_rows), ("G2", "Llama-1B", bandwidth_rows),
    ("G1", "Llama-8B", bandwidth_rows), ("G13", "Qwen3-0.6B", idle_rows),
    ("G4", "Qwen3-0.6B", throughput_rows)]


def tidy(device: torch.device) -> None:
    """Give back what nobody uses any more: the next one sizes its cache by what is free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _decoding(model: Transformer, requests: int, **engine_options: Any) -> EngineServer:
    tidy(model.device)
    output = 4 * STEPS
    engine = Engine(
        model,
        max_model_len=CONTEXT + output,
        max_running=requests,
        token_budget=max(512, requests),
        **engine_options,
    )
    return decoding(engine, requests, CONTEXT, output, random.Random(0))


def _about(model: Transformer) -> str:
    return str(model.dtype).removeprefix("torch.")
