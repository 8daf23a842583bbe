"""What ranks are told to do by test_checkpoint.py."""

from itertools import islice

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from aiinfra.parallel.checkpoint import load_sharded, save_sharded, whole_model, whole_tensors
from aiinfra.parallel.equality import MICRO_BATCHES, micro_batches, small_model
from aiinfra.parallel.mesh import make_mesh, parse_mesh
from aiinfra.parallel.mixes import Mix
from aiinfra.parallel.parallelize import parallelize, whole_name
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule
from aiinfra.train.state import StateError, Waypoint

STEPS = 2


def start(mesh):
    mix = Mix("any", mesh)
    return parallelize(small_model(mix, torch.float64), make_mesh(parse_mesh(mesh)), MICRO_BATCHES)


def steps(parallel, optimizer, done, count):
    """The records of the next steps of one training, wherever it is continued."""
    batches = islice(micro_batches((done + count) * MICRO_BATCHES), done * MICRO_BATCHES, None)
    schedule = Schedule(peak=1e-2, steps=10, warmup=1)
    return list(loop(parallel.model, parallel.own_batches(batches), optimizer, schedule,
                     accumulate=parallel.accumulate, ranks=parallel.ranks, passes=parallel.passes,
                     steps_done=done))


def place_after(step):
    return Waypoint(step=step, tokens_seen=7, position=step * MICRO_BATCHES, configuration={"of": "all"})


def train_and_save(meshes, folder):
    """Two steps on each mesh, saved; then the loss of the third."""
    losses = []
    for mesh in meshes:
        parallel = start(mesh)
        optimizer = parallel.optimizer()
        steps(parallel, optimizer, 0, STEPS)
        save_sharded(folder / mesh, parallel.model, optimizer, place_after(STEPS))
        third, = steps(parallel, optimizer, STEPS, 1)
        losses.append(third.loss)
    return losses


def moments(model, optimizer):
    found = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state[parameter].items():
            found[f"{kind}/{whole_name(name, ())}"] = value
    return found


def load_and_go_on(mesh, folders):
    """Of each checkpoint: its place, weights and moments, whole on the first rank, and the next loss."""
    told = []
    for folder in folders:
        parallel = start(mesh)
        for parameter in parallel.model.parameters():
            nn.init.zeros_(parameter)
        optimizer = parallel.optimizer()
        place = load_sharded(folder, parallel.model, optimizer)
        names = {whole_name(name, ()): value for name, value in parallel.model.named_parameters()}
        state = whole_tensors(names | moments(parallel.model, optimizer))
        third, = steps(parallel, optimizer, place.step, 1)
        told.append((place, state, third.loss))
    return told


def export(mesh, folder):
    """The whole model of a checkpoint, on the first rank."""
    parallel = start(mesh)
    load_sharded(folder, parallel.model, parallel.optimizer())
    one = whole_model(parallel.model, parallel.model.config)
    return one and one.state_dict()


def what_is_refused(mesh, folder, spoil):
    """The message of every rank, and whether anything was changed."""
    parallel = start(mesh)
    optimizer = parallel.optimizer()
    if spoil == "another name":
        parallel.model.layers["0" if hasattr(parallel.model.layers, "keys") else 0].register_parameter(
            "more", nn.Parameter(torch.zeros(2)))
    if spoil == "another shape":
        parallel.model.norm.weight = nn.Parameter(torch.zeros(3).double())
    before = [parameter.detach().clone() for parameter in parallel.model.parameters()]
    try:
        load_sharded(folder, parallel.model, optimizer)
    except StateError as error:
        same = [torch.equal(_local(a), _local(b)) for a, b in zip(before, parallel.model.parameters())]
        return str(error), all(same)
    return "", False


def _local(value):
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def save_nowhere(folder):
    """Every rank's error when the folder cannot be made or written."""
    parallel = start("dp=2")
    try:
        save_sharded(folder, parallel.model, parallel.optimizer(), place_after(0))
    except OSError as error:
        return f"rank {dist.get_rank()}: {error}"
    return ""
