"""A user's mistake gives one clear message, exit status 2, and no run that looks finished."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pandas as pd
import pytest
from helpers import Cli, some_urls


def refused(cli: Cli, tmp_path: Path, *args: object, stdin: bytes | None = None) -> str:
    """Run the command, require that it refuses, and give its message."""
    out = tmp_path / "out.zarr"
    done = cli("run", *args, "--out", out, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert cli("top", out).returncode == 2
    return done.stderr


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_missing_file(cli: Cli, tmp_path: Path) -> None:
    assert "nothing.txt" in refused(cli, tmp_path, tmp_path / "nothing.txt")
    assert list(tmp_path.iterdir()) == []


def test_empty_glob(cli: Cli, tmp_path: Path) -> None:
    assert "*.gz" in refused(cli, tmp_path, tmp_path / "*.gz")


def test_directory_without_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(cli, tmp_path, tmp_path / "empty")


@pytest.mark.parametrize("name", ["urls.csv", "urls.tsv"])
def test_missing_column_names_file_column_and_those_there_are(cli: Cli, tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name, b"link,note\nhttp://a.example/,x\n".replace(b",", b"\t" if "tsv" in name else b",")
    )
    message = refused(cli, tmp_path, path)
    assert all(word in message for word in (name, "url", "link", "--url-column"))


def test_missing_parquet_column(cli: Cli, tmp_path: Path) -> None:
    pd.DataFrame({"link": ["http://a.example/"]}).to_parquet(tmp_path / "urls.parquet")
    message = refused(cli, tmp_path, tmp_path / "urls.parquet")
    assert all(word in message for word in ("urls.parquet", "url", "link"))


def test_missing_json_field(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.jsonl", b'{"link": "http://a.example/"}\n')
    assert all(word in refused(cli, tmp_path, path) for word in ("urls.jsonl", "url", "link"))


def test_missing_time_column(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.csv", b"url\nhttp://a.example/\n")
    assert "when" in refused(cli, tmp_path, path, "--time-column", "when")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_unreadable_file(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    path.chmod(0)
    assert "urls.txt" in refused(cli, tmp_path, path)


def test_truncated_gz_is_found_while_reading(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(some_urls(20_000)).encode())
    path = write(tmp_path / "urls.txt.gz", whole[: len(whole) // 2])
    message = refused(cli, tmp_path, path, "--scheduler", scheduler)
    assert "urls.txt.gz" in message
    assert "truncated" in message


def test_truncated_parquet(cli: Cli, tmp_path: Path) -> None:
    pd.DataFrame({"url": some_urls(100)}).to_parquet(tmp_path / "urls.parquet")
    whole = (tmp_path / "urls.parquet").read_bytes()
    assert "urls.parquet" in refused(cli, tmp_path, write(tmp_path / "urls.parquet", whole[:-30]))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"http://\nmailto:x@y.example\n"])
def test_no_url_at_all(cli: Cli, scheduler: str, tmp_path: Path, data: bytes) -> None:
    message = refused(cli, tmp_path, write(tmp_path / "urls.txt", data), "--scheduler", scheduler)
    assert "no URL in the input" in message


def test_no_scheduler_there(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    assert "tcp://127.0.0.1:9" in refused(cli, tmp_path, path, "--scheduler", "tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--memory-limit", "lots", "memory_limit"),
        ("--memory-limit", "64MiB", "--memory-limit"),
        ("--n-neighbors", "0", "n_neighbors"),
        ("--n-neighbors", "many", "--n-neighbors"),
        ("--max-line-bytes", "1", "max_line_bytes"),
    ],
)
def test_bad_setting(cli: Cli, tmp_path: Path, option: str, value: str, expected: str) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    assert expected in refused(cli, tmp_path, path, option, value)


def test_something_else_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    (tmp_path / "thesis").mkdir()
    write(tmp_path / "thesis" / "chapter.txt", b"years of work")
    done = cli("run", path, "--out", tmp_path / "thesis", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "thesis" / "chapter.txt").read_bytes() == b"years of work"


def test_changed_settings_and_inputs_are_refused(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\nhttp://b.example/\n")
    args = ("run", path, "--out", tmp_path / "run.zarr", "--scheduler", scheduler)
    assert cli(*args).returncode == 0
    again = cli(*args)
    assert again.returncode == 0
    assert "complete" in again.stderr
    other = cli(*args, "--n-neighbors", 3, "--fold-www")
    assert other.returncode == 2
    assert "neighbors.n_neighbors: was 10, now 3" in other.stderr
    assert "urls.fold_www: was False, now True" in other.stderr
    write(path, b"http://a.example/\nhttp://c.example/c\n")
    changed = cli(*args)
    assert changed.returncode == 2
    assert "input changed" in changed.stderr
    assert "urls.txt" in changed.stderr
    assert cli(*args, "--overwrite").returncode == 0
    assert "c.example" in cli("top", tmp_path / "run.zarr").stdout


def test_unknown_workflow_key_names_line_and_nearest(cli: Cli, tmp_path: Path) -> None:
    path = write(
        tmp_path / "w.yaml", b"inputs: [urls.txt]\nout: x.zarr\nneighbors:\n  # how many\n  n_neighbours: 5\n"
    )
    done = cli("run", path)
    assert done.returncode == 2
    assert "w.yaml:5" in done.stderr
    assert "n_neighbors" in done.stderr


@pytest.mark.parametrize(
    ("text", "line"), [(b"inputs: 5\nout: x\n", 1), (b"out: x\n", 1), (b"- a\n", None), (b"a: [\n", None)]
)
def test_bad_workflow(cli: Cli, tmp_path: Path, text: bytes, line: int | None) -> None:
    done = cli("run", write(tmp_path / "w.yaml", text))
    assert done.returncode == 2
    assert (f"w.yaml:{line}" if line else "w.yaml") in done.stderr
