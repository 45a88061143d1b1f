"""A kill while tiles are computed costs those in flight: no tile that was stored is computed again."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from helpers import Cli
from runtime.faults import MOMENTS, OPTIONS, start, until

from noveltyflow.testing.runs import assert_same_content

FINE = [*OPTIONS, "--block-rows", "100", "--log-level", "debug"]
"""So many tiles that they last a while; each task tells how many of them it computed."""


def computed(stderr: str) -> int:
    """Tiles of all tasks that ended."""
    return sum(map(int, re.findall(r" (\d+) tiles of \d+ strips with blocks ", stderr)))


@pytest.mark.slow
def test_after_a_kill_only_tiles_that_were_not_stored_are_computed(
    cli: Cli, here: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out, *FINE)
    # Two workers have one strip each at first, so that some task has ended when there are more of them.
    until(lambda: len(list(out.glob(MOMENTS["tiles"]))) > 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    before = computed(process.communicate()[1].decode())
    facts = json.loads(here("info", out, "--json").stdout)
    assert 0 < before <= facts["tiles_done"] < facts["tiles"]
    again = cli("run", urls, "--out", out, *FINE)
    assert again.returncode == 0, again.stderr
    assert computed(again.stderr) == facts["tiles"] - facts["tiles_done"]
    assert_same_content(str(out), str(undisturbed))
