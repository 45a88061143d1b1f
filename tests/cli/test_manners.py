"""How the command behaves in a real terminal and towards hostile text."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from helpers import Cli, command
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.terminal import printable


def in_terminal(*args: object, **env: str) -> tuple[int, str]:
    """Run the command with all its streams on a pseudo-terminal; its exit status and what was shown."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", **env}
    process = subprocess.Popen(
        command(*args),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65_536)
        except OSError:
            break
    os.close(leader)
    return process.wait(timeout=60), shown.decode(errors="replace")


def test_progress_shows_every_stage_in_a_terminal(scheduler: str, url_list: Path, tmp_path: Path) -> None:
    code, shown = in_terminal("run", url_list, "--out", tmp_path / "run.zarr", "--scheduler", scheduler)
    assert code == 0, shown
    for stage in ("read", "canonical", "rows", "hash", "document_frequency", "tile", "merge"):
        assert stage in shown
    assert "noveltyflow top" in shown


def test_no_color_is_respected(small_run: str) -> None:
    assert "\x1b[" not in in_terminal("top", small_run, "-n", 3, NO_COLOR="1", TERM="dumb")[1]
    assert "\x1b[3" not in in_terminal("top", small_run, "-n", 3, NO_COLOR="1")[1]


@given(st.text())
def test_printable_text_is_inert(text: str) -> None:
    assert printable(text).isprintable()


def test_control_characters_in_names_stay_inert(cli: Cli, tmp_path: Path) -> None:
    done = cli("top", tmp_path / "evil\x1b[2Jname")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "evil\\x1b[2Jname" in done.stderr


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["top", "--help"]])
def test_help_explains_exit_status_and_options(cli: Cli, args: list[str]) -> None:
    done = cli(*args)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if args == ["--help"]:
        assert "Exit status" in done.stdout


def test_wrong_usage_is_status_2(cli: Cli) -> None:
    assert cli("run").returncode == 2
    assert cli("frobnicate").returncode == 2
    assert "--out" in cli("run", "urls.txt").stderr


def test_closed_pipe_is_no_error(small_run: str) -> None:
    process = subprocess.Popen(
        command("top", small_run, "-n", 200, "--format", "csv"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(timeout=60) in (0, 1)
