"""Real kills of real processes: the run completes when it is started again, with the same bytes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import Cli
from runtime.faults import (
    CLUSTER,
    MOMENTS,
    OPTIONS,
    kill_client,
    kill_group,
    same_bytes,
    start,
    until,
    when,
    workers_of,
)

from noveltyflow import open_run
from noveltyflow.errors import StoreError

DONE_BEFORE = {
    "reading": [],
    "shuffled": [],
    "rows": [],
    "features": ["urls"],
    "idf": ["urls", "features"],
    "tiles": ["urls", "features", "idf"],
    "merging": ["urls", "features", "idf"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "kill"),
    [
        *((moment, kill_group) for moment in MOMENTS if moment != "shuffled"),
        *((moment, kill_client) for moment in ("reading", "shuffled", "idf", "tiles")),
    ],
)
def test_killed_run_continues(
    moment: str,
    kill: Callable[[subprocess.Popen[bytes]], None],
    cli: Cli,
    here: Cli,
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
    facts = json.loads(here("info", out, "--json").stdout)
    assert (facts["complete"], facts["stages_done"]) == (False, DONE_BEFORE[moment])
    assert (facts.get("tiles_done", 0) > 0) == (moment in ("tiles", "merging"))
    assert "tiles" not in facts or 0 <= facts["tiles_done"] <= facts["tiles"] == facts["blocks"] ** 2
    # The same command again; or on another cluster, which is there already.
    assert shlex.split(facts["continue_with"])[-2:] == ["--block-rows", "250"]
    options = CLUSTER if kill is kill_client else ["--scheduler", scheduler]
    again = cli(*shlex.split(facts["continue_with"])[1:], *options)
    assert again.returncode == 0, again.stderr
    assert "continuing" in again.stderr
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
def test_killed_workers_are_replaced(urls: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Each worker in turn, again and again: always the one that has lived longest."""
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    killed: list[psutil.Process] = []

    def alive() -> list[psutil.Process]:
        return [worker for worker in workers_of(process) if worker not in killed]

    when("rows", out, process)
    first = alive()
    for moment in ("rows", "features", "idf", "tiles", "tiles", "merging"):
        when(moment, out, process)
        until(lambda: len(alive()) == 2, process)
        killed.append(min(alive(), key=psutil.Process.create_time))
        killed[-1].kill()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr.decode()
    assert len({worker.pid for worker in killed}) == 6
    assert len(first) == 2
    assert set(first) <= set(killed)
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("wakes", [True, False])
def test_stopped_worker_is_waited_for_or_left_behind(
    wakes: bool, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out, **({} if wakes else {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s"}))
    when("tiles", out, process)
    stopped = workers_of(process)[0]
    stopped.suspend()
    if wakes:
        time.sleep(60)
        stopped.resume()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr.decode()
    assert not stopped.is_running()
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
def test_second_command_on_one_folder_is_refused(
    cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    when("reading", out, process)
    for more in ([], ["--overwrite"]):
        second = cli("run", urls, "--out", out, *OPTIONS, *more)
        assert second.returncode == 2
        assert f"process {process.pid} " in second.stderr
    assert process.wait(timeout=240) == 0
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "moment"),
    [(signal.SIGINT, "starting"), (signal.SIGTERM, "tiles")],
)
def test_interrupted_run_says_how_to_go_on(
    sign: signal.Signals, moment: str, cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out)
    if moment == "starting":
        until(lambda: bool(workers_of(process)), process)
    else:
        when(moment, out, process)
    # A terminal sends Ctrl-C to the whole group.
    os.killpg(process.pid, sign) if sign is signal.SIGINT else process.terminate()
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert f"noveltyflow run {urls} --out {out}" in stderr
    assert "Traceback" not in stderr
    assert "distributed" not in stderr
    assert cli("run", urls, "--out", out, *OPTIONS).returncode == 0
    assert same_bytes(out, undisturbed)
