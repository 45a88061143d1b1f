"""The estimator against scikit-learn's and dask-ml's."""

from __future__ import annotations

from typing import Any

import dask.bag as db
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import HashingVectorizer as Reference
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.pipeline import make_pipeline

from noveltyflow.errors import InputError, SettingsError
from noveltyflow.features.vectorizer import HashingVectorizer

TEXTS = ["http://a.gov/x/y?z=1", "", "The Straße of ΣΑΣ", "a  b\t c", "http://a.gov/x/y?z=2"] * 5
PARAMETERS = st.fixed_dictionaries(
    {
        "analyzer": st.sampled_from(["char", "char_wb", "word"]),
        "ngram_range": st.sampled_from([(1, 1), (1, 2), (3, 5), (4, 4)]),
        "lowercase": st.booleans(),
        "n_features": st.sampled_from([1, 7, 64, 1 << 20, (1 << 31) - 2]),
        "binary": st.booleans(),
        "norm": st.sampled_from(["l1", "l2", None]),
        "alternate_sign": st.booleans(),
        "dtype": st.sampled_from([np.float64, np.float32, np.int64, np.int32]),
    }
)


def assert_same(actual: sp.csr_matrix, expected: sp.csr_matrix) -> None:
    """Equal to the bit, type and stored zeros included."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert_array_equal(actual.indptr, expected.indptr)
    assert_array_equal(actual.indices, expected.indices)
    assert_array_equal(actual.data, expected.data)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1), PARAMETERS)
@settings(max_examples=200, deadline=None)
def test_equals_scikit_learn(texts: list[str], parameters: dict[str, Any]) -> None:
    expected = Reference(**parameters).transform(texts)
    assert_same(HashingVectorizer(**parameters).fit_transform(texts), expected)


@pytest.mark.parametrize("alternate_sign", [True, False])
def test_collisions_with_opposite_signs_stay_stored(alternate_sign: bool) -> None:
    parameters: dict[str, Any] = {"n_features": 3, "norm": None, "alternate_sign": alternate_sign}
    texts = [" ".join(f"w{i}" for i in range(n)) for n in range(40)]
    expected = Reference(**parameters).transform(texts)
    assert alternate_sign == (expected.data == 0).any()
    assert_same(HashingVectorizer(**parameters).transform(texts), expected)


def test_defaults_are_scikit_learns() -> None:
    assert HashingVectorizer().get_params() == Reference().get_params()
    assert_same(HashingVectorizer().transform(TEXTS), Reference().transform(TEXTS))


def test_bytes_are_decoded() -> None:
    documents = ["plain", "Straße".encode("latin-1")]
    expected = Reference(encoding="latin-1").transform(documents)
    assert_same(HashingVectorizer(encoding="latin-1").transform(documents), expected)


def test_generators_are_read() -> None:
    assert_same(HashingVectorizer().transform(iter(TEXTS)), HashingVectorizer().transform(TEXTS))


def test_clone_and_pipeline() -> None:
    vectorizer = HashingVectorizer(analyzer="char", ngram_range=(3, 5), norm=None, alternate_sign=False)
    assert clone(vectorizer).set_params(n_features=64).get_params()["n_features"] == 64
    reference = Reference(**vectorizer.get_params())
    actual = make_pipeline(vectorizer, TfidfTransformer()).fit_transform(TEXTS)
    assert_same(actual, make_pipeline(reference, TfidfTransformer()).fit_transform(TEXTS))


@pytest.mark.parametrize(
    "parameters",
    [
        {"analyzer": str.split},
        {"preprocessor": str.upper},
        {"tokenizer": str.split},
        {"stop_words": "english"},
        {"token_pattern": r"\S+"},
        {"strip_accents": "unicode"},
        {"input": "filename"},
        {"analyzer": "sentence"},
        {"ngram_range": (3, 2)},
        {"ngram_range": (0, 2)},
        {"n_features": 0},
        {"n_features": 1 << 31},
        {"norm": "max"},
        {"dtype": np.uint8},
    ],
)
def test_unsupported_parameters_are_named(parameters: dict[str, Any]) -> None:
    vectorizer = HashingVectorizer(**parameters)
    name = next(iter(parameters))
    for method in (vectorizer.fit, vectorizer.transform):
        with pytest.raises(SettingsError, match=name):
            method(TEXTS)


def test_one_string_is_no_list() -> None:
    with pytest.raises(TypeError, match="not one string"):
        HashingVectorizer().transform("abc")


def test_missing_document_is_named() -> None:
    with pytest.raises(InputError, match="text 1 is of type float"):
        HashingVectorizer().transform(["a", float("nan")])


@pytest.mark.parametrize("partitions", [1, 3, 25])
def test_bag_gives_known_chunks(partitions: int) -> None:
    vectorizer = HashingVectorizer(analyzer="char", ngram_range=(3, 5))
    bag = db.from_sequence(TEXTS, npartitions=partitions)
    array = vectorizer.transform(bag)
    rows = tuple(bag.map_partitions(lambda part: [len(part)]).compute(scheduler="synchronous"))
    assert array.chunks == (rows, (1 << 20,))
    assert isinstance(array._meta, sp.csr_matrix)
    computed = array.compute(scheduler="synchronous")
    assert isinstance(computed, sp.csr_matrix)
    assert_same(computed, vectorizer.transform(TEXTS))


def test_bag_keeps_empty_partitions() -> None:
    bag = (
        db.from_sequence(TEXTS, npartitions=5).map(str.lower).filter(lambda text: text.startswith("http://a"))
    )
    bag = db.concat([bag, db.from_sequence(["only"], npartitions=1).filter(lambda text: False), bag])
    array = HashingVectorizer().transform(bag)
    assert array.chunks[0] == (2, 2, 2, 2, 2, 0, 2, 2, 2, 2, 2)
    assert array.blocks[5].compute(scheduler="synchronous").shape == (0, 1 << 20)
    assert array.compute(scheduler="synchronous").shape == (20, 1 << 20)


def test_bag_equals_dask_ml() -> None:
    text = pytest.importorskip("dask_ml.feature_extraction.text")
    bag = db.from_sequence(TEXTS, npartitions=4)
    parameters: dict[str, Any] = {"analyzer": "char", "ngram_range": (2, 4), "n_features": 1 << 12}
    expected = text.HashingVectorizer(**parameters).transform(bag).compute(scheduler="synchronous")
    actual = HashingVectorizer(**parameters).transform(bag).compute(scheduler="synchronous")
    assert_same(actual, sp.csr_matrix(expected))
