"""Shards: which bytes of which inputs are read together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path

from noveltyflow.config import InputSettings, fingerprint
from noveltyflow.errors import InputError
from noveltyflow.urls.detect import MAGIC_BYTES, Format, detect_compression, detect_format
from noveltyflow.urls.expand import InputFile, expand_inputs
from noveltyflow.urls.readers import check_columns
from noveltyflow.urls.streams import Compression, decompressed, explained, identify, locate, opened

SHARD_BYTES = 64 << 20
"""Stored bytes a shard aims at."""

_SPLITTABLE = ("text", "jsonl")
_PLANNING_THREADS = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file, or one range of it."""

    source: str
    """What people are shown: path, address, or `-`."""
    path: str
    """What is opened: an absolute local path or an fsspec address."""
    format: Format
    """How records are found."""
    compression: Compression | None
    """How the bytes are packed, by content."""
    start: int
    """First byte (uncompressed text and JSON lines) or first row group (Parquet); else 0."""
    stop: int | None
    """End of the range, exclusive; None for the end of the file."""
    size: int
    """Stored bytes that the shard covers."""
    identity: str
    """Size and version of the whole file, or the SHA-256 of its content; it changes when the file does."""

    def __dask_tokenize__(self) -> str:
        """What Dask names tasks by; its own way takes 2 KB for each of what may be 200,000 shards."""
        return fingerprint(repr(self))


def plan_shards(
    inputs: Sequence[str],
    settings: InputSettings,
    *,
    shard_bytes: int = SHARD_BYTES,
    spool: Path | None = None,
) -> list[Shard]:
    """Find the files of all inputs, learn what they are, check their columns, and cut them into shards.

    Only the first bytes of each file are read (of Parquet, the footer). Uncompressed text and JSON lines are
    cut by byte ranges, Parquet by row groups, all else is one shard a file. Compression is recognised by
    content and never by name, so a `.gz` that holds plain text is read as text; see `detect_format` for the
    rest. An empty file is a shard without records, unless its format wants a header.

    Parameters
    ----------
    inputs : sequence of str
        Files, globs, directories (recursive; hidden files, Zarr folders and links to directories are passed
        over), fsspec addresses, or `-` for standard input.
    settings : InputSettings
        Format, columns and the longest accepted record.
    shard_bytes : int
        Most stored bytes in a range; a row group is never cut.
    spool : Path, optional
        Directory into which standard input is streamed.

    Returns
    -------
    list of Shard
        In the order of the inputs; sorted by path within a glob or directory.

    Raises
    ------
    InputError
        Naming the input and the remedy: nothing there, not readable, damaged, a column missing.
    """
    if not inputs:
        raise InputError(
            "no input given. Name a file, a glob, a directory, an address, or - for standard input."
        )
    files = list(expand_inputs(inputs, spool))
    # Remote files answer slowly, one after another; their order is kept.
    parts = [files[i::_PLANNING_THREADS] for i in range(min(_PLANNING_THREADS, len(files)))]
    with ThreadPoolExecutor(len(parts)) as pool:
        plan = partial(_plan_files, settings=settings, shard_bytes=shard_bytes)
        planned = list(pool.map(plan, parts))
    turns = (found for turn in zip_longest(*planned, fillvalue=()) for found in turn)
    return [shard for shards in turns for shard in shards]


def _plan_files(files: Sequence[InputFile], settings: InputSettings, shard_bytes: int) -> list[list[Shard]]:
    return [_plan_file(file, settings, shard_bytes) for file in files]


def _plan_file(file: InputFile, settings: InputSettings, shard_bytes: int) -> list[Shard]:
    filesystem, inner = locate(file.path)
    with explained(file.source):
        size, identity = identify(filesystem, inner)
    compression, head = _peek(file)
    kind = detect_format(file.source, head, settings)
    if kind == "parquet" and compression is not None:
        raise InputError(f"{file.source}: a Parquet file inside {compression} cannot be read. Decompress it.")
    whole = Shard(file.source, file.path, kind, compression, 0, None, size, file.identity or identity)
    groups = check_columns(whole, settings)
    if kind == "parquet":
        return _split_groups(whole, groups, shard_bytes)
    return _split_bytes(whole, shard_bytes)


def _peek(file: InputFile) -> tuple[Compression | None, bytes]:
    with opened(file.source, file.path) as raw:
        with explained(file.source):
            compression = detect_compression(raw.read(MAGIC_BYTES))
            raw.seek(0)
        return compression, next(decompressed(raw, compression, file.source), b"")


def _split_bytes(whole: Shard, shard_bytes: int) -> list[Shard]:
    count = -(-whole.size // shard_bytes)
    if count < 2 or whole.compression is not None or whole.format not in _SPLITTABLE:
        return [whole]
    cuts = [whole.size * i // count for i in range(count + 1)]
    return [replace(whole, start=a, stop=b, size=b - a) for a, b in pairwise(cuts)]


def _split_groups(whole: Shard, groups: Sequence[int], shard_bytes: int) -> list[Shard]:
    cuts, held = [0], 0
    for i, size in enumerate(groups):
        if held and held + size > shard_bytes:
            cuts.append(i)
            held = 0
        held += size
    if len(cuts) == 1:
        return [whole]
    ranges = pairwise([*cuts, len(groups)])
    return [replace(whole, start=a, stop=b, size=sum(groups[a:b])) for a, b in ranges]
