"""Imports run one way, and the modules that answer usage errors load nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compressor

PACKAGE = Path(compressor.__file__).parent

# Each room and the rooms it may import from; a room may always import from itself, and no two rooms from each other.
# Imports inside functions count like any others.
# The program that is sent to devices is a room by itself: it imports nothing of the package.
CORE = {
    "agreement", "atomic_write", "batches", "bench.runner", "core", "errors", "execution", "file_digest", "file_module",
    "layers", "listed", "random_samples", "silence", "tensors",
}  # fmt: skip
STARTS_RUNS = {"commands", "pipeline", "preflight", "progress", "recipe", "report", "run_options"}
ALLOWED = {
    "": set(),
    "bench.runner": set(),
    "errors": set(),
    "field_types": set(),
    "core": set(),
    "tensors": set(),
    "file_module": {"core"},
    "random_samples": {"core"},
    "batches": {"core", "execution", "tensors"},
    "agreement": {"batches", "core", "tensors"},
    "execution": {"errors", "tensors"},
    "layers": set(),
    "listed": set(),
    "silence": set(),
    "file_digest": set(),
    "atomic_write": set(),
    "user_code": {"errors", "listed"},
    "run_log": CORE,
    "run_options": CORE,
    "graph": CORE,
    "surgery": CORE | {"graph"},
    "budget": CORE | {"graph"},
    "sparsity": CORE,
    "data": CORE | {"user_code"},
    "training": CORE | {"budget", "data"},
    "error_curves": CORE | {"reconstruction"},
    "criteria": CORE | {"data", "error_curves"},
    "diagnostics": CORE | {"training"},
    "models": CORE | {"export", "sparsity", "user_code"},
    "reconstruction": CORE,
    "export": CORE,
    "steps": CORE
    | {
        "budget",
        "criteria",
        "data",
        "diagnostics",
        "error_curves",
        "graph",
        "models",
        "reconstruction",
        "run_log",
        "sparsity",
        "surgery",
        "training",
    },
    "methods": CORE | {"budget", "criteria", "field_types", "sparsity", "steps", "training"},
    "recipe": CORE | {"budget", "criteria", "data", "field_types", "methods", "models", "run_log", "steps", "training"},
    "bench": CORE | {"budget", "export", "graph", "models", "recipe", "run_log", "steps", "training"},
    "report": CORE | {"bench", "graph", "models", "recipe", "sparsity", "steps"},
    "output": CORE
    | {
        "bench",
        "budget",
        "export",
        "graph",
        "models",
        "recipe",
        "report",
        "run_log",
        "sparsity",
        "steps",
        "surgery",
        "training",
    },
    "pipeline": CORE
    | {"bench", "commands", "output", "recipe", "report", "run_log", "run_options", "steps", "training"},
    "commands": CORE
    | {
        "bench",
        "budget",
        "criteria",
        "data",
        "export",
        "graph",
        "models",
        "output",
        "recipe",
        "report",
        "run_log",
        "sparsity",
        "steps",
        "surgery",
        "training",
    },
    "progress": CORE,
    "notebook": CORE,
    "preflight": CORE | {"models", "output", "recipe"},
    "api": CORE | STARTS_RUNS | {"models", "notebook", "output"},
    "__main__": {"cli"},
    "cli": CORE | STARTS_RUNS | {"bench", "output", "training"},
}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    return "bench.runner" if parts[:2] == ["bench", "runner"] else "".join(parts[:1])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "compressor":
            if node.module == "compressor":
                found |= {f"compressor.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            else:
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("compressor.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_the_rooms_below_it(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative == Path("__init__.py"):
        return  # names what is public, lazily
    own = room(".".join(("compressor", *relative.with_suffix("").parts)))
    assert own in ALLOWED, f"{own} is a new room: say here what it may import"
    strangers = {each for each in imports(path) if room(each) not in ALLOWED[own] | {own}}
    assert not strangers, f"{relative} imports {sorted(strangers)}"


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(ALLOWED):
        free = [name for name, below in ALLOWED.items() if name not in order and below <= set(order)]
        assert free, f"a circle among {sorted(ALLOWED.keys() - set(order))}"
        order += free


def test_the_package_the_recipe_and_the_methods_load_without_torch_or_numpy() -> None:
    code = (
        "import sys, compressor, compressor.cli, compressor.recipe, compressor.recipe.build_steps\n"
        "from compressor.methods import methods\n"
        "methods()\n"
        "print([name for name in ('torch', 'numpy', 'onnx', 'onnxruntime', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_bench_begins_without_torch() -> None:
    code = "import sys, compressor.commands.bench, compressor.bench.open_device; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_telemetry_is_off_whatever_the_environment_says() -> None:
    code = "import os, compressor; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "1"


def test_the_public_names() -> None:
    assert compressor.__all__ == ["Compressed", "RunReport", "__version__", "compress", "load", "plan", "yolo_trainer"]
    assert all(getattr(compressor, name) for name in compressor.__all__)
