"""A state saved on any mesh is taken up on any other: weights, moments, place, and the next loss.

Reported faults of this kind: another number of ranks (torchtitan 811), empty shards (pytorch 102821), moments
dropped silently (AReaL 1468), nested keys (accelerate 3971), a tied table on resume (torchtitan 594).
"""

import re
import shutil

import pytest
import torch

from aiinfra.parallel.equality import MICRO_BATCHES, micro_batches, small_model
from aiinfra.parallel.launch import launch
from aiinfra.parallel.mesh import parse_mesh
from aiinfra.parallel.mixes import Mix
from aiinfra.parallel.parts import split_parts
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from tests.parallel import checkpoint_functions as functions

pytestmark = pytest.mark.program
MESHES = ["dp=1", "dp=2", "tp=2", "pp=2", "fsdp=4", "tp=2,dp=2", "pp=2,dp=2"]


def ranks_of(mesh):
    return torch.tensor(list(parse_mesh(mesh).values())).prod().item()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a checkpoint of each mesh, and the loss that follows on one process."""
    folder = tmp_path_factory.mktemp("meshes")
    for ranks in (1, 2, 4):
        meshes = [mesh for mesh in MESHES if ranks_of(mesh) == ranks]
        launch(functions.train_and_save, ranks, meshes, folder)
    return folder


@pytest.fixture(scope="module")
def one_process():
    """Weights and moments after two steps without a mesh, and the third loss."""
    model = small_model(Mix("one", ""), torch.float64)
    split_parts(model)
    optimizer = adamw(model)
    schedule = Schedule(peak=1e-2, steps=10, warmup=1)
    records = loop(model, micro_batches(3 * MICRO_BATCHES), optimizer, schedule, accumulate=MICRO_BATCHES)
    next(records)
    next(records)
    state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state |= {name: value.clone() for name, value in functions.moments(model, optimizer).items()}
    return state, next(records).loss


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_reads_what_every_mesh_wrote(mesh, saved, one_process):
    wanted, loss = one_process
    folders = [saved / other for other in MESHES]
    first, *_ = launch(functions.load_and_go_on, ranks_of(mesh), mesh, folders)
    for other, (place, state, third) in zip(MESHES, first):
        assert place == functions.place_after(2), other
        assert state.keys() == wanted.keys(), other
        for name, value in wanted.items():
            torch.testing.assert_close(state[name], value, rtol=1e-10, atol=1e-11, msg=f"{other}: {name}")
        assert abs(third - loss) < 1e-10, other


def test_the_whole_model_is_one_process_again(saved, one_process):
    wanted, _ = one_process
    told = launch(functions.export, 4, "pp=2,dp=2", saved / "fsdp=4")
    assert told[1:] == [None] * 3
    weight = told[0]["layers.0.attention.qkv.weight"]
    parts = torch.cat([wanted[f"layers.0.attention.qkv.{part}.weight"] for part in "qkv"])
    torch.testing.assert_close(weight, parts, rtol=1e-10, atol=1e-11)
    assert torch.equal(told[0]["lm_head.weight"], told[0]["embed.weight"])


def damage(folder, how):
    part = next(folder.glob("*.distcp"))
    if how == "cut short":
        part.write_bytes(part.read_bytes()[:-1])
    if how == "altered":
        raw = bytearray(part.read_bytes())
        raw[len(raw) // 2] ^= 1
        part.write_bytes(raw)
    if how == "missing":
        part.unlink()


@pytest.mark.parametrize("how, words", [
    ("cut short", "has .* bytes and was written with"),
    ("altered", "its hash differs"),
    ("missing", "is missing"),
    ("another name", "only the run has .*more"),
    ("another shape", r"norm.weight is \[16\] in the checkpoint and \[3\] in the run"),
])
def test_what_is_not_whole_is_refused_by_all_ranks_with_nothing_changed(how, words, saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved / "dp=2", folder)
    damage(folder, how)
    told = launch(functions.what_is_refused, 2, "dp=2", folder, how)
    for message, unchanged in told:
        assert unchanged
        assert re.search(words, message), message


def test_a_folder_that_cannot_be_made_is_an_error_on_every_rank(tmp_path):
    (tmp_path / "file").write_text("in the way")
    told = launch(functions.save_nowhere, 2, tmp_path / "file" / "step")
    assert [text.split(":")[0] for text in told] == ["rank 0", "rank 1"]
    assert all("could not make" in text for text in told)
