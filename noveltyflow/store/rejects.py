"""Rejected input lines: every one stored with its source, line, reason and a cut text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from noveltyflow.store.run_store import RunStore

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {"source": str, "line": np.int64, "reason": str, "text": str}
CHUNK_ROWS = 65_536
"""Rejects in a chunk of every array."""


def write_rejects(store: RunStore, tables: Iterable[pa.Table]) -> dict[str, int]:
    """Write tables with the columns of `COLUMNS` one after the other, and count their reasons.

    One task writes them all, in input order; it holds one table and one chunk at a time.
    """
    for name, dtype in COLUMNS.items():
        store.preallocate(f"rejects/{name}", (0,), CHUNK_ROWS, dtype, "" if dtype is str else 0)
    reasons: dict[str, int] = {}
    for table in tables:
        _append(store, table)
        for item in table["reason"].value_counts().to_pylist():
            reasons[item["values"]] = reasons.get(item["values"], 0) + item["counts"]
    return dict(sorted(reasons.items()))


def _append(store: RunStore, table: pa.Table) -> None:
    for name, dtype in COLUMNS.items():
        values = table[name].to_numpy(zero_copy_only=False)
        store.array(f"rejects/{name}").append(values.astype(object if dtype is str else dtype))
