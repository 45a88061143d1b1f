"""Real kills of real processes: the run completes when it is started again, with the same bytes."""

from __future__ import annotations

import filecmp
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import Cli, command, some_urls

from noveltyflow import open_run
from noveltyflow.errors import StoreError

OPTIONS = ["--workers", "2", "--memory-limit", "1GiB", "--block-rows", "250"]
MOMENTS = {
    "reading": ".scratch/read/*.json",
    "shuffled": ".scratch/sorted/0*",
    "rows": "rows/url/c/*",
    "features": "features/000003/*",
    "idf": "idf/document_frequency/*",
    "tiles": ".scratch/strips/*.npz",
    "merging": "neighbors/indices/c/*/*",
}


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(["", "http://", *some_urls(4_000, seed=9)]))
    return path


@pytest.fixture(scope="module")
def undisturbed(cli: Cli, urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run.zarr"
    done = cli("run", urls, "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return out


def same_bytes(left: Path, right: Path) -> bool:
    names = [
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} for root in (left, right)
    ]
    assert names[0] == names[1]
    return filecmp.cmpfiles(left, right, sorted(names[0]), shallow=False)[0] == sorted(names[0])


def start(urls: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("run", urls, "--out", out, *OPTIONS),
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """As a shell starts a command in the foreground, even where these tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def when(moment: str, out: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the run has come to a stage."""
    deadline = time.monotonic() + 120
    while not any(out.glob(MOMENTS[moment])):
        assert process.poll() is None, "the run ended before it was hit"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_client(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "kill"),
    [*((moment, kill_group) for moment in MOMENTS), ("shuffled", kill_client), ("tiles", kill_client)],
)
def test_killed_run_continues(
    moment: str,
    kill: Callable[[subprocess.Popen[bytes]], None],
    cli: Cli,
    scheduler: str,
    urls: Path,
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    when(moment, out, process)
    kill(process)
    with pytest.raises(StoreError, match="unfinished"):
        open_run(str(out))
    # The same command again; or on another cluster, which is there already.
    options = OPTIONS if kill is kill_client else ["--block-rows", "250", "--scheduler", scheduler]
    again = cli("run", urls, "--out", out, *options)
    assert again.returncode == 0, again.stderr
    assert "continuing" in again.stderr
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
def test_killed_workers_are_replaced(urls: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    for moment in ("rows", "features", "tiles"):
        when(moment, out, process)
        for worker in workers_of(process)[:1]:
            worker.kill()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr.decode()
    assert same_bytes(out, undisturbed)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes; the nannies are threads of the command itself."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_says_how_to_go_on(
    sign: signal.Signals, cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    when("tiles", out, process)
    # A terminal sends Ctrl-C to the whole group.
    os.killpg(process.pid, sign) if sign is signal.SIGINT else process.terminate()
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert f"noveltyflow run {urls} --out {out}" in stderr
    assert "Traceback" not in stderr
    assert cli("run", urls, "--out", out, *OPTIONS).returncode == 0
    assert same_bytes(out, undisturbed)
