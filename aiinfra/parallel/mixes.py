"""The rows of the table of equality: which mixes of parallelism are tried, on which small model.

    name                 mesh                the model, and options
    FSDP × data          dp=2,fsdp=4         tied table

A kind of parallelism that is added adds its rows here; `equality.py` tries them.
"""

import math
from collections.abc import Iterable, Sequence

from aiinfra.config import config
from aiinfra.errors import nearest
from aiinfra.parallel.mesh import parse_mesh


@config
class Mix:
    """A row of the table: what is applied to which model."""

    name: str
    mesh: str
    tied: bool = True
    gather_again: bool = True        # FSDP as ZeRO-3; else as ZeRO-2

    @property
    def label(self) -> str:
        """Its name and mesh."""
        return f"{self.name} {self.mesh}"

    @property
    def model(self) -> str:
        """What is trained, in a word or two."""
        return "tied" if self.tied else "untied"

    @property
    def ranks(self) -> int:
        """How many processes it takes."""
        return math.prod(parse_mesh(self.mesh).values())


MIXES = (
    Mix("data parallel", "dp=2"),
    Mix("data parallel", "dp=4", tied=False),
    Mix("ZeRO-2", "fsdp=2", gather_again=False),
    Mix("FSDP", "fsdp=2"),
    Mix("FSDP", "fsdp=4", tied=False),
    Mix("FSDP × data", "dp=2,fsdp=2"),
    Mix("FSDP × data", "dp=2,fsdp=4"),
)


def chosen(mixes: Sequence[Mix], texts: Iterable[str] = (), ranks: Iterable[int] | None = None) -> list[Mix]:
    """Those whose name or mesh has one of the texts in it, and whose number of processes is one of `ranks`;
    what is not given leaves all. Raises ValueError if none is left."""
    texts = list(texts)
    left = [mix for mix in mixes if not texts or any(text.lower() in mix.label.lower() for text in texts)]
    left = [mix for mix in left if ranks is None or mix.ranks in ranks]
    if not left:
        names = sorted({mix.name for mix in mixes})
        near = nearest(texts[0], names) if texts else ""
        raise ValueError(f"no row has {texts} and that many ranks.{near} Rows: {', '.join(names)}.")
    return left
