"""Texts as one UTF-8 buffer with offsets, in the form from which the kernels read n-grams.

Whatever scikit-learn does to a text before it takes n-grams is done here. Where that is cheap to do for all
ASCII texts at once it is; the rest is left to Python's own `str` and `re`, whose Unicode rules define it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from noveltyflow.errors import InputError
from noveltyflow.features import _kernels
from noveltyflow.types import AnyArray, Int64Array

_WHITESPACE_RUN = re.compile(r"\s\s+")
_TOKEN = re.compile(r"(?u)\b\w\w+\b")
_IS_SPACE = np.array([code < 128 and chr(code).isspace() for code in range(256)])
_AROUND = {"char": ("", ""), "char_wb": (" ", " "), "word": ("", " ")}
"""What stands before and after each text."""
_PADDING = 64
"""Bytes after the last text that kernels may read, though not use."""


class PreparedTexts(NamedTuple):
    """Texts as bytes; text `i` is `buffer[offsets[i]:offsets[i + 1]]`."""

    buffer: AnyArray
    """UTF-8, uint8, with padding at the end."""
    offsets: Int64Array
    """Shape (n + 1,)."""


def prepare_texts(texts: Sequence[str], analyzer: str, lowercase: bool) -> PreparedTexts:
    """Bring texts into the normal form of the analyzer.

    Parameters
    ----------
    texts : sequence of str, length n
    analyzer : {"char", "char_wb", "word"}
        `char`: runs of two or more white spaces become one space. `char_wb`: white spaces become spaces, with
        one before and one after the text. `word`: ASCII texts as they are, of others the tokens, joined by
        spaces; with one space after the text.
    lowercase : bool
        Apply `str.lower` first.

    Raises
    ------
    InputError
        A text is not a str, or has no UTF-8 form (a lone surrogate).
    """
    texts = _as_ascii_or_bytes(texts, analyzer, lowercase)
    before, after = _AROUND[analyzer]
    joined = (after + before).join(texts)
    if analyzer == "char" and _has_whitespace_run(joined):
        texts = [_WHITESPACE_RUN.sub(" ", text) if text.isascii() else text for text in texts]
        joined = "".join(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + len(before + after)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    content = np.frombuffer(f"{before}{joined}{after}".encode("latin-1"), np.uint8)
    buffer = np.zeros(len(content) + _PADDING, np.uint8)
    # Letters beyond ASCII are lower-cased by now.
    _kernels.fold(content, lowercase, analyzer == "char_wb", buffer)
    return PreparedTexts(buffer, offsets)


def _as_ascii_or_bytes(texts: Sequence[str], analyzer: str, lowercase: bool) -> Sequence[str]:
    """Texts in which one character stands for one byte; those beyond ASCII are in their normal form."""
    try:
        is_ascii = np.fromiter(map(str.isascii, texts), np.bool_, len(texts))
    except TypeError:
        row = next(i for i, text in enumerate(texts) if not isinstance(text, str))
        kind = type(texts[row]).__name__
        raise InputError(
            f"text {row} is of type {kind}, not str; convert or drop it before hashing"
        ) from None
    rows = np.flatnonzero(~is_ascii).tolist()
    if rows:
        texts = list(texts)
        for row in rows:
            texts[row] = _utf8_form(row, texts[row], analyzer, lowercase)
    return texts


def _utf8_form(row: int, text: str, analyzer: str, lowercase: bool) -> str:
    """Normal form of a text beyond ASCII; one character for each byte of its UTF-8."""
    try:
        return _unicode_form(text, analyzer, lowercase).encode().decode("latin-1")
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {row} has no UTF-8 form: lone surrogate at character {error.start}; "
            "decode the input with errors='replace', or drop the text"
        ) from None


def _unicode_form(text: str, analyzer: str, lowercase: bool) -> str:
    if lowercase:
        text = text.lower()
    if analyzer == "char":
        return _WHITESPACE_RUN.sub(" ", text)
    return " ".join(text.split() if analyzer == "char_wb" else _TOKEN.findall(text))


def _has_whitespace_run(text: str) -> bool:
    """Whether two ASCII white spaces stand side by side in a text of bytes."""
    code = np.frombuffer(text.encode("latin-1"), np.uint8)
    if not (code <= 32).any():
        return False
    space = _IS_SPACE[code]
    return bool((space[1:] & space[:-1]).any())
