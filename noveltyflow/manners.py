"""What commands have in common: how much they log, how they end for a reader, and what they say of a run's state."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from noveltyflow.errors import DamageError, NoveltyflowError, UnfinishedError
from noveltyflow.inert import shell_line
from noveltyflow.options import command_of

log = logging.getLogger(__package__)


def log_level(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the group, and each command so that it may stand after its name too, the option `--log-level`."""

    def apply(_context: click.Context, _parameter: click.Parameter, level: str | None) -> None:
        if level is not None:
            log.setLevel(level.upper())

    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        expose_value=False,
        callback=apply,
        help="How much is logged on standard error; `debug` shows tracebacks. [default: warning]",
    )(command)


def for_readers(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end without complaint when its reader has seen enough, as `head` has."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
            sys.stdout.flush()
        except BrokenPipeError:
            write_to_nobody()

    return run


def of_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its argument RUN; an error that asks for the command of that run shows it, ready to be typed."""

    @click.argument("path", metavar="RUN")
    @functools.wraps(command)
    def asked(path: str, **options: Any) -> None:
        try:
            command(path=path, **options)
        except UnfinishedError as error:
            raise with_command(error, command_of(path)) from error
        except DamageError as error:
            if error.remedy not in str(error):
                raise
            raise with_command(error, f"{command_of(path)} --repair") from error

    return asked


def open_closed_streams() -> None:
    """Let a process that was started without standard output or error (`>&-`) write there all the same, to nobody."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process lives
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def write_to_nobody() -> None:
    """The interpreter flushes what is left in the buffer when it ends; nobody is there to take it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def typed_again(*more: str) -> str:
    """The command that was typed, and more: with --overwrite once more, what was finished would be thrown away."""
    return shell_line(
        ["noveltyflow", *(arg for arg in sys.argv[1:] if arg not in ("--overwrite", *more)), *more]
    )


def with_command(error: DamageError | UnfinishedError, command: str) -> NoveltyflowError:
    """The error, with a command ready to be typed in the place of the words that ask for one."""
    what = "complete it" if isinstance(error, UnfinishedError) else "undo the damage"
    return type(error)(str(error).replace(error.remedy, f"{what} with:\n  {command}"))
