"""Files that survive a power cut: content reaches the disk before a name does, and both before a promise is made."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from noveltyflow.errors import DamageError, StoreError

PARTIAL = ".partial"
"""Ends the name of a file that is being written, Zarr's too; after a kill such files stay behind."""
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.05
# Trying again does not help where the disk is full, the name is wrong, or nobody may write.
_LASTING = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}

T = TypeVar("T")


def inside(root: Path, name: str) -> Path:
    """Path of a file of a run folder, through no link that leads out of it.

    Raises
    ------
    StoreError
        When it does: a folder received from others must not show, or have written, what is elsewhere.
    """
    path = root / name
    # Unlike Path.resolve, realpath raises nothing at links that go round in circles; nothing can be opened there.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise StoreError(f"{path}: is a link that leads out of the run folder; it is not followed")
    return path


def readable(root: Path, name: str) -> Path:
    """As `inside`, of a file that is to be opened: a pipe or a device there could be read for ever.

    Raises
    ------
    StoreError
        As `inside` does; `DamageError` when it is anything else than a file or a folder.
    """
    path = inside(root, name)
    try:
        mode = path.stat().st_mode
    except OSError:
        return path  # whoever opens it says what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DamageError(
            f"{path}: is neither a file nor a folder, and is not opened; remove it, and {DamageError.remedy}"
        )
    return path


def load_json(data: str | bytes) -> Any:
    """Parse JSON that may be anything.

    Raises
    ------
    ValueError
        When it is no JSON (a `JSONDecodeError`), or no text; also where it is nested deeper than Python can follow.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error


def may_pass(error: OSError) -> bool:
    """Whether the same call may succeed a little later, as after a timeout or an error of the medium."""
    return not isinstance(error, FileNotFoundError) and error.errno not in _LASTING


def pauses() -> Iterable[float]:
    """Seconds to wait between attempts: 0.05, 0.1, … 0.8, about 1.6 s in all."""
    return (_FIRST_PAUSE_SECONDS * 2**attempt for attempt in range(_ATTEMPTS - 1))


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an OSError of the block say which file it was about, as those of writing to an open file do not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def retried(action: Callable[[], T]) -> T:
    """Result of `action`, tried again after a growing pause while it raises an OSError that may pass."""
    for pause in pauses():
        try:
            return action()
        except OSError as error:
            if not may_pass(error):
                raise
            time.sleep(pause)
    return action()


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file; it is on the disk under its name when this returns, or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Have the disk hold what any process of this machine has written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in `folder`; some file systems cannot be asked to, and see to it themselves."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def sync_parents(root: Path, names: Iterable[str]) -> None:
    """Have the disk hold the names of all folders on the way from the parent of `root` to the files `names`."""
    folders = {root.parent, root}
    for name in names:
        folders.update(root / part for part in Path(name).parents)
    for folder in sorted(folders, reverse=True):
        sync_folder(folder)
