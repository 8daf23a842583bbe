"""Something of ours in place of a library's own, for as long as a block lasts.

    with replaced(builder, create_masked_load=counting_load):     Triton's interpreter calls ours
        …
                                                                  and its own again, whatever happened
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Within it, owner.name is the value given as name=value. Afterwards owner is as before: what it had
    itself it has again, and what it had from its class or nowhere is taken away."""
    before = {name: vars(owner).get(name, _ABSENT) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
