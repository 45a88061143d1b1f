"""The first records of every real list, through the command: nothing lost, and the neighbours scikit-learn finds."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import Cli

from noveltyflow import open_run
from noveltyflow.config import UrlSettings
from noveltyflow.export import export
from noveltyflow.testing.oracle import assert_graph_equals_sklearn
from noveltyflow.urls.canonical import canonicalize

LISTS = [
    *("adblock_requests.txt.gz", "gov_100k.txt.gz", "gov_1m.txt.gz", "hostnovel_gov.csv.gz"),
    *("httpparams.csv.gz", "inject_gov.csv.gz", "scoop_timeline.csv.gz", "tweetfeed.csv.gz"),
]
RECORDS, SAMPLE = 3_000, 200


def records_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        if ".csv" in path.name:
            yield from csv.DictReader(file)
        else:
            yield from ({"url": line.rstrip("\n")} for line in file)


def write(path: Path, records: list[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        if ".csv" in path.name:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        else:
            file.writelines(f"{record['url']}\n" for record in records)
    return path


@pytest.fixture(params=LISTS)
def records(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    if not (data / request.param).exists():
        pytest.skip(f"{request.param} is not in {data}")
    cut = list(islice(records_of(data / request.param), RECORDS))
    return write(tmp_path / request.param, cut), cut


def test_a_real_list_is_accounted_for_and_answered_exactly(
    records: tuple[Path, list[dict[str, str]]], here: Cli, scheduler: str, tmp_path: Path
) -> None:
    path, given = records
    timed = "timestamp" in given[0]
    options = ["--time-column", "timestamp"] if timed else []
    done = here("run", path, "--out", tmp_path / "run.zarr", "--scheduler", scheduler, "--quiet", *options)
    assert (done.returncode, done.stderr) == (0, "")
    run = open_run(str(tmp_path / "run.zarr"))
    for name in ("table.parquet", "graph.npz"):
        export(run, str(tmp_path / name))
    table = pd.read_parquet(tmp_path / "table.parquet")

    urls = canonicalize([record["url"] for record in given], UrlSettings()).urls
    assert run.info()["lines_read"] == len(given) == RECORDS
    assert dict(zip(table["url"], table["count"], strict=True)) == Counter(url for url in urls if url)
    assert [urls[first] for first in table["first_seen"]] == table["url"].tolist()
    assert [urls.index(url) for url in table["url"]] == table["first_seen"].tolist()
    assert len(run.rejects()) + table["count"].sum() + run.info()["lines_blank"] == RECORDS
    if timed:
        times = pd.to_datetime([record["timestamp"] for record in given], utc=True, format="ISO8601")
        earliest = pd.Series(times).groupby(urls).min()
        stored = run.frame().compute()
        assert (stored["first_time"].to_numpy() == earliest[stored["url"]].to_numpy()).all()

    rows = np.sort(np.random.default_rng(0).permutation(len(table))[:SAMPLE])
    graph = sp.load_npz(tmp_path / "graph.npz")
    assert_graph_equals_sklearn(graph, table["url"].tolist(), run.settings.features, 10, rows)
