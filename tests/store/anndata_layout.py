"""Reads anndata's on-disk CSR layout by its specification alone, as another program would."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp


def read(group: Any) -> sp.csr_matrix:
    assert group.attrs["encoding-type"] == "csr_matrix"
    assert group.attrs["encoding-version"] == "0.1.0"
    parts = tuple(group[name][...] for name in ("data", "indices", "indptr"))
    return sp.csr_matrix(parts, shape=tuple(group.attrs["shape"]))
