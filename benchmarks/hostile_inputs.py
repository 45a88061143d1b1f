"""Whole runs over inputs that mean harm, and what they take: a line of 10 GB, 200,000 tiny shards.

    python benchmarks/hostile_inputs.py line --bytes 10000000000
    python benchmarks/hostile_inputs.py line --bytes 10000000000 --gzip
    python benchmarks/hostile_inputs.py shards --number 200000

Prints one line of a Markdown table; the exit status is 1 when a line was lost or the run failed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEAD = (
    "| case | lines | rejects | rows | seconds | client, MiB | worker, MiB |\n|---|---|---|---|---|---|---|"
)
BEFORE, AFTER = b"https://before.example/a\n", b"\nhttps://after.example/b\n"
ZEROS = bytes(1 << 20)


@dataclass
class Measured:
    """What a run took; peaks in bytes."""

    info: dict[str, Any]
    seconds: float
    client: int
    worker: int


def long_line(folder: Path, size: int, *, packed: bool) -> Path:
    """Two URLs with a line of `size` zero bytes between them; plain, it takes no room on the disk."""
    if not packed:
        path = folder / "long.txt"
        with path.open("wb") as file:
            file.write(BEFORE)
            file.seek(size, 1)
            file.write(AFTER)
        return path
    path = folder / "long.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(BEFORE)
        for _ in range(-(-size // len(ZEROS))):
            file.write(ZEROS)
        file.write(AFTER)
    return path


def tiny_shards(folder: Path, number: int) -> Path:
    """So many files of one URL each, a thousand to a folder."""
    for i in range(number):
        path = folder / "shards" / f"{i // 1000:06d}" / f"{i:09d}.txt"
        if i % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"https://site{i % 977}.example/page/{i % 5000}\n")
    return folder / "shards"


def measured(source: Path, out: Path, *options: str) -> Measured:
    """Run the command over `source`, looking at its processes twice a second."""
    command = [sys.executable, "-m", "noveltyflow", "run", str(source), "--out", str(out), "--json", *options]
    started = time.monotonic()
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(command, stdout=answer)
        client = worker = 0
        while process.poll() is None:
            own, others = peaks(process.pid)
            client, worker = max(client, own), max(worker, others)
            time.sleep(0.5)
        seconds = time.monotonic() - started
        answer.seek(0)
        info = json.load(answer) if process.returncode == 0 else {}
    return Measured(info, seconds, client, worker)


def peaks(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and of the largest of those that it started."""
    try:
        whole = psutil.Process(pid)
        return whole.memory_info().rss, max(
            (child.memory_info().rss for child in whole.children(recursive=True)), default=0
        )
    except psutil.Error:
        return 0, 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case", choices=["line", "shards"])
    parser.add_argument("--bytes", type=int, default=10_000_000_000, help="length of the line")
    parser.add_argument("--gzip", action="store_true", help="compress the line")
    parser.add_argument("--number", type=int, default=200_000, help="number of shards")
    parser.add_argument("--memory-limit", default="1GiB")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.case == "line":
            source = long_line(folder, asked.bytes, packed=asked.gzip)
            what, lines, rejects = f"a line of {asked.bytes:,} bytes{' (gz)' if asked.gzip else ''}", 3, 1
        else:
            source = tiny_shards(folder, asked.number)
            what, lines, rejects = f"{asked.number:,} shards", asked.number, 0
        options = ["--workers", "2", "--memory-limit", asked.memory_limit, "--max-ratio", "2000"]
        found = measured(source, folder / "run.zarr", *options)
    info = found.info
    print(HEAD)
    print(
        f"| {what} | {info.get('lines_read')} | {info.get('lines_rejected')} | {info.get('rows')} "
        f"| {found.seconds:.0f} | {found.client >> 20} | {found.worker >> 20} |"
    )
    return not (info.get("lines_read") == lines and info.get("lines_rejected") == rejects)


if __name__ == "__main__":
    sys.exit(main())
