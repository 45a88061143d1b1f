"""Memory of processes over time, beside the content of a run: one file a process, to which lines are appended.

A file holds comma-separated lines, so that all but the last of them outlive whatever happens to the process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from noveltyflow.store.durable import inside

FOLDER = "memory"
_STAGES = "stages.csv"
_BEFORE = "the start"


@dataclass(frozen=True)
class Sample:
    """One measurement; `time` is in seconds since 1970, all else in bytes, 0 where it means nothing.

    Attributes
    ----------
    rss : int
        What the process holds.
    limit : int
        What it may hold.
    managed, spilled : int
        Results of tasks that Dask keeps, in memory and on disk.
    host_free : int
        What the host can still give to any process.
    """

    time: float
    rss: int
    limit: int
    managed: int
    spilled: int
    host_free: int


@dataclass(frozen=True)
class Peak:
    """The most that one process held in one stage, and the least that its host had left; sizes are in bytes."""

    stage: str
    process: str
    samples: int
    rss: int
    limit: int
    managed: int
    spilled: int
    host_free: int


def open_samples(run: str, process: str) -> TextIO:
    """File of one process, for `write_sample`."""
    return _open(run, f"{process}.csv", ",".join(field.name for field in fields(Sample)))


def write_sample(file: TextIO, sample: Sample) -> None:
    """Append a measurement."""
    file.write(",".join(map(str, astuple(sample))) + "\n")


def open_stages(run: str) -> TextIO:
    """File that says when each stage began, as lines of time and name."""
    return _open(run, _STAGES, "time,stage")


def _open(run: str, name: str, header: str) -> TextIO:
    path = inside(Path(run), f"{FOLDER}/{name}")
    path.parent.mkdir(exist_ok=True)
    begins = not path.exists()
    file = path.open("a", encoding="utf-8", buffering=1)
    if begins:
        file.write(f"{header}\n")
    return file


def read_peaks(run: str) -> list[dict[str, Any]]:
    """A `Peak` for every stage and process that was measured, in order of time, JSON-able; empty without any."""
    folder = Path(run) / FOLDER
    if "://" in run or not folder.is_dir():
        return []
    begins = [(float(time), stage) for time, stage in _lines(folder / _STAGES)]
    peaks: dict[tuple[int, str], Peak] = {}
    for path in sorted(folder.glob("*.csv")):
        if path.name == _STAGES:
            continue
        for sample in _samples(path):
            number = bisect_right(begins, sample.time, key=lambda begin: begin[0])
            stage = begins[number - 1][1] if number else _BEFORE
            key = (number, path.stem)
            peaks[key] = _higher(peaks.get(key), sample, stage, path.stem)
    return [asdict(peaks[key]) for key in sorted(peaks)]


def _samples(path: Path) -> Iterator[Sample]:
    for time, *sizes in _lines(path):
        yield Sample(float(time), *map(int, sizes))


def _lines(path: Path) -> Iterator[list[str]]:
    """Values of all whole lines of a file; a process may have been killed while it wrote the last one."""
    header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
    for line in lines:
        values = line.split(",")
        if len(values) == header.count(",") + 1:
            yield values


def _higher(peak: Peak | None, sample: Sample, stage: str, process: str) -> Peak:
    if peak is None:
        return Peak(stage, process, 1, *astuple(sample)[1:])
    return Peak(
        stage,
        process,
        peak.samples + 1,
        max(peak.rss, sample.rss),
        sample.limit,
        max(peak.managed, sample.managed),
        max(peak.spilled, sample.spilled),
        min(peak.host_free, sample.host_free),
    )
