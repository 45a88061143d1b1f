"""The end of every stage: its files are read back from the disk, and only then is it marked done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from noveltyflow.errors import DamageError
from noveltyflow.runtime.executor import Executor
from noveltyflow.store import RunStore
from noveltyflow.store.checksums import (
    Damage,
    checksum,
    compare,
    read_manifest,
    stage_files,
    write_manifest,
)

_FILES_PER_TASK = 128


def finish(store: RunStore, stage: str, fingerprint: str, executor: Executor, **figures: Any) -> None:
    """Flush and read back everything the stage stored, then vouch for it; a power cut cannot part the two.

    Raises
    ------
    DamageError
        When something cannot be read back.
    """
    checksums = dict(_checksums(store, stage_files(store, stage), executor))
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
    parts = [names[i : i + _FILES_PER_TASK] for i in range(0, len(names), _FILES_PER_TASK)]
    for part in executor.run("checksum", checksum, [(store, part) for part in parts]):
        yield from part.items()
