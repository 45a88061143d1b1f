"""Runs a list of URLs in one process, and prints the peak memory of every kind of task beside what is projected."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.features import frequency
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.handout import Assignment
from noveltyflow.runtime.memory import block_tasks, input_tasks, sampled_shape
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.plan import FAN_IN
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import features, indexed, neighbors, urls

TASKS = {
    "read": (urls, "read"),
    "canonical": (urls, "canonical"),
    "sort": (urls, "store_range"),
    "rows": (urls, "rows"),
    "hash": (features, "hash_rows"),
    "document_frequency": (features, "count_documents"),
    "tile": (neighbors, "tile"),
    "merge": (neighbors, "merge"),
}


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def watched(task: Callable[..., Any], peaks: list[tuple[int, int]]) -> Callable[..., Any]:
    """The task, its peak above what the process held before, which the kernel counts, and the blocks of its span."""

    def watch(*args: Any) -> Any:
        indexed.forget_spans()
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        result = task(*args)
        spans = [len(arg.span) for arg in args if isinstance(arg, Assignment)]
        peaks.append((status("VmHWM") - before, max(spans, default=1)))
        return result

    return watch


def compute(path: Path, settings: ScoringSettings, block_rows: int) -> None:
    plan = plan_run([str(path)], str(path.with_suffix(".zarr")), settings)
    execute(plan, SerialExecutor(1 << 34), Silent(), block_rows=block_rows, backend="cpu")


def watch_combine(n_features: int) -> None:
    """As the tree on a cluster does it, where `FAN_IN` values arrive while the task runs."""
    frequency.combine([np.ones(n_features, np.int64) for _ in range(FAN_IN)])


def main(path: Path, settings: ScoringSettings, block_rows: int) -> None:
    lines = path.read_text().splitlines()
    few = path.with_name("few.txt")
    few.write_text("\n".join(lines[:50]))
    # Imports and compiled kernels belong to what a worker needs before it does anything.
    compute(few, settings, block_rows)
    measured: dict[str, list[tuple[int, int]]] = {name: [] for name in (*TASKS, "document_frequency_combine")}
    for name, (module, function) in TASKS.items():
        setattr(module, function, watched(getattr(module, function), measured[name]))
    shape = sampled_shape(lines[:: len(lines) // 2000], len(lines), settings)

    def projected(name: str, span: int) -> int:
        blocks = block_tasks(shape, settings, ["cpu"], span)
        return blocks[name](block_rows) if name in blocks else input_tasks(shape)[name]

    features.COUNTS_PER_THREAD = 2  # so that a task counts more than one block
    # What a worker keeps from one tile to the next, while there is room, is counted apart.
    indexed.IndexedSpans.put = lambda *_: None  # type: ignore[method-assign]
    neighbors.LARGEST_SPANS = {"cpu": block_rows}  # so that the first tile is one of one block
    compute(path, settings, block_rows)
    watched(watch_combine, measured["document_frequency_combine"])(settings.features.n_features)
    figures = {
        name if span == 1 else f"{name} of {span} blocks": [
            max(peak for peak, blocks in peaks if blocks == span),
            projected(name, span),
        ]
        for name, peaks in measured.items()
        for span in sorted({blocks for _, blocks in peaks})
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), ScoringSettings.model_validate_json(sys.argv[2]), int(sys.argv[3]))
