"""The table of equality, line by line, for a terminal."""

from dataclasses import asdict

from aiinfra.parallel.equality import Differences
from aiinfra.parallel.launch import RankFailed
from aiinfra.parallel.mixes import Mix

_COLUMNS = ("loss", "norm", "gradients", "parameters")
_NUMBERS = "".join(f"{name:>12}" for name in _COLUMNS)
HEADER = f"{'mix':<28}{'mesh':<20}{'model':<12}{_NUMBERS}"


def line_of(mix: Mix, found: Differences | RankFailed, limit: float) -> str:
    """A row: the four differences and a verdict, or what went wrong."""
    start = f"{mix.name:<28}{mix.mesh:<20}{mix.model:<12}"
    if isinstance(found, RankFailed):
        *_, last = str(found).splitlines()
        return f"{start}  FAILED: {last}"
    numbers = "".join(f"{value:12.1e}" for value in asdict(found).values())
    verdict = "equal" if is_equal(found, limit) else "DIFFERENT"
    return f"{start}{numbers}  {verdict}"


def is_equal(found: Differences | RankFailed, limit: float) -> bool:
    """True if every difference is below `limit`."""
    return isinstance(found, Differences) and found.worst < limit
