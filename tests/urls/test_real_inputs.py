"""Real lists are accounted for to the line."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import pytest
from reading import read_file, texts_of

from noveltyflow.config import InputSettings, UrlSettings
from noveltyflow.urls.canonical import canonicalize

DATA = Path(os.environ.get("NOVELTYFLOW_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no folder of real lists (NOVELTYFLOW_DATA)")


@pytest.mark.parametrize(
    ("name", "time_column", "n_records"),
    [
        ("httpparams.csv.gz", None, 31_067),
        ("tweetfeed.csv.gz", "timestamp", 408_722),
        ("adblock_requests.txt.gz", None, 21_023),
    ],
)
def test_every_line_is_a_record_and_every_record_is_accounted_for(name, time_column, n_records):
    found = read_file(DATA / name, InputSettings(time_column=time_column))
    with gzip.open(DATA / name) as file:
        assert found.n_lines == sum(1 for _ in file)
    assert found.n_records == n_records
    assert found.n_records == len(found.texts) + len(found.rejects) + found.n_blank
    if found.times is not None:
        assert found.times == sorted(found.times)


def test_hostile_parameters_are_read_as_they_are_and_stay_stable():
    texts = texts_of(read_file(DATA / "httpparams.csv.gz"))
    with gzip.open(DATA / "httpparams.csv.gz", "rt", newline="") as file:
        assert texts == [row["url"].strip(" \t") for row in csv.DictReader(file)]
    batch = canonicalize(texts, UrlSettings())
    accepted = [url for url in batch.urls if url is not None]
    assert len(accepted) == batch.reasons.count(None)
    assert len(accepted) > 10_000
    assert canonicalize(accepted, UrlSettings()).urls == accepted
