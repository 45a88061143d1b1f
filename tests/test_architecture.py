"""The import rule, and that importing the package is cheap."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers import ROOT

PACKAGE = ROOT / "noveltyflow"
LAYERS = [
    {"errors", "types", "config"},
    {"workflow"},
    {"urls", "features", "similarity", "scores"},
    {"store"},
    {"runtime", "run"},
    {"export", "verify", "dashboard"},
    {"interrupts", "options", "terminal", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SAME_LEVEL_ALLOWED = {
    ("cli", "interrupts"),
    ("cli", "options"),
    ("cli", "terminal"),
    ("__main__", "cli"),
    ("types", "errors"),
    ("config", "errors"),
}
FREE = {"testing", "__init__"}
HEAVY = {"dask", "distributed", "numba", "cupy", "bokeh", "zarr", "pandas", "sklearn", "scipy", "numpy"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield str(path.relative_to(ROOT)), parts[0], ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_every_room_has_a_level() -> None:
    assert {room for _, room, _ in modules()} - FREE == set(LEVEL) - {"dashboard"}


def test_imports_go_one_way() -> None:
    wrong = []
    for path, room, tree in modules():
        for name in imports(tree):
            target = name.split(".")[1] if name.startswith("noveltyflow.") else None
            if target is None or room in FREE or target == room or (room, target) in SAME_LEVEL_ALLOWED:
                continue
            if target in FREE or LEVEL[target] >= LEVEL[room]:
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_only_runtime_and_above_import_dask() -> None:
    wrong = [
        path
        for path, room, tree in modules()
        if room not in FREE and LEVEL[room] < LEVEL["runtime"]
        for name in imports(tree)
        if name.split(".")[0] in {"dask", "distributed", "dask_ml"}
    ]
    # The vectoriser's dask-ml-shaped use is the documented exception; it imports dask when it is given a bag.
    assert set(wrong) <= {"noveltyflow/features/vectorizer.py"}


@pytest.mark.parametrize("statement", ["import noveltyflow", "import noveltyflow.cli"])
def test_import_is_cheap(statement: str) -> None:
    code = f"{statement}, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert HEAVY & {name.split(".")[0] for name in loaded} == set()


def test_public_names_exist() -> None:
    import noveltyflow

    assert all(callable(getattr(noveltyflow, name)) for name in noveltyflow.__all__)
