"""`python -m aiinfra bench load`: a fresh process, from its first import to its first token, and the peak of
its memory.

    import torch, aiinfra ──► read the file ──► 1 token       seconds, and what memory grew by at the highest
"""

import resource
import time
from collections.abc import Iterator
from importlib import import_module

from aiinfra.bench.row import Row
from aiinfra.environment import triton_interpreted
from aiinfra.gpu.process import ChildFailed, call


def bench_load(model_name: str) -> Iterator[Row]:
    """Seconds from a fresh process's first import to the first token, and what its memory grew by at the
    peak. Raises RuntimeError with the process's last words if it fails."""
    import_module("aiinfra.checkpoint.hub").resolve(model_name)          # a download is no part of it
    try:
        seconds, grown, weights = call(_first_token, model_name, interpret=triton_interpreted())
    except ChildFailed as failed:
        said = str(failed).splitlines() or [f"exit status {failed.exit_code}"]
        raise RuntimeError(f"the measured process failed: {said[-1]}") from failed
    yield Row("load to first token", seconds, "s", note="imports included")
    note = f"{grown / 1e6:.0f} MB over {weights / 1e6:.0f} MB"
    yield Row("peak memory ÷ float32 weights", grown / weights, "", note=note)


def _first_token(model_name: str) -> tuple[float, int, int]:
    """What the fresh process does: seconds, bytes that memory grew by, bytes of the weights in float32."""
    start = time.perf_counter()
    llm_type, params_type = _imported("LLM", "SamplingParams")
    before = _peak_bytes()
    llm = llm_type(model_name, dtype="float32", device="cpu")
    llm.generate("The sea is", params_type(max_tokens=1, temperature=0))
    weights = llm.model.weight_bytes(tokens=1 << 30)     # so many read every expert, if there are any
    if not llm.model.config.tie_word_embeddings:         # no decode step reads it, so it is not counted there
        weights += llm.model.embed.weight.nbytes
    return time.perf_counter() - start, _peak_bytes() - before, weights


def _imported(*names: str) -> list[type]:
    """These from the engine, and PyTorch with it: part of what is measured, so nothing above imports it."""
    engine = import_module("aiinfra.engine")
    return [getattr(engine, name) for name in names]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
