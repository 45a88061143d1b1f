"""The import rule, and that nothing imports more than it needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

from noveltyflow import open_run

PACKAGE = ROOT / "noveltyflow"
LAYERS = [
    {"errors", "types", "config", "inert"},
    {"workflow"},
    {"urls", "features", "similarity", "scores"},
    {"store"},
    {"columns"},
    {"runtime", "run"},
    {"export", "verify", "unfinished", "dashboard"},
    {"interrupts", "options", "manners", "terminal", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SAME_LEVEL_ALLOWED = {
    ("cli", "interrupts"),
    ("cli", "manners"),
    ("cli", "options"),
    ("cli", "terminal"),
    ("manners", "options"),
    ("__main__", "cli"),
    ("types", "errors"),
    ("config", "errors"),
}
FREE = {"testing", "__init__"}
HEAVY = {"dask", "distributed", "numba", "cupy", "bokeh", "zarr", "pandas", "sklearn", "scipy", "numpy"}
# What answering needs, and what Zarr imports wherever it is installed.
FOR_ANSWERS = {"dask", "zarr", "numpy", "cupy"}


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
    assert HEAVY & packages(loaded_by(statement)) == set()


def loaded_by(statement: str, *args: str) -> set[str]:
    """Names of the modules that a process holds in the end, also where the statement raises."""
    code = f"""
import json, sys
try:
    {statement}
finally:
    print()
    print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False)
    return set(json.loads(done.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


COMMAND = "from noveltyflow.cli import cli; cli.main(standalone_mode=False)"


@pytest.mark.parametrize(
    "args", [["--version"], ["run", "--help"], ["run", "urls.txt"], ["top", "--score", "x"]]
)
def test_help_and_mistakes_in_options_are_cheap(args: list[str]) -> None:
    assert HEAVY & packages(loaded_by(COMMAND, *args)) == set()


def test_an_input_that_is_not_there_is_refused_without_dask(tmp_path: Path) -> None:
    loaded = loaded_by(COMMAND, "run", str(tmp_path / "none.txt"), "--out", str(tmp_path / "run.zarr"))
    assert "noveltyflow.runtime.submit" in loaded
    assert HEAVY & packages(loaded) <= FOR_ANSWERS - {"dask"}


@pytest.mark.parametrize("command", ["info", "top", "neighbors", "rejects"])
def test_a_question_loads_no_more_than_answers_it(small_run: str, command: str) -> None:
    url = [str(open_run(small_run).top_columns(1)["url"][0])] if command == "neighbors" else []
    loaded = loaded_by(COMMAND, command, small_run, *url)
    assert "noveltyflow.run" in loaded
    assert HEAVY & packages(loaded) <= FOR_ANSWERS
    assert {"dask.array", "dask.dataframe", "pyarrow"} & loaded == set()


def test_public_names_exist() -> None:
    import noveltyflow

    assert all(callable(getattr(noveltyflow, name)) for name in noveltyflow.__all__)
