"""One writer for each run folder; the lock of a process that died is no lock.

On a file system the kernel holds the lock (`flock`) and lets go of it when the process ends, however it ends; on
NFS and other shared file systems of Linux it holds between hosts. An object store has no such thing: there the
lock is an object that names its holder, which is broken when that holder is seen to be dead, which only the
holder's own host can see.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import psutil

from noveltyflow.errors import StoreError
from noveltyflow.store.durable import load_json
from noveltyflow.store.files import is_local

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}

log = logging.getLogger(__name__)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of the run at `path`, which need not exist yet.

    Raises
    ------
    StoreError
        Naming the process that writes the run.
    """
    # One folder has one lock, by whatever links it is reached.
    held = _flocked(Path(path).resolve()) if is_local(path) else _marked(path, f"{path.rstrip('/')}.lock")
    with held:
        yield


def _holder() -> dict[str, Any]:
    """What tells another process who holds a lock, and whether that one lives."""
    return {"host": _host(), "pid": os.getpid()}


def _host() -> str:
    """Name of this host, and of its boot where that is told: process numbers begin anew with every boot."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}"
    return socket.gethostname()


def _refusal(path: str, holder: dict[str, Any], remedy: str) -> StoreError:
    who = f"process {holder['pid']} on {holder['host'].split()[0]}" if holder else "another process"
    return StoreError(f"{path}: {who} is writing this run; {remedy}")


def _cannot_be_made(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: cannot be made: {error.strerror}; --out needs a writable folder")


@contextmanager
def _flocked(path: Path) -> Iterator[None]:
    if not path.name:
        raise StoreError(f"{path}: no run can be made here; --out needs a folder of its own")
    name = path.with_name(f".{path.name}.lock")
    made = [folder for folder in name.parents if not folder.exists()]
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(path, error) from error
    descriptor = _lock_file(path, name)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_holder()).encode(), 0)
        yield
    finally:
        # While it is still locked: whoever opened it meanwhile sees that the name is gone.
        name.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _lock_file(path: Path, name: Path) -> int:
    while True:
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _read_holder(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise _refusal(str(path), holder, "wait until it is done, or end it") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            log.warning("%s: this file system knows no locks; see that no other command writes the run", path)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name), os.fstat(descriptor)):  # noqa: PTH116 - as for the descriptor
                return descriptor
        os.close(descriptor)


def _read_holder(data: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        holder = load_json(data)
        if isinstance(holder, dict) and {"host", "pid"} <= holder.keys():
            return holder
    return {}


@contextmanager
def _marked(path: str, name: str) -> Iterator[None]:
    """Hold the object `name`, which nobody else can make meanwhile, as the lock of `path`."""
    fs, target = fsspec.core.url_to_fs(name)
    # No two locks are alike, so that one which was read is known again.
    mine = json.dumps({**_holder(), "nonce": uuid.uuid4().hex}).encode()
    while not _taken(path, name, mine):
        pass
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            fs.rm_file(target)


def _taken(path: str, name: str, mine: bytes) -> bool:
    """Whether the object is now `mine`; not where it was let go of, or broken, while it was looked at."""
    fs, target = fsspec.core.url_to_fs(name)
    try:
        fs.pipe_file(target, mine, mode="create")
        return True
    except FileExistsError:
        held = _content(fs, target)
    if held is None:
        return False
    holder = _read_holder(held)
    if not _is_dead(holder):
        raise _refusal(path, holder, f"if it has died, remove {name}")
    # Of all who see that it is dead, one may break it: who holds the lock of this very lock, and finds it unbroken.
    with _marked(path, f"{name}.{hashlib.sha256(held).hexdigest()[:16]}"):
        if _content(fs, target) != held:
            return False
        log.warning("%s: process %s has died; its lock is broken", path, holder["pid"])
        fs.pipe_file(target, mine)
        return True


def _content(fs: Any, target: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(target))
    except FileNotFoundError:
        return None


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this host and runs no more.

    When it started is not asked: such times move with the clock, and a living holder must never be taken for dead.
    """
    return bool(holder) and holder["host"] == _host() and not psutil.pid_exists(int(holder["pid"]))
