"""Whole runs of the `noveltyflow` command on CPUs, on GPUs, and on both, for `benchmarks/gpu.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("dask", "distributed", "dask_cuda", "pydantic", "zarr", "numba")
WORKERS = {"cpu": "worker", "gpu": "gpu-worker"}
_PATIENCE = 120.0


def missing(needed: Sequence[str] = NEEDED) -> list[str]:
    """Packages that whole runs need and that are not here."""
    return [name for name in needed if not _is_here(name)]


def _is_here(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def compare_runs(
    urls: Sequence[str], kinds: Sequence[str], limit: float
) -> Iterator[tuple[str, float, bool, str]]:
    """Run the command on each of `kinds`: `cpu`, `gpu`, or both as `cpu+gpu`, on a cluster of its own.

    Parameters
    ----------
    urls : list of str
        The input.
    kinds : list of str
        What to run on; all are compared with the first.
    limit : float
        Seconds that all runs may take.

    Yields
    ------
    kind : str
    seconds : float
        Of the whole command, workers already up where there are both kinds of them.
    same : bool
        Whether the run holds the same as the first one, bit for bit.
    stages : str
        Where its time went.
    """
    from noveltyflow.testing.runs import assert_same_content

    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "urls.txt").write_text("\n".join(urls))
        first, deadline = folder / f"{kinds[0]}.zarr", time.monotonic() + limit
        for kind in kinds:
            out = folder / f"{kind}.zarr"
            with ExitStack() as stack:
                options = ["--backend", kind]
                if "+" in kind:
                    address = stack.enter_context(_cluster(folder, kind.split("+")))
                    options = ["--backend", "auto", "--scheduler", address]
                arguments = [str(folder / "urls.txt"), "--out", str(out), *options]
                seconds, stages = _timed_run(arguments, max(1.0, deadline - time.monotonic()))
            try:
                assert_same_content(str(out), str(first))
                same = True
            except AssertionError:
                same = False
            yield kind, seconds, same, stages


def _timed_run(arguments: list[str], limit: float) -> tuple[float, str]:
    start = time.perf_counter()
    command = [sys.executable, "-m", "noveltyflow", "run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    seconds = time.perf_counter() - start
    (stages,) = (line for line in done.stderr.splitlines() if line.startswith("took "))
    return seconds, stages


@contextmanager
def _cluster(folder: Path, kinds: Sequence[str]) -> Iterator[str]:
    """A scheduler and workers of each kind, started by the scripts of `cluster/`; its address."""
    told = folder / "scheduler.json"
    told.unlink(missing_ok=True)
    free = ["--port", "0", "--dashboard-address", "127.0.0.1:0"]
    with ExitStack() as stack:
        stack.enter_context(_started("scheduler", *free, "--scheduler-file", str(told)))
        from distributed import Client

        deadline = time.monotonic() + _PATIENCE
        while not (told.exists() and told.read_text().rstrip().endswith("}")):
            if time.monotonic() > deadline:
                raise RuntimeError("cluster/scheduler did not start")
            time.sleep(0.1)
        with Client(scheduler_file=str(told), timeout=_PATIENCE) as client:
            address = str(client.scheduler.address)
            for kind in kinds:
                stack.enter_context(_started(WORKERS[kind], address, "--local-directory", str(folder / kind)))
            while not _has_all(client, kinds):
                if time.monotonic() > deadline:
                    raise RuntimeError("the workers did not start")
                time.sleep(0.2)
        yield address


def _has_all(client: object, kinds: Sequence[str]) -> bool:
    from noveltyflow.runtime.seats import slots_of

    slots = slots_of(client)  # type: ignore[arg-type]
    return all(slots[kind] for kind in kinds)


@contextmanager
def _started(script: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen(
        [ROOT / "cluster" / script, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
