"""Decode steps padded to a bucket, recorded or not, are the same steps. What needs a GPU says so."""

import random

import pytest
import torch
from tests.engine.small_model import SMALL, cache_for, decoding

from aiinfra.environment import triton_interpreted
from aiinfra.engine import graphs
from aiinfra.engine.engine import Engine
from aiinfra.engine.graphs import DecodeGraphs, batch_sizes, run_again
from aiinfra.engine.request import Request
from aiinfra.engine.runner import PagedCache, Runner, slots_of
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.kernels import paged_attention, rmsnorm, rope_write, swiglu
from aiinfra.gpu.dry_run import dry_run
from aiinfra.model import ModelConfig, MoEConfig, Transformer, layers

P = 4          # block size of `cache_for` and `decoding`

def test_buckets_cover_every_batch() -> None:
    assert batch_sizes(32) == [1, 2, 4, 8, 16, 24, 32]
    assert batch_sizes(1) == [1]
    assert batch_sizes(3) == [1, 2, 3]
    for largest in range(1, 70):
        sizes = batch_sizes(largest)
        assert sizes == sorted(set(sizes)) and sizes[0] == 1 and largest <= sizes[-1] < largest + 8
        for n in range(1, largest + 1):
            bucket = min(size for size in sizes if size >= n)
            assert bucket < n + 8 and (n > 4 or bucket <= 2 * n)


@pytest.mark.parametrize("lengths", [[0], [3], [5, 4], [9, 0, 17], [1, 2, 3, 4, 5], list(range(8)),
                                     list(range(3, 12))])
def test_padded_logits_are_the_plain_ones(lengths: list[int], small: Transformer) -> None:
    work, cache = decoding(lengths), cache_for(small, 60)
    torch.manual_seed(0)
    cache.k.normal_()
    cache.v.normal_()
    before = cache.k.clone(), cache.v.clone()
    padded = DecodeGraphs(small, cache, 16, 8, run_again)(work).clone()
    after = cache.k.clone(), cache.v.clone()
    cache.k.copy_(before[0])
    cache.v.copy_(before[1])
    plain = Runner(small, cache).run(Plan(work, [], [], []))
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after, (cache.k, cache.v), rtol=1e-4, atol=1e-4)


def test_nobody_else_is_written_to(small: Transformer) -> None:
    cache = cache_for(small, 40)
    cache.k.fill_(7.0)
    cache.v.fill_(7.0)
    graphs = DecodeGraphs(small, cache, 32, 8, run_again)
    assert bool((cache.k == 7).all())                                # recording has written nothing
    graphs(decoding([4, 9, 2]))                                      # 3 rows in a bucket of 4
    graphs(decoding([0, 5, 3, 3, 7]))                                # 5 in 8: three rows of padding
    touched = (cache.k != 7).flatten(3).any(-1).any(0).flatten().nonzero().flatten().tolist()      # slots
    wanted = [slot for lengths in ([4, 9, 2], [0, 5, 3, 3, 7]) for slot in slots_of(decoding(lengths), P)]
    assert set(touched) == set(wanted)


def test_a_batch_after_a_larger_one_sees_none_of_it(small: Transformer) -> None:
    cache = cache_for(small, 60)
    cache.k.normal_()
    cache.v.normal_()
    graphs = DecodeGraphs(small, cache, 8, 8, run_again)
    alone = graphs(decoding([5])).clone()
    graphs(decoding([20, 30, 9, 11, 2]))
    again = graphs(decoding([5]))
    assert torch.equal(alone, again)


@pytest.mark.parametrize("work", [
    decoding([1] * 9), decoding([40]), [Work(Request("a", [1, 2, 3], 1), 0, 3)], [],
    decoding([1, 2]) + [Work(Request("a", [1, 2], 1), 0, 2)],
], ids=["above the largest bucket", "more blocks than a row of the table", "a prompt", "nothing",
        "decodes and a prompt"])
def test_what_does_not_fit_is_left_to_the_plain_way(work: list[Work], small: Transformer) -> None:
    graphs = DecodeGraphs(small, cache_for(small, 20), 8, 8, lambda work: lambda: pytest.fail("replayed"))
    assert graphs(work) is None


def test_captured_largest_first_each_once(small: Transformer) -> None:
    order = []
    DecodeGraphs(small, cache_for(small, 4), 20, 4, lambda work: order.append(work.args[0]))
    assert order == [24, 16, 8, 4, 2, 1]


def test_guesses_have_graphs_of_their_own(small: Transformer) -> None:
    order = []
    DecodeGraphs(small, cache_for(small, 4), 3, 4, lambda work: order.append(work.args), guesses=4)
    assert order == [(3, 5), (2, 5), (1, 5), (3, 1), (2, 1), (1, 1)]


@pytest.mark.parametrize("guesses", [[4], [4, 4, 4], [0, 3, 1], [2, 0, 0, 4, 1]])
def test_guesses_padded_are_the_plain_ones(guesses: list[int], small: Transformer) -> None:
    """Old code: a step with a guess had no graph. Short contexts, too: fewer keys than a graph has tokens."""
    cache = cache_for(small, 60)
    cache.k.normal_()
    cache.v.normal_()
    work = []
    for one, count, first in zip(decoding([1, 9, 2, 17, 5]), guesses, range(0, 60, 12)):
        one.request.blocks = list(range(first, first + 12))
        work.append(Work(one.request, one.start, 1 + count, tuple(range(7, 7 + count))))
    graphs = DecodeGraphs(small, cache, 8, 12, run_again, guesses=4)
    plain = Runner(small, cache).run(Plan(work, [], [], []))
    untouched = cache.k.clone(), cache.v.clone()
    padded = Runner(small, cache, graphs).run(Plan(work, [], [], []))
    assert graphs(work) is not None and len(padded) == len(work) + sum(guesses[:len(work)])
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((cache.k, cache.v), untouched, rtol=1e-4, atol=1e-4)


def gpu_step(bucket: int, cfg: ModelConfig = SMALL, max_blocks: int = 4) -> list:
    """The kernels of the recorded part, on a model without numbers."""
    with torch.device("meta"):
        model = Transformer(cfg).to("meta", torch.bfloat16)
    graphs = DecodeGraphs(model, PagedCache(cfg, 8, P, torch.bfloat16, model.device), bucket, max_blocks,
                          lambda work: work)
    with dry_run() as asked, torch.inference_mode():
        graphs._replay[bucket, 1]()
    return asked


@pytest.mark.parametrize("bucket", [1, 8])
def test_the_recorded_part_reads_nothing_back(bucket: int) -> None:
    """A look at any number would raise: there are none. And a layer is nine kernels, ten where
    contexts are split."""
    names = [launch.name for launch in gpu_step(bucket)]
    deeper = [launch.name for launch in gpu_step(bucket,
                                                 ModelConfig(**{**vars(SMALL), "num_hidden_layers": 5}))]
    assert len(deeper) - len(names) == 3 * 9 and "rope_write._kernel" in names and names[-1] == "copy_"
    assert "paged_attention._merge_kernel" in [launch.name for launch in gpu_step(bucket, max_blocks=64)]


def test_a_model_that_reads_back_is_found_out(monkeypatch) -> None:
    hidden = Transformer.hidden

    def looking(self, tokens, *rest):
        return hidden(self, tokens, *rest) * int(tokens[0] >= 0)
    monkeypatch.setattr(Transformer, "hidden", looking)
    with pytest.raises((RuntimeError, NotImplementedError)):
        gpu_step(2)


@pytest.mark.skipif(not triton_interpreted(), reason="runs in Triton's interpreter")
def test_padding_through_the_real_kernels(small: Transformer, monkeypatch) -> None:
    """The GPU's way, in Triton's interpreter: slot -1 writes nothing, a context of 0 is not read."""
    work, cache = decoding([5, 9, 2]), cache_for(small, 20)
    cache.k.normal_()
    cache.v.normal_()
    plain = Runner(small, cache).run(Plan(work, [], [], []))
    graphs = DecodeGraphs(small, cache, 4, 8, lambda work: work)
    kept = cache.k.clone()
    for module in (paged_attention, rmsnorm, rope_write, swiglu, layers):
        monkeypatch.setattr(module, "pick_backend", lambda tensor, backend: "triton")
    torch.testing.assert_close(graphs(work), plain, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cache.k, kept, rtol=1e-3, atol=1e-3)          # rewritten with the same keys


def traffic(n: int) -> dict[str, tuple[list[int], SamplingParams]]:
    rng = random.Random(0)
    shared = [rng.randrange(53) for _ in range(12)]
    requests = {}
    for i in range(n):
        prompt = (shared[:rng.randrange(12)] if i % 2 else []) + [rng.randrange(53)
                                                                  for _ in range(rng.randrange(1, 20))]
        sampled = {"temperature": 0.9, "top_p": 0.9, "seed": i} if i % 3 == 0 else {"temperature": 0}
        requests[str(i)] = (prompt, SamplingParams(max_tokens=rng.randrange(1, 20), **sampled))
    return requests


def serve(model: Transformer, **options) -> tuple[dict[str, list[int]], list[int]]:
    """What each request was given, and the sizes of the batches that ran padded."""
    blocks, padded, guessed = options.pop("blocks", 60), [], []
    engine = Engine(model, cache_bytes=blocks * PagedCache.block_bytes(model.config, P, model.dtype),
                    block_size=P, **options)
    if engine.runner.decode is not None:
        fast = engine.runner.decode

        def noted(work, newest):
            logits = fast(work, newest)
            if logits is not None:
                padded.append(len(work))
                guessed.append(any(one.guesses for one in work))
            return logits
        engine.runner.decode = noted
    made = {name: [] for name in traffic(16)}
    for name, (prompt, params) in traffic(16).items():
        engine.add(name, prompt, params)
    while engine.unfinished:
        for m in engine.step().made:
            made[m.request_id].append(m.token_id)
    assert engine.pool.used == 0 and any(guessed) == bool(padded and engine.proposer)
    return made, padded


MODES = {
    "continuous": {"max_running": 7}, "one": {"mode": "one"}, "static": {"mode": "static", "max_running": 5},
    "chunks of 3": {"token_budget": 3, "max_running": 3}, "preempted": {"blocks": 14, "max_running": 6},
    "speculative": {"speculative": "prompt_lookup", "max_running": 6},
}


@pytest.mark.parametrize("mode", MODES)
def test_padded_decoding_makes_the_same_tokens_in_every_mode(mode: str, small: Transformer) -> None:
    plain, none = serve(small, **MODES[mode])
    padded, batches = serve(small, cuda_graphs=True, **MODES[mode])
    assert padded == plain and none == [] and batches
    assert mode == "one" or max(batches) > 2


def test_without_a_gpu_it_is_off_unless_asked_for(small: Transformer) -> None:
    assert Engine(small).runner.decode is None and Engine(small, cuda_graphs=False).runner.decode is None
    assert Engine(small, cuda_graphs=True, max_running=9).runner.decode.buckets == [1, 2, 4, 8, 16]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_recorded_decoding_makes_the_same_tokens(small: Transformer) -> None:
    model = Transformer(SMALL).eval().requires_grad_(False)
    model.load_state_dict(small.state_dict())
    model = model.to("cuda")
    plain, _ = serve(model, cuda_graphs=False, max_running=7)
    recorded, batches = serve(model, max_running=7)
    assert recorded == plain and len(set(batches)) > 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_an_engine_outlives_the_one_before_it() -> None:
    """As `llm = LLM(…)` twice: the second is recorded while the first is there, and used when it is gone."""
    torch.manual_seed(0)
    # large enough for split-k
    config = ModelConfig(**{**vars(SMALL), "hidden_size": 2048, "intermediate_size": 8192})
    model = Transformer(config).eval().requires_grad_(False).to("cuda", torch.bfloat16)
    per_block, work = PagedCache.block_bytes(config, P, model.dtype), decoding([3, 6])
    first = Engine(model, cache_bytes=60 * per_block, block_size=P)
    second = Engine(model, cache_bytes=60 * per_block, block_size=P)
    for cache in (second.runner.cache.k, second.runner.cache.v):
        cache.normal_()
    before = second.runner.decode(work).clone()
    del first
    torch.cuda.empty_cache()
    taken = torch.full((1 << 28,), 7, dtype=torch.int8, device="cuda")    # whoever gets that memory now
    assert torch.equal(second.runner.decode(work), before) and bool((taken == 7).all())


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_experts_read_nothing_back(scoring: str) -> None:
    """How many rows an expert has stays on the device: a router's choice can be recorded."""
    moe = MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1,
                    scoring_func=scoring)
    names = [launch.name for launch in gpu_step(8, ModelConfig(**{**vars(SMALL), "moe": moe}))]
    assert names.count("grouped_matmul._rows_kernel") == 2 * SMALL.num_hidden_layers


def test_a_table_is_sent_only_where_it_has_changed(monkeypatch) -> None:
    """Old code: every step made a tensor of all blocks of all requests, 4 ms for 64 of 4,096 tokens."""
    sent = []
    tables = graphs._BlockTables(4, 8, torch.device("cpu"))
    put = graphs._put
    monkeypatch.setattr(graphs, "_put", lambda buffer, rows: (sent.append(rows.shape), put(buffer, rows)))
    rng = random.Random(0)
    rows = [[rng.randrange(99)] for _ in range(3)]
    for step in range(200):
        tables.show(rows)
        for row, blocks in enumerate(rows):                  # and each reads its own
            assert tables.there[row, :len(blocks)].tolist() == blocks
        before = len(sent)
        tables.show([list(blocks) for blocks in rows])
        assert len(sent) == before
        change = rng.randrange(5)
        if change == 0 and len(rows[0]) < 8:
            rows[0].append(rng.randrange(99))                # a request has grown
        elif change == 1:
            rows.pop(rng.randrange(len(rows)))               # one has ended: others move up
        elif change == 2:
            rows[-1] = [rng.randrange(99) for _ in range(rng.randrange(1, 9))]
        elif change == 3:
            rows[0][0] += 1                                  # a block was copied for it alone
        while len(rows) < 2:
            rows.append([rng.randrange(99)])
    assert 50 < len(sent) < 200
