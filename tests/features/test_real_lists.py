"""Real lists, hostile ones included, hash as scikit-learn hashes them; and the benchmark runs."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import HashingVectorizer as Reference

from noveltyflow.config import FeatureSettings
from noveltyflow.features.hashing import hash_block

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("NOVELTYFLOW_DATA", ROOT.parent / "shared" / "data"))
LISTS = ["gov_1m.txt.gz", "tweetfeed.csv.gz", "httpparams.csv.gz", "adblock_requests.txt.gz"]


@pytest.mark.parametrize("analyzer", ["char", "char_wb", "word"])
@pytest.mark.parametrize("name", LISTS)
def test_equals_scikit_learn_on_a_real_list(name: str, analyzer: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in NOVELTYFLOW_DATA or ../shared/data")
    with gzip.open(DATA / name, "rt") as lines:
        texts = list(islice(lines, 0, 20_000, 20))
    how = FeatureSettings(analyzer=analyzer)
    actual = hash_block(texts, how)
    expected = Reference(
        analyzer=analyzer, ngram_range=how.ngram_range, norm=None, alternate_sign=False
    ).transform(texts)
    assert_array_equal(actual.indptr, expected.indptr)
    assert_array_equal(actual.indices, expected.indices)
    assert_array_equal(actual.data, expected.data)


def test_benchmark_runs_on_a_small_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"http://a.gov/page/{i}?q=é\n" for i in range(50)))
    command = [sys.executable, "benchmarks/hashing.py", tmp_path / "list.txt", "--rows", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "30 rows of list.txt" in shown.stdout
    assert shown.stdout.count("x** | ≥ 10x, ") == 4
