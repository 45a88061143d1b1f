"""Records that are not scored: why, where they stood, and what can safely be shown of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from noveltyflow.inert import printable

Reason: TypeAlias = Literal[
    "encoding",
    "control-character",
    "too-long",
    "missing-field",
    "extra-field",
    "bad-csv",
    "bad-json",
    "no-url",
    "bad-time",
    "no-host",
    "empty-host",
    "unparsable",
]

REASONS: dict[Reason, str] = {
    "encoding": "The bytes are not valid UTF-8.",
    "control-character": "The URL holds a control character (C0, DEL or C1), such as NUL or a line break.",
    "too-long": "The record is longer than max_line_bytes.",
    "missing-field": "The row has fewer fields than the header.",
    "extra-field": "The row has more fields than the header, so its columns may be shifted.",
    "bad-csv": "The row breaks the quoting rules: a quote is left open, or text follows a closing one.",
    "bad-json": "The line is not a JSON object.",
    "no-url": "The object has no such field, or the field is not a string.",
    "bad-time": "The time is absent, or neither ISO 8601 nor seconds since 1970.",
    "no-host": "The URL's scheme names no host, as in mailto: or javascript:.",
    "empty-host": "The URL has no host where one belongs.",
    "unparsable": "The WHATWG URL standard calls this a failure.",
}
"""One sentence for every reason, for people."""

MAX_TEXT = 200
"""Longest text kept of a reject, in characters."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that is counted and stored but not scored."""

    ordinal: int
    """0-based record number within the shard."""
    line: int
    """1-based physical line within the shard on which the record starts; the row number for Parquet."""
    reason: Reason
    """Key of `REASONS`."""
    text: str
    """The first `MAX_TEXT` characters, with everything unprintable escaped."""


def make_reject(ordinal: int, line: int, reason: Reason, raw: str | bytes) -> Reject:
    """Build a `Reject` whose text is safe to print.

    Parameters
    ----------
    ordinal, line : int
        0-based record number and 1-based line within the shard.
    reason : Reason
        Key of `REASONS`.
    raw : str or bytes
        The offending text as it was read.
    """
    return Reject(ordinal, line, reason, safe_text(raw))


def safe_text(raw: str | bytes) -> str:
    """At most `MAX_TEXT` characters of `raw`, undecodable bytes and what is not `printable` escaped."""
    if isinstance(raw, bytes):
        # A character of UTF-8 takes at most four bytes.
        raw = raw[: 4 * MAX_TEXT].decode("utf-8", "backslashreplace")
    return printable(raw[:MAX_TEXT])[:MAX_TEXT]
