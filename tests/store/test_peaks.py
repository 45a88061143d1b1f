"""Memory of processes over time: appended line by line, read as peaks of every stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from noveltyflow.errors import DamageError, StoreError
from noveltyflow.store.profile import Sample, open_samples, open_stages, read_peaks, write_sample


@pytest.fixture
def run(tmp_path: Path) -> str:
    with open_stages(str(tmp_path)) as stages:
        stages.write("100.0,read\n200.0,tile\n")
    with open_samples(str(tmp_path), "worker-a-1") as file:
        for time, rss, free in ((99, 1, 50), (100, 5, 40), (150, 9, 30), (199, 7, 60), (200, 3, 20)):
            write_sample(file, Sample(time, rss, 10, rss - 1, 2 * rss, free))
    return str(tmp_path)


def test_peaks_of_every_stage(run: str) -> None:
    peaks = [(p["stage"], p["rss"], p["managed"], p["spilled"], p["host_free"]) for p in read_peaks(run)]
    assert peaks == [("the start", 1, 0, 2, 50), ("read", 9, 8, 18, 30), ("tile", 3, 2, 6, 20)]
    assert {(p["process"], p["limit"]) for p in read_peaks(run)} == {("worker-a-1", 10)}


def test_a_line_that_was_cut_off_is_left_out(run: str) -> None:
    with open_samples(run, "worker-a-1") as file:
        file.write("201.0,99")
    assert [p["rss"] for p in read_peaks(run)] == [1, 9, 3]


def test_a_run_that_goes_on_appends(run: str) -> None:
    with open_samples(run, "worker-a-1") as file:
        write_sample(file, Sample(300, 4, 10, 0, 0, 1))
    assert read_peaks(run)[-1]["rss"] == 4
    assert read_peaks(run)[-1]["samples"] == 2


def test_without_a_profile_there_are_no_peaks(tmp_path: Path) -> None:
    assert read_peaks(str(tmp_path)) == []
    assert read_peaks("s3://bucket/run.zarr") == []


def test_nothing_is_read_through_a_link_that_leads_out(run: str, tmp_path: Path) -> None:
    for name in ("memory", "memory/worker-a-1.csv", "memory/stages.csv"):
        path = tmp_path / name
        (tmp_path.parent / "elsewhere").unlink(missing_ok=True)
        path.rename(tmp_path.parent / "elsewhere")
        path.symlink_to(tmp_path.parent / "elsewhere")
        with pytest.raises(StoreError, match=rf"{name}.*leads out"):
            read_peaks(run)
        path.unlink()
        (tmp_path.parent / "elsewhere").rename(path)


def test_what_is_missing_or_damaged_is_named(run: str, tmp_path: Path) -> None:
    (tmp_path / "memory/worker-a-1.csv").write_text("time,rss\n1,x\n")
    with pytest.raises(DamageError, match=r"worker-a-1\.csv is damaged .*remove it"):
        read_peaks(run)
    (tmp_path / "memory/stages.csv").unlink()
    with pytest.raises(DamageError, match=r"stages\.csv is missing; remove .*memory"):
        read_peaks(run)
    (tmp_path / "memory/worker-a-1.csv").unlink()
    assert read_peaks(run) == []


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run/memory").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="leads out"):
        open_samples(str(tmp_path / "run"), "worker")
