from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import ROOT, Cli, command, some_urls
from hypothesis import settings

from noveltyflow.cli import cli as commands

# No example fails for the time it took: other processes may have held it up.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the real command in a process of its own."""

    def run(*args: object, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*args),
            input=stdin or b"",
            capture_output=True,
            timeout=300,
            env=os.environ | env,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run the command within this process, which costs no imports; errors of ours are raised as they are."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        words = [str(arg) for arg in args]
        done = CliRunner().invoke(commands, words, catch_exceptions=False)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real URL lists; without it, tests that need it say so and are skipped."""
    folder = Path(os.environ.get("NOVELTYFLOW_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real URL lists at {folder}; set NOVELTYFLOW_DATA")
    return folder


@pytest.fixture(scope="session")
def url_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file with blank lines, rejects and duplicates."""
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    lines = some_urls(400)
    lines[10:10] = ["", "http://", "bad\x01line", "mailto:someone@site.example", "  "]
    path.write_text("\n".join([*lines, *lines[:40]]) + "\n")
    return path


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a real cluster of two worker processes, shared by tests that do not kill it."""
    import dask
    from distributed import LocalCluster

    from noveltyflow.config import ClusterSettings
    from noveltyflow.runtime.cluster import DASK_CONFIG, local_cluster_options

    settings = ClusterSettings(workers=2, memory_limit="1GiB", dashboard_address="127.0.0.1:0")
    with dask.config.set(DASK_CONFIG), LocalCluster(**local_cluster_options(settings)) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def small_run(cli: Cli, url_list: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A complete run over `url_list`, made by the command with its embedded cluster."""
    out = tmp_path_factory.mktemp("runs") / "small.zarr"
    done = cli("run", url_list, "--out", out, "--workers", 2, "--memory-limit", "1GiB", "--block-rows", 150)
    assert done.returncode == 0, done.stderr
    return str(out)
