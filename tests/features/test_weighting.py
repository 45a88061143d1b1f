"""Document frequency, idf and weights against scikit-learn's `TfidfTransformer`."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.feature_extraction.text import TfidfTransformer

from noveltyflow.config import FeatureSettings
from noveltyflow.features import frequency
from noveltyflow.features.hashing import hash_block
from noveltyflow.features.weighting import inverse_document_frequency, weight_block

TEXTS = st.lists(st.text("ab/.?", max_size=30), min_size=1, max_size=12)
HOW = st.builds(
    FeatureSettings,
    ngram_range=st.just((1, 3)),
    n_features=st.sampled_from([5, 64, 1 << 12]),
    sublinear_tf=st.booleans(),
    smooth_idf=st.booleans(),
)


def reference(counts: sp.csr_matrix, how: FeatureSettings, use_idf: bool = True) -> sp.csr_matrix:
    """scikit-learn's weights in float64."""
    transformer = TfidfTransformer(smooth_idf=how.smooth_idf, sublinear_tf=how.sublinear_tf, use_idf=use_idf)
    with np.errstate(divide="ignore"):
        return transformer.fit_transform(counts.astype(np.float64))


@given(TEXTS, HOW)
@settings(max_examples=200, deadline=None)
def test_weights_equal_scikit_learn(texts: list[str], how: FeatureSettings) -> None:
    counts = hash_block(texts, how)
    idf = inverse_document_frequency(
        frequency.chunk(counts.indices, counts.shape[1]), len(texts), how.smooth_idf
    )
    weights = weight_block(counts, idf, how)
    expected = reference(counts, how)
    assert weights.data.dtype == np.float32
    assert_array_equal(weights.indptr, expected.indptr)
    assert_array_equal(weights.indices, expected.indices)
    assert_allclose(weights.data, expected.data, rtol=2**-23)


@given(TEXTS, HOW)
@settings(max_examples=50, deadline=None)
def test_without_idf(texts: list[str], how: FeatureSettings) -> None:
    counts = hash_block(texts, how)
    expected = reference(counts, how, use_idf=False)
    assert_allclose(weight_block(counts, None, how).data, expected.data, rtol=2**-23)


@given(TEXTS, HOW, st.data())
@settings(max_examples=100, deadline=None)
def test_splitting_the_block_changes_no_bit(
    texts: list[str], how: FeatureSettings, data: st.DataObject
) -> None:
    counts = hash_block(texts, how)
    idf = inverse_document_frequency(
        frequency.chunk(counts.indices, counts.shape[1]), len(texts), how.smooth_idf
    )
    cut = data.draw(st.integers(0, len(texts)))
    parts = [weight_block(counts[:cut], idf, how), weight_block(counts[cut:], idf, how)]
    joined = sp.vstack(parts, format="csr")
    assert_array_equal(joined.data, weight_block(counts, idf, how).data)


def test_rows_have_unit_length_and_empty_rows_stay_empty() -> None:
    how = FeatureSettings()
    weights = weight_block(hash_block(["http://a.gov/", "", "x"], how), None, how)
    assert_allclose(np.sqrt(weights.multiply(weights).sum(axis=1)).A1, [1, 0, 0], rtol=1e-6)


def test_counts_are_left_as_they_are() -> None:
    how = FeatureSettings()
    counts = hash_block(["aaaa"], how)
    weight_block(counts, None, how)
    assert_array_equal(counts.data, hash_block(["aaaa"], how).data)


@given(TEXTS, HOW)
@settings(max_examples=50, deadline=None)
def test_overwriting_the_counts_changes_no_bit(texts: list[str], how: FeatureSettings) -> None:
    counts = hash_block(texts, how)
    idf = inverse_document_frequency(
        frequency.chunk(counts.indices, counts.shape[1]), len(texts), how.smooth_idf
    )
    expected = weight_block(counts, idf, how)
    weights = weight_block(counts, idf, how, overwrite=True)
    assert np.shares_memory(weights.data, counts.data) or counts.nnz == 0
    assert_array_equal(weights.data, expected.data)
    assert_array_equal(weights.indices, expected.indices)


def test_wrong_idf_length_is_refused() -> None:
    how = FeatureSettings()
    with pytest.raises(ValueError, match="1048576 columns"):
        weight_block(hash_block(["abc"], how), np.ones(3), how)


def test_unseen_columns_have_finite_idf() -> None:
    idf = inverse_document_frequency(np.array([0, 1, 4]), 4, smooth_idf=False)
    assert_allclose(idf, [np.log(4) + 1, np.log(4) + 1, 1])
    assert_allclose(inverse_document_frequency(np.array([0]), 0, smooth_idf=False), [1])


@given(st.lists(TEXTS, min_size=1, max_size=5), st.randoms())
@settings(max_examples=50, deadline=None)
def test_document_frequency_is_agnostic_to_blocks(blocks: list[list[str]], order: st.Random) -> None:
    how = FeatureSettings(n_features=64)
    whole = hash_block([text for block in blocks for text in block], how)
    counted = (hash_block(block, how) for block in blocks)
    parts = [frequency.chunk(counts.indices, counts.shape[1]) for counts in counted]
    order.shuffle(parts)
    nested = frequency.combine([frequency.combine(parts[:1]), *parts[1:]])
    assert_array_equal(frequency.finalize(nested), whole.getnnz(axis=0))
    assert nested.dtype == np.int64


def test_combine_leaves_its_parts() -> None:
    part = np.ones(3, np.int64)
    frequency.combine([part, part])
    assert_array_equal(part, [1, 1, 1])
