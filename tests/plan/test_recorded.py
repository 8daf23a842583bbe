"""Others' requests, one by one, through the simulator."""

import pytest

from aiinfra.plan.recorded import SETUPS, recorded_rows, timed_requests

# What is reached; the median TPOT is set by the factor. The second setup's queue just begins when the last
# request has come, so its TTFT P90 is off the most.
WITHIN = {
    "llama-3.1-8b on 1 × RTX 4090": {"TTFT": 0.07, "TPOT": 0.03, "tokens a second": 0.02},
    "qwen3-30b-a3b on 2 × RTX PRO 6000": {"TTFT": 0.15, "TPOT": 0.06, "tokens a second": 0.03},
}


@pytest.mark.parametrize("name", SETUPS)
def test_the_distribution_of_both_waits_is_predicted(name: str) -> None:
    rows = list(recorded_rows(SETUPS[name]))
    assert len(rows) == 11 and sum(row.calibrated for row in rows) == 1
    for row in rows:
        [bound] = [bound for figure, bound in WITHIN[name].items() if row.figure.startswith(figure)]
        assert abs(row.error) <= bound, f"{row}"


def test_the_file_is_what_was_measured() -> None:
    """Two lines, and sums that were told elsewhere: 300 requests, 257,239 tokens in, 195,753 out."""
    requests = timed_requests("llama-3.1-8b on 1 × RTX 4090")
    first = requests[0]
    assert (first.arrival_seconds, first.prompt_tokens, first.output_tokens) == (0.0, 2358, 531)
    assert first.ttft_seconds == pytest.approx(0.689)
    assert len(requests) == 300
    assert sum(request.prompt_tokens for request in requests) == 257_239
    assert sum(request.output_tokens for request in requests) == 195_753
    assert all(r.arrival_seconds <= r.first_seconds <= r.last_seconds for r in requests)
