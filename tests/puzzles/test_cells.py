"""Cells with Jupyter's own commands, and kernels that such cells define."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from puzzles.answer_file import definitions
from puzzles.cells import python_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "cell, python",
    [
        ("%%time\nx = 1", "\nx = 1"),
        ("\n%%capture out\nx = 1", "\n\nx = 1"),
        ("%%bash\nls -l\necho 1", "\n\n"),
        ("%matplotlib inline\n!pip list\ntl.dot?\n?x\nx = 1", "\n\n\n\nx = 1"),
        ("if x:\n    %time f()\n    y = 2\nfiles = !ls", "if x:\n\n    y = 2\n"),
        ("x = (a\n     % b)", "x = (a\n     % b)"),
        ("%cd work\nx = (a\n     % b)", "\nx = (a\n     % b)"),
        ("%%time\ndef f():\n    return (a\n            % b)", "\ndef f():\n    return (a\n            % b)"),
    ],
)
def test_commands_become_empty_lines(cell, python):
    assert python_of(cell) == python


def test_a_notebook_file_with_other_languages_in_it_is_read(tmp_path):
    cells = ["%%bash\nls -l | head", "%%time\ndef f():\n    return 1", "%%html\n<b>no Python</b>"]
    notebook = dict(cells=[dict(cell_type="code", source=cell) for cell in cells])
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(notebook))
    assert definitions(path).splitlines()[3:5] == ["def f():", "    return 1"]


@pytest.mark.compile
@pytest.mark.parametrize("magic, line", [("time", 7), ("capture", 5), ("prun -q", 7)])
def test_a_kernel_of_a_cell_with_a_magic_is_judged(magic, line, tmp_path):
    kernel = """
import triton, triton.language as tl
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(z_ptr + offsets, tl.load(x_ptr + offsets) + WRONG * c)
"""
    program = f"""
import os
os.environ |= dict(TRITON_INTERPRET="1", AIINFRA_DATA={str(tmp_path)!r}, IPYTHONDIR={str(tmp_path)!r})
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("from puzzles import check", store_history=True)
for wrong in ("1", "2"):
    cell = "%%{magic}\\n" + {kernel!r}.replace("WRONG", wrong)
    shell.run_cell(cell, store_history=True).raise_error()
    shell.run_cell("print(check('add_constant', add_constant))", store_history=True).raise_error()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    right, _, wrong = done.stdout.partition("failed")
    assert "passed" in right and f"line {line}: tl.store(" in wrong, done.stdout + done.stderr
