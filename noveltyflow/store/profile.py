"""Memory of processes over time, beside the content of a run: one file a process, to which lines are appended.

A file holds comma-separated lines, so that all but the last of them outlive whatever happens to the process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, TextIO, TypeVar

from noveltyflow.errors import DamageError
from noveltyflow.store.durable import inside, readable
from noveltyflow.store.files import is_local

FOLDER = "memory"
_STAGES = "stages.csv"
_BEFORE = "the start"

T = TypeVar("T")


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
    path = readable(Path(run), f"{FOLDER}/{name}")
    path.parent.mkdir(exist_ok=True)
    begins = not path.exists()
    file = path.open("a", encoding="utf-8", buffering=1)
    if begins:
        file.write(f"{header}\n")
    return file


def is_profiled(run: str) -> bool:
    """Whether a command that made this run, or a part of it, was told to measure."""
    return is_local(run) and inside(Path(run), FOLDER).is_dir()


def read_peaks(run: str) -> list[dict[str, Any]]:
    """A `Peak` for every stage and process that was measured, in order of time, JSON-able; empty without any.

    Raises
    ------
    StoreError
        When a link leads out of the run folder, or something is missing or damaged, saying what.
    """
    if not is_local(run):
        return []
    folder = inside(Path(run), FOLDER)
    processes = sorted(path.stem for path in folder.glob("*.csv") if path.name != _STAGES)
    if not processes:
        return []
    begins = list(_read(run, _STAGES, _stage))
    peaks: dict[tuple[int, str], Peak] = {}
    for process in processes:
        for sample in _read(run, f"{process}.csv", _sample):
            number = bisect_right(begins, sample.time, key=lambda begin: begin[0])
            stage = begins[number - 1][1] if number else _BEFORE
            key = (number, process)
            peaks[key] = _higher(peaks.get(key), sample, stage, process)
    return [asdict(peaks[key]) for key in sorted(peaks)]


def _stage(time: str, name: str) -> tuple[float, str]:
    return float(time), name


def _sample(time: str, *sizes: str) -> Sample:
    return Sample(float(time), *map(int, sizes))


def _read(run: str, name: str, parse: Callable[..., T]) -> Iterator[T]:
    """What `parse` makes of the values of all whole lines of a file; a kill may have cut off the last one."""
    path = readable(Path(run), f"{FOLDER}/{name}")
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
        for values in (line.split(",") for line in lines):
            if len(values) == header.count(",") + 1:
                yield parse(*values)
    except FileNotFoundError as error:
        raise DamageError(
            f"{path} is missing; remove {path.parent}, a profile without it says nothing"
        ) from error
    except (TypeError, ValueError) as error:
        raise DamageError(f"{path} is damaged ({error}); remove it") from error


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
