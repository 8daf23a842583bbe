"""The answer to "does it fit?": consistent with the prediction it is made of, and with itself."""

import pytest

from aiinfra.perf.memory import predict_memory
from aiinfra.perf.sharding import Sharding
from aiinfra.perf.training import decoder_flops, recomputed_flops
from aiinfra.plan.fit import PlannedRun, ladder, largest_batch
from tests.train.stories import tiny_config

SHAPE = tiny_config(hidden_size=256, head_dim=64, intermediate_size=512, num_hidden_layers=6)
RUN = PlannedRun(rows=8, length=128)


def test_a_run_is_predicted_as_its_step_is() -> None:
    run = PlannedRun(rows=3, length=64, accumulate=2, narrow=True, recompute="block",
                     sharding=Sharding(ranks=2, stage=1))
    want = predict_memory(SHAPE, [64] * 3, "block", 2, True, Sharding(ranks=2, stage=1))
    assert run.memory(SHAPE) == want


@pytest.mark.parametrize("run", [RUN, PlannedRun(rows=1, length=512, recompute="block", narrow=True)])
def test_the_largest_batch_fits_and_one_more_row_does_not(run: PlannedRun) -> None:
    for budget in (90e6, 200e6, 1e9):
        rows = largest_batch(SHAPE, run, budget)
        peaks = [predict_memory(SHAPE, [run.length] * count, run.recompute, narrow=run.narrow).peak
                 for count in (rows, rows + 1) if count]
        assert peaks[-1] > budget and all(peak <= budget for peak in peaks[:-1])
    assert largest_batch(SHAPE, run, 1e6) == 0


def test_the_ladder_keeps_the_step_and_tells_the_truth() -> None:
    """As many rows a step on each rung of one device; each peak is what the rung's own run needs."""
    budget = PlannedRun(rows=2, length=128, accumulate=4).memory(SHAPE).peak
    rungs = list(ladder(SHAPE, RUN, budget))
    assert [rung.name.split(",")[0] for rung in rungs][:4] == [
        "2 of 8 rows at once", "compute in 16 bits", "recompute each operation", "recompute each block"]
    for rung in rungs:
        assert rung.peak == rung.run.memory(SHAPE).peak
        assert rung.run.rows * rung.run.accumulate == 8
    assert rungs[0].peak == budget < PlannedRun(rows=4, length=128, accumulate=2).memory(SHAPE).peak
    in_use = PlannedRun(rows=1, length=128, narrow=True, recompute="block")
    names = [rung.name for rung in ladder(SHAPE, in_use, 1e12)]
    assert not [name for name in names if name.startswith(("compute", "recompute"))]


def test_remedies_together_are_never_worse_than_one_of_them() -> None:
    """Gradients outlive a micro-batch: with blocks recomputed, one row at a time may need more."""
    wide = tiny_config(hidden_size=512, head_dim=64, intermediate_size=2048, num_hidden_layers=6)
    for narrow in (True, False):
        run = PlannedRun(rows=4, length=64, narrow=narrow)
        split = PlannedRun(rows=1, length=64, accumulate=4, narrow=True, recompute="block")
        rungs = list(ladder(wide, run, 1e6))
        alone = [rung for rung in rungs if rung.run.sharding.ranks == 1]
        assert min(rung.peak for rung in alone) < split.memory(wide).peak
        assert alone[-1].peak == min(rung.peak for rung in alone)
        assert all(rung.run != run for rung in rungs)
        assert not (narrow and any("16 bits" in rung.name for rung in rungs))
        assert len({rung.name for rung in rungs}) == len(rungs)


def test_more_ranks_are_as_few_as_do() -> None:
    held = PlannedRun(rows=1, length=8)
    budget = 0.6 * held.memory(SHAPE).peak
    wide = [rung for rung in ladder(SHAPE, held, budget) if rung.name.startswith("FSDP")]
    assert wide and all(rung.peak <= budget for rung in wide)
    ranks = wide[0].run.sharding.ranks
    fewer = Sharding(ranks=ranks // 2, stage=3)
    assert PlannedRun(rows=1, length=8, sharding=fewer).memory(SHAPE).peak > budget


def test_blocks_cost_a_forward_pass_of_the_layers() -> None:
    again = recomputed_flops(SHAPE, RUN.lengths, "block")
    assert RUN.extra_time(SHAPE) == 0
    share = PlannedRun(rows=8, length=128, recompute="block").extra_time(SHAPE)
    assert share == again / decoder_flops(SHAPE, RUN.lengths) and 0.25 < share < 1 / 3


@pytest.mark.parametrize("changes, words", [
    ({"rows": 0}, "rows=0; it must be a whole number of at least 1"),
    ({"length": 2.5}, "length=2.5"),
    ({"recompute": "blok"}, "Did you mean 'block'?"),
])
def test_bad_settings(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PlannedRun(**{"rows": 1, "length": 1} | changes)
