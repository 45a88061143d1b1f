"""Nothing that a run or an input holds is ever unpickled: no call in the package could do it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from helpers import ROOT

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
