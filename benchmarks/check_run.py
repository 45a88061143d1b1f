"""Check a finished run from outside: its exports against scikit-learn, and its lines to the last one.

    python benchmarks/check_run.py RUN [--rows N] [--seed S]

Exports the table and the neighbour graph, recomputes N random rows of the graph by brute force over
scikit-learn's HashingVectorizer and TfidfTransformer on the exported URLs, and requires that
lines read = blank lines + rejects + sum of counts, with rejects and counts taken from what is stored.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from noveltyflow import Run, open_run
from noveltyflow.errors import NoveltyflowError
from noveltyflow.export import export
from noveltyflow.testing.oracle import assert_graph_equals_sklearn


def main() -> int:
    """Print one line for each check; what does not hold ends the program with status 1."""
    arguments = _parser().parse_args()
    try:
        run = open_run(arguments.run)
        with tempfile.TemporaryDirectory() as folder:
            table, graph = _exported(run, Path(folder))
        print(_lines(run, table))
        print(_rows(run, table, graph, arguments.rows, arguments.seed))
    except (NoveltyflowError, AssertionError) as error:
        print(f"{arguments.run}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check a finished run against scikit-learn, and its lines.")
    parser.add_argument("run", help="a complete run folder")
    parser.add_argument("--rows", type=int, default=200, help="random rows to recompute (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="which rows (default: 0)")
    return parser


def _exported(run: Run, folder: Path) -> tuple[pd.DataFrame, sp.csr_matrix]:
    export(run, str(folder / "table.parquet"))
    export(run, str(folder / "graph.npz"))
    return pd.read_parquet(folder / "table.parquet"), sp.load_npz(folder / "graph.npz")


def _lines(run: Run, table: pd.DataFrame) -> str:
    facts = run.info()
    read, blank = facts["lines_read"], facts["lines_blank"]
    rejects, counted = len(run.rejects()), int(table["count"].sum())
    if read != blank + rejects + counted:
        raise AssertionError(
            f"{read:,} lines read, but {blank:,} blank + {rejects:,} rejects + {counted:,} counted"
        )
    return f"{read:,} lines read = {blank:,} blank + {rejects:,} rejects + {counted:,} counted in {len(table):,} rows"


def _rows(run: Run, table: pd.DataFrame, graph: sp.csr_matrix, n: int, seed: int) -> str:
    rows = np.sort(np.random.default_rng(seed).permutation(len(table))[:n])
    urls = table["url"].tolist()
    assert_graph_equals_sklearn(graph, urls, run.settings.features, run.n_neighbors, rows)
    return (
        f"{len(rows):,} random rows equal brute force over scikit-learn (k = {run.n_neighbors}, ties aware)"
    )


if __name__ == "__main__":
    sys.exit(main())
