"""The shape of the tree: small modules, small functions, and each foreign library behind one door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = sorted(path for package in ("peer", "runtime") for path in (ROOT / package).rglob("*.py"))
MODULES = sorted([*PRODUCT, *(ROOT / "tools").rglob("*.py")])
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_METHODS = 15
DOORS = {
    "click": ("peer/cli*.py",),
    "ifaddr": ("peer/interfaces.py",),
    "msgpack": ("peer/protocol/fields.py",),
    "numpy": ("runtime/*", "peer/worker.py"),
    "onnxruntime": ("runtime/stage.py",),
    "PIL": ("runtime/images.py",),
    "zeroconf": ("peer/mdns.py",),
    "zmq": ("peer/zmq_transport/*",),
}
FOLDERS = ("docs", "models_onnx", "peer", "runtime", "systemd", "tests", "tools")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of every package that a module imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", PRODUCT, ids=named)
def test_functions_and_classes_are_small_and_modules_say_what_they_are(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module)
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
            assert sum(not method.name.startswith("_") for method in methods) <= MAX_PUBLIC_METHODS, node.name


def test_each_foreign_library_has_one_door() -> None:
    wrong = [
        f"{named(path)} imports {name}"
        for path in PRODUCT
        for name in set(imported(path)) - {"peer", "runtime"} - sys.stdlib_module_names
        if not any(fnmatch(named(path), door) for door in DOORS.get(name, ()))
    ]
    assert wrong == []


def test_every_door_is_used() -> None:
    used = {name for path in PRODUCT for name in imported(path)}
    assert set(DOORS) <= used


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["infer", "--help"], ["up", "--help"], ["members", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, peer.cli\n"
        f"code = peer.cli.main({arguments!r})\n"
        "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert loaded & {"onnxruntime", "numpy", "zmq", "PIL", "msgpack", "asyncio"} == set()


def test_the_folders_that_the_project_promises_are_there() -> None:
    assert [name for name in FOLDERS if not (ROOT / name).is_dir()] == []
    assert (ROOT / "setup.cfg").is_file()
