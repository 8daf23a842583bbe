"""The README's cell for a hosted Jupyter: it installs what is pinned, and what it imports is there."""

import re
import subprocess
import sys

import pytest
from tests.pages.page_files import ROOT

from aiinfra.environment import child_environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
CELL = re.search(r"### With only a browser.*?```python\n(.*?)```", README, re.DOTALL).group(1)
PINNED = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))


def test_the_cell_installs_only_what_is_pinned_and_leaves_the_hosts_pytorch():
    lines = [line.partition(" #")[0] for line in CELL.splitlines() if line.startswith("%pip")]
    packages = [package for line in lines for package in line.removeprefix("%pip install --quiet ").split()]
    assert len(packages) > 10
    for package in packages:
        name, _, version = package.partition("==")
        assert name in PINNED and version in ("", PINNED[name])
    assert not {"torch", "triton", "numpy"} & {package.partition("==")[0] for package in packages}


@pytest.mark.program
def test_from_another_folder_the_pages_find_everything(tmp_path):
    """The cell's own lines of Python, then a page's first imports; only libraries are installed."""
    lines = [line for line in CELL.splitlines() if not line.startswith(("!", "%"))]
    code = "\n".join([*lines, "import aiinfra, puzzles", "from aiinfra import lab", "lab.start('01')",
                      "print(aiinfra.__file__)"]).replace("/tmp/workbook", str(ROOT))
    environment = child_environment(AIINFRA_DATA=str(tmp_path), PYTHONPATH=None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(ROOT / "aiinfra/__init__.py")
