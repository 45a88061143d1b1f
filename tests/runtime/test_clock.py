"""The time of day goes back by an hour every second, for every process of the run: nothing depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Cli
from runtime.faults import OPTIONS, kill_group, same_bytes, start, when

TWO_LOOKS = "import time; a = time.time(); time.sleep(1.5); print(a - time.time() > 3000)"


@pytest.fixture(scope="module")
def backwards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that moves the clock of whatever is started with it."""
    library = tmp_path_factory.mktemp("clock") / "backwards.so"
    source = Path(__file__).with_name("backwards.c")
    compiler = os.environ.get("CC", "gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    seen = subprocess.run(
        [sys.executable, "-c", TWO_LOOKS],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        check=True,
    )
    assert seen.stdout == b"True\n", "the clock was not moved"
    return str(library)


@pytest.mark.slow
def test_clock_that_jumps_back(
    backwards: str, cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A run is killed in the middle, and goes on; the lock of the dead process, from the future, is broken."""
    out = tmp_path / "run.zarr"
    process = start(urls, out, LD_PRELOAD=backwards)
    when("tiles", out, process)
    kill_group(process)
    assert (tmp_path / ".run.zarr.lock").exists()
    again = cli("run", urls, "--out", out, *OPTIONS, LD_PRELOAD=backwards)
    assert again.returncode == 0, again.stderr
    assert "continuing" in again.stderr
    assert not (tmp_path / ".run.zarr.lock").exists()
    assert same_bytes(out, undisturbed)
