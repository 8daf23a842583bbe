"""Every kernel on every chip in one table: its registers, its shared memory, and what it spills.

    kernels/*.py, compile_cases ──► compile.py, for six chips ──► data/compiled.csv ◄── tests: is it still so?

No GPU is needed: the table is what the compiler says. It is made anew when a kernel or a tile changes:

    python -m aiinfra.gpu.compile_table                             # all: five minutes on two cores
    python -m aiinfra.gpu.compile_table --arch 90 --module rmsnorm  # a part: printed, not kept

A kernel that spills its registers, or asks for more shared memory than the chip has, is an error. Registers
are the compiler's choice, so they hold for the version of Triton that the table names. Notebook 08.
"""

import argparse
import csv
import io
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tqdm import tqdm

from aiinfra.files import write_text
from aiinfra.gpu.compile import Compiled, compile_all, compile_jobs, kernel_modules
from aiinfra.kernels.lang import triton

CHIPS = (80, 86, 89, 90, 100, 120)      # A100; RTX 30; RTX 40 and L4; H100 and H200; B200; RTX 50
TABLE = Path(__file__).parents[2] / "data" / "compiled.csv"
_ABOUT = "# Registers and spills of a thread, shared memory of a program, as compiled by Triton "
_REMEDY = "Make the table anew: python -m aiinfra.gpu.compile_table"


@dataclass(frozen=True)
class CompiledTable:
    """What one version of Triton makes of every kernel."""

    triton: str                         # its version
    records: tuple[Compiled, ...]

    def differences(self, found: list[Compiled], version: str) -> list[str]:
        """A sentence for each kernel that `version` of Triton has now compiled to something else than the
        table says. Another version than the table's may use other registers and other shared memory, but the
        kernel still has to fit."""
        known = {(one.module, one.name, one.arch): one for one in self.records}
        said = []
        for now in found:
            recorded = known.get((now.module, now.name, now.arch))
            where = f"{now.module}, {now.name}, sm_{now.arch}"
            if recorded is None:
                said.append(f"{where} is not in the table. {_REMEDY}")
            elif not now.fits:
                said.append(f"{where} does not fit: {now.spill_bytes} B of registers are spilled, "
                            f"{now.shared_bytes:,} B of shared memory wanted.")
            elif version == self.triton and now != recorded:
                said.append(f"{where} was {recorded} and is {now}. {_REMEDY}")
        return said


def read_table(file: Path = TABLE) -> CompiledTable:
    """The table in `file`."""
    first, *lines = file.read_text().splitlines()
    records = []
    for row in csv.DictReader(lines):
        values = {field.name: field.type(row[field.name]) for field in fields(Compiled)}
        records.append(Compiled(**values))
    return CompiledTable(triton=first.split()[-1], records=tuple(records))


def write_table(table: CompiledTable, file: Path = TABLE) -> None:
    """Keep it, a line for each kernel and chip."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(Compiled)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(map(asdict, table.records))
    write_text(file, f"{_ABOUT}{table.triton}\n{text.getvalue()}")


def as_text(records: list[Compiled]) -> str:
    """The records as aligned text, one line a kernel and architecture."""
    lines = [f"{'file':<16} {'kernel':<38} {'arch':>4} {'warps':>5} {'stages':>6} "
             f"{'registers':>9} {'shared B':>8} {'spill B':>7}"]
    for record in records:
        where = f"{record.module:<16} {record.name:<38} {record.arch:>4}"
        launched = f"{record.num_warps:>5} {record.num_stages:>6}"
        taken = f"{record.registers:>9} {record.shared_bytes:>8,} {record.spill_bytes:>7}"
        remark = "" if record.fits else "   does not fit"
        lines.append(f"{where} {launched} {taken}{remark}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit status: 1 if a kernel spills or does not fit."""
    parser = argparse.ArgumentParser(prog="python -m aiinfra.gpu.compile_table", description=(
        "Compile every kernel for every chip, without a GPU, and keep what each takes in data/compiled.csv."))
    parser.add_argument("--arch", type=int, nargs="+", help="of these compute capabilities alone, 90 for 9.0")
    parser.add_argument("--module", nargs="+", choices=kernel_modules(), help="these kernel files alone")
    parser.add_argument("--processes", type=int, default=2, help="compilers side by side (default: 2)")
    parser.add_argument("--save", type=Path, metavar="FILE",
                        help=f"where to keep the table (default: data/{TABLE.name}, and nowhere for a part)")
    args = parser.parse_args(argv)
    jobs = compile_jobs(tuple(args.arch or CHIPS), args.module)
    records = list(tqdm(compile_all(jobs, args.processes), "compiling", total=len(jobs), unit="kernel"))
    print(as_text(records))
    whole = not args.arch and not args.module
    file = args.save or (TABLE if whole else None)
    if file is not None:
        write_table(CompiledTable(triton.__version__, tuple(records)), file)
    wrong = [one for one in records if not one.fits]
    if wrong:
        print(f"{len(wrong)} of {len(records)} do not fit:\n{as_text(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
