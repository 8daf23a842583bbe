"""Make a kernel again from the text that travelled, in the process that judges it.

    KernelText ──► one file a piece ──► helpers, then the kernel ──► Rebuilt

Whether it becomes an interpreted or a compiled kernel is up to TRITON_INTERPRET in that process, as always.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from puzzles.source import BadInput, KernelText, Piece, is_kernel, not_a_kernel, untuned


@dataclass(frozen=True)
class Rebuilt:
    """A kernel, the piece of text that each file name stands for, and everything else that its text defines.
    """

    kernel: Any
    files: dict[str, Piece]
    namespace: dict[str, Any]


def load(text: KernelText, folder: Path) -> Rebuilt:
    """Rebuild the kernel in this process, from files in `folder`. Raises BadInput, or whatever the text
    raises.
    """
    built: list[Any] = []
    space: dict[str, Any] = {}
    files = piece_files(text, folder)
    for path, piece in files.items():
        Path(path).write_text(piece.text)        # Triton reads a kernel's text from its file
        space = _namespace(piece, built)
        code = compile(piece.text, path, "exec", dont_inherit=True)
        exec(code, space)
        built.append(_kernel(space[piece.name], piece))
    return Rebuilt(kernel=built[-1], files=files, namespace=space)


def piece_files(text: KernelText, folder: Path) -> dict[str, Piece]:
    """The piece of text that each file in `folder` holds."""
    return {str(folder / f"piece{i}.py"): piece for i, piece in enumerate(text.pieces)}


def _namespace(piece: Piece, built: list) -> dict[str, Any]:
    space: dict[str, Any] = {
        "__name__": f"answer_{piece.name}",
        "triton": import_module("triton"),
        "tl": import_module("triton.language"),
    }
    for name, how in (piece.names or {}).items():
        space[name] = _value(how, built)
    return space


def _value(how: tuple, built: list) -> Any:
    """What a name of a piece stands for here: see Piece."""
    match how:
        case "piece", index:
            return built[index]
        case "value", value:
            return value
        case "constexpr", inner:
            return import_module("triton.language").constexpr(_value(inner, built))
        case "dtype", name:
            return import_module("triton.language").dtype(name)
        case "module", module:
            return import_module(module)
        case "attr", module, name:
            return getattr(import_module(module), name)
    raise ValueError(f"a name cannot travel as {how!r}.")


def _kernel(value: Any, piece: Piece) -> Any:
    if piece.names is not None:
        decorate = getattr(import_module("triton"), piece.decorator)
        return decorate(value)
    value = untuned(value)
    if not is_kernel(value):
        raise BadInput(not_a_kernel(value))
    return value
