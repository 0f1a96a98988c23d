"""The rooms of ARCHITECTURE.md: who may import whom, and what stays absent."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bindeploy"
RUNTIME = ROOT / "runtime"

ROOMS = [
    {"errors"},
    {"files", "bits"},
    {"target", "kernels", "op_kinds"},
    {"build"},
    {"convert"},
    {"emit"},
    {"library"},
    {"session"},
    {"on", "ort"},
    {"bundle"},
    {"bench"},
    {"tables"},
    {"cli"},
]
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
MEETS_TRAIN = {
    ("bundle", "bindeploy.train.to_onnx"),
    ("bundle", "bindeploy.train.models"),
    ("bundle", "bindeploy.train.summary"),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Dotted names of every module imported in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path):
    here = room(path)
    for name in imports(path):
        if not name.startswith("bindeploy.") or name == "bindeploy.__version__":
            continue
        there = name.split(".")[1]
        if here == "train":
            allowed = there in {"train", "errors", "files", "bits"} or name.startswith(
                "bindeploy.convert.dialect"
            )
        elif there == "train":
            allowed = here == "cli" or any(
                here == caller and name.startswith(callee) for caller, callee in MEETS_TRAIN
            )
        else:
            allowed = there == here or HEIGHT[there] < HEIGHT[here]
        assert allowed, f"{here} may not import {name}"


def test_every_module_stands_in_a_room():
    assert {room(path) for path in MODULES} <= set(HEIGHT) | {"train"}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("torch", {"train"}),
        ("lightning", {"train"}),
        ("click", {"cli"}),
        ("tvm", {"emit"}),
        ("onnxruntime", {"convert", "bench"}),
    ],
)
def test_a_library_is_imported_only_in_its_rooms(library, homes):
    users = {
        room(path)
        for path in MODULES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= homes


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return {name.split(".")[0] for name in output.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    ["import bindeploy", "import bindeploy.train", "import bindeploy.cli"],
)
def test_importing_the_front_doors_loads_nothing_heavy(statement):
    heavy = {"torch", "tvm", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "lightning", "sklearn"}
    assert not loaded_by(statement) & heavy


def test_help_loads_nothing_heavy():
    script = "from bindeploy.cli import main; main(['--help'], standalone_mode=False)"
    assert not loaded_by(script) & {"torch", "tvm", "onnx", "onnxruntime", "numpy", "rich"}


def test_the_runtime_knows_no_python_and_allocates_only_while_loading():
    allocating = set()
    for path in [*RUNTIME.glob("src/**/*.[ch]"), *RUNTIME.glob("include/*.h")]:
        text = path.read_text()
        assert "Python.h" not in text
        if re.search(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\s*\(", text):
            allocating.add(path.name)
    assert allocating <= {"executor.c", "plan_file.c", "threads.c"}, "all at load alone"
