"""`workflows/score_list.yaml`: what it says is true, and it runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from helpers import ROOT, Cli

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.workflow import load_workflow

WORKFLOW = ROOT / "workflows/score_list.yaml"


def test_it_shows_the_defaults() -> None:
    workflow = load_workflow(WORKFLOW)
    assert (workflow.inputs, workflow.out) == (["urls.txt.gz"], "urls.zarr")
    assert workflow.scoring == ScoringSettings()
    assert workflow.cluster == ClusterSettings(memory_limit="1GiB")


def test_it_runs_as_it_stands(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"https://host{i % 7}.example/section/{i % 13}/page-{i}?id={i * i}" for i in range(300)]
    (tmp_path / "urls.txt.gz").write_bytes(gzip.compress("\n".join(urls).encode()))
    monkeypatch.chdir(tmp_path)
    done = cli("run", WORKFLOW, "--workers", 1, "--json", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["path"], facts["rows"], facts["n_neighbors"]) == ("urls.zarr", 300, 10)
    assert (tmp_path / "urls.zarr/zarr.json").is_file()
