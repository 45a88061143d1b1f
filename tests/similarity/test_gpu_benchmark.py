"""That `benchmarks/gpu.py` runs through wherever there is a GPU, and says so where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, some_urls

from noveltyflow.features.vectorizer import HashingVectorizer
from noveltyflow.similarity.kernels.device import has_cuda

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpu_runs import compare_runs
from url_rows import count_ngrams, made_up_urls, read_urls, weighted_rows


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=500, cwd=ROOT, check=False)


@pytest.mark.slow
def test_all_of_it_runs_with_numpy_and_scipy_alone(library_path: Path, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(80)))
    done = run("tests/emulation/run_benchmark.py", library_path, tmp_path / "urls.txt", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO" not in done.stdout
    for part in ("adversarial", "upper bounds", "One strip", "cupyx sparse product", "The whole list"):
        assert part in done.stdout
    assert done.stdout.count("bit for bit: yes") == 1
    assert "skipped: no dask, distributed, dask_cuda, pydantic, zarr, numba here" in done.stdout
    assert done.stdout.count("failed") == done.stdout.count("No module named 'numba'") == 2


@pytest.mark.skipif(has_cuda(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_why() -> None:
    done = run("benchmarks/gpu.py")
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU to measure: ")
    assert done.stdout == ""


@pytest.mark.slow
def test_whole_runs_are_timed_and_compared() -> None:
    ((first, seconds, same, stages), (second, _, also, _)) = compare_runs(
        some_urls(60), ("cpu", "cpu+cpu"), 200
    )
    assert (first, second) == ("cpu", "cpu+cpu")
    assert same
    assert also
    assert seconds > 0
    assert "tile" in stages


@pytest.mark.skipif(has_cuda(), reason="this machine has a GPU")
def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="--backend cpu, or name a cluster"):
        list(compare_runs(some_urls(5), ("gpu",), 100))


def test_its_counts_equal_the_vectorizers() -> None:
    texts = [*some_urls(200), "", "ab", "HTTPS://A.example/%C3%A9?x=1#y"]
    ours = count_ngrams(texts, 1 << 20)
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(3, 5), norm=None, alternate_sign=False, dtype=np.float32
    )
    theirs = vectorizer.transform(texts)
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))


def test_its_rows_are_of_unit_length(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(500)))
    urls = read_urls(tmp_path / "urls.txt", 100)
    rows = weighted_rows([*urls, ""], threads=2)
    assert len(urls) == len(set(urls)) == 100
    norms = np.sqrt(rows.multiply(rows).sum(axis=1)).A1
    np.testing.assert_allclose(norms, [1.0] * 100 + [0.0], rtol=1e-6)


def test_made_up_urls_are_the_same_every_time() -> None:
    assert made_up_urls(300) == made_up_urls(300)
    assert len(made_up_urls(300)) > 290


def test_the_urls_of_a_table_are_taken(tmp_path: Path) -> None:
    (tmp_path / "urls.csv").write_text("label,url\n1,http://b.example/\n2,http://a.example/\n")
    assert read_urls(tmp_path / "urls.csv") == ["http://a.example/", "http://b.example/"]
