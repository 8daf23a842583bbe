"""Every mix of parallelism is one process: loss, gradients, norm, parameters after three steps."""

import pytest
import torch

from aiinfra.__main__ import main
from aiinfra.parallel.equality import TOLERANCES, check_mixes, one_process
from aiinfra.parallel.mixes import MIXES, Mix, chosen

pytestmark = pytest.mark.program


@pytest.mark.parametrize("ranks", sorted({mix.ranks for mix in MIXES}))
def test_every_mix_is_one_process(ranks):
    mixes = [mix for mix in MIXES if mix.ranks == ranks]
    found = check_mixes(mixes, torch.float64)
    worst = {mix.label: differences.worst for mix, differences in zip(mixes, found)}
    wrong = {name: value for name, value in worst.items() if not value < TOLERANCES["float64"]}
    assert not wrong


def test_what_is_compared_is_clipped_and_uneven():
    trajectory = one_process(Mix("one", ""), torch.float64)
    assert min(trajectory.norms) > 0.5 and len(trajectory.losses) == 3
    assert all(float(gradient.abs().max()) > 1e-4 for gradient in trajectory.gradients[0].values())


def test_rows_are_chosen_by_text_and_ranks():
    assert {mix.name for mix in chosen(MIXES, ["zero-2", "context × tensor"])} == {
        "ZeRO-2", "context × tensor", "context × tensor × FSDP", "context × tensor × pipeline"}
    assert {mix.ranks for mix in chosen(MIXES, ranks=[4])} == {4}
    with pytest.raises(ValueError, match="Did you mean 'ZeRO-2'"):
        chosen(MIXES, ["ZeRO-3"])


def test_the_command_prints_a_line_a_mix(capsys):
    assert main(["parallel", "check", "zero-2", "--ranks", "2"]) == 0
    told = capsys.readouterr().out
    assert "ZeRO-2" in told and "fsdp=2" in told and "all 1 are one process" in told


def test_what_is_not_one_process_is_an_error(capsys, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "float32", 1e-12)
    assert main(["parallel", "check", "zero-2", "--ranks", "2", "--dtype", "float32"]) == 1
    said = capsys.readouterr()
    assert "DIFFERENT" in said.out and "1 of 1 are not one process: ZeRO-2 on fsdp=2" in said.err


def test_a_float32_table_stays_within_its_tolerance():
    found = check_mixes(chosen(MIXES, ["=2"], ranks=[2]), torch.float32)
    assert all(one.worst < TOLERANCES["float32"] for one in found)
