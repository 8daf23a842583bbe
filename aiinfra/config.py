"""Configs are frozen dataclasses; an unknown key is an error that names the nearest known one."""

import functools
from dataclasses import dataclass, fields
from typing import dataclass_transform

from aiinfra.errors import nearest


@dataclass_transform(frozen_default=True)
def config(cls: type) -> type:
    """A frozen dataclass whose constructor names the nearest key when it is given an unknown one."""
    cls = dataclass(frozen=True)(cls)
    known = [f.name for f in fields(cls) if f.init]
    init = cls.__init__

    @functools.wraps(init)
    def strict_init(self, *args, **kwargs):
        for key in kwargs:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no key {key!r}.{nearest(key, known)} "
                                f"Known keys: {', '.join(known)}.")
        init(self, *args, **kwargs)

    cls.__init__ = strict_init
    return cls
