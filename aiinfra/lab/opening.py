"""start(): one call opens a page, in place of what every page would have to do before its first line.

    from aiinfra import lab
    device = lab.start("08", interpret=True)      ──►  the key of colours, and how far you are on this page

Triton decides when it is imported whether its kernels are compiled or interpreted: what imports a kernel
stands below the call. Used by every notebook.
"""

from importlib import import_module

import torch
from IPython.display import display

from aiinfra import environment
from aiinfra.device import default_device
from aiinfra.lab import course, style
from aiinfra.lab.markup import LOOKS, Rich, inline
from aiinfra.lab.without_triton import skip_kernels

class Opening(Rich):
    """What a page's first cell shows: the key of colours, and the reader's progress on that page."""

    tone = "note"

    def __init__(self, key: style.Key, page: course.Part, threads: str) -> None:
        self._key = key
        self.head, self.body = key.head, key.body
        self.foot = f"{page.name}: {page.score}. `progress()` shows the whole course.\n{threads}."

    def _repr_html_(self) -> str:
        return f"{LOOKS}{self._key._repr_html_()}<br><small>{inline(self.foot)}</small>"


def start(page: str, interpret: bool = False, grad: bool = True) -> torch.device:
    """Open notebook `page` ("08"): set the style, show the key of colours, return the device to work on.

    `interpret` lets Triton kernels run in the interpreter where there is no GPU; `grad=False` is for pages
    that train nothing. Raises ValueError if there is no such page, and RuntimeError if `interpret` comes too
    late.
    """
    threads = environment.calm_threads()
    opened = course.page(page)
    device = default_device()
    if interpret and device.type == "cpu":
        environment.interpret_triton()
        import_module("aiinfra.kernels.lang")            # only now: it loads Triton, and mends its bfloat16
    skip_kernels()
    environment.silence_profiler()
    torch.set_grad_enabled(grad)
    display(Opening(style.use(), opened, threads))
    return device
