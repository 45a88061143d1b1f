"""What of a stage is finished: a piece leaves a note once its files have reached the disk, and is not done again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from noveltyflow.config import fingerprint as digest
from noveltyflow.runtime.executor import Executor, Task
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.store.checksums import Checksums, checksum
from noveltyflow.store.durable import load_json

log = logging.getLogger(__name__)

Stored = tuple[Any, Sequence[str]]
"""What a task tells of its piece, JSON-able, and the names of the files in the run folder that hold the piece."""


def key_of(block: Block) -> str:
    """The key of a piece that is a row block; other blocks have other keys."""
    return f"{block.start:012d}-{block.stop:012d}"


def resumed(
    store: RunStore,
    pieces: str,
    fingerprint: str,
    executor: Executor,
    name: str,
    function: Callable[..., Stored],
    tasks: Mapping[str, Task],
) -> Iterator[tuple[str, Any]]:
    """Yield key and result of every piece as it is known, but do only those that no earlier command has finished.

    A note counts if it is what was written, has this fingerprint, and the files that it names still have their
    checksums; so damage is the same as absence. Notes of other pieces than these are removed.

    Parameters
    ----------
    pieces
        What the pieces are called among the notes.
    fingerprint
        Of all that a piece depends on besides its key.
    name
        Of the tasks.
    function
        Stores one piece; its results are as they come out of JSON.
    tasks
        Arguments of `function` by the key of the piece.
    """
    found = set()
    for key in noted_keys(store, pieces):
        if key in tasks:
            found.add(key)
        else:
            store.scratch.remove(_name(pieces, key))
    noted = [(store, pieces, key, fingerprint) for key in tasks if key in found]
    for key, note in executor.run("checksum", _recall, noted):
        if note is None:
            found.remove(key)
        else:
            yield key, note["result"]
    missing = [
        (store, pieces, key, fingerprint, function, *task) for key, task in tasks.items() if key not in found
    ]
    yield from executor.run(name, _carry_out, missing)


def noted_checksums(store: RunStore, pieces: str, keys: Sequence[str]) -> Checksums:
    """Checksums of the files of some finished pieces."""
    checksums: Checksums = {}
    for key in keys:
        note = _read(store, pieces, key)
        checksums |= note["checksums"] if note is not None else {}
    return checksums


def noted_keys(store: RunStore, pieces: str) -> list[str]:
    """Keys of the pieces that have a note."""
    return store.scratch.names(_folder(pieces))


def _carry_out(
    store: RunStore, pieces: str, key: str, fingerprint: str, function: Callable[..., Stored], *task: Any
) -> tuple[str, Any]:
    result, names = function(*task)
    checksums = checksum(store, names)
    store.flush_folders(names)
    note = {"fingerprint": fingerprint, "result": result, "checksums": checksums}
    store.scratch.write(_name(pieces, key), json.dumps(note | {"seal": digest(note)}).encode())
    return key, result


def _recall(store: RunStore, pieces: str, key: str, fingerprint: str) -> tuple[str, dict[str, Any] | None]:
    """The note of a piece, if the piece is what it was when the note was written."""
    note = _read(store, pieces, key)
    if note is None or note["fingerprint"] != fingerprint:
        return key, None
    names = list(note["checksums"])
    if not all(note["checksums"].values()) or checksum(store, names) != note["checksums"]:
        log.warning("%s: what %s vouches for is damaged; it is made anew", store.path, _name(pieces, key))
        return key, None
    return key, note


def _read(store: RunStore, pieces: str, key: str) -> dict[str, Any] | None:
    try:
        note = dict(load_json(store.scratch.read(_name(pieces, key)) or b"{}"))
    except (TypeError, ValueError):
        note = {}
    if note.pop("seal", None) != digest(note):
        log.warning("%s: note %s is damaged; its piece is made anew", store.path, _name(pieces, key))
        return None
    return note


def _folder(pieces: str) -> str:
    return f"notes/{pieces}"


def _name(pieces: str, key: str) -> str:
    return f"{_folder(pieces)}/{key}"
