"""Every input format, through the command and a real cluster, gives the same run."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
import zstandard
from helpers import Cli, some_urls

from noveltyflow.testing.runs import assert_same_content, run_content

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
URLS = [
    *some_urls(150, seed=3),
    "",
    "http://",
    "HTTPS://WWW.Site1.example:443/a/../b#part",
    "site2.example/x y",
]


def table(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(["note", "link"])
    writer.writerows([['a, "quoted"\nnote', url] for url in URLS])
    return out.getvalue().encode()


def content(suffix: str) -> bytes:
    if suffix == ".txt":
        return "\n".join(URLS).encode()
    if suffix == ".csv":
        return table(",")
    if suffix == ".tsv":
        return table("\t")
    if suffix == ".jsonl":
        return "\n".join(json.dumps({"page": {"link": url}}) for url in URLS).encode()
    out = io.BytesIO()
    pd.DataFrame({"link": URLS}).to_parquet(out, row_group_size=40)
    return out.getvalue()


OPTIONS = {
    ".txt": [],
    ".csv": ["--url-column", "link"],
    ".tsv": ["--url-column", "link"],
    ".jsonl": ["--url-column", "page.link"],
    ".parquet": ["--url-column", "link"],
}
CASES = [
    *[(".txt", compression) for compression in COMPRESS],
    (".csv", ""),
    (".csv", ".gz"),
    (".tsv", ".bz2"),
    (".jsonl", ".zst"),
    (".parquet", ""),
]


@pytest.fixture(scope="module")
def expected(cli: Cli, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("expected")
    (folder / "urls").write_bytes(content(".txt"))
    run(cli, scheduler, folder / "urls", out=folder / "run.zarr")
    return str(folder / "run.zarr")


def run(cli: Cli, scheduler: str, *args: object, out: Path, **more: object) -> None:
    done = cli("run", *args, "--out", out, "--scheduler", scheduler, "--quiet", **more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("suffix", "compression"), CASES)
def test_format(
    suffix: str, compression: str, here: Cli, scheduler: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / f"urls{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](content(suffix)))
    run(here, scheduler, path, *OPTIONS[suffix], out=tmp_path / "run.zarr")
    ignore = ("rejects/source", *([] if suffix == ".txt" else ["rejects/line"]))
    assert_same_content(str(tmp_path / "run.zarr"), expected, ignore=ignore)


def test_standard_input(cli: Cli, scheduler: str, expected: str, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    run(cli, scheduler, "-", out=out, stdin=gzip.compress(content(".txt")))
    assert_same_content(str(out), expected, ignore=("rejects/source",))
    assert set(run_content(str(out))["rejects/source"]) == {"-"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


def test_what_else_is_where_standard_input_is_kept_stays(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    own = tmp_path / "run.zarr.stdin" / "mine.txt"
    own.parent.mkdir()
    own.write_text("precious")
    run(cli, scheduler, "-", out=tmp_path / "run.zarr", stdin=content(".txt"))
    assert own.read_text() == "precious"
    assert list(own.parent.iterdir()) == [own]


@pytest.mark.parametrize("given", ["*.txt*", ""])
def test_glob_and_directory_are_read_in_name_order(
    given: str, here: Cli, scheduler: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number, start in enumerate(range(0, len(URLS), 50)):
        part = "\n".join(URLS[start : start + 50]).encode() + b"\n"
        (tmp_path / "in" / f"{number}.txt.gz").write_bytes(gzip.compress(part))
    run(here, scheduler, tmp_path / "in" / given, out=tmp_path / "run.zarr")
    assert_same_content(str(tmp_path / "run.zarr"), expected, ignore=("rejects/source", "rejects/line"))


def test_times_are_kept_and_bad_ones_are_rejects(here: Cli, scheduler: str, tmp_path: Path) -> None:
    from noveltyflow import open_run

    rows = [
        "url,at",
        "http://a.example/,2026-01-02 03:04:05",
        "http://a.example/,1",
        "http://b.example/,soon",
    ]
    (tmp_path / "urls.csv").write_text("\n".join([*rows, "http://c.example/,2026-01-02T03:04:05+02:00"]))
    run(here, scheduler, tmp_path / "urls.csv", "--time-column", "at", out=tmp_path / "run.zarr")
    opened = open_run(str(tmp_path / "run.zarr"))
    frame = opened.frame().compute().set_index("url")
    assert frame.loc["http://a.example/", "first_time"] == pd.Timestamp("1970-01-01T00:00:01Z")
    assert frame.loc["http://c.example/", "first_time"] == pd.Timestamp("2026-01-02T01:04:05Z")
    rejects = opened.rejects().compute()
    assert rejects[["line", "reason"]].to_numpy().tolist() == [[4, "bad-time"]]


@contextmanager
def s3_server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE)
    assert server.stderr is not None
    try:
        while b"Running on" not in server.stderr.readline():
            assert server.poll() is None
        # A server whose pipe is full would wait for ever.
        Thread(target=server.stderr.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_s3_in_and_out(cli: Cli, expected: str, tmp_path: Path) -> None:
    import s3fs

    with s3_server() as endpoint:
        env = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        bucket = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=endpoint)
        bucket.mkdir("lists")
        bucket.pipe("lists/urls.txt.gz", gzip.compress(content(".txt")))
        options = ["--workers", 1, "--memory-limit", "1GiB", "--quiet"]
        done = cli("run", "s3://lists/urls.txt.gz", "--out", tmp_path / "run.zarr", *options, **env)
        assert (done.returncode, done.stderr) == (0, "")
        assert_same_content(str(tmp_path / "run.zarr"), expected, ignore=("rejects/source",))
        done = cli("run", "s3://lists/urls.txt.gz", "--out", "s3://lists/run.zarr", *options, **env)
        assert (done.returncode, done.stderr) == (0, "")
        bucket.invalidate_cache()
        bucket.get("lists/run.zarr", str(tmp_path / "copy.zarr"), recursive=True)
        assert_same_content(str(tmp_path / "copy.zarr"), expected, ignore=("rejects/source",))
        missing = cli("run", "s3://lists/nothing.txt", "--out", tmp_path / "x.zarr", **env)
        assert missing.returncode == 2
        assert "s3://lists/nothing.txt" in missing.stderr
