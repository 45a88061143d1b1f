"""A real disk that is full: the command says so, and goes on when there is space."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import Cli, some_urls
from runtime.faults import OPTIONS, last_words, same_bytes, start, stopped_when, when

from noveltyflow.config import NeighborSettings, ScoringSettings
from noveltyflow.errors import TaskError
from noveltyflow.runtime.disk import DISK_RESERVE, room_for
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent

LARGE = 64 << 20
NO_MOUNT = (
    "needs the right to mount a file system, which a plain user of Linux has within: "
    "unshare --map-root-user --mount .venv/bin/python -m pytest tests/runtime/test_disk_faults.py"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, which can be resized."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "noveltyflow-test", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip(NO_MOUNT)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(remount(disk, size), check=True)


def fill(disk: Path) -> None:
    """Take the space that is left, to within a page or so; what is written meanwhile is not taken away."""
    for spare in itertools.count(1):
        size = shutil.disk_usage(disk).used + 4096 * spare
        if subprocess.run(remount(disk, size), capture_output=True, check=False).returncode == 0:
            return


def remount(disk: Path, size: int) -> list[object]:
    return ["mount", "-o", f"remount,size={size}", disk]


def test_a_disk_without_room_is_refused_before_anything_is_stored(
    disk: Path, cli: Cli, tmp_path: Path
) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("\n".join(some_urls(200_000)))
    resize(disk, shutil.disk_usage(disk).used + (1 << 20))
    for command in ("plan", "run"):
        done = cli(command, urls, "--out", disk / "run.zarr", *OPTIONS)
        assert done.returncode == 2
        assert re.search(
            r"needs at least \d+ MiB of disk, there is room for 1 MiB; free some space", done.stderr
        )
    assert not (disk / "run.zarr").exists()


@pytest.mark.slow
def test_a_list_of_duplicates_is_run_where_as_many_rows_would_have_no_room(
    disk: Path, cli: Cli, tmp_path: Path
) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("\n".join(list(dict.fromkeys(some_urls(6_000)))[:4_000] * 50))
    resize(disk, shutil.disk_usage(disk).used + (40 << 20))
    for command in ("plan", "run"):
        done = cli(command, urls, "--out", disk / "run.zarr", *OPTIONS)
        assert done.returncode == 0, done.stderr
        assert re.search(
            r"if no URL occurs twice, the run needs \d+ MiB of disk, there is room for 40 MiB", done.stderr
        )


def test_a_disk_without_room_for_the_rows_is_refused_once_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls, out = str(tmp_path / "urls.txt"), str(tmp_path / "run.zarr")
    Path(urls).write_text("\n".join(some_urls(300)))
    settings = ScoringSettings(neighbors=NeighborSettings(n_neighbors=200))

    def go_on() -> None:
        plan = plan_run([urls], out, settings)
        execute(plan, SerialExecutor(), Silent(), block_rows=64, backend="cpu")

    said = r"No space left on device: '.*run\.zarr' has room for \d+ MiB, from stage features on it needs"
    refusal = pytest.raises(TaskError, match=f"{said} up to .*; free some space")
    with monkeypatch.context() as patch, refusal as refused:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
        go_on()
    assert refused.value.exit_code == 1
    assert plan_run([urls], out, settings).unfinished == ["features", "idf", "neighbors"]
    go_on()
    assert plan_run([urls], out, settings).unfinished == []


def test_what_a_run_holds_already_is_room_for_it(disk: Path) -> None:
    resize(disk, 4 << 20)
    room = room_for(str(disk / "run.zarr" / "not" / "there"))
    (disk / "run.zarr").mkdir()
    (disk / "run.zarr" / "rows").write_bytes(bytes(1 << 20))
    assert room_for(str(disk / "run.zarr")) == pytest.approx(room, abs=1 << 16)
    assert room_for("s3://bucket/run.zarr") is None


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["reading", "features", "tiles", "merging"])
def test_full_disk_while_running(moment: str, disk: Path, cli: Cli, urls: Path, undisturbed: Path) -> None:
    out = disk / "run.zarr"
    process = start(urls, out)
    with stopped_when(moment, out, process):
        fill(disk)
    stderr = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 1, stderr
    assert re.search(r"No space left on device: '.+'", last_words(stderr)), stderr
    assert "give the same command again" in last_words(stderr)
    resize(disk, LARGE)
    again = cli("run", urls, "--out", out, *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
def test_no_tiles_are_handed_out_while_the_disk_is_nearly_full(
    disk: Path, urls: Path, undisturbed: Path
) -> None:
    """There is room for the rest of the run, but not for much besides: all wait until there is."""
    out = disk / "run.zarr"
    process = start(urls, out)
    when("features", out, process)
    resize(disk, shutil.disk_usage(disk).used + DISK_RESERVE // 2)
    assert process.stderr is not None
    said = next(line for line in process.stderr if b"waiting for workers" in line).decode()
    assert re.search(rf"lacks disk, {disk}.* has [\d.]+ MiB left of the 16 MiB it must have", said)
    resize(disk, LARGE)
    assert process.communicate(timeout=240) is not None
    assert process.returncode == 0
    assert same_bytes(out, undisturbed)


@pytest.mark.parametrize("name", ["novelty.csv", "novelty.parquet", "graph.npz"])
def test_disk_that_fills_up_while_exporting(
    name: str, disk: Path, cli: Cli, undisturbed: Path, tmp_path: Path
) -> None:
    """With room for half of the file, and then for none of it."""
    elsewhere = tmp_path / name
    assert cli("export", undisturbed, elsewhere).returncode == 0
    for take_space in (lambda: resize(disk, elsewhere.stat().st_size // 2), lambda: fill(disk)):
        take_space()
        done = cli("export", undisturbed, disk / name)
        assert done.returncode == 1, done.stderr
        assert f"No space left on device: '{disk / name}" in done.stderr
        assert list(disk.iterdir()) == []
    resize(disk, LARGE)
    assert cli("export", undisturbed, disk / name).returncode == 0
    assert (disk / name).read_bytes() == elsewhere.read_bytes()
