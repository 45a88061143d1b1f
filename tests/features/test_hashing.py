"""Hashed counts against scikit-learn's."""

from __future__ import annotations

import re
from itertools import chain

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import HashingVectorizer as Reference
from sklearn.utils import murmurhash3_32

from noveltyflow.config import FeatureSettings
from noveltyflow.errors import InputError
from noveltyflow.features import hashing
from noveltyflow.features.hashing import hash_block, hash_texts

URLS = st.text(st.sampled_from("abcdeXYZ019./:?&=-_% \t"), max_size=120)
WORDS = st.text(st.sampled_from("ab \t\n\x1c\x85\xa0\u2003ΔΣςİßÄé日本🎉_-"), max_size=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LISTS = st.lists(st.one_of(URLS, WORDS, TEXTS), min_size=1, max_size=8)
RANGES = st.tuples(st.integers(1, 12), st.integers(0, 6)).map(lambda pair: (pair[0], sum(pair)))
SETTINGS = st.builds(
    FeatureSettings,
    analyzer=st.sampled_from(["char", "char_wb", "word"]),
    ngram_range=RANGES,
    lowercase=st.booleans(),
    n_features=st.one_of(st.sampled_from([1, 2, 1 << 10, 1 << 20, 1 << 30]), st.integers(1, (1 << 31) - 2)),
)


def reference(texts: list[str], how: FeatureSettings) -> sp.csr_matrix:
    """scikit-learn's counts."""
    return Reference(
        analyzer=how.analyzer,
        ngram_range=how.ngram_range,
        lowercase=how.lowercase,
        n_features=how.n_features,
        norm=None,
        alternate_sign=False,
    ).transform(texts)


def assert_same(actual: sp.csr_matrix, expected: sp.csr_matrix) -> None:
    """Equal to the entry, order of columns included."""
    assert actual.shape == expected.shape
    assert_array_equal(actual.indptr, expected.indptr)
    assert_array_equal(actual.indices, expected.indices)
    assert_array_equal(actual.data, expected.data)


@given(LISTS, SETTINGS)
@settings(max_examples=400, deadline=None)
def test_equals_scikit_learn(texts: list[str], how: FeatureSettings) -> None:
    assert_same(hash_block(texts, how), reference(texts, how))


@given(LISTS, SETTINGS, st.data())
@settings(max_examples=100, deadline=None)
def test_splitting_the_list_changes_no_row(
    texts: list[str], how: FeatureSettings, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(texts)))
    parts = [hash_block(texts[:cut], how), hash_block(texts[cut:], how)]
    assert_same(sp.vstack(parts, format="csr"), hash_block(texts, how))


@pytest.mark.parametrize("batch_keys", [1, 100, 1 << 10])
@pytest.mark.parametrize("analyzer", ["char", "char_wb", "word"])
def test_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, batch_keys: int, analyzer: str) -> None:
    texts = ["", *(f"http://example.gov/{'page/' * (i % 7)}{i}?q={i * i}" for i in range(200)), " ", "é" * 50]
    how = FeatureSettings(analyzer=analyzer)
    expected = hash_block(texts, how)
    monkeypatch.setattr(hashing, "_BATCH_KEYS", batch_keys)
    assert_same(hash_block(texts, how), expected)


@pytest.mark.parametrize("length", [*range(70), 255, 256, 1000])
def test_every_length_around_a_stride(length: int) -> None:
    texts = ["".join(chr(33 + (i * 31 + length) % 90) for i in range(length)), "x" * length]
    how = FeatureSettings(ngram_range=(1, 9))
    assert_same(hash_block(texts, how), reference(texts, how))


@given(st.integers(0, 2**32 - 1), SETTINGS, st.sampled_from(["aB0_ -./", "ab ", "éß日a -"]))
@settings(max_examples=50, deadline=None)
def test_words_of_many_rows(seed: int, how: FeatureSettings, alphabet: str) -> None:
    # More text than the kernel takes together, with tokens of one byte and of many words.
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 100, 150).tolist()
    texts = ["".join(rng.choice(list(alphabet), n)) for n in lengths]
    how = how.model_copy(update={"analyzer": "word"})
    assert_same(hash_block(texts, how), reference(texts, how))


@pytest.mark.parametrize("analyzer", ["char", "char_wb", "word"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_every_pair_of_ascii_characters(analyzer: str, lowercase: bool) -> None:
    texts = [f"a{chr(i)}{chr(j)}b/é"[: 4 + (i + j) % 3] for i in range(128) for j in range(128)]
    how = FeatureSettings(analyzer=analyzer, ngram_range=(1, 2), lowercase=lowercase)
    assert_same(hash_block(texts, how), reference(texts, how))


@pytest.mark.parametrize("filler", ["a", "é", "ab/", "a b\t"])
def test_long_texts(filler: str) -> None:
    texts = ["short", filler * (65_536 // len(filler.encode())), "after"]
    for analyzer in ("char", "char_wb", "word"):
        how = FeatureSettings(analyzer=analyzer)
        assert_same(hash_block(texts, how), reference(texts, how))


@pytest.mark.parametrize("n_features", [2, 3, 1000, 1 << 20, (1 << 31) - 2])
@pytest.mark.parametrize("alternate_sign", [True, False])
def test_smallest_hash_follows_scikit_learn(n_features: int, alternate_sign: bool) -> None:
    # The absolute value of this hash is no int32.
    assert murmurhash3_32(b"aivlts3m") == -(1 << 31)
    parameters = {"analyzer": "char", "ngram_range": (8, 8), "n_features": n_features, "norm": None}
    expected = Reference(**parameters, alternate_sign=alternate_sign).transform(["aivlts3m"])
    how = FeatureSettings(ngram_range=(8, 8), n_features=n_features)
    assert_same(hash_texts(["aivlts3m"], how, signed=alternate_sign, dtype=np.float64), expected)


def test_no_texts() -> None:
    block = hash_block([], FeatureSettings())
    assert block.shape == (0, 1 << 20)
    assert block.nnz == 0


def test_texts_without_ngrams() -> None:
    block = hash_block(["", "ab"], FeatureSettings())
    assert_array_equal(block.indptr, [0, 0, 0])


def test_counts_are_float32_with_int32_indices() -> None:
    block = hash_block(["aaaa"], FeatureSettings())
    assert (block.data.dtype, block.indices.dtype, block.indptr.dtype) == (np.float32, np.int32, np.int32)
    assert isinstance(block, sp.csr_matrix)
    assert block.has_canonical_format


def test_counts_beyond_float32_are_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_EXACT_IN_FLOAT32", 10)
    assert hash_block(["a" * 20], FeatureSettings()).data.dtype == np.float64


def test_scipy_widens_indices_when_int32_cannot_count_the_entries() -> None:
    # What `hash_block` rests on for more than 2**31 entries, which no test can afford to make.
    indices, indptr = np.zeros(1, np.int32), np.array([0, 1 << 31])
    assert sp.get_index_dtype((indices, indptr), maxval=1 << 20, check_contents=True) == np.int64


def test_result_holds_no_spare_memory() -> None:
    block = hash_block(["a" * 10_000], FeatureSettings())
    for array in (block.data, block.indices):
        owner = array if array.base is None else array.base
        assert owner.size == 3


def test_text_of_another_type_is_named() -> None:
    with pytest.raises(InputError, match="text 1 is of type bytes"):
        hash_block(["a", b"b"], FeatureSettings())  # type: ignore[list-item]


@pytest.mark.parametrize("analyzer", ["char", "char_wb", "word"])
def test_lone_surrogate_is_named(analyzer: str) -> None:
    texts = ["fine", "é", "http://a/\ud800xyz"]
    if analyzer == "word":
        texts[2] = "\ud800\ud800"  # not a word character, so nothing is left of it
        assert hash_block(texts, FeatureSettings(analyzer="word")).shape[0] == 3
        return
    with pytest.raises(InputError, match=re.escape("text 2 has no UTF-8 form: lone surrogate")):
        hash_block(texts, FeatureSettings(analyzer=analyzer))


def test_lower_casing_twice_is_lower_casing_once() -> None:
    # Texts beyond ASCII are lower-cased as text and then, with all others, as ASCII bytes.
    for code in chain(range(0xD800), range(0xE000, 0x110000)):
        lowered = chr(code).lower()
        assert lowered.encode().lower() == lowered.encode()
