"""The house rules that a machine can check: who may import whom, the README's tree, contracts, one word one thing.

One item a rule; each lists everybody who breaks it. The law of lines is in test_lines.py.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import aiinfra
from tests.source_tree import HOUSE, ROOT, Function, at, classes, files, functions, imports, neighbours, reachable, say, short
from tests.source_tree import text, tree

# A file imports from its own floor's folder and from lower floors. Siblings on one floor do not import each other.
GROUND = ("errors", "files", "config", "environment", "device")
FLOORS = [("perf",), ("kernels",), ("gpu",), ("model",), ("compress",), ("checkpoint",), ("train", "parallel", "engine"),
          ("serve", "plan"), ("bench",), ("__main__", "__init__"), ("lab",), ("puzzles",), ("exercises",)]
FLOOR = {name: number for number, names in enumerate([GROUND, *FLOORS]) for name in names}
OPTIONAL = {"triton", "transformers", "llama_cpp", "ipywidgets", "matplotlib_inline"}
COMMAND_LINE = ("__main__.py", "command.py")     # they answer --help and errors before PyTorch is loaded: seconds
NEED_NO_TORCH = ("engine/sampling_params.py", "engine/request.py", "engine/blocks.py", "engine/scheduler.py",
                 "engine/record.py", "plan/simulate.py")
PACKAGE = ROOT / "aiinfra"
PAGES = tuple(sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))) + tuple(sorted(ROOT.glob("puzzles/sheets/*.ipynb")))

mending = pytest.mark.xfail(strict=False, reason="being mended")


# ---------------------------------------------------------------- imports


def floor_of(path: Path) -> str:
    """The folder of aiinfra/ that a file belongs to, or its name on the ground, or puzzles, or exercises."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] in ("aiinfra", "notebooks") else parts[0]


def test_every_file_has_a_floor():
    say("Every file and folder is on a floor.", {short(path) for path in files(*HOUSE) if floor_of(path) not in FLOOR})


def test_imports_go_one_way():
    upwards = []
    for path in files(*HOUSE):
        mine = floor_of(path)
        for other in {floor_of(needed) for needed in neighbours(path)} - {mine}:
            on_the_ground = mine in GROUND and other in GROUND
            if FLOOR[other] >= FLOOR[mine] and not on_the_ground:
                upwards.append(f"{short(path)} imports {other}")
    say("A file imports from its own folder and from lower floors.", upwards)


def test_imports_are_absolute():
    relative = [f"{short(path)}:{line}" for path in files(*HOUSE) for name, line in imports(path) if name.startswith(".")]
    say("An import names the whole path.", relative)


@mending
def test_no_file_needs_itself():
    """Circles between files, through imports at the top and inside functions alike."""
    circles = set()
    for path in files(*HOUSE):
        circle = [other for other in reachable(path) if path in reachable(other)]
        if circle:
            circles.add(" <-> ".join(sorted(map(short, circle))))
    say("Imports between files form no circle.", circles)


@mending
def test_only_optional_packages_are_imported_late():
    """...and whatever the command line needs after it has read its arguments."""
    late = []
    for path in files(*HOUSE):
        if path.name in COMMAND_LINE:
            continue
        for function in functions(path):
            inside = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {(name, line) for name, line in imports(path) if line in {node.lineno for node in inside}}
            late += [f"{short(path)}:{line} {name}" for name, line in names if name.split(".")[0] not in OPTIONAL]
    say("Imports stand at the top of a file.", late)


@mending
def test_the_library_does_not_know_the_puzzles():
    """Not even as text: a path that is put together from words is an import that nobody sees. Pages are no code."""
    named = []
    for path in files("aiinfra"):
        told = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
        words = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and id(node) not in told]
        named += [at(path, node) for node in words if re.search(r"\bpuzzles\b(?!/sheets)", str(node.value))]
    say("Nothing in aiinfra names the puzzles.", named)


@mending
def test_the_scheduler_and_its_simulator_need_no_torch():
    paths = [PACKAGE / name for name in NEED_NO_TORCH]
    say("The scheduler's files are there.", [short(path) for path in paths if not path.exists()])
    needed = set(paths).union(*map(reachable, paths))
    heavy = [f"{short(path)}:{line}" for path in needed for name, line in imports(path) if name.split(".")[0] == "torch"]
    say("What the scheduler needs imports no torch.", heavy)
    modules = ", ".join(f"aiinfra.{name[:-3].replace('/', '.')}" for name in NEED_NO_TORCH)
    assert loaded_by(f"import {modules}") == "[]"


def test_importing_the_package_runs_nothing():
    assert loaded_by("import aiinfra") == "[]"


def loaded_by(code: str) -> str:
    """Which heavy packages a fresh process has loaded after `code`."""
    heavy = "('torch', 'triton', 'numpy', 'tokenizers')"
    code = f"import sys\n{code}\nprint(sorted(name for name in {heavy} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@mending
def test_environment_is_read_in_one_file():
    readers = {short(path) for path in files(*HOUSE) if re.search(r"\bos\.(environ|getenv|putenv)\b", text(path))}
    say("Only aiinfra/environment.py reads the environment.", readers - {"aiinfra/environment.py"})


# ---------------------------------------------------------------- contracts


def public_things() -> list[tuple[str, ast.AST]]:
    """(file:line name, node) of every file, public class, function and method."""
    found: list[tuple[str, ast.AST]] = []
    for path in files(*HOUSE):
        found.append((short(path), tree(path)))
        for node in tree(path).body:
            found += with_methods(path, node)
    return found


def with_methods(path: Path, node: ast.AST) -> list[tuple[str, ast.AST]]:
    if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_") or described_elsewhere(path, node):
        return []
    found: list[tuple[str, ast.AST]] = [(f"{at(path, node)} {node.name}", node)]
    if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, Function) and not part.name.startswith("_")]
        found += [(f"{at(path, part)} {node.name}.{part.name}", part) for part in methods]
    return found


def described_elsewhere(path: Path, node: ast.AST) -> bool:
    """A kernel is described by its file and wrapper, a judge by its hints and page, a puzzle's answer by its spec."""
    if short(path).startswith(("puzzles/solutions", "puzzles/wrong")):
        return True
    return any(re.search("jit|^exercise", ast.unparse(mark)) for mark in node.decorator_list)


@mending
def test_public_things_have_a_contract():
    silent = [where for where, node in public_things() if not ast.get_docstring(node)]
    passed_on = (".forward", ".backward")        # torch's own names, described on the class or its wrapper
    empty = [short(path) for path in files(*HOUSE) if not text(path).strip()]
    say("What is public says what it does.", {where for where in silent if not where.endswith(passed_on)} - set(empty))


@mending
def test_public_signatures_are_typed():
    untyped = []
    for where, node in public_things():
        if isinstance(node, Function):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls", "ctx")]
            if bare:
                untyped.append(f"{where}: {', '.join(bare)}")
    say("A public signature is typed.", untyped)


# ---------------------------------------------------------------- the tree


def drawn_tree(drawing: str) -> dict[str, str]:
    """path -> caption of the tree in a text: folders that end in a slash, two columns deeper inside another."""
    named: dict[str, str] = {}
    top = ""
    for line in drawing.splitlines():
        if found := re.match(r"( *)([\w./]+)/ +(\S.*)$", line):
            indent, name, caption = found.groups()
            top = top if indent else name
            named[f"{top}/{name}" if indent else name] = caption
        elif not line.startswith(" "):
            named |= {name.rstrip("/"): "" for name in line.split()}
    return named


def tracked() -> list[str]:
    """The files of the checkout; the test is left out where there is none."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def readme_tree() -> dict[str, str]:
    return drawn_tree(re.search(r"## The tree\s+```\n(.*?)```", text(ROOT / "README.md"), re.S).group(1))


def test_the_readmes_tree_is_the_real_tree():
    named = set(readme_tree())
    say("What the README's tree names is there.", [name for name in named if not (ROOT / name).exists()])
    parts = [name.split("/") for name in tracked()]
    real = {names[0] for names in parts} | {f"aiinfra/{names[1]}" for names in parts if names[0] == "aiinfra" and len(names) > 2}
    say("The README's tree names every folder of aiinfra and all beside it.", real - named - {".gitignore"})


@mending
def test_the_readmes_captions_go_down_the_floors():
    rooms = {name.split("/")[1]: caption for name, caption in readme_tree().items() if name.startswith("aiinfra/")}
    say("A folder has a caption in capitals.", [f"{name}: {said}" for name, said in rooms.items()
                                               if not re.match(r"[A-Z][A-Z ,']+[A-Z?]  ", said)])
    heights = [FLOOR[name] for name in rooms]
    assert heights == sorted(heights), f"the README's tree is not in the order of the imports: {list(rooms)}"
    missing = [name for name, caption in rooms.items() if caption.split("  ")[0] not in inspect.getdoc(aiinfra)]
    say("The docstring of aiinfra has the README's captions.", missing)


def test_the_tests_mirror_the_house():
    """tests/engine/ guards aiinfra/engine/, tests/puzzles/judge/ guards puzzles/judge/; pages and data have their own."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in files("tests")} - {".", "pages", "data"}
    say("A folder of tests has its folder in the house.",
        [name for name in folders if not (PACKAGE / name).is_dir() and not (ROOT / name).is_dir()])
    say("A folder of tests is a package, so that two files may share a name.",
        [name for name in folders if not (ROOT / "tests" / name / "__init__.py").exists()])


# ---------------------------------------------------------------- one word, one thing; one thing, one place


@mending
def test_no_public_class_name_stands_twice():
    homes = defaultdict(list)
    for path in files(*HOUSE):
        for node in classes(path):
            if not node.name.startswith("_") and not short(path).startswith(("puzzles/solutions", "puzzles/wrong")):
                homes[node.name].append(at(path, node))
    say("A word has one meaning.", [f"{name}: {', '.join(where)}" for name, where in homes.items() if len(where) > 1])


@mending
def test_the_nearest_name_is_found_in_one_place():
    users = [path for path in files(*HOUSE) if "difflib" in {name.split(".")[0] for name, _ in imports(path)}]
    say("Only aiinfra/errors.py looks for the nearest name.", {short(path) for path in users} - {"aiinfra/errors.py"})


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def moves_a_file(call: ast.Call) -> bool:
    """os.replace(…), os.rename(…), shutil.move(…), or .replace(path), .rename(path): of text, replace takes two values."""
    name = ast.unparse(call.func)
    if name in ("os.replace", "os.rename", "shutil.move"):
        return True
    return re.search(r"\.(replace|rename)$", name) is not None and len(call.args) == 1 and not call.keywords


@mending
def test_a_file_is_replaced_in_one_place():
    moved = [at(path, call) for path in files(*HOUSE) for call in calls(path)
             if moves_a_file(call) and short(path) != "aiinfra/files.py"]
    say("Only aiinfra/files.py writes beside a file and moves it there.", moved)


@mending
def test_the_scheduler_has_one_driver():
    """The engine, which computes, and the simulator, which does not; pages and planner read the simulator's steps."""
    drivers = {short(path) for path in (*files(*HOUSE), *PAGES) for call in calls(path)
               if ast.unparse(call.func).endswith("scheduler.commit")}
    engine = {name for name in drivers if name.startswith("aiinfra/engine/")}
    say("Only the engine and plan/simulate.py drive a scheduler.", drivers - engine - {"aiinfra/plan/simulate.py"})


@mending
def test_there_is_one_plural():
    chosen = [(path, node) for path in files(*HOUSE) for node in ast.walk(tree(path)) if isinstance(node, ast.IfExp)]
    by_hand = [at(path, node) for path, node in chosen
               if isinstance(node.body, ast.Constant) and isinstance(node.orelse, ast.Constant)
               and {node.body.value, node.orelse.value} == {"", "s"}]
    say("A count and its noun are written by errors.plural.", by_hand)


@mending
def test_one_place_says_whether_a_child_interprets_its_kernels():
    """environment.py reads the variable, gpu/process.py gives it to a child or takes it away, and forks."""
    named = {short(path) for path in files(*HOUSE) for node in ast.walk(tree(path))
             if isinstance(node, ast.Constant) and re.match("TRITON_INTERPRET(=.?)?$", str(node.value))
             or isinstance(node, ast.keyword) and node.arg == "TRITON_INTERPRET"}
    say("Only gpu/process.py tells a child about TRITON_INTERPRET.",
        named - {"aiinfra/environment.py", "aiinfra/gpu/process.py"})
    forks = {short(path) for path in files(*HOUSE) for call in calls(path) if ast.unparse(call.func) == "os.fork"}
    say("Only gpu/process.py forks.", forks - {"aiinfra/gpu/process.py"})
