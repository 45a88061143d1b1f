"""The audit of a finished run: every file, every count, and some rows by brute force."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from noveltyflow.config import ScoringSettings
from noveltyflow.errors import StoreError
from noveltyflow.features.hashing import hash_block
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import stage_fingerprints
from noveltyflow.runtime.progress import Reporter, Silent
from noveltyflow.runtime.stages.features import load_weighted
from noveltyflow.runtime.stages.seal import damages
from noveltyflow.similarity.tiles import Block, split_rows
from noveltyflow.similarity.topk import NO_NEIGHBOR
from noveltyflow.store import STAGES, RunStore
from noveltyflow.store.blocks import blocks_of, read_csr, read_urls
from noveltyflow.types import AnyArray, CsrMatrix, Float32Array, Int64Array
from noveltyflow.urls.canonical import canonicalize

_CANDIDATES = 2_048
"""Rows multiplied at a time with as many sampled rows as are held at a time."""
_SAMPLES = 1_000
"""Sampled rows that are held at a time; for each so many, all blocks are read."""
_ROUNDING = 1e-6
"""Relative difference of two float32 similarities that only the order of a sum can explain."""

log = logging.getLogger(__name__)


@dataclass
class Audit:
    """What was looked at, and everything that was found wrong."""

    at: str
    files: int = 0
    rows_rechecked: int = 0
    problems: list[str] = field(default_factory=list)


def verify(path: str, *, rows: int = 1_000, reporter: Reporter | None = None) -> Audit:
    """Audit a complete run, and store the result in it beside its content.

    All files are compared with their checksums; where none is damaged, on which the rest would only be found wrong
    a second time, all rows with the counts that the run gives, and `rows` rows, the same ones each time, with
    features and neighbours computed anew by brute force in float64.

    Parameters
    ----------
    path
        Run folder, a path or an fsspec address.
    rows
        Number of rows to recheck; work grows with it times the rows of the run.
    reporter
        Told about progress; by default nobody is.

    Raises
    ------
    StoreError
        When there is no run; `UnfinishedError` when it is unfinished.
    """
    store = RunStore(path)
    audit = Audit(datetime.now(UTC).isoformat(timespec="seconds"))
    prints = stage_fingerprints(store.header)
    if not _has_ended(store):
        store.figures(STAGES[-1])
    for stage in STAGES:
        _collect(audit, _file_problems(store, stage, prints[stage], audit))
    if not audit.problems:
        _check_rows(store, rows, audit, reporter or Silent())
    try:
        store.write_aside("audit", asdict(audit))
    except (OSError, StoreError) as error:
        log.warning("%s: the audit could not be stored: %s", path, error)
    return audit


def _has_ended(store: RunStore) -> bool:
    """Whether the last stage left a marker, be it a damaged one."""
    try:
        return store.require_marker(STAGES[-1]) is not None
    except StoreError:
        return True


def _collect(audit: Audit, problems: Iterator[str]) -> None:
    try:
        audit.problems += problems
    except (OSError, StoreError) as error:
        audit.problems.append(str(error))


def _file_problems(store: RunStore, stage: str, fingerprint: str, audit: Audit) -> Iterator[str]:
    marker = store.require_marker(stage)
    if marker is None:
        yield f"stages/{stage}: is missing"
        return
    if marker["fingerprint"] != fingerprint:
        yield f"stages/{stage}: was made with other settings or inputs than zarr.json says"
    n_files, found = damages(store, stage, SerialExecutor())
    audit.files += n_files
    yield from map(str, found)


def _check_rows(store: RunStore, rows: int, audit: Audit, reporter: Reporter) -> None:
    settings = ScoringSettings.model_validate(store.header["settings"])
    n_rows = store.figures("urls")["rows"]
    reporter.start("verify", n_rows, "rows")
    _collect(audit, _count_problems(store, settings, reporter))
    audit.rows_rechecked = min(rows, n_rows)
    _collect(audit, _sample_problems(store, settings, audit.rows_rechecked))
    reporter.finish("done")


def _count_problems(store: RunStore, settings: ScoringSettings, reporter: Reporter) -> Iterator[str]:
    """Compare every block with its neighbours, and all blocks together with the figures of the markers."""
    urls = store.figures("urls")
    n_urls = nonzeros = 0
    frequency = np.zeros(settings.features.n_features, np.int64)
    last = ("", "")
    for block in blocks_of(store):
        counts = store.read("rows/count", slice(block.start, block.stop))
        features = read_csr(store, block.index)
        n_urls, nonzeros = n_urls + int(counts.sum()), nonzeros + features.nnz
        frequency += np.bincount(features.indices, minlength=frequency.size)
        last, problems = _order_problems(read_urls(store, block), settings, last)
        yield from (f"row block {block.index}: {problem}" for problem in problems)
        yield from _block_problems(store, block, counts, urls)
        reporter.advance(block.n_rows)
    rejects = store.array("rejects/line").shape[0]
    yield from _unequal("lines read", urls["lines_read"], urls["lines_blank"] + rejects + n_urls)
    yield from _unequal("stored rejects", rejects, urls["lines_rejected"])
    yield from _unequal("reasons of rejects", sum(urls["reject_reasons"].values()), rejects)
    yield from _unequal("URLs", urls["urls"], n_urls)
    yield from _unequal("non-zeros", store.figures("features")["nonzeros"], nonzeros)
    if not np.array_equal(store.read("idf/document_frequency"), frequency):
        yield "idf/document_frequency: is not the sum over the features of all rows"


def _unequal(what: str, given: int, counted: int) -> Iterator[str]:
    if given != counted:
        yield f"{what}: the run says {given:,}, but {counted:,} are there"


def _order_problems(
    urls: list[str], settings: ScoringSettings, last: tuple[str, str]
) -> tuple[tuple[str, str], list[str]]:
    """Every URL must be canonical and come after the one before it; the last key of the block."""
    batch = canonicalize(urls, settings.urls)
    problems = [] if batch.urls == urls else ["holds a URL that is not canonical"]
    keys = [last, *((surt or "", url) for surt, url in zip(batch.surts, urls, strict=True))]
    if any(before >= after for before, after in pairwise(keys)):
        problems.append("rows are not distinct and in SURT order")
    return keys[-1], problems


def _block_problems(
    store: RunStore, block: Block, counts: AnyArray, figures: dict[str, Any]
) -> Iterator[str]:
    first = store.read("rows/first_seen", slice(block.start, block.stop))
    indices, similarities = _neighbors(store, block)
    filled = indices != NO_NEIGHBOR
    own = np.arange(block.start, block.stop)[:, None]
    checks = {
        "a row was never seen": (counts < 1).any(),
        "a row was first seen outside the input": ((first < 0) | (first >= figures["lines_read"])).any(),
        "a neighbour is no row of the run": ((indices < NO_NEIGHBOR) | (indices >= figures["rows"])).any(),
        "a row is its own neighbour": (indices == own).any(),
        "an empty slot has a similarity, or a full one has none": (np.isfinite(similarities) != filled).any(),
        "similarities do not descend": (similarities[:, :-1] < similarities[:, 1:]).any(),
        "a similarity is not between 0 and 1": (
            (similarities[filled] < 0) | (similarities[filled] > 1 + _ROUNDING)
        ).any(),
    }
    yield from (f"row block {block.index}: {problem}" for problem, is_there in checks.items() if is_there)


def _neighbors(store: RunStore, block: Block) -> tuple[Int64Array, Float32Array]:
    rows = slice(block.start, block.stop)
    return store.read("neighbors/indices", rows), store.read("neighbors/similarities", rows)


def _sample_problems(store: RunStore, settings: ScoringSettings, n_samples: int) -> Iterator[str]:
    seed = int(store.figures("neighbors")["fingerprint"], 16)
    samples = np.sort(
        np.random.default_rng(seed).choice(store.figures("urls")["rows"], n_samples, replace=False)
    )
    for part in split_rows(n_samples, _SAMPLES):
        yield from _recheck(store, settings, samples[part.start : part.stop])


def _recheck(store: RunStore, settings: ScoringSettings, samples: Int64Array) -> Iterator[str]:
    weights, indices, similarities = [], [], []
    for block in blocks_of(store):
        here = samples[(samples >= block.start) & (samples < block.stop)] - block.start
        if len(here):
            yield from _feature_problems(store, block, here, settings)
            found = _neighbors(store, block)
            indices.append(found[0][here])
            similarities.append(found[1][here])
            weights.append(load_weighted(store, block, settings.features)[here])
    stored = np.concatenate(indices), np.concatenate(similarities)
    queries = sp.vstack(weights, format="csr")
    yield from _neighbor_problems(store, settings, samples, queries, *stored)


def _feature_problems(
    store: RunStore, block: Block, here: Int64Array, settings: ScoringSettings
) -> Iterator[str]:
    """Term counts of some rows of a block, against those hashed from their URLs."""
    urls = read_urls(store, block)
    again = hash_block([urls[row] for row in here], settings.features)
    difference = read_csr(store, block.index)[here] != again
    for row in np.flatnonzero(np.diff(difference.tocsr().indptr)):
        yield f"row {block.start + here[row]}: stored features are not those of its URL"


def _neighbor_problems(
    store: RunStore,
    settings: ScoringSettings,
    samples: Int64Array,
    queries: CsrMatrix,
    indices: Int64Array,
    similarities: Float32Array,
) -> Iterator[str]:
    """Stored neighbours of sampled rows: each is as similar as stored, and none is more similar than they are."""
    best = np.full(similarities.shape, -np.inf, np.float32)
    claimed = np.full(similarities.shape, -np.inf, np.float32)
    for block in blocks_of(store):
        matrix = load_weighted(store, block, settings.features)
        for part in split_rows(block.n_rows, _CANDIDATES):
            start = block.start + part.start
            product = _product(queries, matrix[part.start : part.stop], samples - start)
            best = _largest(np.concatenate([best, product], axis=1), similarities.shape[1])
            rows, slots = np.nonzero((indices >= start) & (indices < start + part.n_rows))
            claimed[rows, slots] = product[rows, indices[rows, slots] - start]
    twice = [
        len(np.unique(row[row != NO_NEIGHBOR])) < np.count_nonzero(row != NO_NEIGHBOR) for row in indices
    ]
    wrong = {
        "a stored similarity is not that of the two rows": _differ(similarities, claimed),
        "a neighbour is missing": _differ(similarities, best),
        "a neighbour stands twice": np.array(twice),
    }
    for problem, where in wrong.items():
        yield from (f"row {row}: {problem}" for row in samples[where])


def _product(queries: CsrMatrix, others: CsrMatrix, own: Int64Array) -> Float32Array:
    """Dense float32 similarities of the rows of two matrices; minus infinity for a row and itself or strangers."""
    product = (queries.astype(np.float64) @ others.astype(np.float64).T).toarray().astype(np.float32)
    product[product == 0] = -np.inf
    rows = np.flatnonzero((own >= 0) & (own < others.shape[0]))
    product[rows, own[rows]] = -np.inf
    dense: Float32Array = product
    return dense


def _largest(values: Float32Array, k: int) -> Float32Array:
    """The `k` largest values of every row, descending."""
    kept: Float32Array = np.partition(values, values.shape[1] - k, axis=1)[:, -k:]
    return -np.sort(-kept, axis=1)


def _differ(stored: Float32Array, expected: Float32Array) -> AnyArray:
    """Which rows differ by more than rounding."""
    same = np.isclose(stored, expected, rtol=_ROUNDING, atol=0)
    return np.asarray(~np.all(same, axis=1))
