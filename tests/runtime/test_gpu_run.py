"""Whole runs whose tiles are computed by the GPU kernel, on the emulated device."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pytest
from emulation.device import EmulatedDevice
from helpers import some_urls

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.errors import DeviceError
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.load import Load
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import indexed, tile
from noveltyflow.similarity.kernels import registry
from noveltyflow.similarity.kernels.base import DeviceKernel
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.gpu import GpuKernel
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import RunStore
from noveltyflow.testing.runs import assert_same_content
from noveltyflow.types import CsrMatrix

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=4)
)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.kept = 0
        """Most indexed spans that lay on the device after a task."""

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, amount: int) -> None:
        if "gpu" in indexed._SPANS:
            self.kept = max(self.kept, len(indexed.spans_of("gpu")))


class WithDevice(SerialExecutor):
    """A serial executor that knows how large the device is."""

    def __init__(self, device_bytes: int) -> None:
        super().__init__()
        self._device_bytes = device_bytes

    def device_memory(self) -> int | None:
        return self._device_bytes


@pytest.fixture
def device(library: ctypes.PyDLL, monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    device = EmulatedDevice(library, threads=32)
    monkeypatch.setitem(registry.KERNELS, "gpu", lambda: GpuKernel(device=device))
    monkeypatch.setattr(indexed, "_SPANS", {})
    return device


@pytest.fixture
def urls(tmp_path: Path) -> Path:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(90, seed=2)))
    return tmp_path / "urls.txt"


def run(
    urls: Path, backend: str, executor: SerialExecutor, settings: ScoringSettings = SETTINGS
) -> tuple[str, Notes]:
    out, reporter = str(urls.with_name(f"{backend}.zarr")), Notes()
    plan = plan_run([str(urls)], out, settings)
    execute(plan, executor, reporter, block_rows=30, backend=backend)
    return out, reporter


@pytest.mark.parametrize("device_bytes", [1 << 30, 150_000])
def test_content_and_plan(device_bytes: int, device: EmulatedDevice, urls: Path) -> None:
    expected, _ = run(urls, "cpu", SerialExecutor())
    found, reporter = run(urls, "gpu", WithDevice(device_bytes))
    assert_same_content(found, expected)
    (plan,) = (note for note in reporter.notes if "device memory" in note)
    assert ("tiles will be halved" in plan) is (device_bytes < 1 << 30)
    assert (device.released > 0) is (device_bytes < 1 << 30)
    assert device.xp.limit == device_bytes


@pytest.mark.parametrize(("device_bytes", "kept"), [(1 << 30, 3), (150_000, 1)])
def test_indexed_spans_are_kept_as_far_as_there_is_room_for_a_tile_beside(
    device_bytes: int, kept: int, device: EmulatedDevice, urls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tile.LARGEST_SPANS, "gpu", 30)
    _, reporter = run(urls, "gpu", WithDevice(device_bytes))
    assert reporter.kept == kept


@pytest.mark.parametrize("longest", [4, 60])
def test_several_blocks_are_read_at_a_time(
    longest: int, device: EmulatedDevice, urls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few of the URLs are as long as the longer n-grams, so that most blocks hold no entry at all.
    features = FeatureSettings(n_features=512, ngram_range=(longest, longest))
    settings = SETTINGS.model_copy(update={"features": features})
    at_once: list[int] = []

    def watched(store: RunStore, span: Sequence[Block], features: FeatureSettings, number: int) -> CsrMatrix:
        at_once.append(number)
        return load_span(store, span, features, number)

    expected, _ = run(urls, "cpu", SerialExecutor(), settings)
    load_span = tile.load_span
    monkeypatch.setattr(tile, "load_span", watched)
    monkeypatch.setattr(tile, "measured", lambda: Load(0, 1 << 34, 4, paused=False, host_free=1 << 40))
    found, _ = run(urls, "gpu", WithDevice(1 << 30), settings)
    assert_same_content(found, expected)
    assert max(at_once) == 4


def test_a_device_too_small_for_one_row_ends_the_run(device: EmulatedDevice, urls: Path) -> None:
    with pytest.raises(DeviceError, match="single row"):
        run(urls, "gpu", WithDevice(64))


def test_which_kernels_have_memory_of_their_own(device: EmulatedDevice) -> None:
    assert isinstance(GpuKernel(device=device), DeviceKernel)
    assert not isinstance(CpuKernel(), DeviceKernel)
