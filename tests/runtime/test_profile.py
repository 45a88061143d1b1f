"""`--profile-memory`: what workers hold is recorded, also of those that are killed, and is no content of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Cli
from runtime.faults import OPTIONS, same_bytes, start, when, workers_of


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


def test_an_address_is_refused(cli: Cli, urls: Path) -> None:
    from noveltyflow.errors import SettingsError
    from noveltyflow.runtime.profile import MemoryProfile
    from noveltyflow.runtime.progress import Silent

    with pytest.raises(SettingsError, match="file system"):
        MemoryProfile(None, "s3://bucket/run.zarr", Silent())  # type: ignore[arg-type]
