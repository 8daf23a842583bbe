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
from aiinfra.parallel.orders import SCHEDULES
from aiinfra.parallel.parallelize import ParallelOptions


@config
class Mix:
    """A row of the table: what is applied to which model."""

    name: str
    mesh: str
    tied: bool = True
    experts: str = ""                # "softmax", "sigmoid", or "overloaded": most experts stay empty
    latent: bool = False             # attention (MLA)
    options: ParallelOptions = ParallelOptions()

    @property
    def label(self) -> str:
        """Its name and mesh."""
        return f"{self.name} {self.mesh}"

    @property
    def model(self) -> str:
        """What is trained, in a word or two: its table, its attention, its router."""
        words = ["tied" if self.tied else "untied"]
        if self.latent:
            words.append("latent")
        if self.experts:
            words.append(self.experts)
        return ", ".join(words)

    @property
    def ranks(self) -> int:
        """How many processes it takes."""
        return math.prod(parse_mesh(self.mesh).values())


_ZERO_2 = ParallelOptions(gather_again=False)
_SEQUENCE = ParallelOptions(sequence=True)


def _scheduled(name: str) -> ParallelOptions:
    return ParallelOptions(schedule=name)


MIXES = (
    Mix("data parallel", "dp=2"),
    Mix("data parallel", "dp=4", tied=False),
    Mix("ZeRO-2", "fsdp=2", options=_ZERO_2),
    Mix("FSDP", "fsdp=2"),
    Mix("FSDP", "fsdp=4", tied=False),
    Mix("FSDP × data", "dp=2,fsdp=2"),
    Mix("FSDP × data", "dp=2,fsdp=4"),
    Mix("tensor", "tp=2"),
    Mix("tensor", "tp=4", tied=False),
    Mix("tensor, sequence", "tp=2", options=_SEQUENCE),
    Mix("tensor, sequence", "tp=4", tied=False, options=_SEQUENCE),
    Mix("tensor × data", "dp=2,tp=2"),
    Mix("tensor × FSDP", "fsdp=2,tp=2", options=_SEQUENCE),
    Mix("tensor × FSDP", "fsdp=4,tp=2"),
    Mix("context", "cp=2"),
    Mix("context", "cp=4", tied=False),
    Mix("context × data", "dp=2,cp=2"),
    Mix("context × tensor", "cp=2,tp=2", options=_SEQUENCE),
    Mix("context × FSDP", "fsdp=2,cp=2"),
    Mix("context × tensor × FSDP", "fsdp=2,cp=2,tp=2", tied=False, options=_SEQUENCE),
    Mix("context × tensor × pipeline", "pp=2,cp=2,tp=2", options=_SEQUENCE),
    *(Mix(f"pipeline {name}", "pp=2", options=_scheduled(name)) for name in SCHEDULES),
    Mix("pipeline 1f1b", "pp=4", tied=False),
    Mix("pipeline zero_bubble", "pp=4", options=_scheduled("zero_bubble")),
    Mix("pipeline zb, 2 stages each", "pp=2",
        options=ParallelOptions(schedule="zero_bubble", stages=2)),
    Mix("pipeline × data", "pp=2,dp=2"),
    Mix("pipeline × data", "dp=2,pp=2", tied=False, options=_scheduled("interleaved_1f1b")),
    Mix("pipeline × FSDP", "pp=2,fsdp=2"),
    Mix("pipeline × FSDP", "fsdp=4,pp=2", options=ParallelOptions(schedule="gpipe", gather_again=False)),
    Mix("pipeline × context", "pp=2,cp=2", options=_scheduled("interleaved_1f1b")),
    Mix("tensor × pipeline", "pp=2,tp=2", options=_SEQUENCE),
    Mix("tensor × pipeline × data", "pp=2,dp=2,tp=2"),
    Mix("tensor × pipeline × data", "dp=2,pp=2,tp=2", tied=False,
        options=ParallelOptions(schedule="zero_bubble", sequence=True)),
    Mix("expert", "ep=2", experts="softmax"),
    Mix("expert", "ep=2", experts="overloaded"),
    Mix("expert", "ep=4", tied=False, experts="sigmoid"),
    Mix("expert", "ep=4", experts="overloaded"),
    Mix("expert × data", "dp=2,ep=2", experts="softmax"),
    Mix("expert × data", "ep=2,dp=2", tied=False, experts="overloaded"),
    Mix("expert × data", "dp=2,ep=4", experts="sigmoid"),
    Mix("expert × context", "cp=2,ep=2", experts="sigmoid"),
    Mix("expert × pipeline", "pp=2,ep=2", experts="sigmoid"),
    Mix("experts, copied", "dp=2", experts="overloaded"),
    Mix("experts, FSDP", "fsdp=2", experts="sigmoid"),
    Mix("experts, tensor", "tp=2", experts="sigmoid"),
    Mix("expert × FSDP", "fsdp=2,ep=2", experts="sigmoid"),
    Mix("latent, tensor", "tp=2", latent=True, options=_SEQUENCE),
    Mix("latent, context", "cp=2", latent=True),
    Mix("latent, pipeline × FSDP", "pp=2,fsdp=2", latent=True),
    Mix("latent, expert × data", "dp=2,ep=2", latent=True, experts="sigmoid"),
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
