"""Hashing texts on one core: noveltyflow.HashingVectorizer against scikit-learn's, on the same rows.

    python benchmarks/hashing.py [LIST] [--rows N]

LIST has one text a line, plain or gz; by default gov_1m.txt.gz from the folder NOVELTYFLOW_DATA. Both sides
hash the same blocks in turn, every result is compared to the bit, and the times are CPU seconds of the
process, so that threads would not go unnoticed.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kneighbors.lists import data_folder
from kneighbors.machine import describe_machine
from kneighbors.table import verdict
from sklearn.feature_extraction.text import HashingVectorizer as Reference

from noveltyflow.features.vectorizer import HashingVectorizer

BAR = 10
BLOCK_ROWS = 20_000
FEATURES: list[dict[str, Any]] = [
    {"analyzer": "char", "ngram_range": (3, 5)},
    {"analyzer": "char", "ngram_range": (2, 3)},
    {"analyzer": "char_wb", "ngram_range": (3, 5)},
    {"analyzer": "word", "ngram_range": (1, 2)},
]


def main() -> int:
    """Print one Markdown table; a result that differs ends the program with status 1."""
    arguments = _parser().parse_args()
    if not arguments.list.exists():
        sys.exit(f"{arguments.list} does not exist: give a list, or set NOVELTYFLOW_DATA to the data folder")
    texts = _sample(_read(arguments.list), arguments.rows)
    length = np.mean([len(text) for text in texts])
    print(f"\n## Hashing\n\n{describe_machine()}\n")
    print(
        f"{len(texts):,} rows of {arguments.list.name}, mean length {length:.0f}, CPU seconds of one core\n"
    )
    print(
        "| features | n-grams | scikit-learn, rows/s | noveltyflow, rows/s | ratio | bar | per block, range |"
    )
    print("|---|---|---|---|---|---|---|")
    for features in FEATURES:
        print(_line(features, texts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare hashing speed with scikit-learn's on one core.")
    default = data_folder() / "gov_1m.txt.gz"
    parser.add_argument("list", nargs="?", type=Path, default=default, help="one text a line")
    parser.add_argument("--rows", type=int, help="take this many rows, evenly spread (default: all)")
    return parser


def _read(path: Path) -> list[str]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return content.decode().removesuffix("\n").split("\n")


def _sample(texts: list[str], rows: int | None) -> list[str]:
    if rows is None or rows >= len(texts):
        return texts
    return [texts[i] for i in np.linspace(0, len(texts) - 1, rows, dtype=int)]


def _blocks(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), BLOCK_ROWS):
        yield texts[start : start + BLOCK_ROWS]


def _line(features: dict[str, Any], texts: list[str]) -> str:
    parameters = {**features, "norm": None, "alternate_sign": False, "dtype": np.float32}
    ours, theirs = HashingVectorizer(**parameters), Reference(**parameters)
    ours.transform(texts[:10])  # compiles, or loads what was compiled
    n_grams = 0.0
    seconds: list[tuple[float, float]] = []
    for block in _blocks(texts):
        actual, spent = _timed(ours, block)
        expected, spent_by_reference = _timed(theirs, block)
        _compare(actual, expected, features)
        n_grams += float(actual.data.sum(dtype=np.float64))
        seconds.append((spent, spent_by_reference))
    own, reference = np.sum(seconds, axis=0)
    ratios = [b / a for a, b in seconds]
    return (
        f"| {features['analyzer']} {features['ngram_range']} | {n_grams / len(texts):.0f} a row "
        f"| {len(texts) / reference:,.0f} | {len(texts) / own:,.0f} | **{reference / own:.1f}x** "
        f"| ≥ {BAR}x, {verdict(reference >= BAR * own)} "
        f"| {min(ratios):.1f} to {max(ratios):.1f}, median {statistics.median(ratios):.1f} |"
    )


def _timed(vectorizer: Any, block: list[str]) -> tuple[Any, float]:
    start = time.process_time()
    matrix = vectorizer.transform(block)
    return matrix, time.process_time() - start


def _compare(actual: Any, expected: Any, features: dict[str, Any]) -> None:
    for part in ("indptr", "indices", "data"):
        ours, theirs = getattr(actual, part), getattr(expected, part)
        if ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
            sys.exit(f"{features}: {part} differ from scikit-learn's")


if __name__ == "__main__":
    sys.exit(main())
