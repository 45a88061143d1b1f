"""Comparing whole runs: what they hold, whatever the sizes of their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of, read_csr
from noveltyflow.store.rejects import COLUMNS
from noveltyflow.store.run_store import ASIDE


def run_content(path: str) -> dict[str, Any]:
    """Everything a run holds, in memory, independent of its blocks: arrays by name, and figures.

    Parameters
    ----------
    path
        A complete run; a small one, since all of it is read.
    """
    store = RunStore(path)
    # The fingerprint names the inputs by their addresses, the size of blocks is no content, and files follow it.
    ignored = ("block_rows", "checksum", "fingerprint")
    figures = {k: v for k, v in store.figures("urls").items() if k not in ignored}
    features = sp.vstack([read_csr(store, block.index) for block in blocks_of(store)], format="csr")
    names = [f"rows/{name}" for name in sorted(store.root["rows"].array_keys())]  # type: ignore[union-attr]
    names += [f"rejects/{name}" for name in COLUMNS]
    names += ["idf/document_frequency", "neighbors/similarities", "neighbors/indices"]
    arrays = {name: np.asarray(store.array(name)[...]) for name in names}
    parts = {f"features/{part}": getattr(features, part) for part in ("data", "indices", "indptr")}
    return {**arrays, **parts, "figures": figures}


def content_files(path: str | Path) -> list[str]:
    """Sorted names, within a run folder, of all files that hold its content."""
    names = (p.relative_to(path) for p in Path(path).rglob("*") if p.is_file())
    return sorted(str(name) for name in names if name.parts[0] not in ASIDE)


def assert_same_content(actual: str, expected: str, *, ignore: tuple[str, ...] = ()) -> None:
    """Require that two runs hold the same rows, rejects, features and neighbours, bit for bit.

    Parameters
    ----------
    actual, expected
        Paths of complete runs.
    ignore
        Names of arrays or figures that may differ, such as `rows/first_seen` where lines were reordered.

    Raises
    ------
    AssertionError
        Naming the first array or figure that differs.
    """
    left, right = run_content(actual), run_content(expected)
    assert left.keys() == right.keys(), f"different arrays: {left.keys() ^ right.keys()}"  # noqa: S101
    for name in left.keys() - set(ignore) - {"figures"}:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name, strict=True)
    for name in left["figures"].keys() - set(ignore):
        message = f"{name}: {left['figures'][name]} is not {right['figures'][name]}"
        assert left["figures"][name] == right["figures"][name], message  # noqa: S101
