"""A whole run with little memory: what every process holds at most, against the promise.

    python benchmarks/memory.py [LIST] [--workers N] [--memory-limit LIMIT]

Prints one Markdown table: the peak of every process as the kernel counts it. The command itself is client and
scheduler in one. LIST is anything the command reads; by default gov_1m.txt.gz from the folder NOVELTYFLOW_DATA, or
from ../shared/data beside the repository. Exit status 1, and standard error says why, if the run failed, if a worker
was lost or came within a fifth of its limit, where Dask pauses it, if client and scheduler together held 500 MiB, or
if without LIST the kernels were busy less than 90 % of the workers' time while tiles were computed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from dask.utils import parse_bytes
from kneighbors.lists import data_folder
from kneighbors.machine import describe_machine

from noveltyflow import open_run

MOST_OF_CLIENT = 500 << 20
MOST_OF_LIMIT = 0.8
LEAST_BUSY = 0.9
"""Of a long list; a short one is through before the spans have grown."""
_LOOK_SECONDS = 0.2
_REPLACED = re.compile(r"replacing (\d+) workers")


def main() -> int:
    """Run, watch, print the figures."""
    arguments = _parser().parse_args()
    source = arguments.list or data_folder() / "gov_1m.txt.gz"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.zarr"
        command = [
            *(sys.executable, "-m", "noveltyflow", "run", str(source), "--out", str(out)),
            *("--workers", str(arguments.workers), "--memory-limit", arguments.memory_limit),
            *("--dashboard-address", "127.0.0.1:0", "--log-level", "info"),
        ]
        started = time.perf_counter()
        status, client, workers, replaced = _watched(command)
        minutes = (time.perf_counter() - started) / 60
        if status:
            print(f"noveltyflow run ended with status {status}", file=sys.stderr)
            return 1
        facts = open_run(str(out)).info()
    print(
        f"{describe_machine()}\n\n{source.name}, {facts['rows']:,} rows in blocks of {facts['block_rows']:,}"
    )
    print(f"{minutes:.1f} minutes, kernels busy {facts['kernel_share']:.0%} of the time\n")
    print("| process | peak, MiB | may have, MiB |\n|---|---|---|")
    print(f"| client and scheduler | {client / 2**20:,.0f} | {MOST_OF_CLIENT / 2**20:,.0f} |")
    limit = parse_bytes(arguments.memory_limit)
    for number, peak in enumerate(workers):
        print(f"| worker {number} | {peak / 2**20:,.0f} | {limit / 2**20:,.0f} |")
    print(f"\n{replaced} workers replaced before the tiles, as planned")
    broken = list(_broken(client, workers, arguments.workers + replaced, limit))
    if arguments.list is None and facts["kernel_share"] < LEAST_BUSY:
        broken.append(f"kernels were busy {facts['kernel_share']:.1%} of the time, not {LEAST_BUSY:.0%}")
    for promise in broken:
        print(promise, file=sys.stderr)
    return int(bool(broken))


def _broken(client: int, workers: Sequence[int], expected: int, limit: int) -> Iterator[str]:
    """Promises about memory that were not kept."""
    if client >= MOST_OF_CLIENT:
        yield f"client and scheduler held {client >> 20} MiB, not less than {MOST_OF_CLIENT >> 20}"
    if (most := max(workers, default=0)) > MOST_OF_LIMIT * limit:
        yield f"a worker held {most >> 20} MiB, more than {MOST_OF_LIMIT:.0%} of its limit"
    if len(workers) != expected:
        yield f"there were {len(workers)} workers in place of {expected}: some were lost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what the processes of a whole run hold at most.")
    parser.add_argument("list", nargs="?", type=Path, help="one URL a line, or CSV with `url`")
    parser.add_argument("--workers", type=int, default=2, help="workers (default: %(default)s)")
    parser.add_argument("--memory-limit", default="700MiB", help="of each worker (default: %(default)s)")
    return parser


def _watched(command: list[str]) -> tuple[int, int, list[int], int]:
    """Status of a command, peak bytes of itself and of every worker process it had, workers it replaced itself."""
    with tempfile.TemporaryFile() as log:
        status, client, workers = _peaks(subprocess.Popen(command, stderr=log))
        log.seek(0)
        text = log.read().decode()
    sys.stderr.write(text)
    return status, client, workers, sum(map(int, _REPLACED.findall(text)))


def _peaks(process: subprocess.Popen[bytes]) -> tuple[int, int, list[int]]:
    client, workers = 0, dict[int, int]()
    while process.poll() is None:
        client = max(client, _peak(process.pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    workers[child.pid] = max(workers.get(child.pid, 0), _peak(child.pid))
        time.sleep(_LOOK_SECONDS)
    return process.returncode, client, list(workers.values())


def _peak(pid: int) -> int:
    """The most that a process held so far, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    sys.exit(main())
