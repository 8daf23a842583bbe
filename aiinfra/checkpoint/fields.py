"""Values out of a stranger's config, each checked for its type: a wrong one would compute something else.

Every error names the file, the key and the value.
"""

from typing import Any

from aiinfra.errors import LoadError, nearest


def required(raw: dict[str, Any], key: str, source: str) -> Any:
    """The value of a key. Raises LoadError, naming the nearest one, if it is absent."""
    if raw.get(key) is None:
        raise LoadError(f"{source} has no {key!r}, which the model's shape needs.{nearest(key, raw)}")
    return raw[key]


def count(raw: dict[str, Any], key: str, source: str) -> int:
    """A whole number of at least 1. Raises LoadError if it is something else, or absent."""
    value = required(raw, key, source)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LoadError(f"{source}: {key}={value!r}; it must be an integer of at least 1.")
    return value


def number(raw: dict[str, Any], key: str, source: str, default: float | None = None) -> float:
    """A number; `default` if it is absent. Raises LoadError if it is something else, or absent without a
    default."""
    value = required(raw, key, source) if default is None else raw.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LoadError(f"{source}: {key}={value!r}; it must be a number.")
    return float(value)


def truth(raw: dict[str, Any], key: str, source: str, default: bool = False) -> bool:
    """True or false; `default` if it is absent."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise LoadError(f"{source}: {key}={value!r}; it must be true or false.")
    return value


def token_ids(raw: dict[str, Any], key: str, source: str) -> tuple[int, ...]:
    """One id, a list of ids, or none; -1 is how some files say "none"."""
    value = raw.get(key)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise LoadError(f"{source}: {key}={value!r}; it must be a token id or a list of them.")
    return tuple(token_id for token_id in ids if token_id >= 0)
