"""A table is checked without a device: everything once, on one rank, and nothing waits for ever."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.pipelining import ScheduleDualPipeV
from torch.distributed.pipelining.schedules import _Action, _simulate_comms_compute

from aiinfra.parallel.orders import SCHEDULES, make_table
from aiinfra.parallel.schedule import Action, PipelineTable, ScheduleError, check, read_csv, write_csv
from tests.parallel.torch_schedules import Named, their_schedule

TABLE = make_table("1f1b", 2, 3)


def table_of(*rows: str) -> PipelineTable:
    parsed = [[re.fullmatch(r"(\d)(\w)(\d)", text) for text in row.split()] for row in rows]
    return PipelineTable("mine", tuple(tuple(Action(int(found[1]), found[2], int(found[3])) for found in row)
                                       for row in parsed))


@pytest.mark.parametrize("rows, why", [
    (("0F0 0B0", "1F0"), "1I0 is there 0 times, not once"),
    (("0F0 0B0", "1F0 1B0 1F0"), "1F0 is there 2 times"),
    (("0F0 0B0", "1F0 1B0 1W0"), "1W0 is there 2 times"),
    (("0F0 0I0", "1F0 1B0"), "0W0 is there 0 times"),
    (("0F0 0B0", "1F0 1B0 0F1 0B1"), "stage 0 is on more than one rank"),
    (("0F0 0B0", "2F0 2B0"), "1F0 is there 0 times"),
    (("0B0 0F0", "1F0 1B0"), "deadlocks: rank 0 waits at 0B0 for 0F0 and 1I0; rank 1 waits at 1F0 for 0F0."),
    (("0F0 0W0 0I0", "1F0 1B0"), "rank 0 waits at 0W0 for 0I0"),
    (("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"), "rank 0 waits at 0B0 for 1I0; rank 1 waits at 1F1 for 0F1"),
])
def test_a_wrong_table_is_refused_by_name(rows: tuple[str, ...], why: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(why)):
        check(table_of(*rows))


def test_the_halves_of_a_backward_may_lie_apart() -> None:
    check(table_of("0F0 0F1 0I0 0B1 0W0", "1F0 1I0 1F1 1W0 1B1"))


@pytest.mark.parametrize("name", SCHEDULES)
def test_pytorch_reads_our_file_and_runs_it_dry(name: str, tmp_path: Path) -> None:
    """Its own lowering adds what is sent and received; its own simulator finds no deadlock."""
    ours = make_table(name, 3, 7)
    write_csv(ours, tmp_path / "table.csv")
    theirs = their_schedule("looped_bfs", 3, 7, ours.chunks)
    theirs._load_csv(str(tmp_path / "table.csv"))
    assert theirs.stage_index_to_group_rank == ours.rank_of
    simulated = _simulate_comms_compute(
        {rank: [action for action in row if action.computation_type.value != "REDUCE_GRAD"
                and "SHARD" not in action.computation_type.value]
         for rank, row in theirs.pipeline_order_with_comms.items()},
        lambda stage: ours.rank_of[stage], ours.stages)
    done = [str(action) for action in simulated[1] if action is not None and action.is_compute_op]
    assert done == [str(action) for action in ours.rows[1]]
    back = read_csv(tmp_path / "table.csv")
    assert back.rows == ours.rows and back.name == "table"


def test_their_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    theirs = their_schedule("interleaved_1f1b", 2, 4, 2)
    theirs._dump_csv(str(path), format="compute_only")
    assert ",," in path.read_text(), "idle times are empty fields"
    assert read_csv(path).rows == make_table("interleaved_1f1b", 2, 4, 2).rows
    dual = ScheduleDualPipeV([Named(2, 4), replace_stage(Named(2, 4))], 6)
    dual._dump_csv(str(path), format="compute_only")
    assert "OVERLAP_F_B" in path.read_text()
    table = read_csv(path)
    assert table.rank_of == {0: 0, 1: 1, 2: 1, 3: 0} and table.microbatches == 6
    overlapped = sum(action.sub_actions is not None for row in dual.pipeline_order.values()
                     for action in row if isinstance(action, _Action))
    assert overlapped > 0


def replace_stage(stage: Named) -> Named:
    stage.stage_index = 3
    return stage


@pytest.mark.parametrize("text, why", [
    ("0F0,0SEND_F0\n", "line 1: '0SEND_F0' is no action; .*compute_only"),
    ("0F0,0B0\n1F0,backward\n", "line 2: 'backward' is no action"),
    ("\n\n", "no action is in it"),
    ("0F0\n", "0I0 is there 0 times"),
])
def test_a_wrong_file_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=why):
        read_csv(path)


def test_a_table_knows_its_numbers() -> None:
    assert (TABLE.ranks, TABLE.stages, TABLE.microbatches, TABLE.chunks) == (2, 2, 3, 1)
    zbv = make_table("zbv", 2, 3)
    assert zbv.stages_of(0) == [0, 3] and zbv.stages_of(1) == [1, 2] and zbv.chunks == 2
    assert replace(TABLE, name="another").rank_of == {0: 0, 1: 1}
