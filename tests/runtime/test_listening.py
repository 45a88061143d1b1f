"""Whatever a run starts listens on this machine alone, seen from the kernel's list of sockets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest
from runtime.faults import kill_group, start, when

LOOPBACK = {"127.0.0.1", "::1"}


def listening(process: subprocess.Popen[bytes]) -> set[tuple[str, int]]:
    """Addresses on which a command or any process that it started listens."""
    whole = psutil.Process(process.pid)
    sockets = [
        each
        for one in [whole, *whole.children(recursive=True)]
        for each in one.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    return {(each.laddr.ip, each.laddr.port) for each in sockets}


@pytest.mark.slow
def test_scheduler_workers_nannies_and_dashboard_listen_on_loopback(urls: Path, tmp_path: Path) -> None:
    process = start(urls, tmp_path / "run.zarr")
    when("reading", tmp_path / "run.zarr", process)
    found = listening(process)
    kill_group(process)
    assert {ip for ip, _ in found} <= LOOPBACK, found
    # A scheduler and its dashboard, two nannies, and two workers with theirs.
    assert len(found) >= 6
