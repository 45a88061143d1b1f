"""Nothing that a run or an input holds is ever unpickled: no call in the package could do it, nor one of Zarr's."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numcodecs.pickles
import numpy as np
import pytest
import zarr
from helpers import ROOT

from noveltyflow.store import RunStore

UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LOADERS = {"read_pickle", "unpickle", "eval", "exec", "unsafe_load", "full_load"}


def offences(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {n.name}" for n in node.names if n.name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield f"imports from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    options = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if last in LOADERS or name in ("yaml.load", "torch.load"):
        yield f"calls {name}"
    if name in ("np.load", "numpy.load", "np.fromfile") and options.get("allow_pickle") != "False":
        yield f"calls {name} without allow_pickle=False"
    if options.get("allow_pickle") == "True":
        yield f"calls {name} with allow_pickle=True"


def test_no_call_unpickles() -> None:
    found = {
        str(path.relative_to(ROOT)): list(offences(ast.parse(path.read_text())))
        for path in (ROOT / "noveltyflow").rglob("*.py")
    }
    assert len(found) > 50
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text)",
    ],
)
def test_offences_are_seen(code: str) -> None:
    assert list(offences(ast.parse(code)))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


def test_arrays_of_format_2_hidden_in_the_head_of_a_run_are_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Format 2 has a filter that unpickles; the head can describe such arrays, as consolidated metadata."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    store, made = RunStore.create(str(tmp_path / "run.zarr"), {}), tmp_path / "made"
    store.put("x", np.arange(3))
    hidden = {"zarr_format": 2, "shape": [3], "chunks": [3], "dtype": "|O", "fill_value": "", "order": "C"}
    hidden |= {"compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}
    head = tmp_path / "run.zarr" / "zarr.json"
    consolidated = {"kind": "inline", "must_understand": False, "metadata": {"x": hidden}}
    head.write_text(json.dumps(json.loads(head.read_text()) | {"consolidated_metadata": consolidated}))
    (tmp_path / "run.zarr" / "x" / "0").write_bytes(pickle.dumps(Payload(made)))
    assert RunStore(store.path).read("x").tolist() == [0, 1, 2]
    assert not made.exists()
    with pytest.raises(TypeError):
        zarr.open_consolidated(store.path, mode="r", zarr_format=3)["x"][...]  # type: ignore[index]
    assert made.exists(), "the payload is none"
