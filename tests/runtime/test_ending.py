"""Processes end without looking through all their objects once more."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "begins",
    [
        "import noveltyflow.runtime.ending",
        "import sys; from noveltyflow.cli import main; sys.argv = ['noveltyflow', '--version']; main()",
    ],
)
def test_nothing_is_left_to_look_through(begins: str) -> None:
    # What is registered first is called last.
    watch = "import atexit, gc; atexit.register(lambda: print('frozen:', gc.get_freeze_count() > 0))"
    done = subprocess.run(
        [sys.executable, "-c", f"{watch}\n{begins}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("frozen: True\n")
