"""The table of all kernels on all chips is what the compiler says now, and all of them fit."""

import re
from dataclasses import replace
from datetime import date
from importlib import import_module

import pytest

from aiinfra.gpu import compile_table
from aiinfra.gpu.compile import Compiled, CompileJob, compile_all, compile_jobs, kernel_modules
from aiinfra.gpu.compile_table import CHIPS, CompiledTable, as_text, main, read_table, write_table
from aiinfra.kernels.chip import SHARED_LIMIT

triton = pytest.importorskip("triton")
PARTS = 4                        # of the table, each compiled on another day
RECORD = Compiled(module="rmsnorm", name="forward", arch=90, num_warps=4, num_stages=3, registers=64,
                  shared_bytes=1024, spill_bytes=0)


@pytest.mark.alone
@pytest.mark.compile
def test_a_part_of_the_table_is_what_is_compiled_now() -> None:
    """Kernels of every file and for every chip, others tomorrow."""
    jobs = compile_jobs(CHIPS)
    parts = [jobs[first::PARTS] for first in range(PARTS)]
    for part in parts:
        assert {job.arch for job in part} == set(CHIPS)
        assert {job.module for job in part} == set(kernel_modules())
    found = list(compile_all(parts[date.today().toordinal() % PARTS]))
    wrong = read_table().differences(found, triton.__version__)
    assert not wrong, "\n".join(wrong)


def test_the_table_has_every_kernel_on_every_chip_and_all_fit() -> None:
    records = read_table().records
    expected = [(job.module, case_name(job), job.arch) for job in compile_jobs(CHIPS)]
    assert [(one.module, one.name, one.arch) for one in records] == expected, compile_table._REMEDY
    assert not [one for one in records if not one.fits]
    assert all(0 < one.registers <= 255 and one.shared_bytes <= SHARED_LIMIT[one.arch] for one in records)


def case_name(job: CompileJob) -> str:
    return import_module(f"aiinfra.kernels.{job.module}").compile_cases(job.arch)[job.index]["name"]


def test_it_survives_a_journey(tmp_path) -> None:
    table = CompiledTable("3.7.1", (RECORD, replace(RECORD, name='a, "b"', arch=120)))
    write_table(table, tmp_path / "table.csv")
    assert read_table(tmp_path / "table.csv") == table


@pytest.mark.parametrize("now, version, said", [
    (RECORD, "3.7.1", None),
    (replace(RECORD, registers=65), "3.6.0", None),
    (replace(RECORD, registers=65), "3.7.1", "registers=64.* and is .*registers=65.*Make the table anew"),
    (replace(RECORD, shared_bytes=2048), "3.7.1", "shared_bytes=2048"),
    (replace(RECORD, spill_bytes=8), "3.6.0", "8 B of registers are spilled"),
    (replace(RECORD, shared_bytes=300_000), "3.6.0", "300,000 B of shared memory"),
    (replace(RECORD, name="backward"), "3.6.0", "rmsnorm, backward, sm_90 is not in the table. Make"),
])
def test_what_differs_is_said(now: Compiled, version: str, said: str | None) -> None:
    found = CompiledTable("3.7.1", (RECORD,)).differences([now], version)
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0]), found


def test_a_part_is_printed_and_not_kept(monkeypatch, capsys, tmp_path) -> None:
    kept = tmp_path / "compiled.csv"
    monkeypatch.setattr(compile_table, "TABLE", kept)
    monkeypatch.setattr(compile_table, "compile_all", lambda jobs, processes: iter([RECORD]))
    assert main(["--arch", "90", "--module", "rmsnorm"]) == 0 and not kept.exists()
    assert "forward" in capsys.readouterr().out
    spilled = replace(RECORD, spill_bytes=8)
    monkeypatch.setattr(compile_table, "compile_all", lambda jobs, processes: iter([RECORD, spilled]))
    assert main([]) == 1 and read_table(kept).records == (RECORD, spilled)
    assert "1 of 2 do not fit" in capsys.readouterr().err and "does not fit" in as_text([spilled])
