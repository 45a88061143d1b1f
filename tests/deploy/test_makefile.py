"""`make install`: what it says, with stand-ins for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from helpers import ROOT

STAND_IN = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python; fi
"""


def make(folder: Path, target: str) -> list[str]:
    done = subprocess.run(
        ["make", "--no-print-directory", target, f"PYTHON={folder}/stand-in"],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},  # without what a make that runs these tests would tell this one
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_installing_says_how_long_it_takes_and_what_is_next_but_once(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "stand-in").write_text(STAND_IN)
    (tmp_path / "stand-in").chmod(0o755)
    begun = "installing pinned packages into .venv, which takes about two minutes"
    assert make(tmp_path, "install") == [begun, "installed; now: make demo"]
    assert begun not in make(tmp_path, "install")
    assert begun not in make(tmp_path, "demo")
    shutil.rmtree(tmp_path / ".venv")
    assert make(tmp_path, "demo") == [begun, ".venv/bin/python workflows/demo.py"]
