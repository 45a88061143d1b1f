"""How the command behaves in a real terminal and towards hostile text."""

from __future__ import annotations

import os
import pty
import subprocess
from itertools import product
from pathlib import Path

import pytest
from helpers import Cli, command
from hypothesis import given
from hypothesis import strategies as st

import noveltyflow
from noveltyflow.inert import printable, shell_line
from noveltyflow.terminal import duration, print_table


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
    for stage in ("read", "canonical", "sort", "rows", "hash", "document_frequency", "tile", "merge"):
        assert stage in shown
    assert "noveltyflow top" in shown
    times = shown[shown.rindex("took ") :]
    assert all(f"{stage} " in times for stage in ("read", "canonical", "rows", "hash", "tile", "merge"))


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


def test_hostile_names_stay_inert_in_logs_and_tracebacks(cli: Cli, tmp_path: Path) -> None:
    done = cli("info", tmp_path / "evil\x1b[2J\u202ename", "--log-level", "debug")
    assert "Traceback" in done.stderr
    assert "evil\\x1b[2J\\u202ename" in done.stderr
    assert not {"\x1b", "\u202e"} & set(done.stderr)


HOSTILE = [
    "http://a.example/\x1b]0;owned\x07",
    "http://b.example/\u202egpj.exe",
    "http://c.example/<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "http://d.example/%1b%5b2J",
    "\x9b31m",
    "mailto:<img/src=x/onerror=alert(1)>",
]


def test_hostile_urls_stay_inert_on_every_way_out(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    """Terminal, log, CSV, JSON; the tables of a notebook too, which a browser shows."""
    (tmp_path / "urls\x1b[2J.txt").write_text("\n".join([*HOSTILE, "http://e.example/"]))
    out = tmp_path / "run\x1b[2J.zarr"
    made = cli(
        *("run", tmp_path / "urls\x1b[2J.txt", "--out", out),
        *("--scheduler", scheduler, "--log-level", "debug"),
    )
    assert made.returncode == 0, made.stderr
    assert f"noveltyflow rejects {shell_line([str(out)])}" in made.stderr
    run = noveltyflow.open_run(str(out))
    rejects = run.rejects().compute()
    assert len(rejects) + run.info()["urls"] == len(HOSTILE) + 1
    shown = [run.top(10)._repr_html_(), rejects._repr_html_()]
    said = [made.stderr, *shown]
    asked = product(("top", "rejects"), ("table", "csv", "jsonl"))
    said += [cli(command, out, "--format", form).stdout for command, form in asked]
    said += [cli("export", out, tmp_path / "\x1b[2J.csv").stderr]
    said += [cli("neighbors", out, "http://\x1b[2J.example/").stderr]
    said += [in_terminal("export", out, tmp_path / "\x1b[2J.csv", TERM="dumb")[1], cli("info", out).stdout]
    for text in said:
        assert all(character.isprintable() or character in "\n\r" for character in text)
        assert "<script>" not in text
        assert not any(line.startswith(("=", "+", "-", "@")) for line in text.splitlines())
    assert not any("<img" in text for text in shown)
    assert "&lt;img/src" in shown[1]


@pytest.mark.parametrize("in_terminal", [True, False])
def test_a_long_url_is_cut_in_the_middle_in_a_terminal_only(
    in_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://a.example/{'x' * 50_000}/end"
    monkeypatch.setattr("sys.stdout.isatty", lambda: in_terminal)
    print_table({"novelty": [0.5], "url": [url]})
    shown = "".join(capsys.readouterr().out.split())
    assert (url in shown) == (not in_terminal)
    assert (len(shown) < 250) == ("…" in shown) == in_terminal
    assert "https://a.example/" in shown
    assert shown.endswith("/end")


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


@pytest.mark.parametrize(
    "args", [["info"], ["rejects"], *(["top", "--format", form] for form in ("table", "csv", "jsonl"))]
)
def test_a_reader_may_go_away(small_run: str, args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(command(*args, small_run), stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("args", [["info"], ["verify", "--rows", "10"], ["top"], ["frobnicate"]])
def test_streams_may_be_closed(small_run: str, args: list[str], closed: str) -> None:
    typed = f"{shell_line(list(map(str, command(*args, small_run))))} {closed}"
    done = subprocess.run(["sh", "-c", typed], capture_output=True, timeout=60, check=False)
    assert done.returncode == (2 if args == ["frobnicate"] else 0), done.stderr


def test_log_level_may_stand_before_or_after_the_command(cli: Cli, tmp_path: Path) -> None:
    for args in (["--log-level", "debug", "info", tmp_path], ["info", tmp_path, "--log-level", "debug"]):
        assert "Traceback" in cli(*args).stderr
    assert "Traceback" not in cli("info", tmp_path).stderr


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599, "59 min 59 s"),
        (11220, "3 h 07 min"),
    ],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
