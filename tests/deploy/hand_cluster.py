"""A cluster started by hand, as people do it: processes of `cluster/scheduler` and `cluster/worker`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 120.0

Launch = Callable[..., subprocess.CompletedProcess[str]]
"""Runs a script of `cluster/` with arguments and environment variables, and says what came of it."""


@contextmanager
def hand_cluster(
    folder: Path, *, workers: int = 2, nthreads: int = 1, memory_limit: str = "700MiB"
) -> Iterator[str]:
    """Yield the address of a scheduler on a free port of 127.0.0.1, once all its workers have arrived.

    Parameters
    ----------
    folder
        Existing folder; where all processes stand and leave their logs.
    workers
        How often `cluster/worker` is started, each time with one process.
    nthreads
        Threads of a worker.
    memory_limit
        Memory limit of a worker.
    """
    with ExitStack() as stack:
        address = stack.enter_context(scheduler_by_hand(folder))
        options = ["--nworkers", "1", "--nthreads", str(nthreads), "--memory-limit", memory_limit]
        for number in range(workers):
            spill = ["--local-directory", str(folder / f"worker-{number}")]
            log = folder / f"worker-{number}.log"
            stack.enter_context(started("worker", address, *options, *spill, log=log))
        _await_workers(address, workers, folder)
        yield address


@contextmanager
def scheduler_by_hand(folder: Path) -> Iterator[str]:
    """A scheduler that picks its own free ports and tells them in a file."""
    told, log = folder / "scheduler.json", folder / "scheduler.log"
    told.unlink(missing_ok=True)
    free = ["--port", "0", "--dashboard-address", "127.0.0.1:0"]
    with started("scheduler", *free, "--scheduler-file", str(told), log=log) as process:
        deadline = time.monotonic() + _PATIENCE
        while (address := _told(told)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"cluster/scheduler did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield address


def _told(path: Path) -> str | None:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return str(json.loads(path.read_text())["address"])
    return None


def _await_workers(address: str, workers: int, folder: Path) -> None:
    with Client(address, timeout=_PATIENCE) as client:
        try:
            client.wait_for_workers(workers, timeout=_PATIENCE)
        except TimeoutError as error:
            logs = "\n".join(log.read_text() for log in sorted(folder.glob("worker-*.log")))
            raise RuntimeError(f"cluster/worker did not start:\n{logs}") from error


@contextmanager
def started(script: str, *arguments: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script of `cluster/` in a process group of its own, of which nothing is left at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ROOT / "cluster" / script, *arguments],
            cwd=log.parent,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def environment() -> dict[str, str]:
    """The environment of the tests' own interpreter and of this checkout's package."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end; after ten seconds, and for whatever its leader left behind, do not ask."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_script(path: Path, text: str) -> None:
    """Write a shell script that can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
