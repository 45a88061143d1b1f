"""What people see in a terminal: progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from numbers import Integral, Real
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from noveltyflow.inert import printable, printable_lines, shortened
from noveltyflow.runtime.plan import mebibytes

_WIDE = 1 << 20
_MOST_SHOWN = 200
"""Characters of a cell that a terminal shows."""


def duration(seconds: float) -> str:
    """Seconds for people: `7.3 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class _Amount(ProgressColumn):
    """Done, total, unit and rate; of a stage that is done, what it gave."""

    def render(self, task: Task) -> Text:
        if task.fields["message"]:
            return Text(printable(task.fields["message"]))
        total = "" if task.total is None else f" of {int(task.total):,}"
        rate = "" if task.speed is None else f"  {task.speed:,.0f}/s"
        return Text(f"{int(task.completed):,}{total} {task.fields['unit']}{rate}")


class TerminalReporter:
    """Shows one bar for each stage; only the notes when standard error is no terminal.

    Parameters
    ----------
    quiet
        Show nothing at all.
    pulse
        Called with every step of progress; what it raises ends the work.
    """

    def __init__(self, *, quiet: bool = False, pulse: Callable[[], None] | None = None) -> None:
        self._pulse = pulse
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=20),
            _Amount(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: Any = None
        self._stage, self._begun, self._stage_begun = "", time.monotonic(), 0.0
        self._times: dict[str, float] = {}

    def __enter__(self) -> TerminalReporter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins."""
        self._stage, self._stage_begun = stage, time.monotonic()
        self._task = self._progress.add_task(stage, total=total, unit=unit, message="")

    def advance(self, amount: int) -> None:
        """Move the bar of the current stage."""
        if self._pulse is not None:
            self._pulse()
        self._progress.advance(self._task, amount)

    def finish(self, message: str) -> None:
        """Fill the bar of the current stage, whose task count may have been an estimate."""
        self._times[self._stage] = time.monotonic() - self._stage_begun
        task = self._progress.tasks[self._progress.task_ids.index(self._task)]
        total = task.total if task.total is not None else task.completed
        self._progress.update(self._task, total=total, completed=total, message=message)

    def note(self, message: str) -> None:
        """Print a line of text, inert whatever it holds."""
        self._console.print(Text(printable_lines(message)), soft_wrap=True)

    def summarize(self) -> None:
        """Print where the time went, if there was any work; the rest is mostly the start of a cluster."""
        whole = time.monotonic() - self._begun
        rest = whole - sum(self._times.values())
        parts = [f"{stage} {duration(spent)}" for stage, spent in {**self._times, "the rest": rest}.items()]
        if self._times:
            self.note(f"took {duration(whole)}: {', '.join(parts)}")


class _Output(Console):
    """Standard output, whose reader may go away; Rich would end the whole command as failed."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_table(columns: Mapping[str, Sequence[Any]]) -> None:
    """Print columns on standard output; None is an empty cell.

    In a terminal long cells are cut in the middle; elsewhere columns are as wide as they need.
    """
    in_terminal = sys.stdout.isatty()
    console = _Output(highlight=False, width=None if in_terminal else _WIDE)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, values in columns.items():
        number = all(isinstance(value, Real) for value in values)
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        cells = map(_cell, row)
        table.add_row(*(Text(shortened(cell, _MOST_SHOWN) if in_terminal else cell) for cell in cells))
    console.print(table)


def print_forecast(forecast: dict[str, Any]) -> None:
    """Print what a run will take, as `noveltyflow.runtime.forecast.Forecast` holds it."""
    for name, value in forecast.items():
        if name == "seconds":
            sys.stdout.write(f"{'time':>20}  {_time_taken(value, forecast['start_seconds'])}\n")
        elif name not in ("tasks", "start_seconds") and value is not None:
            is_size = name.endswith("_mem") or name in ("memory_limit", "disk")
            sys.stdout.write(f"{name:>20}  {mebibytes(value) if is_size else f'{value:,}'}\n")
    tasks = [{**task, "projected_mem": mebibytes(task["projected_mem"])} for task in forecast["tasks"]]
    print_table(_columns(tasks))


def _time_taken(seconds: float | None, started: float) -> str:
    if seconds is None:
        return "not known"
    whole, least = (timedelta(seconds=round(value)) for value in (seconds, started))
    return f"about {whole}, of which {least} are imports and the start of the cluster"


def print_info(facts: dict[str, Any]) -> None:
    """Print what a run is made of, as `Run.info` and `unfinished_facts` give it; settings and inputs are left out."""
    shown: dict[str, Callable[[Any], str]] = {
        "audit": audited,
        "tile_stats": _work,
        "kernel_share": lambda share: "not measured" if share is None else f"{share:.1%}",
        "complete": lambda complete: "yes" if complete else "no",
        "stages_done": lambda stages: ", ".join(stages) or "none",
        "to_do": ", ".join,
    }
    for name, value in facts.items():
        if name not in ("settings", "inputs", "memory_peaks"):
            sys.stdout.write(f"{printable(name):>16}  {printable(shown.get(name, _fact)(value))}\n")
    if facts.get("memory_peaks"):
        print_peaks(facts["memory_peaks"])


def _work(stats: Mapping[str, int]) -> str:
    """Counts of `TileStats`, and its times as shares."""
    from noveltyflow.similarity.kernels.base import time_shares

    counts = {name: number for name, number in stats.items() if not name.endswith("_ns")}
    times = [f"{stage} {share:.0%}" for stage, share in time_shares(stats).items()]
    return ", ".join([_fact(counts), *times])


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number:,}" for key, number in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def audited(audit: dict[str, Any] | None) -> str:
    """What the last audit of a run found, in one sentence."""
    if audit is None:
        return "never; see noveltyflow verify"
    number = len(audit["problems"])
    return (
        f"{audit['at']}: {audit['files']:,} files, {audit['rows_rechecked']:,} rows rechecked, "
        f"{number:,} problem{'' if number == 1 else 's'}"
    )


def print_peaks(peaks: list[dict[str, Any]]) -> None:
    """Print what processes held at most, as `noveltyflow.store.profile.read_peaks` gives it."""
    columns = _columns(peaks)
    shares = [
        f"{rss / limit:.0%}" if limit else ""
        for rss, limit in zip(columns["rss"], columns["limit"], strict=True)
    ]
    sizes = {
        name: [mebibytes(value) if value else "" for value in columns[name]]
        for name in ("rss", "limit", "managed", "spilled", "host_free")
    }
    print_table(
        {
            "stage": columns["stage"],
            "process": columns["process"],
            "peak": sizes.pop("rss"),
            "limit": sizes.pop("limit"),
            "share": shares,
            **sizes,
        }
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{value:.4f}"
    return printable(str(value))
