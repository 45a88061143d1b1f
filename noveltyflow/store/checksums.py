"""What a finished stage stored, file by file: manifests in the format of `sha256sum`, vouched for by the marker."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from noveltyflow.errors import DamageError, StoreError
from noveltyflow.store.durable import PARTIAL, inside, sync
from noveltyflow.store.files import is_local
from noveltyflow.store.run_store import RunStore
from noveltyflow.store.scratch import Scratch

CONTENT = {
    "urls": ("rows", "rejects"),
    "features": ("features",),
    "idf": ("idf",),
    "neighbors": ("neighbors",),
}
"""Folders that each stage fills."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
ABSENT, _OUTSIDE = "", "outside"
"""Stand for the checksums of what cannot be read, and of what a link that leads out of the run folder stands for."""

Checksums = dict[str, str]
"""Hexadecimal SHA-256 of files by their names within the run folder."""


@dataclass(frozen=True)
class Damage:
    """One file that is not what a stage stored."""

    name: str
    problem: str
    stray: bool = False
    """Whether the stage stored no such thing; then it goes before anything is computed again."""

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


def stage_files(store: RunStore, stage: str) -> list[str]:
    """Sorted names of all files that a stage has in the run folder; a link to a folder is one of them."""
    fs, root = fsspec.core.url_to_fs(store.path)
    paths: list[str] = []
    for folder in (f"{root}/{name}" for name in CONTENT[stage]):
        paths += [folder] if is_local(store.path) and Path(folder).is_symlink() else fs.find(folder)
    return sorted(path[len(root) :].lstrip("/") for path in paths if not path.endswith(PARTIAL))


def checksum(store: RunStore, names: Sequence[str]) -> Checksums:
    """Read files back once they are on the disk; for what cannot be read `compare` knows what stands there."""
    return {name: _checksum(store, name) for name in names}


def _checksum(store: RunStore, name: str) -> str:
    fs, root = fsspec.core.url_to_fs(store.path)
    try:
        if is_local(store.path):
            path = inside(Path(root), name)
            if not path.is_file():
                return ABSENT
            if store.writable:
                sync(path)
        with fs.open(f"{root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except StoreError:
        return _OUTSIDE
    except OSError:
        return ABSENT


def write_manifest(store: RunStore, stage: str, checksums: Mapping[str, str]) -> str:
    """Store the checksums of a stage's files; the manifest's own checksum, which goes into the marker."""
    lines = "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums)).encode()
    store.flush_folders(sorted(checksums))
    Scratch(store.path).write(_manifest_name(stage), lines)
    return hashlib.sha256(lines).hexdigest()


def read_manifest(store: RunStore, stage: str) -> Checksums:
    """Checksums of the files of a finished stage.

    Raises
    ------
    DamageError
        When the manifest is no longer what the stage wrote.
    """
    data = Scratch(store.path).read(_manifest_name(stage)) or b""
    if hashlib.sha256(data).hexdigest() != store.figures(stage)["checksum"]:
        raise DamageError(f"{store.path}: {_manifest_name(stage)} is damaged; {DamageError.remedy}")
    entries = (_LINE.fullmatch(line) for line in data.decode().splitlines())
    return {entry[2]: entry[1] for entry in entries if entry is not None}


def _manifest_name(stage: str) -> str:
    return f"checksums/{stage}.sha256"


def compare(expected: Checksums, found: Iterable[tuple[str, str]]) -> list[Damage]:
    """What is wrong with files whose checksums were taken again, in the order of their names."""
    damages = []
    for name, now in sorted(found):
        if now == _OUTSIDE:
            problem = "is reached by a link that leads out of the run folder; it is not followed"
            damages.append(Damage(name, problem, stray=True))
        elif name not in expected:
            damages.append(Damage(name, "was not stored by the run", stray=True))
        elif now == ABSENT:
            damages.append(Damage(name, "is missing or cannot be read"))
        elif now != expected[name]:
            damages.append(Damage(name, "differs from its checksum"))
    return damages
