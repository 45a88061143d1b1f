"""Percentile ranks against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import percentileofscore

from noveltyflow.scores import percentile as p

# Ties, ends, neighbours closer than the resolution, and anything else.
VALUES = st.one_of(st.sampled_from([0.0, 0.25, 0.2500001, 0.5, 1.0]), st.floats(0, 1, width=32))
LISTS = st.lists(VALUES, min_size=1, max_size=30)


@given(LISTS)
@settings(max_examples=30, deadline=None)
def test_equals_scipy_at_the_resolution(values: list[float]) -> None:
    novelty = np.array(values, np.float32)
    rounded = np.rint(novelty.astype(np.float64) / p.RESOLUTION)
    expected = percentileofscore(rounded, rounded, kind="mean")
    actual = p.percentile(novelty, p.finalize(p.chunk(novelty)))
    assert actual.dtype == np.float32
    assert_allclose(actual, expected, rtol=1e-6)


@given(st.lists(LISTS, min_size=1, max_size=4), st.randoms())
@settings(max_examples=20, deadline=None)
def test_counts_are_agnostic_to_blocks(blocks: list[list[float]], order: st.Random) -> None:
    whole = p.chunk(np.array([value for block in blocks for value in block], np.float32))
    parts = [p.chunk(np.array(block, np.float32)) for block in blocks]
    order.shuffle(parts)
    assert_array_equal(p.combine([p.combine(parts[:1]), *parts[1:]]), whole)


def test_higher_novelty_never_ranks_lower() -> None:
    novelty = np.sort(np.random.default_rng(0).random(10_000, np.float32))
    ranks = p.percentile(novelty, p.finalize(p.chunk(novelty)))
    assert (np.diff(ranks) >= 0).all()
    assert 0 < ranks[0] < ranks[-1] < 100


@pytest.mark.parametrize("wrong", [np.nan, -0.001, 1.001, -np.inf])
def test_values_outside_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"novelty must lie in \[0, 1\]"):
        p.chunk(np.array([0.5, wrong], np.float32))


def test_nothing_counted() -> None:
    assert not p.finalize(p.chunk(np.empty(0, np.float32))).any()
