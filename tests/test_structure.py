"""The house rules of rooms: who may import whom, what needs no torch, that the README's tree is the real one.

One item a rule; each lists everybody who breaks it. Rules of lines: test_lines.py; of words: test_words.py.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiinfra
from tests.source_tree import ROOT, at, files, functions, house, imports, neighbours, nodes, reachable
from tests.source_tree import say, short, text, tree

# A file imports from its own folder and from lower floors. Siblings on one floor do not import each other.
FLOORS = [
    ("errors", "arguments", "files", "config", "environment", "device"),
    ("perf",), ("kernels",), ("gpu",), ("model",), ("compress",), ("checkpoint",),
    ("train", "engine"), ("parallel",), ("serve", "plan"), ("bench",), ("__main__", "__init__"),
    ("lab",), ("puzzles",), ("exercises",),
]
GROUND = FLOORS[0]
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
OPTIONAL = {"triton", "transformers", "llama_cpp", "ipywidgets", "matplotlib_inline"}
COMMAND_LINE = ("__main__.py", "command.py")     # --help and errors are answered before PyTorch is loaded
PACKAGE = ROOT / "aiinfra"
NEED_NO_TORCH = [
    "aiinfra.engine.sampling_params", "aiinfra.engine.options", "aiinfra.engine.request",
    "aiinfra.engine.blocks", "aiinfra.engine.scheduler", "aiinfra.engine.record", "aiinfra.plan.simulate",
    "aiinfra.parallel.schedule", "aiinfra.parallel.orders", "aiinfra.parallel.timing",
    "aiinfra.parallel.schedule_report",
]


def room_of(path: Path) -> str:
    """The folder of aiinfra/ that a file belongs to, or its name on the ground; puzzles; exercises."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] in ("aiinfra", "notebooks") else parts[0]


def top_of(name: str) -> str:
    """The package of a dotted name."""
    return name.split(".")[0]


# Imports

def test_every_file_has_a_floor():
    homeless = [short(path) for path in house() if room_of(path) not in HEIGHT]
    say("Every file and folder is on a floor.", homeless)


def test_imports_go_one_way():
    upwards = []
    for path in house():
        mine = room_of(path)
        for other in {room_of(needed) for needed in neighbours(path)} - {mine}:
            on_the_ground = mine in GROUND and other in GROUND
            if HEIGHT[other] >= HEIGHT[mine] and not on_the_ground:
                upwards.append(f"{short(path)} imports {other}")
    say("A file imports from its own folder and from lower floors.", upwards)


def test_imports_are_absolute():
    relative = [at(path, node) for path, node in nodes(ast.ImportFrom) if node.level]
    say("An import names the whole path.", relative)


def test_no_file_needs_itself():
    """Circles between files, through imports at the top and inside functions alike."""
    circles = set()
    for path in house():
        circle = [other for other in reachable(path) if path in reachable(other)]
        if circle:
            circles.add(" <-> ".join(sorted(map(short, circle))))
    say("Imports between files form no circle.", circles)


def test_only_optional_packages_are_imported_late():
    """...and whatever the command line needs after it has read its arguments."""
    late = []
    for path in house():
        if path.name in COMMAND_LINE:
            continue
        inside = [node for function in functions(path) for node in ast.walk(function)]
        lines = {node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)}
        names = [(name, line) for name, line in imports(path) if line in lines]
        late += [f"{short(path)}:{line} {name}" for name, line in names if top_of(name) not in OPTIONAL]
    say("Imports stand at the top of a file.", late)


def test_the_library_does_not_know_the_puzzles():
    """Not even as text: a path put together from words is an import that nobody sees. Pages are no code."""
    named = []
    for path in files("aiinfra"):
        docstrings = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
        words = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
        told = [node for node in words if re.search(r"\bpuzzles\b(?!/sheets)", str(node.value))]
        named += [at(path, node) for node in told if id(node) not in docstrings]
    say("Nothing in aiinfra names the puzzles.", named)


def loaded_by(code: str) -> str:
    """Which heavy packages a fresh process has loaded after `code`."""
    heavy = ("torch", "triton", "numpy", "tokenizers")
    code = f"import sys\n{code}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_schedules_and_their_simulators_need_no_torch():
    paths = [ROOT / f"{name.replace('.', '/')}.py" for name in NEED_NO_TORCH]
    direct = {short(path) for path in paths for name, _ in imports(path) if top_of(name) == "torch"}
    say("The files of a scheduler or a schedule import no torch.", direct)
    assert loaded_by(f"import {', '.join(NEED_NO_TORCH)}") == "[]"


def test_importing_the_package_runs_nothing():
    assert loaded_by("import aiinfra") == "[]"


def test_environment_is_read_in_one_file():
    readers = {short(path) for path in house() if re.search(r"\bos\.(environ|getenv|putenv)\b", text(path))}
    say("Only aiinfra/environment.py reads the environment.", readers - {"aiinfra/environment.py"})


# The tree

def readme_tree() -> dict[str, str]:
    """path -> caption of the README's tree: folders end in a slash, two columns deeper inside another."""
    drawing = re.search(r"## The tree\s+```\n(.*?)```", text(ROOT / "README.md"), re.S).group(1)
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


def rooms() -> dict[str, str]:
    """Folder of aiinfra/ -> its caption in the README, from the top downwards."""
    inside = [path for path in readme_tree() if path.startswith("aiinfra/")]
    return {path.split("/")[1]: readme_tree()[path] for path in inside}


def tracked() -> list[list[str]]:
    """The files of the checkout as parts of paths; the test is left out where there is none."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name.split("/") for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_readmes_tree_is_the_real_tree():
    named = set(readme_tree())
    say("What the README's tree names is there.", [name for name in named if not (ROOT / name).exists()])
    tops = {parts[0] for parts in tracked()}
    folders = {f"aiinfra/{parts[1]}" for parts in tracked() if parts[0] == "aiinfra" and len(parts) > 2}
    missing = (tops | folders) - named - {".gitignore"}
    say("The README's tree names every folder of aiinfra and all beside it.", missing)


def test_the_readmes_captions_go_down_the_floors():
    loud = re.compile(r"[A-Z][A-Z ,']+[A-Z?]  ")
    quiet = [f"{name}: {caption}" for name, caption in rooms().items() if not loud.match(caption)]
    say("A folder has a caption in capitals.", quiet)
    heights = [HEIGHT[name] for name in rooms()]
    assert heights == sorted(heights), f"the README's tree is not in the imports' order: {list(rooms())}"
    told = inspect.getdoc(aiinfra)
    missing = [name for name, caption in rooms().items() if caption.split("  ")[0] not in told]
    say("The docstring of aiinfra has the README's captions.", missing)


def test_the_readmes_captions_name_files():
    """A word that stands alone between commas is a file of its folder, or a folder in it."""
    lost = []
    for name, caption in rooms().items():
        words = [word.strip(" /") for word in re.split("[,;]", caption.split("  ", 1)[1])]
        names = [word for word in words if re.fullmatch("[a-z_]+", word)]
        lost += [f"{name}/{word}" for word in names if not list((PACKAGE / name).glob(f"{word}*"))]
    say("The README's captions name what is there.", lost)


def test_the_tests_mirror_the_house():
    """tests/engine/ guards aiinfra/engine/, tests/puzzles/judge/ puzzles/judge/; pages and data are free, and
    so are the right answers that the judge must accept."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in files("tests")}
    mirrors = folders - {".", "pages", "data", "puzzles/accepted"}
    alone = [name for name in mirrors if not (PACKAGE / name).is_dir() and not (ROOT / name).is_dir()]
    say("A folder of tests has its folder in the house.", alone)
    loose = [name for name in mirrors if not (ROOT / "tests" / name / "__init__.py").exists()]
    say("A folder of tests is a package, so that two files may share a name.", loose)
