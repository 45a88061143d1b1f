"""What every kind of task takes at most, against what the plan says, on real lists in blocks of the usual size.

    python benchmarks/task_memory.py [FILE] [--settings JSON] [--block-rows N]

Prints one Markdown table for lists of six shapes from the folder NOVELTYFLOW_DATA, or from ../shared/data beside the
repository; with FILE, which is plain text, the figures of this list alone, as JSON. Every list is run in a process of
its own, one task at a time. The most resident memory during a task, as the kernel counts it, less what was resident
before, is `measured`. Where it is less than half of what is projected, and that is more than every worker must have
for a task, the line says so. Exit status 1 if a task takes more than projected.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kneighbors.cases import NPM, Part
from kneighbors.lists import read_parts
from kneighbors.machine import describe_machine

from noveltyflow.config import FeatureSettings, ScoringSettings
from noveltyflow.features import frequency
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.handout import Assignment
from noveltyflow.runtime.memory import block_tasks, input_tasks, sampled_shape
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.plan import FAN_IN, LEAST_TASK_BYTES
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import features, indexed, neighbors, tile, urls
from noveltyflow.store import RunStore

_BLOCK_ROWS = 50_000
_WORDS = ScoringSettings(features=FeatureSettings(analyzer="word", ngram_range=(1, 2), n_features=1 << 22))
SHAPES = {
    "gov": ((Part("gov_1m.txt.gz", 200_000),), ScoringSettings()),
    "gov, words": ((Part("gov_1m.txt.gz", 200_000),), _WORDS),
    "npm": ((Part(NPM, 200_000),), ScoringSettings()),
    "tweetfeed": ((Part("tweetfeed.csv.gz", 200_000),), ScoringSettings()),
    "scoop timeline": ((Part("scoop_timeline.csv.gz", 100_000),), ScoringSettings()),
    "adblock + tweetfeed": (
        (Part("adblock_requests.txt.gz"), Part("tweetfeed.csv.gz", 80_000)),
        ScoringSettings(),
    ),
}
"""Lists, and the features of their rows."""

TASKS = {
    "read": (urls, "read"),
    "canonical": (urls, "canonical"),
    "sort": (urls, "sort"),
    "rows": (urls, "rows"),
    "hash": (features, "hash_rows"),
    "document_frequency": (features, "count_documents"),
    "tile": (neighbors, "tile"),
    "merge": (neighbors, "merge"),
}


def status(field: str) -> int:
    """Bytes that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def watched(task: Callable[..., Any], peaks: list[tuple[int, int]]) -> Callable[..., Any]:
    """The task, its peak above what the process held before, which the kernel counts, and the blocks of its span."""

    def watch(*args: Any) -> Any:
        # As in a worker that has done nothing yet.
        indexed.forget_spans()
        features._idf.cache_clear()
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        result = task(*args)
        spans = [len(arg.span) for arg in args if isinstance(arg, Assignment)]
        peaks.append((status("VmHWM") - before, max(spans, default=1)))
        return result

    return watch


def compute(path: Path, settings: ScoringSettings, block_rows: int) -> None:
    """Run a list in this process."""
    plan = plan_run([str(path)], str(path.with_suffix(".zarr")), settings)
    execute(plan, SerialExecutor(1 << 34), Silent(), block_rows=block_rows, backend="cpu")


def watch_combine(n_features: int) -> None:
    """As the tree on a cluster does it, where `FAN_IN` values arrive while the task runs."""
    frequency.combine([np.ones(n_features, np.int64) for _ in range(FAN_IN)])


def measure(path: Path, settings: ScoringSettings, block_rows: int) -> dict[str, list[int]]:
    """Measured and projected bytes of every kind of task; of tiles also for each larger span that was reached."""
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
    compute(path, settings, block_rows)
    # Once more with spans of one block, which strips meet that are no part of it, as where memory is short.
    neighbors.LARGEST_SPANS = tile.LARGEST_SPANS = {"cpu": block_rows}
    RunStore(str(path.with_suffix(".zarr")), writable=True).unmark("neighbors")
    compute(path, settings, block_rows)
    watched(watch_combine, measured["document_frequency_combine"])(settings.features.n_features)
    return {
        name if span == 1 else f"{name} of {span} blocks": [
            max(peak for peak, blocks in peaks if blocks == span),
            projected(name, span),
        ]
        for name, peaks in measured.items()
        for span in sorted({blocks for _, blocks in peaks})
    }


def main() -> int:
    """Measure one list, or all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--settings", default="{}", help="of the scoring of FILE, as JSON")
    parser.add_argument("--block-rows", type=int, default=_BLOCK_ROWS, help="of FILE (default: %(default)s)")
    asked = parser.parse_args()
    if asked.file is not None:
        settings = ScoringSettings.model_validate_json(asked.settings)
        print(json.dumps(measure(asked.file, settings, asked.block_rows)))
        return 0
    print(f"{describe_machine()}\n")
    print(
        "| list | task | measured, MiB | projected, MiB | factor | more than projected, or less than half |"
    )
    print("|---|---|---|---|---|---|")
    kept = True
    with tempfile.TemporaryDirectory() as scratch:
        for name, (parts, settings) in SHAPES.items():
            path = Path(scratch) / name / "list.txt"
            path.parent.mkdir()
            lines = _drawn(parts, Path(scratch))
            path.write_text("\n".join(lines))
            kept &= _report(name, path, settings, -(-len(lines) // round(len(lines) / _BLOCK_ROWS)))
    return int(not kept)


def _drawn(parts: tuple[Part, ...], scratch: Path) -> list[str]:
    drawn, lines = random.Random(0), list[str]()
    for part, texts in read_parts(parts, scratch):
        distinct = list(dict.fromkeys(texts))
        lines += distinct if part.rows is None else drawn.sample(distinct, min(part.rows, len(distinct)))
    return lines


def _report(name: str, path: Path, settings: ScoringSettings, block_rows: int) -> bool:
    """Print the lines of one list; whether no task took more than projected."""
    options = ["--settings", settings.model_dump_json(), "--block-rows", str(block_rows)]
    command = [sys.executable, __file__, str(path), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    kept = True
    for task, (measured, projected) in json.loads(done.stdout).items():
        factor = projected / max(measured, 1)
        kept &= measured <= projected
        verdict = "**more**" if factor < 1 else "twice" if factor > 2 and projected > LEAST_TASK_BYTES else ""
        figures = f"{measured / 2**20:,.0f} | {projected / 2**20:,.0f} | {factor:.1f}"
        print(f"| {name} | {task} | {figures} | {verdict} |", flush=True)
    return kept


if __name__ == "__main__":
    sys.exit(main())
