"""A pipeline's gradients, loss and memory are those of one process and of its formula, under every
schedule."""

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

from aiinfra.parallel.launch import RankFailed, launch
from aiinfra.parallel.orders import SCHEDULES, make_table
from aiinfra.parallel.pipeline_trial import try_pipeline
from aiinfra.parallel.schedule import ScheduleError
from aiinfra.parallel.timing import StageCosts, bubble_formula, held_formula
from aiinfra.train.loop import OneByOne
from tests.parallel import pipeline_functions
from tests.parallel.small import small_model

pytestmark = pytest.mark.program

COUNTS = [4, 3, 4]           # micro-batches of three steps: the last of a file has fewer, and one may follow
LAYERS = 7


def one_process(variant: str, count: int) -> tuple[float, dict[str, torch.Tensor]]:
    model = small_model(variant, num_hidden_layers=LAYERS)
    window = pipeline_functions.batches(count)
    passes = OneByOne(model)
    loss = passes(window, sum(batch.valid for batch in window), lambda name: nullcontext())
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", ["biases and qk norm", "tied"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_gradients_are_those_of_one_process(name: str, variant: str) -> None:
    """Micro-batches of any length, one of them without a valid token; layers that stages do not divide.

    PyTorch's own division by the number of micro-batches, which spoils accumulation (torchtitan #1732 and
    #2972), and a copy of the tied table that misses the other's gradient would both be far off.
    """
    ranks = 3 if name in ("gpipe", "zbv") else 2
    if name == "1f1b":
        ranks = 4
    found = launch(pipeline_functions.gradients, ranks, name, ranks, COUNTS, variant, LAYERS)
    for step, count in enumerate(COUNTS):
        loss, expected = one_process(variant, count)
        names = set()
        for rank in range(ranks):
            its_loss, gradients, _ = found[rank][step]
            assert its_loss == pytest.approx(loss, abs=1e-12), "each rank knows the loss"
            for parameter, gradient in gradients.items():
                whole = "embed.weight" if variant == "tied" and parameter == "lm_head.weight" else parameter
                torch.testing.assert_close(gradient, expected[whole], rtol=0, atol=1e-12)
                names.add(whole)
        assert names == set(expected), "every parameter is on a rank, under its own name"


@pytest.mark.parametrize("name", ["1f1b", "zero_bubble", "zbv"])
def test_a_stage_without_experts_beside_one_with(name: str) -> None:
    """Nobody waits for a balance loss that the other stage does not have, which hung Megatron-LM (#3401); and
    a backward that is cut in two counts the choices of its tokens once."""
    found = launch(pipeline_functions.mixture_on_ranks, 2, name, 2, 4)
    model = small_model(num_hidden_layers=4, moe=pipeline_functions.EXPERTS)
    window = pipeline_functions.batches(4)
    loss, expected, counted = pipeline_functions.mixture(OneByOne(model), model, window)
    assert name == "zbv" or [len(counts) for _, _, counts in found] == [0, 2]
    assert sorted(counts for _, _, its in found for counts in its) == sorted(counted)
    for its_loss, its, _ in found:
        assert its_loss == pytest.approx(loss, abs=1e-12)
        for parameter, value in its.items():
            torch.testing.assert_close(value, expected[parameter], rtol=0, atol=1e-12)


def test_halves_of_a_backward_go_past_fsdp_and_are_refused() -> None:
    with pytest.raises(RankFailed, match="zero_bubble cuts backwards in two, of which FSDP sees but one"):
        launch(pipeline_functions.sharded, 4, "zero_bubble")


def test_what_is_run_is_the_table() -> None:
    found = launch(pipeline_functions.gradients, 2, "zero_bubble", 2, [4], "plain", 4, chunks=2)
    for rank, ((_, _, order),) in enumerate(found):
        assert order == pipeline_functions.table_row("zero_bubble", rank)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rank_holds_the_activations_that_the_formula_says(name: str) -> None:
    """Counted where autograd saves them, in bytes; the unit is what one micro-batch leaves there."""
    ranks, microbatches = 2, 6
    found = launch(pipeline_functions.held, ranks, name, ranks, microbatches)
    for rank, (units, chunks) in enumerate(found):
        expected = held_formula(name, rank, ranks, microbatches, chunks)
        assert units == pytest.approx(expected, rel=0.05), "the ends of the model save a little more"


@pytest.mark.alone
@pytest.mark.parametrize("name, microbatches, unit", [
    ("gpipe", 4, 0.15), ("1f1b", 4, 0.15), ("interleaved_1f1b", 4, 0.3), ("looped_bfs", 4, 0.3),
    ("zero_bubble", 4, 0.4), ("zbv", 3, 0.8),
])
def test_the_measured_bubble_is_that_of_the_formula(name: str, microbatches: int, unit: float) -> None:
    """Real processes and messages; the length of actions is emulated. A step's messages take 10 to 20 ms: the
    smaller the bubble, the longer the actions beside which that is little."""
    costs = StageCosts(unit, unit, unit)
    trial = try_pipeline(name, 2, microbatches, least=costs)
    expected = bubble_formula(name, 2, microbatches, trial.timeline.chunks, costs)
    assert trial.timeline.bubble == pytest.approx(expected, rel=0.1)


def test_a_trial_says_what_was_done_and_held() -> None:
    trial = try_pipeline("1f1b", 2, 3, steps=1)
    rows = make_table("1f1b", 2, 3).rows
    for rank, row in enumerate(rows):
        spans = [span for span in trial.timeline.spans if span.rank == rank]
        assert [span.action for span in spans] == list(row)
        assert all(span.start < span.end for span in spans)
        assert all(one.end <= after.start for one, after in pairwise(spans))
    assert min(span.start for span in trial.timeline.spans) == 0
    assert trial.held == (pytest.approx(2), pytest.approx(1))
    with pytest.raises(ScheduleError, match="zbv has 2 stages a rank, not 3"):
        try_pipeline("zbv", 2, 3, chunks=3)


@pytest.mark.parametrize("schedule, microbatches, layers, why", [
    ("1f1b", 1, 4, "a step: 1; ranks of the pipeline: 2. .*accumulate at least 2"),
    ("interleaved_1f1b", 4, 3, "the model has 3 layers, and 4 stages need at least one each"),
    ("3f3b", 4, 4, "schedule '3f3b' is not known"),
    ("a table for 3", 4, 4, "gpipe is a table for 3 ranks, and pp=2"),
    ("a table of 3", 4, 4, "gpipe is a table for 3 micro-batches, and the step has 4"),
    ("untied", 4, 4, "two tables here: something"),
])
def test_what_cannot_be_is_refused_with_its_figures(schedule: str, microbatches: int, layers: int,
                                                    why: str) -> None:
    with pytest.raises(RankFailed, match=why):
        launch(pipeline_functions.refused, 2, schedule, microbatches, layers)
