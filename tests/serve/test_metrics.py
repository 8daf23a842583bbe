"""Counts are those of what was asked, gauges go back to 0, and two servers do not mix."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families
from tests.serve.parrot import Client, completion, parrot, until

PER_REQUEST = ("time_to_first_token_seconds", "e2e_request_latency_seconds",
               "request_queue_time_seconds",
               "request_prefill_time_seconds", "request_decode_time_seconds",
               "request_inference_time_seconds",
               "request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens",
               "request_params_n", "request_time_per_output_token_seconds")


async def read(served) -> dict[str, float]:
    """Name, and reason where there is one -> value."""
    response = await served.client.get("/../metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            reason = sample.labels.get("finished_reason", "")
            if "le" not in sample.labels:
                assert sample.labels["model_name"] == "parrot"
                found[sample.name.removeprefix("vllm:") + reason] = sample.value
    return found


def test_counts_are_those_of_what_was_asked() -> None:
    async def run():
        async with parrot("one two three", options={"prefix_caching": False}) as served, parrot("x") as other:
            tokens = len(served.runner.script) + 1
            for n in (1, 1, 2):
                more = {"temperature": 1, "n": n} if n > 1 else {}
                assert (await served.client.post("completions", json=completion(**more))).is_success
            cut = completion(prompt=["a", "b"], max_tokens=2)
            assert (await served.client.post("completions", json=cut)).is_success
            found = await read(served)
            for name in PER_REQUEST:
                assert found[f"{name}_count"] == 5, name
            assert found["request_success_totalstop"] == 3
            assert found["request_success_totallength"] == 2
            made = 4 * tokens + 4
            assert found["generation_tokens_total"] == found["request_generation_tokens_sum"] == made
            assert found["prompt_tokens_total"] == found["request_prompt_tokens_sum"] > 0
            gaps = 4 * (tokens - 1) + 2
            assert found["inter_token_latency_seconds_count"] == gaps
            assert found["time_per_output_token_seconds_count"] == gaps
            assert found["e2e_request_latency_seconds_sum"] >= found["time_to_first_token_seconds_sum"] > 0
            assert found["num_requests_running"] == found["num_requests_waiting"] == 0
            assert found["kv_cache_usage_perc"] == found["gpu_cache_usage_perc"] == 0
            assert (await read(other))["time_to_first_token_seconds_count"] == 0
            text = (await served.client.get("/../metrics")).text
            assert 'block_size="16"' in text and 'num_gpu_blocks="256"' in text
    asyncio.run(run())


def test_gauges_rise_and_go_back_after_a_hang_up() -> None:
    async def run():
        async with parrot("word " * 60, options={"max_running": 1}) as served:
            served.runner.seconds = 0.01
            clients = [Client(served.app, "completions", completion()).start() for _ in range(2)]
            await until(lambda: served.engine.scheduler.waiting and served.engine.pool.used)
            found = await read(served)
            assert found["num_requests_running"] == found["num_requests_waiting"] == 1
            assert 0 < found["kv_cache_usage_perc"] < 1
            for client in clients:
                client.gone.set()
            await until(lambda: not served.engine.unfinished)
            await until(lambda: not served.thread.open)
            found = await read(served)
            assert found["num_requests_running"] == found["num_requests_waiting"] == 0
            assert found["kv_cache_usage_perc"] == 0 and found["request_success_totalabort"] == 2
            assert found["e2e_request_latency_seconds_count"] == 0
    asyncio.run(run())


def test_what_was_found_in_the_cache_is_counted() -> None:
    async def run():
        async with parrot("ok") as served:
            body = completion(prompt=[1] * 40)
            first, second = [(await served.client.post("completions", json=body)).json() for _ in range(2)]
            assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            hits = second["usage"]["prompt_tokens_details"]["cached_tokens"]
            found = await read(served)
            assert found["prefix_cache_hits_total"] == hits == 32
            assert found["prefix_cache_queries_total"] == found["prompt_tokens_total"] == 80
    asyncio.run(run())
