"""What survives a power cut, a disk that hiccups, and a process that dies while it writes."""

from __future__ import annotations

import errno
import filecmp
import os
import stat
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import some_urls
from zarr.storage import LocalStore

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.errors import DamageError
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.store import Scratch, durable, scratch
from noveltyflow.testing.runs import content_files
from noveltyflow.verify import verify

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=3)
)


class PowerCut(BaseException):
    """The moment at which everything stops."""


class Disk:
    """What a disk holds that loses everything not flushed to it: contents of files, and names in folders.

    A file whose name was flushed but not its content comes back empty; a name that was not flushed, not at all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushes = 0
        self.cut_at: int | None = None
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, tuple[int, bool]]] = {}
        self._kept_open: list[int] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.flush)

    def flush(self, descriptor: int) -> None:
        if self.flushes == self.cut_at:
            raise PowerCut
        self.flushes += 1
        # Open files keep their number, by which they are known here, from being given to others.
        self._kept_open.append(os.dup(descriptor))
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path.resolve()) as entries:
                self._folders[status.st_ino] = {
                    entry.name: (entry.inode(), entry.is_dir()) for entry in entries
                }
        else:
            self._files[status.st_ino] = path.read_bytes()

    @property
    def contents(self) -> Collection[int]:
        """Numbers of the files whose contents it holds."""
        return self._files.keys()

    def restore(self, folder: int, target: Path) -> None:
        """Write into `target` what is left of the folder with number `folder`."""
        target.mkdir()
        for name, (number, is_folder) in self._folders.get(folder, {}).items():
            if is_folder:
                self.restore(number, target / name)
            else:
                (target / name).write_bytes(self._files.get(number, b""))

    def close(self) -> None:
        for descriptor in self._kept_open:
            os.close(descriptor)


class Unsteady(MemoryFileSystem):
    """A store behind an address; every third write to it fails."""

    protocol = "unsteady"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes: ClassVar = count(1)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("unsteady://")))

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        if next(self.writes) % 3 == 0:
            raise OSError(errno.EIO, "Input/output error")
        super().pipe_file(path, value, **more)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(["", "http://", *some_urls(60, seed=3)]))
    return path


@pytest.fixture(scope="module")
def undisturbed(urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run.zarr"
    compute(urls, out)
    return out


def compute(urls: Path, out: Path | str) -> None:
    plan = plan_run([str(urls)], str(out), SETTINGS)
    execute(plan, SerialExecutor(task_seconds=0), Silent(), block_rows=30, backend="cpu")


def assert_same_bytes(left: Path, right: Path) -> None:
    names = content_files(left)
    assert names == content_files(right)
    assert filecmp.cmpfiles(left, right, names, shallow=False)[1:] == ([], [])


def what_is_left(disk: Disk, urls: Path, tmp_path: Path, cut_at: int | None) -> Path:
    """Run until the power is cut; the run folder as the disk has it afterwards."""
    disk.cut_at, disk.flushes = cut_at, 0
    (tmp_path / "before").mkdir()
    try:
        compute(urls, tmp_path / "before" / "run.zarr")
    except PowerCut:
        assert cut_at is not None
    disk.cut_at = None
    disk.restore((tmp_path / "before").stat().st_ino, tmp_path / "after")
    return tmp_path / "after" / "run.zarr"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4, 0.6, 0.85, 0.97, 0.99])
def test_run_continues_after_a_power_cut(
    share: float,
    disk: Disk,
    urls: Path,
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    compute(urls, tmp_path / "count.zarr")
    left = what_is_left(disk, urls, tmp_path, int(disk.flushes * share))
    compute(urls, left)
    assert verify(str(left)).problems == []
    assert_same_bytes(left, undisturbed)


@pytest.mark.parametrize("cut_at", range(4))
def test_a_power_cut_while_the_folder_is_made_is_in_nobodys_way(
    cut_at: int, disk: Disk, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Also on a disk that keeps names of its own accord, and nothing else that it was not asked to."""
    what_is_left(disk, urls, tmp_path, cut_at)
    out = tmp_path / "before" / "run.zarr"
    for path in out.rglob("*"):
        if path.is_file() and path.stat().st_ino not in disk.contents:
            path.write_bytes(b"")
    compute(urls, out)
    assert_same_bytes(out, undisturbed)


def test_a_kill_while_the_head_is_written_is_in_nobodys_way(
    urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    out.mkdir()
    (out / f"zarr.json.0123{durable.PARTIAL}").write_text("{")
    compute(urls, out)
    assert_same_bytes(out, undisturbed)


def test_a_damaged_head_is_named_with_what_to_do(urls: Path, tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / "zarr.json").write_text('{"attri')
    with pytest.raises(DamageError, match=r"run\.zarr: zarr\.json is damaged; remove the folder"):
        compute(urls, tmp_path / "run.zarr")


def test_complete_run_survives_a_power_cut(disk: Disk, urls: Path, undisturbed: Path, tmp_path: Path) -> None:
    left = what_is_left(disk, urls, tmp_path, None)
    assert verify(str(left)).problems == []


def test_run_that_flushes_nothing_does_not_survive(
    disk: Disk, urls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is real: without flushes nothing is left."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert not what_is_left(disk, urls, tmp_path, None).exists()


def test_store_that_fails_every_third_write_is_tried_again(
    urls: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def hiccup() -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise OSError(errno.EIO, "Input/output error")

    zarr_set, write = LocalStore.set, durable.write_durably

    async def set_or_fail(self: LocalStore, key: str, value: object) -> None:
        hiccup()
        await zarr_set(self, key, value)  # type: ignore[arg-type]

    def write_or_fail(path: Path, data: bytes | memoryview) -> None:
        hiccup()
        write(path, data)

    monkeypatch.setattr(durable, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(LocalStore, "set", set_or_fail)
    monkeypatch.setattr(scratch, "write_durably", write_or_fail)
    compute(urls, tmp_path / "run.zarr")
    assert calls > 60
    assert_same_bytes(tmp_path / "run.zarr", undisturbed)


def test_address_that_fails_every_third_write_is_tried_again(
    urls: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_FIRST_PAUSE_SECONDS", 0.001)
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    compute(urls, "unsteady://run.zarr")
    assert next(Unsteady.writes) > 60
    fsspec.filesystem("unsteady").get("run.zarr", str(tmp_path / "run.zarr"), recursive=True)
    assert_same_bytes(tmp_path / "run.zarr", undisturbed)


def test_writing_to_a_broken_address_ends_after_growing_pauses_and_names_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(durable.time, "sleep", slept.append)

    def broken(self: MemoryFileSystem, path: str, value: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", broken)
    with pytest.raises(OSError, match=r"Input/output error: '/run\.zarr/notes/a'"):
        Scratch("memory://run.zarr").write("notes/a", b"")
    assert slept == sorted(set(slept))
    assert len(slept) == 5


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(durable.time, "sleep", slept.append)

    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        durable.retried(broken)
    assert slept == sorted(slept)
    assert len(slept) == 5


def test_full_disk_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable.time, "sleep", lambda seconds: pytest.fail("waited for a full disk"))

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        durable.retried(full)


def test_half_written_files_are_swept(urls: Path, undisturbed: Path, tmp_path: Path) -> None:
    compute(urls, tmp_path / "run.zarr")
    for name in ("rows/url/c/0.abc.partial", "features/x.partial"):
        (tmp_path / "run.zarr" / name).write_bytes(b"half")
    (tmp_path / "run.zarr/stages/neighbors/zarr.json").unlink()
    compute(urls, tmp_path / "run.zarr")
    assert_same_bytes(tmp_path / "run.zarr", undisturbed)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Scratch(str(tmp_path))
    files.write("a", b"old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        files.write("a", b"new")
    assert files.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
