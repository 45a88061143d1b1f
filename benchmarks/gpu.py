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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from gpu_machine import Gpu, cpu_kernel, describe_machine, visible_gpu  # noqa: E402
from url_rows import read_urls, weighted_rows  # noqa: E402

from noveltyflow.similarity.kernels.folded import KEPT, Folded  # noqa: E402
from noveltyflow.similarity.kernels.gpu import GpuKernel, Method  # noqa: E402
from noveltyflow.similarity.kernels.scattered import Scattered  # noqa: E402
from noveltyflow.similarity.tiles import Block, split_rows, strip  # noqa: E402
from noveltyflow.similarity.topk import TopK  # noqa: E402
from noveltyflow.testing.compare import brute_force_rows  # noqa: E402
from noveltyflow.testing.matrices import SHAPES, unit_rows  # noqa: E402

K = 10
SHAPE_ROWS = 1500
METHODS: dict[str, Method] = {
    "folded, 1,024 buckets": Folded(n_buckets=1024),
    "folded, 2,048 buckets": Folded(),
    "folded, 4,096 buckets": Folded(n_buckets=4096),
    "scattered, head 0.2": Scattered(head_share=0.2),
    "scattered, head 0.4": Scattered(),
    "scattered, head 0.6": Scattered(head_share=0.6),
}


@dataclass
class Bench:
    """Where it runs, how much time is left, and what has gone wrong."""

    gpu: Gpu
    deadline: float
    wrong: list[str] = field(default_factory=list)

    def lacks(self, seconds: float, what: str) -> bool:
        """Whether less time than `seconds` is left for `what`, which is then said."""
        left = self.deadline - time.monotonic()
        if left < seconds:
            say(f"- skipped: {what} (about {seconds:.0f} s, {left:.0f} s are left; see --minutes)")
        return left < seconds

    def check(self, what: str, exact: bool) -> str:
        """`yes` or `NO`; the latter is remembered."""
        if not exact:
            self.wrong.append(what)
        return "yes" if exact else "**NO**"


@dataclass
class Seconds:
    """What `timed` measured."""

    value: float = 0.0


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
    run(bench, arguments.list, arguments.rows, arguments.tile_rows)
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
        "--tile-rows", type=int, default=1 << 16, help="rows of the tile on which methods compete"
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="begin nothing that would end later")
    return parser


def run(bench: Bench, path: Path, rows: int | None, tile_rows: int) -> None:
    """All sections, those first that matter most."""
    shapes(bench)
    if not path.exists():
        say(f"\n{path} does not exist: give --list, or set NOVELTYFLOW_DATA to the folder of lists")
        bench.wrong.append("no list")
        return
    with timed(bench.gpu) as spent:
        matrix = weighted_rows(read_urls(path, rows), threads=os.cpu_count() or 1)
    n = matrix.shape[0]
    say(
        f"\n{n:,} rows of {path.name}, {matrix.nnz / max(n, 1):.0f} columns a row; "
        f"read and hashed in {spent.value:.0f} s"
    )
    middle = max(0, (n - tile_rows) // 2)
    tile = matrix[middle : middle + tile_rows]
    bounds(bench, tile)
    best, known = methods(bench, tile)
    peers(bench, tile, known)
    whole(bench, matrix, best)


def say(text: str) -> None:
    """Print at once, for whoever watches or only gets the beginning."""
    print(text, flush=True)


@contextmanager
def timed(gpu: Gpu) -> Iterator[Seconds]:
    """Measure what happens inside, the device's work included."""
    spent = Seconds()
    gpu.synchronize()
    start = time.perf_counter()
    yield spent
    gpu.synchronize()
    spent.value = time.perf_counter() - start


def shapes(bench: Bench) -> None:
    """Matrices that are hard on kernels, against brute force, bit for bit."""
    say("\n## Exactness on adversarial matrices\n")
    say("| matrix | rows | k | method | bit for bit |\n|---|---|---|---|---|")
    for name, make in SHAPES.items():
        matrix = unit_rows(make(np.random.default_rng(1), SHAPE_ROWS, 200))
        for method_name in ("folded, 2,048 buckets", "scattered, head 0.4"):
            method = METHODS[method_name]
            few = Folded(n_buckets=64) if isinstance(method, Folded) else Scattered(slab_rows=512)
            for k in (K, SHAPE_ROWS + 10):
                found = search(bench.gpu, few, matrix, matrix, k, block_rows=1 + SHAPE_ROWS * 2 // 3)
                exact = equals_brute_force(found, matrix, np.arange(0, matrix.shape[0], 7), k)
                way = method_name.partition(",")[0]
                say(f"| {name} | {matrix.shape[0]:,} | {k} | {way} | {bench.check(name, exact)} |")


def search(
    gpu: Gpu, method: Method, queries: Any, others: Any, k: int, *, block_rows: int | None = None
) -> TopK:
    """Neighbours of `queries` among `others`, which are the same rows, by the kernel alone."""
    kernel = GpuKernel(method, gpu.device)
    best = TopK.empty(queries.shape[0], k)
    blocks = split_rows(others.shape[0], block_rows or max(1, others.shape[0]))
    for part in strip(Block(0, 0, queries.shape[0]), blocks):
        block = part.candidates
        prepared = kernel.prepare(others[block.start : block.stop] if len(blocks) > 1 else others)
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


def methods(bench: Bench, tile: Any) -> tuple[str, TopK | None]:
    """All methods on one tile; the name of the quickest, and the neighbours."""
    n = tile.shape[0]
    say(f"\n## One tile, {n:,} x {n:,}, k = {K}\n")
    say("| method | prepare, s | search, s | scored pairs a row | device memory, MiB | same result |")
    say("|---|---|---|---|---|---|")
    known: TopK | None = None
    times: dict[str, float] = {}
    for name, method in METHODS.items():
        if bench.lacks(20, name):
            continue
        bench.gpu.reset()
        found, scored, prepare, seconds = _once(bench.gpu, method, tile)
        _, _, _, again = _once(bench.gpu, method, tile)
        times[name] = min(seconds, again)
        same = known is None or (
            np.array_equal(known.indices, found.indices)
            and np.array_equal(known.similarities, found.similarities)
        )
        known = known or found
        peak = bench.gpu.peak_bytes() / (1 << 20)
        figures = f"{prepare:.2f} | {times[name]:.3f} | {scored / n:,.0f} | {peak:,.0f}"
        say(f"| {name} | {figures} | {bench.check(name, same)} |")
    if known is not None:
        rows = np.linspace(0, n - 1, min(n, 300), dtype=int)
        exact = equals_brute_force(known, tile, rows, K)
        say(f"\n{len(rows)} rows equal brute force bit for bit: {bench.check('tile', exact)}")
    return min(times, key=lambda name: times[name]) if times else next(iter(METHODS)), known


def _once(gpu: Gpu, method: Method, rows: Any) -> tuple[TopK, int, float, float]:
    """Result, scored pairs, and seconds of preparing and of searching `rows` among themselves."""
    kernel = GpuKernel(method, gpu.device)
    with timed(gpu) as preparing:
        prepared = kernel.prepare(rows)
    empty = TopK.empty(rows.shape[0], K)
    with timed(gpu) as searching:
        found, stats = kernel.compute(rows, prepared, empty, queries_start=0, candidates_start=0)
    return found, stats.verified_pairs, preparing.value, searching.value


def peers(bench: Bench, tile: Any, known: TopK | None) -> None:
    """The same tile by other ways; their times are scaled from a part, and leave out the choice of the best k."""
    say("\n## Other ways, scaled to the same tile\n\n| way | measured | whole tile, s |\n|---|---|---|")
    ways: dict[str, Callable[[], tuple[str, float]]] = {
        "CPU kernel, 2 threads": lambda: on_cpu(bench, tile, 2, known),
        "CPU kernel, all threads": lambda: on_cpu(bench, tile, os.cpu_count() or 1, known),
        "cupyx sparse product, float32": lambda: sparse_product(bench, tile),
        "dense half-precision product": lambda: dense_product(bench, tile),
    }
    for name, way in ways.items():
        if not bench.lacks(45, name):
            say(f"| {name} | {_outcome(way)} |")


def _outcome(way: Callable[[], tuple[str, float]]) -> str:
    """Text and seconds; a way that fails here, or needs a package that is absent, does not end the others."""
    try:
        measured, seconds = way()
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error)[:120]} | -"
    return f"{measured} | {seconds:.2f}"


def on_cpu(
    bench: Bench, rows: Any, threads: int, known: TopK | None, wanted: float = 5.0
) -> tuple[str, float]:
    """The CPU kernel for as many rows as take some seconds, compared with what the GPU found."""
    kernel = cpu_kernel()
    tiny = rows[:64]
    _cpu_search(kernel, tiny, kernel.prepare(tiny), threads)  # compiles, or loads what was compiled
    start = time.perf_counter()
    prepared = kernel.prepare(rows)
    preparing = time.perf_counter() - start
    n, m, seconds = rows.shape[0], min(rows.shape[0], 64 * threads), 0.0
    while seconds < wanted / 4:
        m = min(m if seconds == 0.0 else 4 * m, n)
        start = time.perf_counter()
        found = _cpu_search(kernel, rows[:m], prepared, threads)
        seconds = time.perf_counter() - start
        if m == n:
            break
    text = f"{m:,} rows in {seconds:.2f} s, prepared in {preparing:.2f} s"
    if known is not None:
        same = np.array_equal(found.indices, known.indices[:m])
        same &= np.array_equal(found.similarities, known.similarities[:m])
        text += f", same bits as the GPU: {bench.check('cpu', same)}"
    return text, preparing + seconds * n / m


def _cpu_search(kernel: Any, queries: Any, prepared: Any, threads: int, part_rows: int = 32) -> TopK:
    best = TopK.empty(queries.shape[0], K)

    def part(block: Block) -> None:
        known, stop = best.rows(block.start, block.stop), block.stop
        starts = {"queries_start": block.start, "candidates_start": 0}
        found, _ = kernel.compute(queries[block.start : stop], prepared, known, **starts)
        known.similarities[:], known.indices[:] = found.similarities, found.indices

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, split_rows(queries.shape[0], part_rows)))
    return best


def sparse_product(bench: Bench, tile: Any, rows: int = 1024) -> tuple[str, float]:
    """Sparse times sparse in chunks; that the product is right is looked at too."""
    sparse = bench.gpu.sparse
    others, queries = sparse.csr_matrix(tile).T.tocsr(), sparse.csr_matrix(tile[:rows])
    queries @ others
    with timed(bench.gpu) as spent:
        product = queries @ others
    expected = (tile[:rows].astype(np.float64) @ tile.astype(np.float64).T).sum()
    right = abs(float(product.sum()) - expected) <= 1e-3 * expected
    m = queries.shape[0]
    return (
        f"{m:,} rows in {spent.value:.3f} s, sum {'right' if right else 'WRONG'}",
        spent.value * tile.shape[0] / m,
    )


def dense_product(bench: Bench, tile: Any, rows: int = 4096) -> tuple[str, float]:
    """Dense halves of the columns in use; only as much as one product of some rows needs."""
    xp, sparse = bench.gpu.device.xp, bench.gpu.sparse
    some = tile[:rows]
    used, columns = np.unique(some.indices, return_inverse=True)
    compact = sparse.csr_matrix(
        (xp.asarray(some.data), xp.asarray(columns.astype(np.int32)), xp.asarray(some.indptr)),
        shape=(some.shape[0], len(used)),
    )
    dense = compact.toarray().astype(np.float16)
    out = xp.empty((some.shape[0],) * 2, np.float16)
    bench.gpu.device.matmul(dense, dense.T, out)
    with timed(bench.gpu) as spent:
        bench.gpu.device.matmul(dense, dense.T, out)
    m, total = some.shape[0], int(np.count_nonzero(np.bincount(tile.indices)))
    scale = (tile.shape[0] / m) ** 2 * total / len(used)
    return f"{m:,} x {m:,} over {len(used):,} columns in {spent.value:.3f} s", spent.value * scale


def whole(bench: Bench, matrix: Any, best: str) -> None:
    """The whole list from CSR on the host to neighbours on the host, by the quickest method."""
    n = matrix.shape[0]
    say(f"\n## The whole list: exact neighbours of {n:,} rows, k = {K}\n")
    known: TopK | None = None
    for name in dict.fromkeys([best, "folded, 2,048 buckets", "scattered, head 0.4"]):
        if bench.lacks(60, name):
            continue
        bench.gpu.reset()
        found, scored, preparing, searching = _once(bench.gpu, METHODS[name], matrix)
        peak = bench.gpu.peak_bytes() / (1 << 30)
        say(
            f"- {name}: **{preparing + searching:.1f} s** (prepare {preparing:.1f}, search {searching:.1f}), "
            f"{scored / n:,.0f} scored pairs a row, {peak:.1f} GiB of device memory"
        )
        if known is not None:
            same = np.array_equal(found.indices, known.indices)
            same &= np.array_equal(found.similarities, known.similarities)
            say(f"  the same result: {bench.check(f'whole, {name}', same)}")
        known = known or found
    if known is not None and not bench.lacks(60, "comparison with brute force"):
        rows = np.linspace(0, n - 1, min(n, 50), dtype=int)
        exact = equals_brute_force(known, matrix, rows, K)
        say(f"- {len(rows)} rows equal brute force bit for bit: {bench.check('whole list', exact)}")
    if not bench.lacks(60, "the CPU kernel on the whole list"):
        measured, _, seconds = _outcome(lambda: on_cpu(bench, matrix, 2, known)).rpartition(" | ")
        say(f"- CPU kernel, 2 threads: {measured}; scaled to all rows {seconds} s")


if __name__ == "__main__":
    sys.exit(main())
