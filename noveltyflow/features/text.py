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
from noveltyflow.types import AnyArray, Int64Array

_WHITESPACE_RUN = re.compile(r"\s\s+")
_TOKEN = re.compile(r"(?u)\b\w\w+\b")
_IS_SPACE = np.array([code < 128 and chr(code).isspace() for code in range(256)])
_SPACES = bytes(32 if _IS_SPACE[code] else code for code in range(256))
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
        one before and one after the text. `word`: ASCII texts as they are; of others the tokens, joined by
        spaces.
    lowercase : bool
        Apply `str.lower` first.

    Raises
    ------
    InputError
        A text is not a str, or has no UTF-8 form (a lone surrogate).
    """
    joined = _join(texts)
    ascii_only = joined.isascii()
    if not ascii_only:
        texts = [text if text.isascii() else _unicode_form(text, analyzer, lowercase) for text in texts]
        joined = "".join(texts)
    if analyzer == "char" and _has_whitespace_run(joined):
        texts = [_WHITESPACE_RUN.sub(" ", text) for text in texts]
    if analyzer == "char_wb":
        texts = [f" {text} " for text in texts]
    lengths = map(len, texts) if ascii_only else map(_utf8_length, range(len(texts)), texts)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(texts)), out=offsets[1:])
    return PreparedTexts(_as_bytes("".join(texts), analyzer, lowercase), offsets)


def _as_bytes(joined: str, analyzer: str, lowercase: bool) -> AnyArray:
    content = joined.encode()
    # `bytes.lower` knows ASCII letters only, and all others are lower-cased by now.
    if lowercase:
        content = content.lower()
    if analyzer == "char_wb":
        content = content.translate(_SPACES)
    return np.frombuffer(content + bytes(_PADDING), np.uint8)


def _unicode_form(text: str, analyzer: str, lowercase: bool) -> str:
    if lowercase:
        text = text.lower()
    if analyzer == "char":
        return _WHITESPACE_RUN.sub(" ", text)
    return " ".join(text.split() if analyzer == "char_wb" else _TOKEN.findall(text))


def _join(texts: Sequence[str]) -> str:
    try:
        return "".join(texts)
    except TypeError:
        row = next(i for i, text in enumerate(texts) if not isinstance(text, str))
        kind = type(texts[row]).__name__
        raise InputError(
            f"text {row} is of type {kind}, not str; convert or drop it before hashing"
        ) from None


def _has_whitespace_run(text: str) -> bool:
    """Whether two ASCII white spaces stand side by side."""
    code = np.frombuffer(text.encode(errors="replace"), np.uint8)
    if not (code <= 32).any():
        return False
    space = _IS_SPACE[code]
    return bool((space[1:] & space[:-1]).any())


def _utf8_length(row: int, text: str) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {row} has no UTF-8 form: lone surrogate at character {error.start}; "
            "decode the input with errors='replace', or drop the text"
        ) from None
