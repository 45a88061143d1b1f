"""What the figures were measured on, in words."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import psutil

_CODE = (":/", ":!benchmarks/RESULTS.md")
"""What may not differ from the commit; the table itself grows while benchmarks run."""
_PACKAGES = ("noveltyflow", "numba", "numpy", "scipy", "sparse_dot_topn", "sp_matmul_rs")


def describe_machine() -> str:
    """One line of Markdown: processor, memory, system, versions, commit, date and how busy it was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = [
        f"{_processor()}, {cores} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in _PACKAGES),
        *_commit(),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        f"load average {psutil.getloadavg()[0]:.1f} before the first line",
    ]
    return "; ".join(facts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown processor"


def _commit() -> list[str]:
    if shutil.which("git") is None:
        return []
    commit, changed = _git("describe", "--always"), _git("status", "--porcelain", "-uno", "--", *_CODE)
    return [] if commit is None else [f"commit {commit}{'-dirty' if changed else ''}"]


def _git(*arguments: str) -> str | None:
    command, folder = ["git", *arguments], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
