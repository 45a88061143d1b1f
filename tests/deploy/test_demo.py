"""`make demo`: what it runs, and what it tells people to type next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, Cli


@pytest.mark.slow
def test_the_demo_scores_an_installed_package(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    few = Path(np.__file__).parent
    demo = [sys.executable, str(ROOT / "workflows/demo.py"), few]
    done = subprocess.run(demo, env=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["novelty", "count", "url", "nearest_url"]
    assert len(rows) == 15
    assert f"stand in {few.name}" in done.stderr
    assert "dashboard: http://127.0.0.1:" in done.stderr
    hints = [line.split() for line in done.stderr.splitlines() if line.startswith("  noveltyflow ")]
    assert [words[1] for words in hints] == ["top", "neighbors", "run"]
    for words in hints[:2]:
        again = cli(*words[1:], PYTHONPATH=str(ROOT))
        assert again.returncode == 0, again.stderr
        assert "://" in again.stdout
