"""A model on several ranks gives one process's tokens, and who is lost is named."""

import re
import socket
import subprocess
import sys

import pytest
from tests.checkpoint.corpus_parts import byte_level, save, small_model
from tests.serve import rank_functions
from tests.source_tree import ROOT

from aiinfra import LLM
from aiinfra.environment import child_environment
from aiinfra.parallel.launch import RankFailed, launch
from aiinfra.serve.pulse import Health
from aiinfra.serve.ranks import run_on_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random model with four heads, two of them with keys, and its tokenizer."""
    backend = byte_level("<|endoftext|>")
    model = small_model("llama", backend.get_vocab_size())
    return save(tmp_path_factory.mktemp("ranks") / "small", model, backend, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def alone(folder) -> list:
    return rank_functions.all_tokens(LLM(folder, dtype="float32", device="cpu", seed=3))


@pytest.mark.parametrize("options", [
    {}, {"token_budget": 5, "max_running": 3, "prefix_caching": False},
    {"cache_bytes": 30_000, "block_size": 4}, {"overlap": True, "speculative": "prompt_lookup"},
    {"overlap": True},
], ids=["as usual", "chunks", "preempted", "guesses", "one step ahead"])
def test_tokens_are_those_of_one_process(options: dict, folder, alone: list) -> None:
    """Greedy, and drawn with and without seeds of their own, two answers each, prefixes in the cache."""
    found, other = launch(run_on_ranks, 2, rank_functions.tokens_and_health, folder, dtype="float32", seed=3,
                          **options)
    assert other is None
    assert found == (alone, Health(alive=True, ranks=2))


@pytest.mark.parametrize("ranks, options, message", [
    (3, {}, "num_attention_heads=4 cannot be divided among 3 tensor-parallel ranks"),
    (2, {"cuda_graphs": True}, "cuda_graphs=True: steps that several ranks run together are not recorded"),
    (2, {"max_run": 3}, "LLM has no option 'max_run'. Did you mean 'max_running'"),
    (2, {"cache_bytes": 7}, "cache_bytes=7"),
])
def test_what_cannot_be_is_refused_on_all_ranks(ranks: int, options: dict, message: str, folder) -> None:
    said = launch(rank_functions.refused, ranks, folder, **options)
    assert message in said[0]


@pytest.mark.program
def test_a_rank_that_hangs_between_requests_is_named(folder, tmp_path) -> None:
    with pytest.raises(RankFailed, match="RankLost: rank 1 of 2 was not heard of for .* replica is down"):
        launch(rank_functions.a_follower_hangs, 2, folder, True, tmp_path / "errors")


@pytest.mark.program
def test_a_rank_that_hangs_in_a_step_takes_the_replica_down(folder, tmp_path) -> None:
    with pytest.raises(RankFailed, match="rank 0 of 2 ended with exit code 1"):
        launch(rank_functions.a_follower_hangs, 2, folder, False, tmp_path / "errors")
    assert "rank 0 of 2 ends: rank 1 of 2 was not heard of for" in (tmp_path / "errors").read_text()


@pytest.mark.program
def test_a_rank_that_is_killed_is_named_within_seconds(folder) -> None:
    """Processes that nobody else watches, as on two machines."""
    code = ("import sys; from tests.serve.rank_functions import *; "
            "run_on_ranks(answer_until_lost, sys.argv[1])")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    ranks = []
    for rank in ("0", "1"):
        place = child_environment(RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        ranks.append(subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT, env=place, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    try:
        assert ranks[0].stdout.readline() == "answering\n"
        ranks[1].kill()
        _, told = ranks[0].communicate(timeout=15)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode == 1
    assert re.search("RankLost: rank 1 of 2 was not heard of for .* start all ranks again", told), told


@pytest.mark.model
def test_the_real_model_on_three_ranks(real_model: str) -> None:
    """Nine heads, three of them with keys."""
    expected = rank_functions.all_tokens(LLM(real_model, dtype="float32", device="cpu", seed=3))
    found = launch(run_on_ranks, 3, rank_functions.all_tokens, real_model, dtype="float32", seed=3)
    assert found == [expected, None, None]
