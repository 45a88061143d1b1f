"""Novelty definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_allclose, assert_array_equal

from noveltyflow.errors import SettingsError
from noveltyflow.scores.novelty import SCORES, novelty
from noveltyflow.types import Float32Array

EMPTY = -np.inf


@st.composite
def blocks(draw: st.DrawFn) -> Float32Array:
    """Similarities, descending, with empty slots last and some above one by rounding."""
    shape = draw(st.tuples(st.integers(0, 8), st.integers(1, 6)))
    top = float(np.nextafter(np.float32(1), np.float32(2)))
    values = draw(npst.arrays(np.float32, shape, elements=st.floats(0, top, width=32)))
    empty = draw(npst.arrays(np.bool_, shape))
    return -np.sort(-np.where(empty, np.float32(EMPTY), values), axis=1)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("nearest", [0.1, 0.4, 1.0]),
        ("kth", [0.8, 1.0, 1.0]),
        ("mean", [1 - (0.9 + 0.7 + 0.5 + 0.2) / 4, 1 - 0.6 / 4, 1.0]),
        ("median", [0.4, 1.0, 1.0]),
    ],
)
def test_definitions(score: str, expected: list[float]) -> None:
    similarities = np.array([[0.9, 0.7, 0.5, 0.2], [0.6, EMPTY, EMPTY, EMPTY], [EMPTY] * 4], np.float32)
    assert_allclose(novelty(similarities, score), expected, rtol=1e-6)


@pytest.mark.parametrize("score", SCORES)
@given(block=blocks())
def test_novelty_is_a_number_between_zero_and_one(score: str, block: Float32Array) -> None:
    values = novelty(block, score)
    assert values.dtype == np.float32
    assert values.shape == block.shape[:1]
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("score", SCORES)
@given(block=blocks(), data=st.data())
def test_splitting_the_block_changes_no_bit(score: str, block: Float32Array, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(block)))
    parts = [novelty(block[:cut], score), novelty(block[cut:], score)]
    assert_array_equal(np.concatenate(parts), novelty(block, score))


@pytest.mark.parametrize("score", SCORES)
@given(block=blocks())
def test_fewer_similar_neighbours_are_never_less_novel(score: str, block: Float32Array) -> None:
    weaker = np.where(np.isneginf(block), block, block * np.float32(0.5))
    assert (novelty(weaker, score) >= novelty(block, score)).all()


def test_unknown_score_names_the_choices() -> None:
    with pytest.raises(SettingsError, match="'lof'; choose one of nearest, kth, mean, median"):
        novelty(np.ones((1, 1), np.float32), "lof")
