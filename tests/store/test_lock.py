from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import fsspec
import pytest

from noveltyflow.errors import StoreError
from noveltyflow.store import lock
from noveltyflow.store.lock import locked

HOLD = """
import sys
from noveltyflow.store.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        yield process
    finally:
        process.communicate()


def test_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    out = str(tmp_path / "run.zarr")
    with (
        holder(out) as process,
        pytest.raises(StoreError, match=f"process {process.pid} .*is writing this run"),
        locked(out),
    ):
        pass
    with locked(out), locked(str(tmp_path / "other.zarr")):
        pass


def test_lock_of_a_killed_process_is_none(tmp_path: Path) -> None:
    out = str(tmp_path / "run.zarr")
    with holder(out) as process:
        process.kill()
        process.wait()
        assert (tmp_path / ".run.zarr.lock").exists()
        with locked(out):
            pass


def test_nothing_stays_behind(tmp_path: Path) -> None:
    with locked(str(tmp_path / "new" / "folder" / "run.zarr")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_file_descriptor_of_a_removed_lock_is_no_lock(tmp_path: Path) -> None:
    """Locks that follow one another are never held twice, although each removes the file of the one before."""
    out = str(tmp_path / "run.zarr")
    for _ in range(3):
        with locked(out), pytest.raises(StoreError), locked(out):
            pass


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".run.zarr.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="cannot be made"), locked(str(tmp_path / "run.zarr")):
        pass
    assert (tmp_path / "precious").read_text() == "x"


@pytest.fixture
def address() -> str:
    return f"memory://{uuid.uuid4().hex}/run.zarr"


def test_object_store_refuses_a_second_writer_and_is_left_clean(address: str) -> None:
    with locked(address), pytest.raises(StoreError, match=r"process \d+ .*remove memory"), locked(address):
        pass
    assert not fsspec.filesystem("memory").exists(f"{address}.lock")


@pytest.mark.parametrize(("host", "broken"), [("here", True), ("elsewhere", False)])
def test_object_store_lock_is_broken_only_where_its_holder_is_seen_dead(
    host: str, broken: bool, address: str
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    fs = fsspec.filesystem("memory")
    with locked(address):
        held = json.loads(fs.cat_file(f"{address}.lock"))
    held |= {"pid": dead.pid} if host == "here" else {"pid": dead.pid, "host": "elsewhere 01234567"}
    fs.pipe_file(f"{address}.lock", json.dumps(held).encode())
    if broken:
        with locked(address):
            pass
        return
    with pytest.raises(StoreError, match=f"process {dead.pid} on elsewhere"), locked(address):
        pass


def leave_dead_lock(name: str) -> None:
    """Store a lock of a process of this host that is dead."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    fsspec.filesystem("memory").pipe_file(name, json.dumps({**lock._holder(), "pid": dead.pid}).encode())


def test_of_two_that_break_a_lock_at_once_one_wins(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that its holder is dead before the first one breaks it."""
    leave_dead_lock(f"{address}.lock")
    both_have_seen, one_is_refused = Barrier(2), Event()
    is_dead = lock._is_dead

    def seen(holder: dict[str, Any]) -> bool:
        dead = is_dead(holder)
        if dead:
            both_have_seen.wait(timeout=30)
        return dead

    def run(_: int) -> str:
        try:
            with locked(address):
                one_is_refused.wait(timeout=5)
                return "wrote"
        except StoreError:
            one_is_refused.set()
            return "refused"

    monkeypatch.setattr(lock, "_is_dead", seen)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2))) == ["refused", "wrote"]
    assert fsspec.filesystem("memory").find(address.rpartition("/")[0]) == []


def test_who_died_while_breaking_a_lock_locks_nobody_out(address: str) -> None:
    fs = fsspec.filesystem("memory")
    leave_dead_lock(f"{address}.lock")
    checksum = hashlib.sha256(fs.cat_file(f"{address}.lock")).hexdigest()
    leave_dead_lock(f"{address}.lock.{checksum[:16]}")
    with locked(address):
        assert json.loads(fs.cat_file(f"{address}.lock"))["pid"] == os.getpid()
    assert fs.find(address.rpartition("/")[0]) == []


def test_a_lock_let_go_of_while_it_is_looked_at_is_taken(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_dead_lock(f"{address}.lock")
    content = lock._content

    def gone(fs: Any, target: str) -> bytes | None:
        monkeypatch.setattr(lock, "_content", content)
        fs.rm_file(target)
        return content(fs, target)

    monkeypatch.setattr(lock, "_content", gone)
    with locked(address):
        pass


def test_one_folder_has_one_lock_by_whatever_link(tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "run.zarr")
    refused = pytest.raises(StoreError, match="is writing this run")
    with holder(str(tmp_path / "run.zarr")), refused, locked(str(tmp_path / "link.zarr")):
        pass


def test_the_root_is_no_place_for_a_run() -> None:
    with pytest.raises(StoreError, match="folder of its own"), locked("/"):
        pass
