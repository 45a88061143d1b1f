"""A machine on which nothing was compiled yet: workers need no more memory there than anywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Cli, some_urls

LIMIT = 600 << 20
"""The least with which a worker starts."""


@pytest.mark.slow
def test_compiling_takes_no_memory_of_workers(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(500)))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "compiled"))

    def run(out: str) -> str:
        options = ("--workers", 2, "--memory-limit", LIMIT, "--profile-memory")
        done = cli("run", tmp_path / "urls.txt", "--out", tmp_path / out, *options)
        assert done.returncode == 0, done.stderr
        return done.stderr

    first = run("first.zarr")
    assert "compiling kernels before the first tile" in first
    assert "is gone" not in first
    assert "waiting for workers" not in first
    peaks = json.loads(cli("info", tmp_path / "first.zarr", "--json").stdout)["memory_peaks"]
    workers = [peak["rss"] for peak in peaks if peak["process"].startswith("worker")]
    assert max(workers) < 0.8 * LIMIT, "no worker was near to being paused"
    compiled = sorted(path.name[-6:] for path in (tmp_path / "compiled").rglob("search.search_rows-*.nbc"))
    assert compiled == [".1.nbc", ".1.nbc", ".2.nbc"], "each compiled once, and none later"
    assert "compiling kernels" not in run("second.zarr")
