"""TF-IDF rows of URLs with numpy and scipy alone, for machines that lack what noveltyflow's own hashing needs.

The columns and counts equal those of `noveltyflow.features` for text in ASCII (a test says so); anything beyond
ASCII becomes a question mark.
"""

from __future__ import annotations

import csv
import gzip
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

BLOCK_ROWS = 20_000


def read_urls(path: Path, rows: int | None = None) -> list[str]:
    """Distinct URLs of a list, in the order of reversed host and path, `rows` of them evenly spread.

    The list has one a line, or is a CSV file whose column `url` is taken; plain or gz.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.decode().split("\n")
    if ".csv" in path.suffixes:
        lines = [record["url"] for record in csv.DictReader(lines)]
    return spread(sorted(set(lines) - {""}, key=_by_host), rows)


def made_up_urls(rows: int) -> list[str]:
    """URLs of sites with sections, dates and numbers, where no real list is at hand; the same every time."""
    choose = random.Random(rows)
    words = [
        "news",
        "data",
        "about",
        "item",
        "report",
        "image",
        "forecast",
        "archive",
        "user",
        "login",
        "page",
    ]

    def one() -> str:
        host = f"{choose.choice(words)}{choose.randrange(1 + rows // 500)}.example"
        path = "/".join(choose.choice(words) for _ in range(choose.randrange(1, 6)))
        return f"https://www.{host}/{path}/{choose.randrange(1990, 2027)}/{choose.randrange(rows)}"

    return sorted({one() for _ in range(rows)}, key=_by_host)


def spread(urls: list[str], rows: int | None) -> list[str]:
    """`rows` of the URLs, evenly spread; all of them where that is None or more than there are."""
    if rows is None or rows >= len(urls):
        return urls
    return [urls[i] for i in np.linspace(0, len(urls) - 1, rows, dtype=int)]


def _by_host(url: str) -> tuple[list[str], str]:
    host, _, path = url.partition("://")[2].partition("/")
    return host.split(".")[::-1], path


def weighted_rows(texts: list[str], *, n_features: int = 1 << 20, threads: int = 1) -> Any:
    """Character 3- to 5-grams, hashed, weighted by smoothed idf, in rows of unit length.

    Parameters
    ----------
    texts : list of str, length n
        One for each row.
    n_features : int
        Number of hashed columns.
    threads : int
        Blocks of rows that are hashed at a time.

    Returns
    -------
    csr_matrix of float32, shape (n, n_features)
        With sorted columns.
    """
    blocks = [texts[i : i + BLOCK_ROWS] for i in range(0, len(texts), BLOCK_ROWS)]
    with ThreadPoolExecutor(threads) as pool:
        counts = sp.vstack(
            list(pool.map(lambda block: count_ngrams(block, n_features), blocks)), format="csr"
        )
    frequency = np.bincount(counts.indices, minlength=n_features)
    idf = np.log((len(texts) + 1) / (frequency + 1)) + 1.0
    weights = counts.data * idf[counts.indices]
    norms = np.sqrt(np.add.reduceat(np.append(weights**2, 0.0), counts.indptr[:-1]))
    lengths = np.diff(counts.indptr)
    weights /= np.repeat(np.where(lengths > 0, norms, 1.0), lengths)
    rows = sp.csr_matrix((weights.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    rows.has_canonical_format = True
    return rows


def count_ngrams(texts: list[str], n_features: int) -> Any:
    """Hashed counts of character 3- to 5-grams, float32 CSR with sorted columns."""
    encoded = [text.lower().encode("ascii", "replace") for text in texts]
    letters = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8).astype(np.uint32)
    lengths = np.array([len(text) for text in encoded], np.int64)
    row_of = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())
    keys = [_keys(letters, row_of, np.flatnonzero(left >= n), n, n_features) for n in (3, 4, 5)]
    found, counts = np.unique(np.concatenate(keys), return_counts=True)
    indptr = np.searchsorted(found, np.arange(len(texts) + 1) * n_features)
    columns = (found % n_features).astype(np.int32)
    return sp.csr_matrix((counts.astype(np.float32), columns, indptr), shape=(len(texts), n_features))


def _keys(letters: Any, row_of: Any, starts: Any, n: int, n_features: int) -> Any:
    """Row times `n_features` plus column, for the n-grams that begin at `starts`."""
    hashed = _murmur(letters, starts, n).view(np.int32).astype(np.int64)
    return row_of[starts] * n_features + np.abs(hashed) % n_features


def _murmur(letters: Any, starts: Any, n: int) -> Any:
    """MurmurHash3 (32 bits, seed 0) of the `n` bytes at each of `starts`, for n from 3 to 7."""
    state = np.zeros(len(starts), np.uint32)
    if n >= 4:
        state = _rotated(state ^ _scrambled(_word(letters, starts, 4)), 13) * np.uint32(5) + np.uint32(
            0xE6546B64
        )
    if n % 4:
        state ^= _scrambled(_word(letters, starts + n // 4 * 4, n % 4))
    state ^= np.uint32(n)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state ^= state >> np.uint32(shift)
        state *= np.uint32(factor)
    return state ^ (state >> np.uint32(16))


def _word(letters: Any, starts: Any, size: int) -> Any:
    word = letters[starts]
    for place in range(1, size):
        word = word | letters[starts + place] << np.uint32(8 * place)
    return word


def _scrambled(word: Any) -> Any:
    return _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _rotated(word: Any, bits: int) -> Any:
    return word << np.uint32(bits) | word >> np.uint32(32 - bits)
