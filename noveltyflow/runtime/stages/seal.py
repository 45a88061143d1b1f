"""The end of every stage: its files have been read back from the disk, and only then is it marked done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from noveltyflow.errors import DamageError
from noveltyflow.runtime.executor import Executor
from noveltyflow.runtime.stages.notes import noted_checksums, noted_keys
from noveltyflow.store import RunStore
from noveltyflow.store.checksums import (
    ABSENT,
    Damage,
    checksum,
    compare,
    read_manifest,
    stage_files,
    write_manifest,
)

_PER_TASK = 128
"""Files, or notes of pieces."""


def finish(store: RunStore, stage: str, fingerprint: str, executor: Executor, **figures: Any) -> None:
    """Flush and read back what pieces have not vouched for, then vouch for all; a power cut cannot part the two.

    Raises
    ------
    DamageError
        When something cannot be read back.
    """
    checksums = dict(_noted(store, stage, executor))
    listed = stage_files(store, stage)
    checksums |= dict.fromkeys(checksums.keys() - set(listed), ABSENT)
    rest = [name for name in listed if name not in checksums]
    checksums.update(_checksums(store, rest, executor))
    if unreadable := compare(checksums, checksums.items()):
        raise DamageError(f"{store.path}/{unreadable[0]}; mend that, and give the same command again")
    manifest = write_manifest(store, stage, checksums)
    store.mark(stage, fingerprint, **figures, checksum=manifest)


def damages(store: RunStore, stage: str, executor: Executor) -> tuple[int, list[Damage]]:
    """How many files a finished stage has, and what is wrong with them; see `read_manifest` for what it raises."""
    expected = read_manifest(store, stage)
    names = sorted({*expected, *stage_files(store, stage)})
    return len(names), compare(expected, _checksums(store, names, executor))


def still_damaged(store: RunStore, stage: str, names: Sequence[str], executor: Executor) -> list[Damage]:
    """Which of some files of a finished stage are not what it stored."""
    return compare(read_manifest(store, stage), _checksums(store, names, executor))


def _checksums(store: RunStore, names: Sequence[str], executor: Executor) -> Iterator[tuple[str, str]]:
    for part in executor.run("checksum", checksum, [(store, part) for part in _parts(names)]):
        yield from part.items()


def _noted(store: RunStore, stage: str, executor: Executor) -> Iterator[tuple[str, str]]:
    tasks = [(store, stage, part) for part in _parts(noted_keys(store, stage))]
    for part in executor.run("checksum", noted_checksums, tasks):
        yield from part.items()


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[i : i + _PER_TASK] for i in range(0, len(names), _PER_TASK)]
