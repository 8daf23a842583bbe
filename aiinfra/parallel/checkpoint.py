"""All that a run on a mesh is at one moment, in parts that any other mesh can read.

    rank 0   rows 0-24 of embed.weight, its moments, …  ─► __0_0.distcp ┐
    rank 1   rows 25-49 of …                            ─► __1_0.distcp ├─ step-00000120/: whole, or not
             .metadata: which values are where                          │  there; on another mesh each rank
    rank 0   state.json: step, position, size and hash of each file     ┘  reads what it has a part of

PyTorch's distributed checkpoint (DCP) writes and reads the parts; names and shapes are those of the whole
model, so neither depends on the mesh. A name that is missing on either side is an error, never a fresh
tensor. All ranks see one folder: on several machines, it is on a file system that they share. The metadata
are pickled, by DCP: take such a checkpoint only from who you trust, and export what you give away. Training
draws no random number, so no generator is kept. Notebook 06.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from aiinfra.files import replace_folder
from aiinfra.model.config import ModelConfig
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.launch import rank_device
from aiinfra.parallel.parallelize import whole_name
from aiinfra.parallel.parts import join_parts, split_parts
from aiinfra.train.state import StateError, Waypoint, seal, unseal

_WEIGHTS = "weights"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_sharded(folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer,
                 place: Waypoint) -> None:
    """Write this rank's part of the state to `folder`, which is whole or not there afterwards.

    All ranks call it together. Raises OSError, on all of them, if one cannot write its part.
    """
    state = dict(_state(model, optimizer))
    problem = ""
    try:
        if dist.get_rank() == 0:
            _write_first(folder, state, place)
        else:
            _write_parts(_from_first(None), state)
    except OSError as error:
        problem = str(error)
    told = [problem] * dist.get_world_size()
    dist.all_gather_object(told, problem)     # nobody goes on before it is there
    if any(told):
        raise OSError("; ".join(sorted({one for one in told if one})))


def load_sharded(folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Waypoint:
    """Bring this rank's part of model and optimizer to the state in `folder`, whatever mesh wrote it.

    All ranks call it together. Raises StateError on all of them, with nothing changed, if a file is missing,
    cut short or altered, or if names or shapes are not those of this model.
    """
    folder = Path(folder)
    place = read_place_together(folder)
    _make_moments(model, optimizer)
    state = dict(_state(model, optimizer))
    _check_names(folder, state)
    dcp.load(state, storage_reader=dcp.FileSystemReader(folder))
    return place


def read_place_together(folder: Path) -> Waypoint:
    """Where the run in `folder` stood. The first rank checks every file; raises StateError on all ranks."""
    told: list[Waypoint | str] = [""]
    if dist.get_rank() == 0:
        try:
            told = [Waypoint(**unseal(folder)["place"])]
        except StateError as error:
            told = [str(error)]
    dist.broadcast_object_list(told, device=rank_device())
    answer, = told
    if isinstance(answer, str):
        raise StateError(answer)
    return answer


def whole_model(model: nn.Module, config: ModelConfig) -> Transformer | None:
    """The model of all ranks as one, for evaluation and export: on the first rank, in its memory; None on the
    others. All ranks call it together."""
    weights = whole_tensors({name: parameter for name, parameter in model.named_parameters()})
    if dist.get_rank() != 0:
        return None
    one = Transformer(config).to(next(model.parameters()).dtype)
    split_parts(one)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            parameter.copy_(weights[name])
    join_parts(one)
    return one.to(rank_device())


def whole_tensors(mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every rank's tensors by name, put together, on the CPU of the first rank; {} on the others."""
    whole = {}
    for name, value in mine.items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        whole[name] = full.detach().cpu()
    told: list[dict[str, Tensor]] = [{}] * dist.get_world_size()
    dist.gather_object(whole, told if dist.get_rank() == 0 else None)
    return {name: value for one in reversed(told) for name, value in one.items()}


def _write_first(folder: str | Path, state: dict[str, Tensor], place: Waypoint) -> None:
    """The first rank's work: make the folder, tell the others of it, write a part, seal all parts."""
    made: list[Path] = []

    def write(temporary: Path) -> None:
        made.append(temporary)
        _from_first(temporary)
        _write_parts(temporary, state)
        seal(temporary, place)
    try:
        replace_folder(folder, write)
    finally:
        if not made:
            _from_first(None)                 # the others shall not wait for a folder that cannot be made


def _from_first(temporary: Path | None) -> Path | None:
    """The folder that the first rank has made."""
    told = [temporary]
    dist.broadcast_object_list(told, device=rank_device())
    return told[0]


def _write_parts(folder: Path | None, state: dict[str, Tensor]) -> None:
    if folder is None:
        raise OSError("the first rank could not make the checkpoint's folder")
    try:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder))
    except CheckpointException as error:
        reasons = {f"rank {rank}: {reason}" for rank, (reason, _) in error.failures.items()}
        raise OSError(f"a checkpoint cannot be written ({'; '.join(sorted(reasons))}).") from error


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """This rank's parts of weights and moments, as "exp_avg/layers.0.mlp.down.weight"."""
    parameters = dict(model.named_parameters())
    tied = model.config.tie_word_embeddings
    for name, parameter in parameters.items():
        if tied:
            name = whole_name(name, ())
        yield f"{_WEIGHTS}/{name}", parameter.detach()
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{kind}/{name}", value


def _make_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Places for what AdamW keeps of each parameter, as its first step makes them."""
    for parameter in model.parameters():
        if parameter not in optimizer.state:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments = {kind: torch.zeros_like(parameter) for kind in _MOMENTS}
            optimizer.state[parameter] = {"step": step, **moments}


def _check_names(folder: Path, state: dict[str, Tensor]) -> None:
    """Raises StateError, on all ranks alike, if names or shapes in the folder are not those of all ranks
    together."""
    if not (folder / ".metadata").exists():
        raise StateError(f"{folder.name} was written whole, by one process. Go on without torchrun and mesh")
    kept = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    mine = {name: list(value.shape) for name, value in state.items()}
    told: list[dict[str, list[int]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    wanted = {name: shape for one in told for name, shape in one.items()}
    for name in sorted(wanted.keys() ^ kept.keys()):
        owner = "the run" if name in wanted else "the checkpoint"
        raise StateError(f"{folder.name}: only {owner} has {name}. It belongs to another model")
    for name, shape in wanted.items():
        saved = list(kept[name].size)
        if saved != shape:
            raise StateError(f"{folder.name}: {name} is {saved} in the checkpoint and {shape} in the run. "
                             "It belongs to another model")
