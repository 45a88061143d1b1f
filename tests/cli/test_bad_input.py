"""A user's mistake gives one clear message, exit status 2, and no run that looks finished."""

from __future__ import annotations

import ctypes
import gzip
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from helpers import Cli, command, some_urls

from noveltyflow import open_run
from noveltyflow.errors import StoreError

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def refused(cli: Cli, tmp_path: Path, *args: object, stdin: bytes | None = None) -> str:
    """Run the command, require that it refuses, and give its message."""
    out = tmp_path / "out.zarr"
    done = cli("run", *args, "--out", out, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    with pytest.raises(StoreError):
        open_run(str(out))
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


def test_a_table_without_a_header_is_not_told_to_lose_its_first_row(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.csv", b"https://a.example/b,2026\nhttps://a.example/c,2026\n")
    said = refused(cli, tmp_path, path)
    assert "no header: give it one, or read one URL a line with --format text" in said
    assert "--url-column" not in said


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


def obey_permissions() -> None:
    """Take from root what lets it read every file."""
    if os.geteuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    path.chmod(0)
    run = command("run", path, "--out", tmp_path / "out.zarr")
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, preexec_fn=obey_permissions)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}: permission denied" in done.stderr
    assert not (tmp_path / "out.zarr").exists()


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
    assert [path.name for path in tmp_path.iterdir()] == ["urls.txt"]


def test_no_scheduler_there(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    assert "tcp://127.0.0.1:9" in refused(cli, tmp_path, path, "--scheduler", "tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--memory-limit", "lots", "memory_limit"),
        ("--memory-limit", "0", "memory_limit '0' is not a number of bytes"),
        ("--memory-limit", "64MiB", "--memory-limit"),
        ("--n-neighbors", "0", "--n-neighbors: "),
        ("--n-neighbors", "many", "--n-neighbors"),
        ("--max-line-bytes", "1", "--max-line-bytes: "),
        ("--dashboard-address", "here", "--dashboard-address: "),
    ],
)
def test_bad_setting(cli: Cli, tmp_path: Path, option: str, value: str, expected: str) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    assert expected in refused(cli, tmp_path, path, option, value)


@pytest.mark.parametrize("option", ["--device-memory-limit", "--rmm-pool-size"])
def test_what_is_for_gpus_is_refused_where_only_cpus_compute(cli: Cli, tmp_path: Path, option: str) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    said = refused(cli, tmp_path, path, option, "1GiB", "--backend", "cpu")
    assert f"{option[2:].replace('-', '_')} would do nothing: backend cpu uses no GPU" in said


def test_something_else_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    (tmp_path / "thesis").mkdir()
    write(tmp_path / "thesis" / "chapter.txt", b"years of work")
    done = cli("run", path, "--out", tmp_path / "thesis", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "thesis" / "chapter.txt").read_bytes() == b"years of work"


def test_run_folder_that_cannot_be_made(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    path = write(tmp_path / "urls.txt", b"http://a.example/\n")
    done = cli("run", path, "--out", path / "run.zarr", "--scheduler", scheduler)
    assert done.returncode == 2
    assert f"{path}/run.zarr: cannot be made" in done.stderr


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
    blocks = cli(*args, "--block-rows", 1)
    assert blocks.returncode == 2
    assert "blocks of 2 rows, now 1" in blocks.stderr
    write(path, b"http://a.example/\nhttp://c.example/c\n")
    changed = cli(*args)
    assert changed.returncode == 2
    assert "input changed" in changed.stderr
    assert "urls.txt" in changed.stderr
    assert cli(*args, "--overwrite").returncode == 0
    assert "c.example" in cli("top", tmp_path / "run.zarr").stdout
