"""The house rules that a machine can check: import order, the README's tree, contracts in docstrings."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aiinfra"
# A module may import from its own layer's folder and from lower layers; siblings share a number.
LAYERS = {"errors": 0, "files": 0, "config": 0, "environment": 0, "device": 0, "perf": 1, "kernels": 2, "gpu": 3, "model": 4,
          "compress": 5, "checkpoint": 6, "train": 7, "parallel": 7, "engine": 7, "serve": 8, "plan": 8, "bench": 9, "lab": 10,
          "__main__": 11, "__init__": 11}
TORCH_FREE = ("engine/sampling_params.py", "engine/blocks.py", "engine/request.py", "engine/scheduler.py")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> list[str]:
    """Dotted names that a file imports, wherever in it the import stands."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    mine = layer_of(path)
    for name in imports(path):
        if not name.startswith("aiinfra."):
            continue
        other = name.split(".")[1]
        if other in LAYERS and other != mine and LAYERS[mine]:
            assert LAYERS[other] < LAYERS[mine], f"{mine} imports {other}"
            assert other not in ("lab", "__main__")


def test_every_layer_is_known() -> None:
    assert {layer_of(path) for path in modules()} <= set(LAYERS)


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_needs_no_torch_imports_none(name: str) -> None:
    assert not [i for i in imports(PACKAGE / name) if i.split(".")[0] == "torch"]


def test_environment_is_read_in_one_file() -> None:
    readers = [path.name for path in modules() if re.search(r"os\.(environ|getenv)", path.read_text())]
    assert readers == ["environment.py"]


def test_importing_the_package_runs_nothing() -> None:
    code = "import sys, aiinfra; print(sorted(m for m in ('torch', 'triton', 'numpy', 'tokenizers') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def public_things() -> list[tuple[str, ast.AST]]:
    found = []
    for path in modules():
        tree = ast.parse(path.read_text())
        found.append((str(path.relative_to(ROOT)), tree))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.append((f"{path.relative_to(ROOT)}:{node.name}", node))
                if isinstance(node, ast.ClassDef):
                    found += [(f"{path.relative_to(ROOT)}:{node.name}.{m.name}", m) for m in node.body
                              if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    return found


def described_elsewhere(node: ast.AST) -> bool:
    """A Triton kernel is described by its file and wrapper, an exercise's judge by its hints and its page."""
    return any(re.search("jit|^exercise", ast.unparse(d)) for d in getattr(node, "decorator_list", []))


@pytest.mark.parametrize("where, node", [(w, n) for w, n in public_things() if not described_elsewhere(n)], ids=lambda v: v if isinstance(v, str) else "")
def test_public_things_have_a_contract(where: str, node: ast.AST) -> None:
    if where.endswith("__init__.py") and not node.body:
        return
    if where.endswith((".forward", ".backward")) and not isinstance(node, ast.Module):
        return                                   # torch's own names, described on the class or its wrapper
    assert ast.get_docstring(node), f"{where} has no docstring"


@pytest.mark.parametrize("where, node", [(w, n) for w, n in public_things() if isinstance(n, ast.FunctionDef) and not described_elsewhere(n)],
                         ids=lambda v: v if isinstance(v, str) else "")
def test_public_signatures_are_typed(where: str, node: ast.FunctionDef) -> None:
    arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls", "ctx")]
    assert not [a.arg for a in arguments if a.annotation is None], where


@pytest.mark.parametrize("path", [p for p in modules() if p.suffix == ".py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_about_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_readme_tree_is_the_real_tree() -> None:
    """Every path in the README's tree exists, and every top-level name and every folder of aiinfra/ is in it."""
    tree = re.search(r"## The tree\s+```\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    named, folder = set(), ""
    for line in tree.splitlines():
        if "." in line and line == tree.splitlines()[0]:                     # the files, side by side
            named |= {name.rstrip("/") for name in line.split()}
            continue
        indent, name = re.match(r"( *)([\w./]+)/", line).groups()
        folder = folder if indent else name
        named.add(f"{folder}/{name}" if indent else name)
    for path in named:
        assert (ROOT / path).exists(), f"the README names {path}"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = tracked.stdout.split()
    real = {f.split("/")[0] for f in files} | {"/".join(f.split("/")[:2]) for f in files if f.startswith("aiinfra/")}
    hidden = {".gitignore", "aiinfra/__init__.py", "aiinfra/__main__.py", "aiinfra/errors.py", "aiinfra/device.py", "aiinfra/files.py",
              "aiinfra/config.py", "aiinfra/environment.py"}
    assert real - hidden <= named, f"missing in the README: {sorted(real - hidden - named)}"
