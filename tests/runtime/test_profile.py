"""`--profile-memory`: what workers hold is recorded, also of those that are killed, and is no content of the run."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client
from helpers import Cli
from runtime.faults import OPTIONS, same_bytes, start, when, workers_of

from noveltyflow.errors import SettingsError
from noveltyflow.runtime.profile import MemoryProfile
from noveltyflow.runtime.progress import Silent


@pytest.mark.slow
def test_peaks_are_recorded_also_of_a_killed_worker(
    cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    process = start(urls, out, *OPTIONS, "--profile-memory")
    when("features", out, process)
    killed = workers_of(process)[0]
    killed.kill()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr.decode()
    assert same_bytes(out, undisturbed)
    facts = json.loads(cli("info", out, "--json").stdout)
    peaks = facts["memory_peaks"]
    workers = {peak["process"] for peak in peaks if peak["process"].startswith("worker")}
    assert len(workers) == 3
    assert any(name.endswith(f"-{killed.pid}") for name in workers)
    assert {peak["limit"] for peak in peaks if peak["process"] in workers} == {1 << 30}
    assert all(32 << 20 < peak["rss"] < 1 << 30 for peak in peaks)
    assert any(peak["process"].startswith("client") for peak in peaks)
    assert 0 < facts["kernel_share"] <= 1
    shown = cli("info", out).stdout
    assert "kernel_share" in shown
    assert f"-{killed.pid} " in shown
    assert "1,024 MiB" in shown


def test_an_address_is_refused() -> None:
    with pytest.raises(SettingsError, match="file system"):
        MemoryProfile(None, "s3://bucket/run.zarr", Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_samplers_end_with_the_command_however_it_ends(
    error: type[BaseException] | None, scheduler: str, tmp_path: Path
) -> None:
    """On a cluster that goes on without it."""

    def samplers() -> int:
        return sum(thread.name == "memory-profile" for thread in threading.enumerate())

    with Client(scheduler) as client:
        with (
            suppress(KeyboardInterrupt, ValueError),
            MemoryProfile(client, str(tmp_path), Silent()) as profile,
        ):
            profile.start("read", None, "lines")
            assert set(client.run(samplers).values()) == {1}
            if error is not None:
                raise error
        assert set(client.run(samplers).values()) == {0}
    assert samplers() == 0


def test_nobody_is_told_where_the_scheduler_is_gone(tmp_path: Path) -> None:
    class Lost:
        status = "connecting"

        def register_plugin(self, plugin: object) -> None:
            pass

    with MemoryProfile(Lost(), str(tmp_path), Silent()) as profile:
        profile.start("read", None, "lines")
