"""A whole run through Dask against the same kernels called in a plain loop, on one list.

    python benchmarks/end_to_end.py [LIST] [--workers N] [--memory-limit LIMIT]

Prints one Markdown table: seconds of `noveltyflow run` with its stages as the command itself reports them, and
of one process that reads, canonicalises, hashes, weighs and searches, the last three with as many threads as the
run has workers; the first two are Python, whose threads take turns. That loop is run before and after, since the
speed of a machine drifts over minutes; the mean counts. LIST is anything the command reads; by default
gov_1m.txt.gz from the folder NOVELTYFLOW_DATA, or from ../shared/data beside the repository. Exit status 1 if the two
disagree.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from kneighbors.lists import data_folder
from kneighbors.machine import describe_machine
from kneighbors.matrices import distinct_in_order, weigh
from kneighbors.table import verdict

from noveltyflow import cosine_kneighbors, open_run
from noveltyflow.config import InputSettings, ScoringSettings
from noveltyflow.features.hashing import hash_block
from noveltyflow.types import AnyArray, Float32Array, Int64Array
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.shards import plan_shards

BAR = 1.15
MOST_MINUTES = 20
_BLOCK_ROWS = 50_000
_TOOK = re.compile(r"^took [^:]*: (?P<stages>.*)$", re.MULTILINE)


def main() -> int:
    """Do both, compare every neighbour and similarity, print the figures."""
    arguments = _parser().parse_args()
    settings = ScoringSettings()
    _warm_up(settings)
    answer, before = _plain_loop(arguments.list, settings, arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.zarr"
        through_dask, stages = _run(arguments.list, out, arguments.workers, arguments.memory_limit)
        run = open_run(str(out))
        stored = np.asarray(run.indices.compute()), np.asarray(run.similarities.compute())
    again, after = _plain_loop(arguments.list, settings, arguments.workers)
    if not (_same(stored, answer) and _same(stored, again)):
        print("the run and the plain loop disagree", file=sys.stderr)
        return 1
    print(_table(arguments.list.name, len(answer[0]), through_dask, stages, (before, after)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare a whole run with its kernels in a plain loop.")
    default = data_folder() / "gov_1m.txt.gz"
    parser.add_argument(
        "list", nargs="?", type=Path, default=default, help="one URL a line, or CSV with `url`"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers, and threads (default: %(default)s)")
    parser.add_argument("--memory-limit", default="4GiB", help="of each worker (default: %(default)s)")
    return parser


def _warm_up(settings: ScoringSettings) -> None:
    """Compile what Numba compiles, or load what was compiled, before any clock starts."""
    counts = hash_block(["https://a.example/"] * 64, settings.features)
    cosine_kneighbors(weigh([counts], settings.features), settings.neighbors.n_neighbors)


def _run(source: Path, out: Path, workers: int, memory_limit: str) -> tuple[float, str]:
    """Wall-clock seconds of the command, and where it says they went."""
    command = [
        *(sys.executable, "-m", "noveltyflow", "run", str(source), "--out", str(out)),
        *("--workers", str(workers), "--memory-limit", memory_limit, "--dashboard-address", "127.0.0.1:0"),
    ]
    start = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    spent = time.perf_counter() - start
    took = _TOOK.search(done.stderr)
    if done.returncode or took is None:
        sys.exit(f"noveltyflow run ended with status {done.returncode}:\n{done.stderr}")
    return spent, took["stages"]


def _plain_loop(
    source: Path, settings: ScoringSettings, threads: int
) -> tuple[tuple[Int64Array, Float32Array], dict[str, float]]:
    """Neighbours and similarities of all rows, and the seconds of each step."""
    clock = [time.perf_counter()]
    texts = _texts(source, settings.input)
    clock.append(time.perf_counter())
    urls = distinct_in_order(texts, settings.urls)
    clock.append(time.perf_counter())
    blocks = [urls[start : start + _BLOCK_ROWS] for start in range(0, len(urls), _BLOCK_ROWS)]
    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(partial(hash_block, settings=settings.features), blocks))
    clock.append(time.perf_counter())
    rows = weigh(counts, settings.features, threads=threads)
    del counts
    clock.append(time.perf_counter())
    found = cosine_kneighbors(rows, settings.neighbors.n_neighbors, n_jobs=threads)
    clock.append(time.perf_counter())
    steps = ("read", "canonical", "hash", "weight", "search")
    return found, dict(zip(steps, np.diff(clock).tolist(), strict=True))


def _same(first: tuple[AnyArray, ...], second: tuple[AnyArray, ...]) -> bool:
    return all(map(np.array_equal, first, second))


def _texts(source: Path, settings: InputSettings) -> list[str]:
    shards = plan_shards([str(source)], settings)
    return [text for shard in shards for batch in read_shard(shard, settings) for text in batch.texts]


def _table(
    name: str, rows: int, through_dask: float, stages: str, plain: tuple[dict[str, float], dict[str, float]]
) -> str:
    before, after = (sum(steps.values()) for steps in plain)
    ratio, minutes = through_dask / ((before + after) / 2), through_dask / 60
    steps = ", ".join(
        f"{step} {first:.1f}, {last:.1f} s"
        for (step, first), last in zip(plain[0].items(), plain[1].values(), strict=True)
    )
    return (
        f"\n## End to end\n\n{describe_machine()}\n\n"
        "| list | rows | run, s | plain loop before, after, s | ratio | bar | run, by stage | plain loop, by step |\n"
        "| --- | --: | --: | --: | --: | --- | --- | --- |\n"
        f"| {name} | {rows:,} | {through_dask:.1f} | {before:.1f}, {after:.1f} | **{ratio:.2f}** "
        f"| ≤ {BAR}: {verdict(ratio <= BAR)}; ≤ {MOST_MINUTES} min: {verdict(minutes <= MOST_MINUTES)} "
        f"| {stages} | {steps} |\n"
    )


if __name__ == "__main__":
    sys.exit(main())
