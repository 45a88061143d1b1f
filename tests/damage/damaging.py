"""What the tests of damage share: how a run is made, damaged, and compared."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.repair import repair_run
from noveltyflow.testing.runs import content_files

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=4096), neighbors=NeighborSettings(n_neighbors=5)
)


def compute(
    folder: Path, out: Path | None = None, *, repair: bool = False, block_rows: int | None = 64
) -> list[str]:
    """Run, or repair and run; what was said about damage."""
    said = Notes()
    plan = plan_run([str(folder / "urls.txt")], str(out or folder / "run.zarr"), SETTINGS)
    block_rows = plan.block_rows(block_rows)
    if repair:
        repair_run(plan, SerialExecutor(), said, ["cpu"])
    execute(plan, SerialExecutor(), said, block_rows=block_rows, backend="cpu")
    return said.notes


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def assert_same_bytes(run: Path, whole: Path) -> None:
    assert content_files(run) == content_files(whole)
    assert filecmp.cmpfiles(run, whole, content_files(whole), shallow=False)[1:] == ([], [])
