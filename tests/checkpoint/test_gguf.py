"""A GGUF file that is cut, damaged or foreign: one clear error that names the file and the tensor."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiinfra.checkpoint import load
from aiinfra.checkpoint.gguf import GGUFFile
from aiinfra.checkpoint.gguf_weights import config_from_gguf
from aiinfra.errors import LoadError


def cut_gguf(gguf_path, tmp_path, nbytes: int):
    path = tmp_path / "cut.gguf"
    with gguf_path.open("rb") as f:
        path.write_bytes(f.read(nbytes))
    return path


def test_gguf_cut_in_its_data(gguf_path, tmp_path) -> None:
    with pytest.raises(
        LoadError,
        match=r"cut.gguf: tensor blk\.\d+\.\w+\.weight needs bytes up to [\d,]+, "
              r"and the file ends at 40,000,000",
    ):
        load(cut_gguf(gguf_path, tmp_path, 40_000_000))


@pytest.mark.parametrize("nbytes", [0, 3, 10, 100, 5_000, 1_000_000])
def test_gguf_cut_in_its_header(nbytes: int, gguf_path, tmp_path) -> None:
    with pytest.raises(LoadError, match="cut.gguf"):
        load(cut_gguf(gguf_path, tmp_path, nbytes))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1_700), value=st.integers(0, 255))
def test_gguf_with_a_wrong_byte(at: int, value: int, gguf_path, tmp_path) -> None:
    """Any byte of the header's first part changed: a clear error, or a file that still makes sense."""
    path = tmp_path / "flipped.gguf"
    if not path.exists():
        path.write_bytes(gguf_path.read_bytes())
    with path.open("r+b") as f:
        f.seek(at)
        original = f.read(1)
        f.seek(at)
        f.write(bytes([value]))
    try:
        file = GGUFFile(path)
        config_from_gguf(file.metadata, set(file.tensors), path.name)
    except LoadError as error:
        assert (
            "flipped.gguf" in str(error)
            or "must be" in str(error)
            or "multiple" in str(error)
            or "odd" in str(error)
        )
    finally:
        with path.open("r+b") as f:
            f.seek(at)
            f.write(original)


def test_not_a_gguf(tmp_path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(LoadError, match="not a GGUF file"):
        load(tmp_path / "x.gguf")
