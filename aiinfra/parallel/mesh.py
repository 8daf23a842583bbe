"""Ranks in a grid whose dimensions have names: who shares what with whom.

    "dp=2,tp=4"        tp ─────────────►        ranks of a row hold parts of the same matrices,
                  dp   0    1    2    3         ranks of a column hold the same parts
                  │    4    5    6    7         and see different rows of the data
                  ▼

    dp    copies that see different data           tp   parts of each matrix
    fsdp  the same, each keeping a part of all     pp   groups of layers, one after another
    ep    the same, each keeping some experts      cp   parts of each sequence

The last dimension written has ranks that are neighbours: on one machine, where links are fast. Invariant: the
sizes multiply to the number of ranks. Notebook 06.
"""

import math
from collections.abc import Mapping

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from aiinfra.errors import nearest, plural
from aiinfra.parallel.launch import rank_device

DIMENSIONS = ("dp", "fsdp", "tp", "pp", "cp", "ep")
DATA_DIMENSIONS = ("dp", "fsdp", "ep", "cp")        # along these, ranks see different tokens


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes by name, in the order written: "dp=2,tp=2" -> {"dp": 2, "tp": 2}. "" is one rank.

    Raises ValueError for what is not NAME=SIZE, an unknown name, one that comes twice, a size below 1.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if not size.isdigit():
            raise ValueError(f"mesh {text!r}: {part!r} is not NAME=SIZE, as in dp=2,tp=2.")
        if name in sizes:
            raise ValueError(f"mesh {text!r} has {name} twice. Multiply the sizes.")
        sizes[name] = int(size)
    check_sizes(sizes)
    return sizes


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raises ValueError for an unknown name, naming the nearest, and for a size below 1."""
    for name, size in sizes.items():
        if name not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise ValueError(f"a mesh has no dimension {name!r}.{nearest(name, DIMENSIONS)} Known: {known}.")
        if size < 1:
            raise ValueError(f"{name}={size}; a dimension of a mesh has at least 1 rank.")


def describe_mesh(sizes: Mapping[str, int]) -> str:
    """As it is written: "dp=2,tp=2"; "one rank" if there are no dimensions."""
    return ",".join(f"{name}={size}" for name, size in sizes.items()) or "one rank"


def make_mesh(sizes: Mapping[str, int]) -> DeviceMesh:
    """The mesh of all ranks that are here, its dimensions in the order of `sizes`; {} is one of dp=1.

    All ranks call it together. Raises ValueError if the sizes do not multiply to the number of ranks, and as
    `check_sizes` does.
    """
    check_sizes(sizes)
    sizes = dict(sizes) or {"dp": 1}
    wanted, ranks = math.prod(sizes.values()), dist.get_world_size()
    if wanted != ranks:
        factors = " × ".join(map(str, sizes.values()))
        needed = f"{factors} = {plural(wanted, 'rank')}"
        raise ValueError(f"mesh {describe_mesh(sizes)} has {needed} and {ranks} were started. "
                         f"Start {wanted}, or write a mesh of {ranks}.")
    names, shape = tuple(sizes), tuple(sizes.values())
    return init_device_mesh(rank_device().type, shape, mesh_dim_names=names)


def mesh_size(mesh: DeviceMesh, name: str) -> int:
    """Ranks along a dimension; 1 if the mesh does not have it."""
    if name not in mesh.mesh_dim_names:
        return 1
    return mesh[name].size()


def mesh_rank(mesh: DeviceMesh, name: str) -> int:
    """This rank's place along a dimension; 0 if the mesh does not have it."""
    if name not in mesh.mesh_dim_names:
        return 0
    return mesh.get_local_rank(name)


def data_dimensions(mesh: DeviceMesh) -> list[str]:
    """Those along which ranks see different tokens, in the mesh's order."""
    return [name for name in mesh.mesh_dim_names if name in DATA_DIMENSIONS]
