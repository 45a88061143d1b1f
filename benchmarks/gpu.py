"""The GPU kernel on this machine: whether it is exact, how fast it is, what memory it takes.

    python benchmarks/gpu.py [--list URLS] [--rows N] [--minutes M]

One command for a machine with a CUDA device. It needs Python with numpy, scipy and cupy (for CUDA 12 or 13), and
this checkout; the CPU kernel, which needs numba, is measured where that can be imported. Markdown is printed as
the figures come, so that a run that is cut short has told what it found. A result that is not exact ends the
program with status 1, and a machine without a device with status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from gpu_bench import Bench, K, Stopwatch, once, say, timed  # noqa: E402
from gpu_machine import Gpu, describe_machine, visible_gpu  # noqa: E402
from gpu_peers import peers  # noqa: E402
from gpu_runs import compare_runs, missing  # noqa: E402
from url_rows import made_up_urls, read_urls, weighted_rows  # noqa: E402

from noveltyflow.similarity.kernels.folded import KEPT, Folded  # noqa: E402
from noveltyflow.similarity.kernels.gpu import GpuKernel  # noqa: E402
from noveltyflow.similarity.tiles import Block, split_rows, strip  # noqa: E402
from noveltyflow.similarity.topk import TopK  # noqa: E402
from noveltyflow.testing.compare import brute_force_rows  # noqa: E402
from noveltyflow.testing.matrices import SHAPES, unit_rows  # noqa: E402

SHAPE_ROWS = 1500
BUCKETS = (1024, 1536, Folded.n_buckets, 4096)
PARTS = ("matmul", "scan_folded", "score_put_off")
"""What `Stopwatch` tells apart, by the columns of the table of bucket numbers."""


def main() -> int:
    """Run everything that time allows."""
    arguments = _parser().parse_args()
    gpu = visible_gpu()
    if gpu is None:
        return 2
    bench = Bench(gpu, time.monotonic() + 60 * arguments.minutes)
    say("# GPU kernel\n")
    for name, value in describe_machine(gpu):
        say(f"- {name}: {value}")
    run(bench, arguments.list, arguments.rows, arguments.strip_rows)
    say(f"\n{len(bench.wrong)} checks failed: {bench.wrong}" if bench.wrong else "\nAll checks passed.")
    return 1 if bench.wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check and time the GPU kernel on this machine.")
    data = Path(os.environ.get("NOVELTYFLOW_DATA", HERE.parents[1] / "shared" / "data"))
    parser.add_argument(
        "--list", type=Path, default=data / "gov_1m.txt.gz", help="one URL a line, plain or gz"
    )
    parser.add_argument("--rows", type=int, help="take this many rows, evenly spread (default: all)")
    parser.add_argument(
        "--strip-rows",
        type=int,
        default=1 << 16,
        help="rows of the strip with which numbers of buckets compete",
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="begin nothing that would end later")
    return parser


def run(bench: Bench, path: Path, wanted: int | None, strip_rows: int) -> None:
    """All sections, those first that matter most."""
    shapes(bench)
    with timed(bench.gpu) as spent:
        urls, name = _urls(path, wanted)
        matrix = weighted_rows(urls, threads=os.cpu_count() or 1)
    n = matrix.shape[0]
    columns = matrix.nnz / max(n, 1)
    say(f"\n{n:,} rows of {name}, {columns:.0f} columns a row; read and hashed in {spent.value:.0f} s")
    middle = max(0, (n - strip_rows) // 2)
    rows = Block(0, middle, min(middle + strip_rows, n))
    bounds(bench, matrix[rows.start : rows.stop])
    known = bucket_numbers(bench, matrix, rows)
    peers(bench, matrix, rows, known)
    whole(bench, matrix)
    lists(bench, path)
    end_to_end(bench, urls)


def _urls(path: Path, rows: int | None) -> tuple[list[str], str]:
    if path.exists():
        return read_urls(path, rows), path.name
    say(f"\n**{path} does not exist** (give --list, or set NOVELTYFLOW_DATA); made-up URLs are taken")
    return made_up_urls(rows or 200_000), "made-up URLs"


def shapes(bench: Bench) -> None:
    """Matrices that are hard on kernels, against brute force, bit for bit."""
    say("\n## Exactness on adversarial matrices\n")
    say("| matrix | rows | k | bit for bit |\n|---|---|---|---|")
    for name, make in SHAPES.items():
        matrix = unit_rows(make(np.random.default_rng(1), SHAPE_ROWS, 200))
        for k in (K, SHAPE_ROWS + 10):
            few = Folded(n_buckets=64)
            found = search(bench.gpu, few, matrix, matrix, k, block_rows=1 + SHAPE_ROWS * 2 // 3)
            exact = equals_brute_force(found, matrix, np.arange(0, matrix.shape[0], 7), k)
            say(f"| {name} | {matrix.shape[0]:,} | {k} | {bench.check(name, exact)} |")


def search(
    gpu: Gpu, folded: Folded, queries: Any, others: Any, k: int, *, block_rows: int | None = None
) -> TopK:
    """Neighbours of `queries` among `others`, which are the same rows, by the kernel alone."""
    kernel = GpuKernel(folded, gpu.device)
    best = TopK.empty(queries.shape[0], k)
    blocks = split_rows(others.shape[0], block_rows or max(1, others.shape[0]))
    for part in strip(Block(0, 0, queries.shape[0]), blocks):
        block = part.candidates
        prepared = kernel.prepare(others[block.start : block.stop] if len(blocks) > 1 else others, k)
        best, _ = kernel.compute(queries, prepared, best, queries_start=0, candidates_start=block.start)
    return best


def equals_brute_force(found: TopK, matrix: Any, rows: Any, k: int) -> bool:
    """Whether some rows equal scipy's product in float64, which sums in column order as the kernels do."""
    indices, similarities = brute_force_rows(matrix, rows, k)
    return np.array_equal(found.indices[rows], indices) and np.array_equal(
        found.similarities[rows], similarities
    )


def bounds(bench: Bench, tile: Any) -> None:
    """That folded products, as this device computes them, are upper bounds of similarities."""
    from noveltyflow.similarity.kernels.device_rows import DeviceRows

    device, xp = bench.gpu.device, bench.gpu.device.xp
    some = tile[:: max(1, tile.shape[0] // 4096)]
    part = Folded().prepare(device, DeviceRows.of(device, some), 0)
    products = xp.empty((part.folded.shape[0],) * 2, np.float16)
    device.matmul(part.folded, part.folded.T, products)
    n = some.shape[0]
    bound = device.to_host(products)[:n, :n].astype(np.float64)
    exact = (some.astype(np.float64) @ some.astype(np.float64).T).toarray()
    safe = bool((bound >= exact * KEPT).all())
    least = float((bound[exact > 0] / exact[exact > 0]).min())
    say(f"\nFolded products are upper bounds ({n:,} x {n:,} pairs): {bench.check('bounds', safe)}")
    say(f"The least ratio of bound to similarity is {least:.5f}; {KEPT:.5f} is allowed.")


def bucket_numbers(bench: Bench, matrix: Any, rows: Block) -> TopK | None:
    """Some rows among all with more and fewer buckets; the neighbours of those rows."""
    n = rows.n_rows
    say(f"\n## One strip: {n:,} rows among {matrix.shape[0]:,}, k = {K}\n")
    say(
        "| buckets | prepare, s | search, s | products | scans | put off | scored pairs a row | same result |"
    )
    say("|---|---|---|---|---|---|---|---|")
    known: TopK | None = None
    for n_buckets in BUCKETS:
        if bench.lacks(20, f"{n_buckets:,} buckets"):
            continue
        bench.gpu.reset()
        watched = Stopwatch(bench.gpu)
        found, scored, prepare, seconds = once(bench.gpu, Folded(n_buckets), matrix, rows, device=watched)
        parts = " | ".join(f"{watched.seconds[part]:.3f}" for part in PARTS)
        same = bench.check(f"{n_buckets} buckets", known is None or are_identical(found, known))
        say(f"| {n_buckets:,} | {prepare:.2f} | {seconds:.3f} | {parts} | {scored / n:,.0f} | {same} |")
        known = known or found
    return known


def are_identical(left: TopK, right: TopK) -> bool:
    """Whether both hold the same, bit for bit."""
    return np.array_equal(left.indices, right.indices) and np.array_equal(
        left.similarities, right.similarities
    )


def whole(bench: Bench, matrix: Any, times: int = 3) -> None:
    """The whole list from CSR on the host to neighbours on the host."""
    n = matrix.shape[0]
    say(f"\n## The whole list: exact neighbours of {n:,} rows, k = {K}\n")
    known: TopK | None = None
    for _ in range(times):
        if bench.lacks(20, "the whole list"):
            continue
        bench.gpu.reset()
        found, scored, preparing, searching = once(bench.gpu, Folded(), matrix, Block(0, 0, n))
        peak = bench.gpu.peak_bytes() / (1 << 30)
        say(
            f"- **{preparing + searching:.1f} s** (prepare {preparing:.1f}, search {searching:.1f}), "
            f"{scored / n:,.0f} scored pairs a row, {peak:.1f} GiB of device memory"
        )
        bench.check("whole list, again", known is None or are_identical(found, known))
        known = known or found
    if known is not None and not bench.lacks(60, "comparison with brute force"):
        rows = np.linspace(0, n - 1, min(n, 50), dtype=int)
        exact = equals_brute_force(known, matrix, rows, K)
        say(f"- {len(rows)} rows equal brute force bit for bit: {bench.check('whole list', exact)}")


def lists(bench: Bench, path: Path, rows: int = 20_000) -> None:
    """Other lists in the same folder, only for exactness."""
    others = [other for other in sorted(path.parent.glob("*.gz")) if other != path] if path.exists() else []
    say("\n## Exactness on other lists\n\n| list | rows | bit for bit |\n|---|---|---|")
    for other in others:
        if bench.lacks(15, other.name):
            continue
        try:
            matrix = weighted_rows(read_urls(other, rows), threads=os.cpu_count() or 1)
        except KeyError:
            continue  # a table without a column `url`
        found = search(bench.gpu, Folded(), matrix, matrix, K)
        some = np.linspace(0, matrix.shape[0] - 1, min(matrix.shape[0], 200), dtype=int)
        exact = equals_brute_force(found, matrix, some, K)
        say(f"| {other.name} | {matrix.shape[0]:,} | {bench.check(other.name, exact)} |")


def end_to_end(bench: Bench, urls: list[str], kinds: Sequence[str] = ("gpu", "cpu+gpu", "cpu")) -> None:
    """The whole command on workers of each kind and of both."""
    say(f"\n## Whole runs of {len(urls):,} URLs, workers included\n")
    if absent := missing():
        say(f"- skipped: no {', '.join(absent)} here")
    elif not bench.lacks(90, "whole runs"):
        say("| workers | seconds | same content | stages |\n|---|---|---|---|")
        try:
            for kind, seconds, same, stages in compare_runs(urls, kinds, bench.deadline - time.monotonic()):
                say(f"| {kind} | {seconds:.1f} | {bench.check(f'run on {kind}', same)} | {stages} |")
        except TimeoutExpired as error:
            say(f"- skipped: what is left (not done after {error.timeout:.0f} s; see --minutes)")
        except Exception as error:
            bench.wrong.append(f"runs: {error}")
            say(f"| failed: {error} | | | |")


if __name__ == "__main__":
    sys.exit(main())
