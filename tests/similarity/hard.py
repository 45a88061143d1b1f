"""Matrices made against the CPU kernel, kernels that take one path each, and the comparison of two of them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from noveltyflow.config import FeatureSettings
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.parts import CpuPrepared, ListedPart
from noveltyflow.similarity.kernels.postings import PostingLists
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.validation import as_unit_rows
from noveltyflow.testing.matrices import SHAPES

WORDS = ("news", "about", "article", "item", "page", "report", "data", "index", "archive", "users")
NON_NEGATIVE = sorted(set(SHAPES) - {"signed"})


class Exhaustive(CpuKernel):
    """The CPU kernel without an index, which computes every pair."""

    def prepare(self, block, n_neighbors, *, threads=1):
        everything = PostingLists.of(block, np.arange(block.shape[0]))
        return CpuPrepared(block, (ListedPart(0, block.shape[0], everything),))


def indexed(**options):
    """The CPU kernel with an index, even where computing every pair is quicker."""
    return CpuKernel(cheap_list=-1, **options)


def url_texts(rng, rows):
    """Made-up URLs of few hosts, in order: groups of neighbouring rows are alike."""
    hosts = [
        f"https://www.h{rng.integers(99)}.{rng.choice(['gov', 'com', 'org'])}" for _ in range(1 + rows // 20)
    ]
    parts = [
        "/".join(
            rng.choice(WORDS) + str(rng.integers(1000)) * rng.integers(2) for _ in range(rng.integers(5))
        )
        for _ in range(rows)
    ]
    return sorted(f"{rng.choice(hosts)}/{part}" for part in parts)


def text_matrix(texts, *, with_idf=True, **features):
    settings = FeatureSettings(**features)
    counts = hash_block(texts, settings)
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = inverse_document_frequency(frequency, len(texts), True) if with_idf else None
    return as_unit_rows(weight_block(counts, idf, settings), "X")


FOURS, EIGHTS = indexed(most_different=0.0), indexed(most_different=1.0)
"""Where neither an index of dense columns is made nor everything computed, groups of so many rows."""


def assert_equals_exhaustive(X, n_neighbors, kernel=None, **options):
    """Also returns the work done, by groups of eight if no kernel is given."""
    expected, _ = search(X, X, n_neighbors, Exhaustive())
    for one in [kernel] if kernel else [FOURS, EIGHTS]:
        found, stats = search(X, X, n_neighbors, one, **options)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.similarities, expected.similarities)
    return stats


HARD = {
    "ten patterns": lambda n: text_matrix([f"https://a.example/annual/item-{i % 10}.html" for i in range(n)]),
    "numbered": lambda n: text_matrix([f"https://a.example/annual/item-{i:05d}.html" for i in range(n)]),
    "disjoint": lambda n: as_unit_rows(sp.identity(n, dtype=np.float32, format="csr"), "X"),
    "common column": lambda n: common_column(n),
    "tied": lambda n: tied(n, 1),
    "nearly tied": lambda n: nearly_tied(n),
    "one and many": lambda n: one_and_many(n, 20_000),
}


def common_column(rows):
    """One column in every row, and twenty of many others."""
    rng = np.random.default_rng(0)
    columns = [np.union1d(0, rng.integers(1, 10 * rows, size=20)) for _ in range(rows)]
    indptr = np.cumsum([0, *map(len, columns)])
    counts = sp.csr_matrix((rng.integers(1, 4, size=indptr[-1]), np.concatenate(columns), indptr))
    return as_unit_rows(sp.diags(1 / scipy.sparse.linalg.norm(counts, axis=1)) @ counts, "X")


def nearly_tied(rows):
    """One column has nearly all weight of every row; some sixty of many others hardly tell rows apart."""
    light = 0.03
    others = sp.random(rows, 3 * rows // 2, density=40 / rows, random_state=0, format="csr", dtype=np.float32)
    scaled = sp.diags(light / scipy.sparse.linalg.norm(others, axis=1)) @ others
    heavy = np.full((rows, 1), (1 - light**2) ** 0.5)
    return as_unit_rows(sp.hstack([heavy, scaled], "csr", dtype=np.float32), "X")


def one_and_many(rows, columns):
    """Every hundredth row has all columns, the others one of them."""
    rng = np.random.default_rng(0)
    many = np.arange(0, rows, 100)
    single = np.setdiff1d(np.arange(rows), many)
    where = np.concatenate([np.repeat(many, columns), single])
    columns_of = np.concatenate(
        [np.tile(np.arange(columns), many.size), rng.integers(columns, size=single.size)]
    )
    values = np.concatenate([np.full(many.size * columns, columns**-0.5), np.ones(single.size)])
    return as_unit_rows(sp.csr_matrix((values.astype(np.float32), (where, columns_of)), (rows, columns)), "X")


def tied(rows, common):
    """Rows with the same columns and weights but for one column of their own: all are equally similar."""
    weights = np.append(np.full(common, (0.64 / common) ** 0.5), 0.6)
    own = common + np.arange(rows)[:, None]
    columns = np.hstack([np.tile(np.arange(common), (rows, 1)), own])
    indptr = np.arange(0, columns.size + 1, common + 1)
    return as_unit_rows(
        sp.csr_matrix((np.tile(weights, rows), columns.ravel(), indptr), (rows, common + rows)), "X"
    )
