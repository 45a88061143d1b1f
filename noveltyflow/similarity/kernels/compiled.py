"""Searches are compiled in a process of its own: a worker that did it would keep the memory that compiling takes."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

_ROWS, _COLUMNS, _SHARE = 60, 200, 0.1


def is_compiled() -> bool:
    """Whether compiled searches of the CPU kernel are where Numba keeps them, for all that they search."""
    return all(len(search._cache._cache_file._load_index()) >= kinds for search, kinds in _searches().items())


@cache
def have_compiled() -> None:
    """Compile the searches in another process, unless that was done; where it fails, this one compiles them later."""
    if is_compiled():
        return
    with _one_at_a_time():
        if is_compiled():
            return
        command = [sys.executable, "-m", __name__]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - this interpreter, this module
        if done.returncode:
            log.warning("kernels could not be compiled beforehand: %s", done.stderr.decode(errors="replace"))


def _searches() -> dict[Any, int]:
    """Compiled functions, with the number of kinds of arguments that they are compiled for."""
    from noveltyflow.similarity.kernels.dense import search as dense
    from noveltyflow.similarity.kernels.exhaustive import score_all
    from noveltyflow.similarity.kernels.pruned import search as pruned
    from noveltyflow.similarity.kernels.pruned.filling import PACKED

    return {score_all: 1, pruned.search_rows: len(PACKED), dense.search_rows: 1}


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let other processes that would compile the same wait."""
    folder = Path(next(iter(_searches())).stats.cache_path)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "compiling.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Search among a few rows in every way, which compiles what that takes."""
    import scipy.sparse as sp

    from noveltyflow.similarity.kernels.cpu import EVERY_SEARCH
    from noveltyflow.similarity.topk import TopK
    from noveltyflow.similarity.validation import as_unit_rows

    draw = np.random.default_rng(0)
    drawn = sp.random_array((_ROWS, _COLUMNS), density=_SHARE, format="csr", rng=draw)
    drawn.data /= np.repeat(np.sqrt((drawn * drawn).sum(axis=1)), np.diff(drawn.indptr))
    rows = as_unit_rows(drawn, "rows")
    for kernel in EVERY_SEARCH:
        best = TopK.empty(_ROWS, 5)
        kernel.compute(rows, kernel.prepare(rows, 5), best, queries_start=0, candidates_start=0)


if __name__ == "__main__":
    main()
