"""The table of equality, line by line, for a terminal."""

from dataclasses import asdict

from aiinfra.parallel.equality import Differences
from aiinfra.parallel.launch import RankFailed
from aiinfra.parallel.mixes import Mix

_COLUMNS = ("loss", "norm", "gradients", "parameters")
_WIDTHS = (10, 10, 10, 11)
_NUMBERS = "".join(f"{name:>{width}}" for name, width in zip(_COLUMNS, _WIDTHS))
HEADER = f"{'mix':<28}{'mesh':<17}{'model':<22}{_NUMBERS}"


def line_of(mix: Mix, found: Differences | RankFailed, limit: float) -> str:
    """A row: the four differences and a verdict, or what went wrong."""
    start = f"{mix.name:<28}{mix.mesh:<17}{mix.model:<22}"
    if isinstance(found, RankFailed):
        *_, last = str(found).splitlines()
        return f"{start}  FAILED: {last}"
    values = asdict(found).values()
    numbers = "".join(f"{value:{width}.1e}" for value, width in zip(values, _WIDTHS))
    verdict = "equal" if is_equal(found, limit) else "DIFFERENT"
    return f"{start}{numbers}  {verdict}"


def is_equal(found: Differences | RankFailed, limit: float) -> bool:
    """True if every difference is below `limit`."""
    return isinstance(found, Differences) and found.worst < limit
