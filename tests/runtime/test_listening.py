"""Whatever a run starts listens on this machine alone, seen from the kernel's list of sockets."""

from __future__ import annotations

import socket
import subprocess
import warnings
from pathlib import Path

import psutil
import pytest
from runtime.faults import OPTIONS, kill_group, start, when

from noveltyflow.config import ClusterSettings
from noveltyflow.runtime import cluster
from noveltyflow.runtime.cluster import _free_dashboard, connect

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("address", ["18787", ":18787"])
def test_a_port_alone_is_one_of_this_machine_only(address: str) -> None:
    assert _free_dashboard(address) in ("127.0.0.1:18787", "127.0.0.1:0")


@pytest.mark.slow
@pytest.mark.parametrize("shown_to_all", [False, True])
def test_all_listen_on_loopback_but_for_a_dashboard_that_is_told_otherwise(
    shown_to_all: bool, urls: Path, tmp_path: Path
) -> None:
    port = free_port()
    options = [*OPTIONS, "--dashboard-address", f"0.0.0.0:{port}"] if shown_to_all else OPTIONS
    process = start(urls, tmp_path / "run.zarr", *options)
    when("reading", tmp_path / "run.zarr", process)
    found = listening(process)
    kill_group(process)
    beyond = {(ip, port) for ip, port in found if ip not in LOOPBACK}
    assert beyond == ({("0.0.0.0", port)} if shown_to_all else set())
    # A scheduler and its dashboard, two nannies, and two workers with theirs.
    assert len(found) >= 6


def test_a_port_that_is_taken_meanwhile_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_free_dashboard", lambda address: address)
    with socket.create_server(("127.0.0.1", 0)) as other, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        port = other.getsockname()[1]
        address = f"127.0.0.1:{port}"
        settings = ClusterSettings(backend="cpu", workers=1, memory_limit="1GiB", dashboard_address=address)
        with connect(settings) as client:
            assert f":{port}/" not in client.dashboard_link
    assert not [warning for warning in told if "already in use" in str(warning.message)]
