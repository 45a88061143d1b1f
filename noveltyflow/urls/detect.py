"""What an input is: its compression by magic bytes, its format by name and then content."""

from __future__ import annotations

import csv
import json
import re
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.lines import BOM
from noveltyflow.urls.streams import Compression

Format: TypeAlias = Literal["text", "csv", "tsv", "jsonl", "parquet"]

MAGIC_BYTES = 16
"""Bytes that `detect_compression` wants to see."""

_MAGIC: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    # A frame, or a skippable frame before it, as pzstd writes.
    "zstd": re.compile(rb"(?s:\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"),
    # The first block, or the end of an empty stream; a line of text may well start with BZh1.
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
_COMPRESSED = {".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz"}
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


def detect_compression(magic: bytes) -> Compression | None:
    """Compression by the first bytes; a name such as `.gz` is never believed, so it may be missing or lie."""
    return next((name for name, pattern in _MAGIC.items() if pattern.match(magic)), None)


def detect_format(source: str, head: bytes, settings: InputSettings) -> Format:
    """Format of an input.

    Parquet shows by its magic bytes. For text the suffix decides (`.csv .tsv .jsonl .ndjson .json .parquet`,
    before a suffix of compression); without one of these a first line that is a JSON object makes it JSON
    lines, one with the URL column among its fields makes it CSV or TSV, and all else is plain text.

    Parameters
    ----------
    source : str
        Name of the input.
    head : bytes
        First bytes of the input, decompressed.
    settings : InputSettings
        A `format` other than `auto` is taken as it is.

    Raises
    ------
    InputError
        For UTF-16 text, and for a single JSON document in place of JSON lines.
    """
    if settings.format != "auto":
        return settings.format
    if head.startswith(b"PAR1"):
        return "parquet"
    _refuse_utf16(source, head)
    line = _first_line(head)
    found = _FORMATS.get(_suffix(source)) or _format_of_line(line, settings.url_column)
    if found == "jsonl" and (line in ("[", "{") or line.startswith("[{")):
        raise InputError(
            f"{source}: is one JSON document, not one object a line. Convert it, say with: jq -c '.[]'"
        )
    return found


def _suffix(source: str) -> str:
    path = PurePosixPath(source.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def _refuse_utf16(source: str, head: bytes) -> None:
    # A line of hostile bytes may start like this too; text of any European language is also a third zeros.
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and head.count(0) * 3 > len(head):
        raise InputError(f"{source}: is UTF-16. Convert it, say with: iconv -f UTF-16 -t UTF-8")


def _first_line(head: bytes) -> str:
    text = head.removeprefix(BOM).lstrip(b" \t\r\n").partition(b"\n")[0]
    return text.decode("utf-8", "replace").strip()


def _format_of_line(line: str, url_column: str) -> Format:
    if line.startswith("{") and _is_object(line):
        return "jsonl"
    if "\t" in line and url_column in _fields(line, "\t"):
        return "tsv"
    return "csv" if url_column in _fields(line, ",") else "text"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for row in csv.reader([line], delimiter=delimiter, strict=True) for name in row]
    except csv.Error:
        return []
