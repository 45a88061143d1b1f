"""How right a forecast is: what `noveltyflow plan` says of a list, against what `noveltyflow run` then takes.

    python benchmarks/forecast.py [INPUT...] [--workers N] [--memory-limit LIMIT]

Prints one Markdown table. INPUT is anything the command reads, all of it one list; without any, lists of five kinds
from the folder NOVELTYFLOW_DATA, or from ../shared/data beside the repository. `disk` is what the files of the run
folder hold, scratch space included, looked at twice a second: the most of it, and at the end; what is there for less
than half a second may be missed. Factors are what was forecast by what was measured. Where other work holds a run up,
which no forecast knows, its seconds of CPU do not grow as its seconds do. Exit status 1, and standard error says why,
if a run took more disk than was forecast, which is a bound, or if its time was more than a factor of three off. The
other figures are estimates.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kneighbors.cases import NPM, Part
from kneighbors.lists import read_parts
from kneighbors.machine import describe_machine

LISTS = {
    "gov": (Part("gov_100k.txt.gz", 100_000),),
    "npm": (Part(NPM, 100_000),),
    "tweetfeed": (Part("tweetfeed.csv.gz", 100_000),),
    "scoop timeline": (Part("scoop_timeline.csv.gz", 50_000),),
    "adblock + tweetfeed": (Part("adblock_requests.txt.gz"), Part("tweetfeed.csv.gz", 30_000)),
}
"""The first lines of lists, each part in a file of its own."""
MOST_FACTOR = 3.0
"""Between the time that was forecast and the one that was measured."""
_LOOK_SECONDS = 0.5
_HEAD = (
    "| list | rows | s, forecast | s, measured | factor | s of CPU | disk, forecast, MiB | most measured, MiB "
    "| at the end, MiB | factor | lines, forecast | lines, read | non-zeros, forecast | non-zeros, stored |"
)


@dataclass(frozen=True)
class Figures:
    """What a run takes: wall-clock seconds, bytes of its folder when it is largest, lines and non-zeros."""

    seconds: float
    disk: int
    lines: int
    nonzeros: int


def main() -> int:
    """Forecast and run every list, print the figures."""
    arguments = _parser().parse_args()
    options = ["--workers", str(arguments.workers), "--memory-limit", arguments.memory_limit]
    print(f"{describe_machine()}\n\n{_HEAD}\n|---|{'--:|' * (_HEAD.count('|') - 2)}")
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        given = [("given", arguments.inputs)] if arguments.inputs else _lists(Path(folder))
        for name, inputs in given:
            command = [
                *inputs,
                "--out",
                f"{folder}/{name}.zarr",
                *options,
                "--dashboard-address",
                "127.0.0.1:0",
            ]
            planned = json.loads(_finished("plan", *command, "--json")[0])
            forecast = Figures(*(planned[key] for key in Figures.__annotations__))
            cpu = _cpu_seconds()
            measured, at_end, rows = _measured(command)
            print(_line(name, rows, forecast, measured, _cpu_seconds() - cpu, at_end), flush=True)
            broken += [f"{name}: {what}" for what in _broken(forecast, measured)]
    for promise in broken:
        print(promise, file=sys.stderr)
    return int(bool(broken))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how right forecasts are.")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="one list (default: lists of five kinds)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default: %(default)s)")
    parser.add_argument("--memory-limit", default="2GiB", help="of each worker (default: %(default)s)")
    return parser


def _lists(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Names of lists, and the files that each is made of."""
    for name, parts in LISTS.items():
        paths = []
        for part, texts in read_parts(parts, folder):
            paths.append(f"{folder}/{name}, {len(paths)}.txt.gz")
            with gzip.open(paths[-1], "wt", encoding="utf-8") as file:
                file.writelines(f"{text}\n" for text in texts[: part.rows])
        yield name, paths


def _measured(command: list[str]) -> tuple[Figures, int, int]:
    """What a run takes, the bytes of its folder at its end, and its rows."""
    started = time.perf_counter()
    answer, most = _finished("run", *command, "--quiet", "--json")
    seconds = time.perf_counter() - started
    out = command[command.index("--out") + 1]
    facts, at_end = json.loads(answer), _size(out)
    return Figures(seconds, max(most, at_end), facts["lines_read"], facts["nonzeros"]), at_end, facts["rows"]


def _finished(*arguments: str) -> tuple[str, int]:
    """What a command prints, and the most bytes of the folder it was given as `--out` while it ran."""
    out, most = arguments[arguments.index("--out") + 1], 0
    command = [sys.executable, "-m", "noveltyflow", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                answer, _ = process.communicate(timeout=_LOOK_SECONDS)
                break
            most = max(most, _size(out))
    if process.returncode:
        sys.exit(f"noveltyflow {arguments[0]} ended with status {process.returncode}")
    return answer, most


def _cpu_seconds() -> float:
    """What all commands and their workers have computed for so far; other work on the machine does not add to it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(folder: str) -> int:
    """Bytes of all files of a folder, while others come and go; 0 where there is none yet."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(path, name).lstat().st_size
    return total


def _line(name: str, rows: int, forecast: Figures, measured: Figures, cpu: float, at_end: int) -> str:
    cells: list[Any] = [
        name,
        f"{rows:,}",
        f"{forecast.seconds:.0f}",
        f"{measured.seconds:.0f}",
        f"{forecast.seconds / measured.seconds:.1f}",
        f"{cpu:.0f}",
        *(f"{size / 2**20:,.1f}" for size in (forecast.disk, measured.disk, at_end)),
        f"{forecast.disk / measured.disk:.1f}",
        *(f"{number:,}" for number in (forecast.lines, measured.lines, forecast.nonzeros, measured.nonzeros)),
    ]
    return f"| {' | '.join(cells)} |"


def _broken(forecast: Figures, measured: Figures) -> Iterator[str]:
    """Promises of a forecast that were not kept."""
    if measured.disk > forecast.disk:
        yield f"the run folder held {measured.disk:,} bytes, more than the {forecast.disk:,} that were forecast"
    if not 1 / MOST_FACTOR <= forecast.seconds / measured.seconds <= MOST_FACTOR:
        yield f"it took {measured.seconds:.1f} s, {forecast.seconds:.1f} were forecast: off by more than three times"


if __name__ == "__main__":
    sys.exit(main())
