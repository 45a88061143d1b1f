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
_PADDING = 8
"""Bytes after the last text that kernels may read, though not use."""


class PreparedTexts(NamedTuple):
    """Texts as bytes; text `i` is `buffer[offsets[i]:offsets[i + 1]]`."""

    buffer: AnyArray
    """UTF-8, uint8, with eight bytes of padding at the end."""
    offsets: Int64Array
    """Shape (n + 1,)."""


def prepare_texts(texts: Sequence[str], analyzer: str, lowercase: bool) -> PreparedTexts:
    """Bring texts into the normal form of the analyzer.

    Parameters
    ----------
    texts : sequence of str, length n
    analyzer : {"char", "char_wb", "word"}
        `char`: runs of two or more white spaces become one space. `char_wb`: all words, each with one space
        before and after. `word`: ASCII texts as they are; of others the tokens, joined by spaces.
    lowercase : bool
        Apply `str.lower` first.

    Raises
    ------
    InputError
        A text is not a str, or has no UTF-8 form (a lone surrogate).
    """
    joined = _join(texts)
    ascii_only = joined.isascii()
    # Lower-casing text by text matters beyond ASCII only: a final sigma depends on where its word ends.
    if lowercase:
        joined = joined.lower()
        texts = texts if ascii_only else [text.lower() for text in texts]
    if analyzer == "char" and ascii_only and not _has_whitespace_run(joined):
        return _from_ascii(joined, texts)
    if analyzer == "word" and ascii_only:
        return _from_ascii(joined, texts)
    if lowercase and ascii_only:
        texts = [text.lower() for text in texts]
    return _from_texts([_NORMAL_FORMS[analyzer](text) for text in texts])


def _join(texts: Sequence[str]) -> str:
    try:
        return "".join(texts)
    except TypeError:
        row = next(i for i, text in enumerate(texts) if not isinstance(text, str))
        kind = type(texts[row]).__name__
        raise InputError(
            f"text {row} is of type {kind}, not str; convert or drop it before hashing"
        ) from None


def _has_whitespace_run(ascii_text: str) -> bool:
    """Whether two white spaces stand side by side; the ASCII ones are 9-13 and 28-32."""
    code = np.frombuffer(ascii_text.encode(), np.uint8)
    if not (code <= 32).any():
        return False
    space = ((code >= 9) & (code <= 13)) | ((code >= 28) & (code <= 32))
    return bool((space[1:] & space[:-1]).any())


def _char_form(text: str) -> str:
    return _WHITESPACE_RUN.sub(" ", text)


def _char_wb_form(text: str) -> str:
    return f" {' '.join(text.split())} "


def _word_form(text: str) -> str:
    return text if text.isascii() else " ".join(_TOKEN.findall(text))


_NORMAL_FORMS = {"char": _char_form, "char_wb": _char_wb_form, "word": _word_form}


def _from_ascii(joined: str, texts: Sequence[str]) -> PreparedTexts:
    return _packed(joined.encode(), texts)


def _from_texts(texts: Sequence[str]) -> PreparedTexts:
    encoded = [_encode(row, text) for row, text in enumerate(texts)]
    return _packed(b"".join(encoded), encoded)


def _encode(row: int, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {row} has no UTF-8 form: lone surrogate at character {error.start}; "
            "decode the input with errors='replace', or drop the text"
        ) from None


def _packed(content: bytes, parts: Sequence[str] | Sequence[bytes]) -> PreparedTexts:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
    return PreparedTexts(np.frombuffer(content + bytes(_PADDING), np.uint8), offsets)
