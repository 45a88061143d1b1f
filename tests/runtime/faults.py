"""What the fault tests share: a run long enough to be hit in the middle, and the moments at which it is hit."""

from __future__ import annotations

import contextlib
import filecmp
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from helpers import command

from noveltyflow.testing.runs import content_files

CLUSTER = ["--workers", "2", "--memory-limit", "1GiB", "--task-seconds", "0.3"]
OPTIONS = [*CLUSTER, "--block-rows", "250"]
MOMENTS = {
    "reading": ".scratch/read/*.json",
    "shuffled": ".scratch/sorted/0*",
    "rows": "rows/url/c/*",
    "features": "features/000003/*",
    "idf": "idf/document_frequency/*",
    "tiles": ".scratch/strips/*.npz",
    "merging": "neighbors/indices/c/*/*",
}


def same_bytes(left: Path, right: Path) -> bool:
    names = content_files(left)
    assert names == content_files(right)
    return filecmp.cmpfiles(left, right, names, shallow=False)[0] == names


def start(urls: Path, out: Path, *options: object, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("run", urls, "--out", out, *(options or OPTIONS)),
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_interrupts,
        env=os.environ | env,
    )


def hear_interrupts() -> None:
    """As a shell starts a command in the foreground, even where these tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def when(moment: str, out: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the run has come to a stage."""
    until(lambda: any(out.glob(MOMENTS[moment])), process)


@contextlib.contextmanager
def stopped_when(moment: str, out: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop all processes of a run once it has come to a stage, however short that is, and let them go on after."""

    def reached() -> bool:
        os.killpg(process.pid, signal.SIGSTOP)
        if any(out.glob(MOMENTS[moment])):
            return True
        os.killpg(process.pid, signal.SIGCONT)
        return False

    until(reached, process)
    yield
    os.killpg(process.pid, signal.SIGCONT)


def until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something to happen while a run goes on."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, "the run ended before it was hit"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_client(process: subprocess.Popen[bytes]) -> None:
    """Kill the command alone, and do not wait until its workers have noticed."""
    with process:
        process.kill()


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes; the nannies are threads of the command itself."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    """Whether it is the process of a worker, and alive."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def last_words(stderr: str) -> str:
    """What the command itself said in the end; Dask's processes log before it what they saw."""
    return stderr.rpartition("\nnoveltyflow: ")[2]
