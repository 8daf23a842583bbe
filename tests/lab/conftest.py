"""Every lab test gets its own data folder: the reader's progress is neither read nor written."""

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def no_widgets(monkeypatch):
    """As on a machine without ipywidgets."""
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A data folder that cannot be made: its parent is a file (holds for root, too)."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path / "file" / "data"))


@pytest.fixture
def homeless(monkeypatch):
    """An account without a home folder, as some containers have, and no setting of where to keep records."""
    def nowhere():
        raise RuntimeError("Could not determine home directory.")
    for name in ("AIINFRA_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("aiinfra.environment.Path.home", nowhere)
