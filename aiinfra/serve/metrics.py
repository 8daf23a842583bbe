"""What dashboards and routers read, under vLLM's names, counted from the engine's StepRecords.

    arrival ── queue ──> first step ── prefill ──> first token ── decode ──> last token
    └────── time to first token ──────────────────┘└ gap ┘└ gap ┘
    └────── end to end ────────────────────────────────────────┘

Counts happen on the engine thread, one call a step; a gauge is read when somebody asks, so it is right, and
0, after whatever has happened. The registry is this server's own: two in a process do not mix. Names: vLLM's
documentation of its metrics; gpu_cache_usage_perc is an older one that some routers still read. Notebook 15.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from aiinfra.engine.output import RequestOutput
from aiinfra.engine.record import StepRecord
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.serve.engine_thread import EngineThread
from aiinfra.serve.ticket import Ticket

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
            160, 640, 2560)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
_ANSWERS = (1, 2, 5, 10, 20)

_COUNTERS = {
    "prompt_tokens": "tokens of prompts whose answers have begun",
    "generation_tokens": "tokens made",
    "prefix_cache_queries": "tokens of prompts that were looked up in the cache",
    "prefix_cache_hits": "tokens of prompts that were found in the cache",
    "num_preemptions": "times that a request was pushed out to start again",
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("from a request's arrival to its first token", _SECONDS),
    "inter_token_latency_seconds": ("between two tokens of an answer", _SECONDS),
    "time_per_output_token_seconds": ("the same, under its older name", _SECONDS),
    "request_time_per_output_token_seconds": ("mean gap between a request's tokens", _SECONDS),
    "e2e_request_latency_seconds": ("from a request's arrival to its last token", _SECONDS),
    "request_queue_time_seconds": ("from a request's arrival to its first step", _SECONDS),
    "request_prefill_time_seconds": ("from its first step to its first token", _SECONDS),
    "request_decode_time_seconds": ("from its first token to its last", _SECONDS),
    "request_inference_time_seconds": ("from its first step to its last token", _SECONDS),
    "request_prompt_tokens": ("tokens of a request's prompts", _TOKENS),
    "request_generation_tokens": ("tokens of a request's answers", _TOKENS),
    "request_params_max_tokens": ("the most tokens that an answer may have", _TOKENS),
    "request_params_n": ("answers that a request asks for", _ANSWERS),
    "iteration_tokens_total": ("tokens that a step runs", _TOKENS),
}


@dataclass
class _Times:
    """Of one request, that is one prompt, in seconds of `time.perf_counter`."""

    arrived: float
    prompt_tokens: int
    begun: float | None = None
    first: float | None = None
    last: float = 0.0
    of_answer: dict[int, float] = field(default_factory=dict)          # by index, its last token


class Metrics:
    """Counts what `thread` does, for the model that is called `name`."""

    def __init__(self, thread: EngineThread, name: str) -> None:
        self.thread = thread
        self.registry = CollectorRegistry()
        self._labels = {"model_name": name, "engine": "0"}
        self._counters = {key: self._make(Counter, key, said) for key, said in _COUNTERS.items()}
        self._histograms = {key: self._make(Histogram, key, said, buckets=buckets)
                            for key, (said, buckets) in _HISTOGRAMS.items()}
        self._ends = Counter("vllm:request_success", "requests that ended, by reason",
                             [*self._labels, "finished_reason"], registry=self.registry)
        self._add_gauges()
        self._add_cache()
        self._times: dict[str, _Times] = {}                            # by the engine's name of a request
        thread.on_submit.append(self._arrived)
        thread.on_step.append(self._stepped)
        thread.on_end.append(self._ended)

    @property
    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)

    def _make(self, kind: type[MetricWrapperBase], name: str, said: str,
              **options: object) -> MetricWrapperBase:
        metric = kind(f"vllm:{name}", said, list(self._labels), registry=self.registry, **options)
        return metric.labels(**self._labels)

    def _add_gauges(self) -> None:
        def usage() -> float:
            pool = self.thread.llm.engine.pool
            return pool.used / pool.total
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "num_requests_running": ("answers that run side by side", lambda: self.thread.running),
            "num_requests_waiting": ("requests that have not begun", lambda: self.thread.waiting),
            "kv_cache_usage_perc": ("share of the cache's blocks that somebody owns, 0 to 1", usage),
            "gpu_cache_usage_perc": ("the same, under its older name", usage),
        }
        for name, (said, read) in gauges.items():
            self._make(Gauge, name, said).set_function(read)

    def _add_cache(self) -> None:
        pool = self.thread.llm.engine.pool
        sizes = {"block_size": str(pool.block_size), "num_gpu_blocks": str(pool.total)}
        self._make(Info, "cache_config", "the cache's blocks").info(sizes)

    def _arrived(self, ticket: Ticket) -> None:
        for request in ticket.requests:
            self._times[request.request_id] = _Times(ticket.arrived, len(request.prompt_token_ids))

    def _stepped(self, record: StepRecord) -> None:
        now = time.perf_counter()
        step_seconds = record.plan_seconds + record.model_seconds + record.sample_seconds
        starts = {name: first for name, first, _ in record.ran}
        for name in record.admitted:
            if name in self._times and name in starts:
                self._began(self._times[name], starts[name], now - step_seconds)
        for made in record.made:
            if times := self._times.get(made.request_id):
                self._grew(times, made.index, now)
        self._counters["generation_tokens"].inc(len(record.made))
        self._counters["num_preemptions"].inc(len(record.preempted))
        self._observe("iteration_tokens_total", sum(count for _, _, count in record.ran))

    def _began(self, times: _Times, found: int, now: float) -> None:
        if times.begun is not None:                          # it begins again: its prompt has been counted
            return
        times.begun = now
        self._counters["prompt_tokens"].inc(times.prompt_tokens)
        self._counters["prefix_cache_queries"].inc(times.prompt_tokens)
        self._counters["prefix_cache_hits"].inc(found)
        self._observe("request_queue_time_seconds", now - times.arrived)

    def _grew(self, times: _Times, index: int, now: float) -> None:
        if times.first is None:
            times.first = now
            self._observe("time_to_first_token_seconds", now - times.arrived)
        if index in times.of_answer:
            gap = now - times.of_answer[index]
            self._observe("inter_token_latency_seconds", gap)
            self._observe("time_per_output_token_seconds", gap)
        times.of_answer[index] = now
        times.last = now

    def _ended(self, ticket: Ticket) -> None:
        for request in ticket.requests:
            times = self._times.pop(request.request_id, None)
            reasons = {out.finish_reason for out in request.outputs}
            self._ends.labels(**self._labels, finished_reason=self._reason(reasons)).inc()
            if times is not None and reasons <= {"stop", "length"}:
                self._completed(times, ticket.params, request)

    def _reason(self, reasons: set[str | None]) -> str:
        """Of a request, by those of its answers."""
        if self.thread.state == "failed" or "error" in reasons:
            return "error"
        if None in reasons:
            return "abort"
        return "length" if "length" in reasons else "stop"

    def _completed(self, times: _Times, params: SamplingParams, request: RequestOutput) -> None:
        tokens = [len(out.token_ids) for out in request.outputs]
        decode = times.last - times.first
        self._observe("e2e_request_latency_seconds", times.last - times.arrived)
        self._observe("request_prefill_time_seconds", times.first - times.begun)
        self._observe("request_inference_time_seconds", times.last - times.begun)
        self._observe("request_decode_time_seconds", decode)
        self._observe("request_time_per_output_token_seconds", decode / max(1, max(tokens) - 1))
        self._observe("request_prompt_tokens", times.prompt_tokens)
        self._observe("request_generation_tokens", sum(tokens))
        self._observe("request_params_n", params.n)
        if params.max_tokens is not None:
            self._observe("request_params_max_tokens", params.max_tokens)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)
