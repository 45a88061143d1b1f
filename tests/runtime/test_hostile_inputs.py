"""Inputs that mean harm, in bounded memory; `benchmarks/hostile_inputs.py` has them in full size."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.base import tokenize
from helpers import Cli
from hostile_inputs import BEFORE, ZEROS, long_line, tiny_shards

from noveltyflow.config import InputSettings, ScoringSettings
from noveltyflow.errors import InputError
from noveltyflow.run import open_run
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages.read import ReadReport, partition_shards, read
from noveltyflow.store import Scratch
from noveltyflow.testing.fuzz import read_checked
from noveltyflow.testing.runs import assert_same_content
from noveltyflow.urls.shards import plan_shards

LONG = 256 << 20
MOST_MEMORY = 64 << 20

READ = """
import json, resource, sys
from noveltyflow.config import InputSettings
from noveltyflow.testing.fuzz import read_checked
from noveltyflow.testing.runs import assert_same_content

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

small, *long = sys.argv[1:]
read_checked(small, InputSettings())
before = peak()
for path in long:
    found = read_checked(path, InputSettings(max_ratio=10_000))
    print(json.dumps([peak() - before, found.n_records, [each[:3] for each in found.rejects]]))
"""


def test_an_endless_line_is_a_reject_and_takes_no_memory(tmp_path: Path) -> None:
    """256 times as long as what is read at a time, in every format that has lines, compressed or not."""
    (tmp_path / "small.txt.gz").write_bytes(gzip.compress(BEFORE))
    plain = long_line(tmp_path, LONG, packed=False)
    table, lines = tmp_path / "long.csv", tmp_path / "long.jsonl"
    for path, before, after in (
        (table, b'url\nhttp://a/\n"', b'\nhttp://b/"\nhttp://c/\n'),
        (lines, b'{"url": "http://a/"}\n{"url": "', b'"}\n{"url": "http://c/"}\n'),
    ):
        with path.open("wb") as file:
            file.write(before)
            file.seek(LONG, 1)
            file.write(after)
    packed = long_line(tmp_path, LONG, packed=True)
    paths = [tmp_path / "small.txt.gz", plain, packed, table, lines]
    done = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [records for _, records, _ in found] == [3, 3, 4, 3]
    assert all(
        rejects[0] == [1, 2, "too-long"] or rejects[0] == [1, 3, "too-long"] for _, _, rejects in found
    )
    assert max(taken for taken, _, _ in found) < MOST_MEMORY


def test_a_long_parquet_value_is_a_reject(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("long", 20 << 20)):
        urls = ["http://a/", "x" * size, "http://c/"]
        pq.write_table(pa.table({"url": urls}), tmp_path / f"{name}.parquet", compression="zstd")
    small, long = (tmp_path / f"{name}.parquet" for name in ("small", "long"))
    done = subprocess.run([sys.executable, "-c", READ, small, long], capture_output=True, check=True)
    taken, records, found = json.loads(done.stdout)
    assert (records, found) == (3, [[1, 2, "too-long"]])
    assert taken < 128 << 20


def test_a_parquet_column_that_grows_too_much_is_refused_by_its_sizes(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.parquet"
    table = pa.table({"url": ["http://a/", "x" * (70 << 20)]})
    pq.write_table(table, bomb, compression="zstd", use_dictionary=False)
    with pytest.raises(InputError, match=r"bomb\.parquet: .* more than 500 times as many.*--max-ratio"):
        plan_run([str(bomb)], str(tmp_path / "run.zarr"), ScoringSettings())


def test_a_long_value_in_a_dictionary_is_cut_once(tmp_path: Path) -> None:
    """Decoded, the rows that point at it would not fit into an array, nor into memory."""
    values = pa.DictionaryArray.from_arrays([0] * 8_000 + [1] * 192, ["x" * 300_000, "http://a/"])
    pq.write_table(pa.table({"url": values}), tmp_path / "urls.parquet")
    found = read_checked(str(tmp_path / "urls.parquet"), InputSettings())
    assert not isinstance(found, Exception)
    assert len(found.rejects) == 8_000
    assert {reject[2] for reject in found.rejects} == {"too-long"}
    assert found.n_records == 8_192


def test_a_small_file_that_says_a_long_value_again_and_again(tmp_path: Path) -> None:
    """In a dictionary, which no schema tells of; written out, each of these columns would be 160 GiB."""
    long = "x" * (20 << 20)
    for name, url, time in (
        ("small", "http://b/", "2020-01-01"),
        ("urls", long, "2020-01-01"),
        ("times", "http://b/", long),
    ):
        numbers = pa.array([0] * 9_000 + [None, 1], pa.int32())
        columns = [pa.DictionaryArray.from_arrays(numbers, pa.array([it, "0"])) for it in (url, time)]
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(columns, ["url", "time"]), path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 10_000
    paths = [tmp_path / f"{name}.parquet" for name in ("small", "urls", "times")]
    read = READ.replace("max_ratio=10_000", "time_column='time', max_ratio=100_000")
    done = subprocess.run([sys.executable, "-c", read, *paths], capture_output=True, check=True)
    taken, records, rejects = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
    assert records == (9_002, 9_002)
    assert [len(found) for found in rejects] == [9_000, 9_000]
    assert {reason for found in rejects for _, _, reason in found} == {"too-long", "bad-time"}
    assert max(taken) < 192 << 20


def test_distinct_long_values_are_read_some_at_a_time(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("long", 100_000)):
        urls = [f"{number}{'x' * size}" for number in range(4_000)]
        pq.write_table(pa.table({"url": urls}), tmp_path / f"{name}.parquet", compression="zstd")
    paths = [tmp_path / f"{name}.parquet" for name in ("small", "long")]
    done = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, check=True)
    taken, records, rejects = json.loads(done.stdout)
    assert (records, len(rejects)) == (4_000, 4_000)
    assert taken < 256 << 20, "all together are 381 MiB"


def test_an_endless_line_is_counted_and_stored(tmp_path: Path) -> None:
    compute(long_line(tmp_path, LONG, packed=False), tmp_path / "run.zarr")
    run = open_run(str(tmp_path / "run.zarr"))
    assert {name: run.info()[name] for name in ("lines_read", "lines_rejected", "rows")} == {
        "lines_read": 3,
        "lines_rejected": 1,
        "rows": 2,
    }
    rejects = run.rejects().compute()
    assert rejects["reason"].tolist() == ["too-long"]
    assert rejects["line"].tolist() == [2]


def test_a_bomb_is_refused_by_the_command_before_it_fills_anything(cli: Cli, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.txt.gz"
    bomb.write_bytes(gzip.compress(ZEROS * 100, 9))
    out = tmp_path / "run.zarr"
    done = cli("run", bomb, "--out", out, "--workers", 1, "--memory-limit", "1GiB")
    assert done.returncode == 2, done.stderr
    assert "bomb.txt.gz" in done.stderr
    assert "--max-ratio" in done.stderr
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 1 << 20


def test_what_the_client_keeps_of_a_piece_is_bounded_by_bytes(tmp_path: Path) -> None:
    kept = []
    for length, number in ((50, 2_000), (60_000, 600)):
        path = tmp_path / f"{length}.txt"
        path.write_text("".join(f"http://a.example/{i:05}/{'x' * length}\n" for i in range(number)))
        partitions = partition_shards(plan_shards([str(path)], InputSettings()))
        (report,) = read(partitions, Scratch(str(tmp_path / f"scratch-{length}")), InputSettings())
        assert isinstance(report, ReadReport)
        kept.append((len(report.samples), sum(map(len, report.samples)) // report.pieces))
    (short, _), (long, characters) = kept
    assert short >= 256
    assert 1 <= long < short
    assert characters <= 64 << 10


def test_to_name_tasks_by_their_shards_takes_little_memory(tmp_path: Path) -> None:
    shards = plan_shards([str(tiny_shards(tmp_path, 1_000))], InputSettings())
    tokenize(shards[:1])
    tracemalloc.start()
    tokens = {tokenize(shards), tokenize(shards), tokenize(shards[1:])}
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tokens) == 2
    assert taken < 500 * len(shards)


def test_a_run_refused_for_a_ratio_goes_on_with_a_larger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noveltyflow.urls.streams._UNMEASURED_BYTES", 0)
    packed = tmp_path / "urls.txt.gz"
    packed.write_bytes(gzip.compress(b"http://a.example/\n" * 9_999))
    with pytest.raises(InputError, match="--max-ratio"):
        compute(packed, tmp_path / "run.zarr", max_ratio=2)
    compute(packed, tmp_path / "run.zarr", max_ratio=10**6)
    compute(packed, tmp_path / "other.zarr", max_ratio=10**5)
    assert_same_content(str(tmp_path / "run.zarr"), str(tmp_path / "other.zarr"))
    head, other = (tmp_path / name / "zarr.json" for name in ("run.zarr", "other.zarr"))
    assert head.read_bytes() == other.read_bytes()


def test_many_tiny_shards_are_one_run(tmp_path: Path) -> None:
    compute(tiny_shards(tmp_path, 3_000), tmp_path / "run.zarr")
    info = open_run(str(tmp_path / "run.zarr")).info()
    assert (info["lines_read"], info["urls"], len(info["inputs"])) == (3_000, 3_000, 3_000)
    # Every task reads the head of the run, so that it must stay short.
    assert (tmp_path / "run.zarr" / "zarr.json").stat().st_size < 100_000


@pytest.mark.parametrize("change", ["gone", "cut", "grown"])
def test_a_shard_that_changes_before_it_is_read_is_named(change: str, tmp_path: Path) -> None:
    """After it was planned, when a run that was interrupted goes on, and in place of a shard without rows."""
    shards = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in shards:
        path.write_text(f"http://{path.stem}.example/\n")
    plan = plan_run([str(path) for path in shards], str(tmp_path / "run.zarr"), ScoringSettings())
    victim = shards[1]
    if change == "gone":
        victim.unlink()
    else:
        victim.write_text("" if change == "cut" else "http://b.example/\nhttp://d.example/\n")
    with pytest.raises(InputError, match=r"b\.txt: (no such file|has changed since the run was planned)"):
        execute(plan, SerialExecutor(), Silent(), block_rows=None, backend="cpu")
    assert not plan.store.finished("urls", plan.fingerprints["urls"])


def compute(source: Path, out: Path, **options: int) -> None:
    settings = ScoringSettings(input=InputSettings(**options))
    plan = plan_run([str(source)], str(out), settings)
    execute(plan, SerialExecutor(), Silent(), block_rows=None, backend="cpu")
