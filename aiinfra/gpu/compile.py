"""Does every kernel compile for GPUs that are not here, and what does each one take there?

    kernel file ──compile_cases(arch)──► Triton ► PTX ► cubin ──► registers, shared memory, spills

A GPU's compiler runs on any Linux machine, so a kernel that no longer compiles, that spills its
registers to memory, or that asks for more shared memory than the chip has is found without a GPU.
Notebook 08 opens the generated code; tests/gpu/test_compile.py fails on a spill.

The convention. A kernel file that wants to be compiled here defines

    def compile_cases(arch: int) -> list[dict]:
        return [dict(name="rmsnorm bf16 4096", kernel=_forward_kernel,
                     types={"x_ptr": "*bf16", "eps": "fp32"},
                     constexprs={"ROWS": 1, "BLOCK_D": 4096}, num_warps=4, num_stages=3)]

one entry for each kernel at each size worth knowing, with the sizes its wrapper would choose on
compute capability `arch` (90 for 9.0). `types` maps parameters to Triton types; a parameter that is
neither there nor in `constexprs` is "i32". As at a real launch, pointers are 16-byte aligned;
"i32:16" is an integer known to divide by 16. num_warps and num_stages default to 4 and 3.
compile_table.py has the command, and the table of all kernels on all chips.
"""

import importlib
import multiprocessing
import pkgutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aiinfra.environment import triton_interpreted
from aiinfra.gpu import process
from aiinfra.gpu.variants import Variant
from aiinfra.kernels.chip import SHARED_LIMIT
from aiinfra.kernels.lang import triton


@dataclass(frozen=True)
class Compiled:
    """One kernel compiled for one architecture. Registers and spills are per thread.

    `spill_bytes` is the thread's stack frame: our kernels have no local arrays, so whatever is
    there was put there by the register allocator. `shared_bytes` is per program.
    """

    module: str
    name: str
    arch: int
    num_warps: int
    num_stages: int
    registers: int
    shared_bytes: int
    spill_bytes: int

    @property
    def fits(self) -> bool:
        """True if nothing spills and the architecture has this much shared memory."""
        return not self.spill_bytes and self.shared_bytes <= SHARED_LIMIT[self.arch]


class CompileJob(NamedTuple):
    """One case of a kernel file, for one architecture."""

    module: str
    index: int                           # in what its compile_cases(arch) returns
    arch: int


def kernel_modules() -> list[str]:
    """Names of the files in this folder that define `compile_cases`, in alphabetical order."""
    folder = Path(__file__).parents[1] / "kernels"
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return [name for name in names if name != "compile" and hasattr(_module(name), "compile_cases")]


def build(case: dict, arch: int):
    """Compile one case for `arch`; Triton's CompiledKernel, whose `.asm` holds ttir, ttgir, llir, ptx, cubin.

    Raises RuntimeError under TRITON_INTERPRET=1, where a kernel is a Python function.
    """
    return triton.compile(_source(case), target=_target(arch), options=_options(case))


def translate(case: dict, arch: int) -> str:
    """The first step of `build`, which runs the kernel's own Python: to Triton's intermediate language."""
    from triton._C.libtriton import ir
    from triton.compiler.compiler import make_backend
    source, target = _source(case), _target(arch)
    backend = make_backend(target)
    options = backend.parse_options(_options(case))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = source.make_ir(target, options, functions, backend.get_module_map(), context)
    stages: dict = {}
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](module, {}))


def build_translated(file: Path, arch: int):
    """The other steps of `build`, from a .ttir file with what `translate` says. Runs nobody's Python."""
    return triton.compile(str(file), target=_target(arch), options=_options({}))


def _source(case: dict):
    if triton_interpreted():
        raise RuntimeError("TRITON_INTERPRET=1: kernels are interpreted in this process and cannot be "
                           "compiled. Unset it before Triton is imported, or call compile_report().")
    from triton.compiler import ASTSource
    kernel, constexprs = case["kernel"], case["constexprs"]
    signature, attrs = _signature(kernel.arg_names, case["types"], constexprs)
    return ASTSource(kernel, signature, constexprs, attrs)


def _target(arch: int):
    from triton.backends.compiler import GPUTarget
    return GPUTarget("cuda", arch, 32)


def _options(case: dict) -> dict[str, int]:
    return {"num_warps": case.get("num_warps", 4), "num_stages": case.get("num_stages", 3)}


def _signature(names: list[str], types: dict[str, str], constexprs: dict) -> tuple[dict, dict]:
    """Each parameter's type, and for a parameter's position what is known of its value: what divides it."""
    signature, attrs = {}, {}
    for position, name in enumerate(names):
        if name in constexprs:
            signature[name] = "constexpr"
            continue
        kind, _, divisor = types.get(name, "i32").partition(":")
        signature[name] = kind
        if not divisor and kind.startswith("*"):
            divisor = "16"                                   # as PyTorch's memory is aligned
        if divisor not in ("", "1"):
            attrs[(position,)] = [["tt.divisibility", int(divisor)]]
    return signature, attrs


def compile_jobs(archs: tuple[int, ...], modules: list[str] | None = None) -> list[CompileJob]:
    """Every case of every kernel file, or of `modules`, for each of `archs`. Raises ValueError for an arch or
    a module that is not known."""
    unknown = sorted(set(archs) - set(SHARED_LIMIT))
    if unknown:
        raise ValueError(f"arch {unknown[0]} is not known; use one of {sorted(SHARED_LIMIT)}.")
    missing = sorted(set(modules or ()) - set(kernel_modules()))
    if missing:
        raise ValueError(f"{missing[0]!r} has no compile_cases; use one of {kernel_modules()}.")
    jobs = []
    for module in modules or kernel_modules():
        for arch in archs:
            cases = _module(module).compile_cases(arch)
            jobs += [CompileJob(module, index, arch) for index in range(len(cases))]
    return jobs


def compile_all(jobs: list[CompileJob], processes: int = 2) -> Iterator[Compiled]:
    """What each job takes, in order, each as soon as it is known.

    Works with and without a GPU, and also from a process that interprets its kernels: a fresh one does it
    then, and all come at its end. Raises whatever Triton's compiler raises for a kernel that it refuses.
    Takes seconds a kernel once, then Triton's disk cache.
    """
    if triton_interpreted():
        yield from _elsewhere(_compile_jobs, jobs, processes)
        return
    # Spawned, not forked: PyTorch's threads do not survive a fork.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_compile_one, jobs)


def compile_report(archs: tuple[int, ...] = (80, 90, 100), modules: list[str] | None = None,
                   processes: int = 2) -> list[Compiled]:
    """`compile_all` of `compile_jobs`."""
    return list(compile_all(compile_jobs(archs, modules), processes))


def variant_report(variants: Iterable[Variant], arch: int) -> list[Compiled]:
    """Compile for `arch` what a run would have had compiled (see fake.py). Raises as `compile_report`."""
    texts = [variant.as_json() for variant in sorted(variants, key=Variant.as_json)]
    if not triton_interpreted():
        return _compile_variants(texts, arch)
    return _elsewhere(_compile_variants, texts, arch)


def _compile_variants(texts: list[str], arch: int) -> list[Compiled]:
    found = [Variant.from_json(text) for text in texts]
    return [_compiled(variant.module, variant.case(), arch) for variant in found]


def _module(name: str):
    return importlib.import_module(f"aiinfra.kernels.{name}")


def _compile_one(job: CompileJob) -> Compiled:
    return _compiled(job.module, _module(job.module).compile_cases(job.arch)[job.index], job.arch)


def _compile_jobs(jobs: list[CompileJob], processes: int) -> list[Compiled]:
    return list(compile_all(jobs, processes))


def _compiled(module: str, case: dict, arch: int) -> Compiled:
    compiled = build(case, arch)
    usage = resource_usage(compiled.asm["cubin"])
    return Compiled(
        module=module,
        name=case["name"],
        arch=arch,
        num_warps=compiled.metadata.num_warps,
        num_stages=compiled.metadata.num_stages,
        registers=usage["REG"],
        shared_bytes=compiled.metadata.shared,
        spill_bytes=usage["STACK"],
    )


def resource_usage(cubin: bytes) -> dict[str, int]:
    """What cuobjdump, which comes with Triton, reads from a cubin: {"REG": 64, "STACK": 0, …}."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = [field.split(":") for field in said.split() if field.count(":") == 1]
    return {name: int(value) for name, value in fields if value.isdigit()}


def _elsewhere(function: Callable[..., list[Compiled]], *arguments: Any) -> list[Compiled]:
    """function(*arguments) in a process without TRITON_INTERPRET."""
    try:
        return process.call(function, *arguments, interpret=False)
    except process.ChildFailed as failed:
        raise RuntimeError(f"compiling failed: {failed}") from None
