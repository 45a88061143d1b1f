"""What client and scheduler take for the tiles of a very long list, computed by kernels that have nothing to do.

    python benchmarks/simulated_rows.py --rows 10000000 --block-rows 65536
    python benchmarks/simulated_rows.py --rows 10000000 --block-rows 65536 --task-seconds 0

A list of so many rows makes rows / block-rows blocks, and that number squared of tiles. Here every block is a single
URL, so that the blocks, tiles, checkpoints and tasks are those of the long list while the kernels are empty. With
`--task-seconds 0` a task ends after its first tile, which is the most that a scheduler can be asked for. The
scheduler runs in this process, the command in one of its own. Prints one line of a Markdown table. Exit status 1, and
standard error says why, if scheduler or client held 500 MiB, or the scheduler had more than 100,000 tasks.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, LocalCluster, SchedulerPlugin

from noveltyflow.config import ClusterSettings
from noveltyflow.runtime.cluster import DASK_CONFIG, local_cluster_options

MOST_BYTES = 500 << 20
MOST_TASKS = 100_000
HEAD = (
    "| rows | blocks | tiles | tasks (tile) | seconds | scheduler, ms a task | scheduler, MiB | client, MiB |\n"
    "|---|---|---|---|---|---|---|---|"
)


class Counting(SchedulerPlugin):  # type: ignore[misc]
    """Counts tasks that ended, by the first part of their name."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """See `SchedulerPlugin.transition`."""
        if start == "processing" and finish == "memory":
            self.ended[str(key[0] if isinstance(key, tuple) else key).partition("-")[0]] += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--block-rows", type=int, default=65_536)
    parser.add_argument("--task-seconds", type=float, default=30.0)
    asked = parser.parse_args(arguments)
    blocks = -(-asked.rows // asked.block_rows)
    settings = ClusterSettings(workers=2, memory_limit="1GiB", dashboard_address="127.0.0.1:0")
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as name,
        dask.config.set(DASK_CONFIG),
        LocalCluster(**local_cluster_options(settings)) as cluster,
        Client(cluster),
    ):
        counting, scheduler = Counting(), psutil.Process()
        cluster.scheduler.add_plugin(counting)
        before, started = sum(scheduler.cpu_times()[:2]), time.monotonic()
        command = command_over(Path(name), blocks, cluster.scheduler_address, asked.task_seconds)
        code, client, own = watched(command, scheduler)
        seconds, spent = time.monotonic() - started, sum(scheduler.cpu_times()[:2]) - before
    tasks = counting.ended.total()
    print(HEAD)
    print(
        f"| {asked.rows:,} | {blocks:,} | {blocks**2:,} | {tasks:,} ({counting.ended['tile']:,}) | {seconds:.0f} "
        f"| {1000 * spent / max(tasks, 1):.2f} | {own >> 20} | {client >> 20} |"
    )
    print(json.dumps(counting.ended), file=sys.stderr)
    broken = list(_broken(tasks, scheduler=own, client=client))
    for promise in broken:
        print(promise, file=sys.stderr)
    return code or int(bool(broken))


def _broken(tasks: int, **held: int) -> Iterator[str]:
    """Promises that were not kept; `held` are the bytes of processes by their names."""
    for name, n_bytes in held.items():
        if n_bytes >= MOST_BYTES:
            yield f"the {name} held {n_bytes >> 20} MiB, not less than {MOST_BYTES >> 20}"
    if tasks > MOST_TASKS:
        yield f"the scheduler had {tasks:,} tasks, more than {MOST_TASKS:,}"


def command_over(folder: Path, blocks: int, address: str, task_seconds: float) -> list[str]:
    """The command that runs a list of so many one-row blocks on the cluster."""
    urls = folder / "urls.txt"
    urls.write_text("".join(f"https://host{i:06d}.example/{i}\n" for i in range(blocks)))
    options = ["--block-rows", "1", "--task-seconds", str(task_seconds), "--quiet"]
    run = ["run", str(urls), "--out", str(folder / "run.zarr"), "--scheduler", address]
    return [sys.executable, "-m", "noveltyflow", *run, *options]


def watched(command: Sequence[str], scheduler: psutil.Process) -> tuple[int, int, int]:
    """Exit status of the command; peaks of its own and of the scheduler's resident bytes."""
    process = subprocess.Popen(command)
    seen, client, own = psutil.Process(process.pid), 0, 0
    while process.poll() is None:
        try:
            client = max(client, seen.memory_info().rss)
        except psutil.Error:
            break
        own = max(own, scheduler.memory_info().rss)
        time.sleep(0.5)
    return process.wait(), client, own


if __name__ == "__main__":
    sys.exit(main())
