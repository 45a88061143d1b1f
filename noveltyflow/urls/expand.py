"""From what a person names to the files it stands for."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from fsspec.implementations.local import LocalFileSystem

from noveltyflow.errors import InputError
from noveltyflow.urls.lines import BLOCK_BYTES
from noveltyflow.urls.streams import HASHED, FileSystem, explained, locate

STDIN = "-"

# Left beside the data by Spark and others; without rows of their own.
_BOOKKEEPING = {"_SUCCESS", "_metadata", "_common_metadata"}
_ZARR_HEAD = "zarr.json"
_MAGIC = "*?["


class InputFile(NamedTuple):
    """One file to read."""

    source: str
    """What people are shown."""
    path: str
    """What is opened: an absolute local path or an fsspec address."""
    identity: str | None = None
    """Known beforehand only for what is named by its content."""


def expand_inputs(inputs: Iterable[str], spool: Path | None) -> Iterator[InputFile]:
    """Files of all inputs, in the order given, sorted within a glob or directory.

    Parameters
    ----------
    inputs : iterable of str
        Files, globs, directories, fsspec addresses, or `-` for standard input, at most once.
    spool : Path, optional
        Directory that receives standard input.

    Raises
    ------
    InputError
        When an input stands for no file.
    """
    spooled = False
    for item in inputs:
        if item != STDIN:
            yield from _expand(item)
            continue
        if spooled:
            raise InputError("-: standard input can be read only once; give it once.")
        spooled = True
        yield spool_stdin(spool)


def _expand(item: str) -> list[InputFile]:
    filesystem, path = locate(item if "://" in item else os.path.expanduser(item))  # noqa: PTH111
    with explained(item):
        if filesystem.isdir(path):
            return [_shown(filesystem, item, found) for found in _in_directory(filesystem, path, item)]
        # A file whose name merely looks like a pattern is meant as itself.
        if not any(c in path for c in _MAGIC) or filesystem.exists(path):
            return [InputFile(item, item if "://" in item else str(Path(path).absolute()))]
        return [_shown(filesystem, item, found) for found in _in_glob(filesystem, path, item)]


def _in_directory(filesystem: FileSystem, path: str, item: str) -> list[str]:
    files = _visible(_outside_zarr(_files_below(filesystem, path)), filesystem._strip_protocol(path))
    if not files:
        raise InputError(f"{item}: a directory without files. Check the path.")
    return files


def _in_glob(filesystem: FileSystem, path: str, item: str) -> list[str]:
    parts = PurePosixPath(filesystem._strip_protocol(path)).parts
    fixed = next(i for i, part in enumerate(parts) if any(c in part for c in _MAGIC))
    found = filesystem.glob(path)
    files = _outside_zarr([name for match in found for name in _files_below(filesystem, match)])
    if not any(part.startswith(".") for part in parts[fixed:]):
        files = _visible(files, str(PurePosixPath(*parts[:fixed])))
    if not files:
        raise InputError(
            f"{item}: no file matches. Check the pattern, and the folder from which it is looked for."
        )
    return sorted(set(files))


def _files_below(filesystem: FileSystem, path: str) -> list[str]:
    if isinstance(filesystem, LocalFileSystem) and filesystem.isdir(path):
        # That of fsspec passes over folders that cannot be read.
        folders = os.walk(filesystem._strip_protocol(path), onerror=_raise)
        return [f"{folder}/{name}" for folder, _, names in folders for name in names]
    found = filesystem.find(path, detail=True).items()
    # A link to a directory is listed but not followed, so that links in a circle do no harm.
    return [name for name, info in found if not (info.get("islink") and filesystem.isdir(name))]


def _raise(error: OSError) -> None:
    raise error


def _outside_zarr(files: Sequence[str]) -> list[str]:
    """Files that are not part of a Zarr folder: a run may stand, and grow, beside the data it is made from."""
    folders = tuple(name.removesuffix(_ZARR_HEAD) for name in files if name.endswith(f"/{_ZARR_HEAD}"))
    return [name for name in files if not name.startswith(folders)]


def _visible(files: Iterable[str], root: str) -> list[str]:
    """Sorted files that are neither hidden below `root` nor bookkeeping."""
    return sorted(name for name in files if not _hidden(name[len(root) :]))


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name.lstrip("/")).parts
    # An object store lists a directory's own marker too, under an empty name.
    return not parts or parts[-1] in _BOOKKEEPING or any(part.startswith(".") for part in parts)


def _shown(filesystem: FileSystem, item: str, path: str) -> InputFile:
    if "://" in item:
        address = str(filesystem.unstrip_protocol(path))
        return InputFile(address, address)
    absolute = os.path.isabs(os.path.expanduser(item))  # noqa: PTH111, PTH117
    return InputFile(path if absolute else os.path.relpath(path), path)


def spool_stdin(spool: Path | None) -> InputFile:
    """Stream standard input into a file of `spool` that is named by its SHA-256.

    The same data given again have the same name and identity, so a run fed from a pipe can be continued.
    """
    if spool is None:
        raise InputError(
            "-: only a run keeps what it reads from standard input; save it in a file, and name that."
        )
    digest = hashlib.sha256()
    with explained(STDIN):
        spool.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=spool, prefix="stdin-", suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            try:
                while data := sys.stdin.buffer.read(BLOCK_BYTES):
                    digest.update(data)
                    file.write(data)
            except BaseException:
                partial.unlink()
                raise
        path = partial.replace(spool.absolute() / f"stdin-{digest.hexdigest()[:16]}")
    return InputFile(STDIN, str(path), HASHED + digest.hexdigest())
