"""`HashingVectorizer`: scikit-learn's estimator, compiled, for lists and for Dask bags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from pydantic import ValidationError
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import normalize

from noveltyflow.config import FeatureSettings
from noveltyflow.errors import SettingsError
from noveltyflow.features.hashing import hash_texts
from noveltyflow.types import CsrMatrix

_TOKEN_PATTERN = r"(?u)\b\w\w+\b"  # noqa: S105
_FIXED = {
    "input": "content",
    "strip_accents": None,
    "preprocessor": None,
    "tokenizer": None,
    "stop_words": None,
    "token_pattern": _TOKEN_PATTERN,
}
"""Parameters of which only scikit-learn's default is supported."""


class HashingVectorizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to a sparse matrix of hashed n-gram counts; columns and values equal scikit-learn's.

    A drop-in for `sklearn.feature_extraction.text.HashingVectorizer` where texts are given as such and the
    analyzer is one of the three built-in ones. It holds no state: `fit` only checks the parameters.

    Parameters
    ----------
    input, strip_accents, preprocessor, tokenizer, stop_words, token_pattern
        Only scikit-learn's defaults; anything else is an error at `fit` and `transform`.
    encoding, decode_error : str
        How documents given as bytes are decoded.
    lowercase : bool
    ngram_range : tuple (min_n, max_n)
    analyzer : {"word", "char", "char_wb"}
    n_features : int
        Number of columns, at most 2**31 - 1.
    binary : bool
        Set all stored values to one.
    norm : {"l1", "l2"} or None
    alternate_sign : bool
        Count n-grams with a negative hash as -1.
    dtype : floating or signed integer type

    Notes
    -----
    An empty list gives a matrix without rows, and the result is a `csr_matrix`, whatever the
    configuration of scikit-learn says.
    """

    def __init__(
        self,
        *,
        input: str = "content",  # noqa: A002  scikit-learn's name
        encoding: str = "utf-8",
        decode_error: str = "strict",
        strip_accents: Any = None,
        lowercase: bool = True,
        preprocessor: Any = None,
        tokenizer: Any = None,
        stop_words: Any = None,
        token_pattern: str | None = _TOKEN_PATTERN,
        ngram_range: tuple[int, int] = (1, 1),
        analyzer: str = "word",
        n_features: int = 2**20,
        binary: bool = False,
        norm: str | None = "l2",
        alternate_sign: bool = True,
        dtype: Any = np.float64,
    ) -> None:
        self.input = input
        self.encoding = encoding
        self.decode_error = decode_error
        self.strip_accents = strip_accents
        self.lowercase = lowercase
        self.preprocessor = preprocessor
        self.tokenizer = tokenizer
        self.stop_words = stop_words
        self.token_pattern = token_pattern
        self.ngram_range = ngram_range
        self.analyzer = analyzer
        self.n_features = n_features
        self.binary = binary
        self.norm = norm
        self.alternate_sign = alternate_sign
        self.dtype = dtype

    def fit(self, X: Any = None, y: Any = None) -> HashingVectorizer:  # noqa: ARG002
        """Check the parameters; nothing is learned.

        Raises
        ------
        SettingsError
            A parameter has a value that is not supported.
        """
        self._settings()
        return self

    partial_fit = fit

    def transform(self, X: Any) -> Any:
        """Hash documents.

        Parameters
        ----------
        X : iterable of str or bytes, of length n; or a `dask.bag.Bag` of them

        Returns
        -------
        csr_matrix of shape (n, n_features), or dask Array
            Of a bag, an array of one `csr_matrix` per partition with known chunk sizes; the partitions are
            read once now, to count their rows, and again when the array is computed.

        Raises
        ------
        SettingsError
            A parameter has a value that is not supported.
        InputError
            A document is neither str nor bytes, or has no UTF-8 form.
        TypeError
            X is one string.
        """
        settings = self._settings()
        if isinstance(X, str | bytes):
            raise TypeError("an iterable of documents is expected, not one string; put it into a list")
        if hasattr(X, "map_partitions"):
            return self._transform_bag(X)
        return self._transform_texts(X, settings)

    def _transform_texts(self, documents: Iterable[Any], settings: FeatureSettings) -> CsrMatrix:
        texts = self._decode(documents if isinstance(documents, list) else list(documents))
        dtype = np.dtype(self.dtype)
        counted = dtype if dtype in (np.float32, np.float64) else np.dtype(np.float64)
        matrix = hash_texts(texts, settings, signed=self.alternate_sign, dtype=counted)
        if self.binary:
            matrix.data.fill(1)
        # Like scikit-learn's, a matrix of integers becomes one of float64 when it is normalised.
        if dtype.kind == "f" or self.norm is None:
            matrix = matrix.astype(dtype, copy=False)
        if self.norm is not None and matrix.shape[0] > 0:
            normalize(matrix, norm=self.norm, copy=False)
        return matrix

    def _decode(self, documents: list[Any]) -> Sequence[str]:
        if not any(isinstance(document, bytes) for document in documents):
            return documents
        return [
            document.decode(self.encoding, self.decode_error) if isinstance(document, bytes) else document
            for document in documents
        ]

    def _transform_bag(self, bag: Any) -> Any:
        # Late and only here: the rest of this package knows nothing of Dask.
        dask: Any = import_module("dask")
        graphs: Any = import_module("dask.highlevelgraph")
        arrays: Any = import_module("dask.array")
        counts = dask.compute(*bag.map_partitions(_count).to_delayed())
        blocks = bag.map_partitions(hash_partition, vectorizer=self)
        name = f"hashed-{blocks.name}"
        layer = {(name, i, 0): (blocks.name, i) for i in range(blocks.npartitions)}
        graph = graphs.HighLevelGraph.from_collections(name, layer, dependencies=[blocks])
        chunks = (tuple(counts), (self.n_features,))
        return arrays.Array(graph, name, chunks, meta=self.transform([]))

    def _settings(self) -> FeatureSettings:
        for name, supported in _FIXED.items():
            if getattr(self, name) != supported:
                value = getattr(self, name)
                raise SettingsError(
                    f"HashingVectorizer: {name}={value!r} is not supported, only {supported!r}; "
                    "prepare the texts before hashing, or use that of scikit-learn"
                )
        self._check_values()
        try:
            return FeatureSettings.model_validate(
                {name: getattr(self, name) for name in ("analyzer", "ngram_range", "lowercase", "n_features")}
            )
        except ValidationError as error:
            raise SettingsError(f"HashingVectorizer: {_first_message(error)}") from None

    def _check_values(self) -> None:
        if self.norm not in ("l1", "l2", None):
            raise SettingsError(f"HashingVectorizer: norm must be 'l1', 'l2' or None, not {self.norm!r}")
        if np.dtype(self.dtype).kind not in "fi":
            raise SettingsError(
                f"HashingVectorizer: dtype must be floating or signed integer, not {self.dtype!r}"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


def hash_partition(documents: Iterable[Any], vectorizer: HashingVectorizer) -> CsrMatrix:
    """Hash one partition of a bag; its name is what Dask shows for the task."""
    return vectorizer.transform(list(documents))


def _count(documents: Iterable[Any]) -> int:
    return len(documents) if isinstance(documents, Sequence) else sum(1 for _ in documents)


def _first_message(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}={first['input']!r}: {re.sub('^Value error, ', '', first['msg'])}"
