"""Read what the GPU would run: a kernel's PTX and machine code, made on a machine without a GPU.

    kernel (from a file or a notebook cell) ─► its source ─► a process without TRITON_INTERPRET
        ─► Triton ─► PTX ─► ptxas ─► cubin ─► nvdisasm ─► SASS, registers, shared memory, spills

PTX is the assembler that NVIDIA documents, with registers without number; SASS is what the chip
executes, after registers were assigned. A kernel is interpreted or compiled from its decorator on,
so a process that interprets its kernels cannot compile them: here a fresh one does, from the
kernel's source text. Notebook 08.
"""

import inspect
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra.gpu import process
from aiinfra.gpu.compile import build, resource_usage
from aiinfra.kernels.lang import triton

_PRELUDE = "import triton\nimport triton.language as tl\n\n\n"
_OPTIONS = ("arch", "num_warps", "num_stages", "types")        # of a case; the rest are its constexprs
_SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")


@dataclass(frozen=True)
class Listing:
    """The code of one kernel for one architecture. Registers and spills are per thread."""

    kernel: str
    arch: int
    num_warps: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    ptx: str
    sass: str

    def lines(self, pattern: str, code: str = "sass") -> list[str]:
        """The instructions of "sass" or "ptx" in which the regular expression is found."""
        text = {"sass": self.sass, "ptx": self.ptx}[code]
        return [line.strip() for line in text.splitlines() if re.search(pattern, line)]


def listings(kernel: Any, types: dict[str, str], *cases: dict) -> list[Listing]:
    """Compile `kernel` once for each case and return the code; works under TRITON_INTERPRET=1 too.

    `types` maps parameters to Triton types as in `compile_cases` ("*fp32", "i32:16"; others are
    "i32"). A case is the kernel's constexprs, and may also say `arch` (90), `num_warps` (4),
    `num_stages` (3) and `types`, which are added to the common ones. The kernel may use `triton`,
    `tl` and nothing else from around it. Raises RuntimeError with the compiler's words for a kernel
    that it refuses.
    """
    jobs = [_job(kernel, types, case) for case in cases]
    try:                         # line information would put this machine's paths into the PTX
        return process.call(_listings, jobs, interpret=False, TRITON_DISABLE_LINE_INFO="1")
    except process.ChildFailed as failed:
        raise RuntimeError(f"{kernel.fn.__name__} does not compile: {failed}") from None


def _job(kernel: Any, types: dict[str, str], case: dict) -> dict:
    """A case of `build`, with the kernel's name and source in place of the kernel."""
    options = {key: case[key] for key in _OPTIONS if key in case}
    return {
        **options,
        "source": inspect.getsource(kernel.fn),
        "name": kernel.fn.__name__,
        "constexprs": {key: value for key, value in case.items() if key not in _OPTIONS},
        "types": types | case.get("types", {}),
    }


def _listings(jobs: list[dict]) -> list[Listing]:
    """In a process that compiles its kernels: the listing of each job."""
    with tempfile.TemporaryDirectory() as folder:
        return [_listing(job, Path(folder), number) for number, job in enumerate(jobs)]


def _listing(job: dict, folder: Path, number: int) -> Listing:
    arch = job.get("arch", 90)
    kernel = _load(job["source"], job["name"], folder / f"kernel_{number}.py")
    compiled = build({**job, "kernel": kernel}, arch)
    cubin = compiled.asm["cubin"]
    usage = resource_usage(cubin)
    return Listing(
        kernel=job["name"],
        arch=arch,
        num_warps=compiled.metadata.num_warps,
        registers=usage["REG"],
        shared_bytes=compiled.metadata.shared,
        spill_bytes=usage["STACK"],
        ptx=compiled.asm["ptx"],
        sass=_disassemble(cubin, folder),
    )


def _load(source: str, name: str, path: Path):
    """The kernel from its text; from a file, because Triton reads the source again."""
    path.write_text(_PRELUDE + inspect.cleandoc(source), encoding="utf-8")
    namespace = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace[name]


def _disassemble(cubin: bytes, folder: Path) -> str:
    """The machine instructions, one a line, without their addresses and the padding at the end."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(file)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [re.sub(r"\s+", " ", line) for line in _SASS_LINE.findall(said)]
    return "\n".join(line for line in lines if line != "NOP")
