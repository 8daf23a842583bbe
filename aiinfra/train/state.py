"""All that a run is at one moment, in a folder that is whole or not there, so that it goes on as if never
stopped.

    step-00000120/
        model.safetensors        each weight once, under our names
        optimizer.safetensors    AdamW's moments, as "exp_avg/layers.0.mlp.down.weight"
        random.safetensors       the states of the random generators: PyTorch's, each GPU's, NumPy's, Python's
        state.json               step, tokens, position in the data, configuration; size and hash of each file

Nothing is unpickled: a checkpoint from a stranger is numbers and JSON. Every file is checked against its hash
before anything is changed, so a run takes up a whole state or refuses. The schedule needs no state of its
own: it is a function of the step. Notebook 04.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aiinfra.files import replace_folder

_TENSOR_FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")


class StateError(ValueError):
    """A checkpoint is damaged, or belongs to another run. Names the folder, and what is wrong in it."""


@dataclass(frozen=True)
class Waypoint:
    """Where a run stands after a step: what is not a tensor."""

    step: int                        # steps done
    tokens_seen: int
    position: int                    # of the packed stream, in rows
    configuration: dict[str, Any]    # JSON values; what a resumed run is compared with


def save_state(folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer,
               place: Waypoint) -> None:
    """Write the state to `folder`, whole or not at all. Raises OSError if it cannot be written (a full
    disk)."""
    numbers = _python_state()
    tensors = {"model.safetensors": _weights(model),
               "optimizer.safetensors": dict(_moments(model, optimizer)),
               "random.safetensors": _random_tensors()}

    def write(temporary: Path) -> None:
        for name, content in tensors.items():
            _save(content, temporary / name)
        seal(temporary, place, random=numbers)
    replace_folder(folder, write)


def seal(folder: Path, place: Waypoint, **more: Any) -> None:
    """Write state.json, which says what every file in `folder` must be, where the run stands, and `more`."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    body = {"place": vars(place), **more, "files": files}
    text = json.dumps(body)
    sealed = json.dumps({"hash": _hash(text), "body": text}, indent=1)
    (folder / "state.json").write_text(sealed)


def read_place(folder: str | Path) -> Waypoint:
    """Where the run in `folder` stood, after checking every file. Raises StateError if anything is
    damaged."""
    return Waypoint(**unseal(Path(folder))["place"])


def load_state(folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Waypoint:
    """Bring model, optimizer and random generators to the state in `folder`; returns where the run stood.

    Raises StateError, with nothing changed, if a file is missing, cut short or altered, or if the weights are
    not those of this model.
    """
    folder = Path(folder)
    body = unseal(folder)
    if not (folder / "model.safetensors").exists():
        raise StateError(f"{folder.name} was written in parts, by the ranks of a mesh. Go on under torchrun, "
                         "with --mesh: dp=1 is one process")
    weights, moments, generators = (_load(folder / name) for name in _TENSOR_FILES)
    _check_names(folder, _weights(model), weights)
    with torch.no_grad():
        for name, parameter in _weights(model).items():
            parameter.copy_(weights[name])
    _set_moments(model, optimizer, moments)
    _set_random(generators, body["random"])
    return Waypoint(**body["place"])


def unseal(folder: Path) -> dict[str, Any]:
    """What `seal` wrote. Raises StateError unless every file is as it was then."""
    path = folder / "state.json"
    try:
        sealed = json.loads(path.read_text())
        text = sealed["body"]
        whole = _hash(text) == sealed["hash"]
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        kind = type(error).__name__
        raise StateError(f"{_label(path)} cannot be read ({kind}: {error})") from error
    if not whole:
        raise StateError(f"{_label(path)} is not as it was written (its hash differs)")
    body = json.loads(text)
    for name, written in body["files"].items():
        _check_file(folder / name, written)
    return body


def _label(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _check_file(path: Path, written: dict[str, Any]) -> None:
    if not path.exists():
        raise StateError(f"{_label(path)} is missing")
    size = path.stat().st_size
    expected = written["bytes"]
    if size != expected:
        raise StateError(f"{_label(path)} has {size:,} bytes and was written with {expected:,}")
    if _fingerprint(path) != written:
        raise StateError(f"{_label(path)} is not as it was written (its hash differs)")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return {"bytes": path.stat().st_size, "hash": digest.hexdigest()}


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """As safetensors. Its own error for a disk that is full becomes the system's."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written ({error}).") from error


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise StateError(f"{_label(path)} cannot be read ({error})") from error


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and lasting buffers by name; a tied one once."""
    lasting = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in lasting}
    return dict(model.named_parameters()) | buffers


def _check_names(folder: Path, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in sorted(mine.keys() ^ theirs.keys()):
        owner = "the model" if name in mine else "the checkpoint"
        raise StateError(f"{folder.name}: only {owner} has a weight {name}. It belongs to another model")
    for name, value in mine.items():
        have, saved = list(value.shape), list(theirs[name].shape)
        if have != saved:
            raise StateError(f"{folder.name}: {name} is {saved} in the checkpoint and {have} in the model. "
                             "It belongs to another model")


def _names_in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in the order in which it numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors by kind and parameter."""
    states = optimizer.state_dict()["state"]
    for number, name in enumerate(_names_in_order(model, optimizer)):
        for kind, value in states.get(number, {}).items():
            yield f"{kind}/{name}", value


def _set_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    numbers = {name: number for number, name in enumerate(_names_in_order(model, optimizer))}
    states = {}
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        states.setdefault(numbers[name], {})[kind] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _random_tensors() -> dict[str, Tensor]:
    """The states of the generators that are tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda:{index}"] = state
    keys = np.random.get_state()[1]
    states["numpy"] = torch.from_numpy(keys.astype(np.int64))
    return states


def _python_state() -> dict[str, Any]:
    """What JSON can hold: Python's generator, and where NumPy's stands in its numbers."""
    version, internal, gauss = random.getstate()
    _, _, index, has_gauss, cached = np.random.get_state()
    return {"python": [version, list(internal), gauss],
            "numpy": [index, has_gauss, cached]}


def _set_random(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    version, internal, gauss = numbers["python"]
    random.setstate((version, tuple(internal), gauss))
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *numbers["numpy"]))
    torch.set_rng_state(tensors["torch"])
    for name, state in tensors.items():
        if name.startswith("cuda:") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, name)


def check_configuration(saved: dict[str, Any], now: dict[str, Any], may_differ: frozenset[str]) -> list[str]:
    """Sentences about settings that differ and may; raises StateError naming those that differ and may
    not."""
    allowed, wrong = [], []
    for key in {**saved, **now}:
        before, after = saved.get(key), now.get(key)
        if before != after:
            told = allowed if key in may_differ else wrong
            told.append(f"{key} was {before!r} and is {after!r}")
    if wrong:
        raise StateError(f"this is another run: {'; '.join(wrong)}. A resumed run may differ only in: "
                         f"{', '.join(sorted(may_differ))}. Take another folder, or the old settings.")
    return allowed
