"""Exact cosine neighbours against the best public libraries, on real lists and on adversarial shapes.

    python benchmarks/neighbors.py [--only PATTERN]... [--quick] [--out FILE]

Writes one Markdown table, anew after every line; progress is on standard error. Lists come from the folder
NOVELTYFLOW_DATA, or from ../shared/data beside the repository; npm's, where npm is at hand, from its registry.
Needs the extra `bench`, which `make bench` sets up. Each matrix is made, searched and given to the peers in
processes of their own.
Exit status 1 if a line went wrong, an inexact answer included.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from kneighbors.cases import CASES, Case
from kneighbors.lists import MissingListError
from kneighbors.machine import describe_machine
from kneighbors.matrices import save_matrix
from kneighbors.ours import measure_ours
from kneighbors.peers import measure_peers
from kneighbors.table import Line, render

P = ParamSpec("P")
T = TypeVar("T")


def main() -> int:
    """Measure the chosen cases one after another."""
    arguments = _parser().parse_args()
    cases = _chosen(arguments.only, arguments.quick)
    note = (
        "**Quick run: a few hundred rows a line, so that no figure means anything.** "
        if arguments.quick
        else ""
    )
    machine = note + describe_machine()
    lines: list[Line] = []
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(cases, 1):
            _say(f"[{number}/{len(cases)}] {case.name}")
            try:
                lines.append(_measure(case, Path(scratch)))
            except MissingListError as error:
                lines.append(Line(case, problem=str(error)))
            except (AssertionError, BrokenProcessPool) as error:
                lines.append(Line(case, problem=f"FAILED, {type(error).__name__}: {error}"))
                failed = True
            if lines[-1].problem:
                _say(f"  left out: {lines[-1].problem}")
            arguments.out.write_text(render(machine, lines))
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure exact cosine neighbours against public libraries.")
    names = "; ".join(case.name for case in CASES)
    parser.add_argument(
        "--only", action="append", help=f"cases that match this pattern, such as 'gov*': {names}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few hundred rows: tries everything, measures nothing"
    )
    default = Path(__file__).with_name("RESULTS.md")
    parser.add_argument(
        "--out", type=Path, default=default, help="where the table goes (default: %(default)s)"
    )
    return parser


def _chosen(patterns: Sequence[str] | None, quick: bool) -> list[Case]:
    cases = [c for c in CASES if patterns is None or any(fnmatch.fnmatch(c.name, p) for p in patterns)]
    if not cases:
        sys.exit(f"no case matches {patterns}; there are: {', '.join(case.name for case in CASES)}")
    return [case.quick() for case in cases] if quick else cases


def _measure(case: Case, scratch: Path) -> Line:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        matrix = Path(folder)
        _in_fresh_process(save_matrix, case, matrix)
        ours = _in_fresh_process(measure_ours, matrix, case.k)
        _say(f"  {ours.rows:,} rows, {ours.median_seconds:.2f} s, exact")
        if case.bar is None:
            return Line(case, ours)
        peer = _in_fresh_process(measure_peers, matrix, case.k)
        _say(f"  {peer.name} {peer.seconds:.2f} s, ratio {peer.seconds / ours.median_seconds:.1f}")
        return Line(case, ours, peer)


def _in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process that has done nothing else, and whose memory is given back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
