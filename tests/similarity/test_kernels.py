from __future__ import annotations

import logging

import pytest

from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.similarity.kernels import registry
from noveltyflow.similarity.kernels.base import TileStats
from noveltyflow.similarity.kernels.cpu import CpuKernel


class Unusable(CpuKernel):
    def is_usable(self) -> bool:
        return False


def test_auto_says_what_it_chose(caplog, monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    with caplog.at_level(logging.INFO, "noveltyflow"):
        assert registry.get_kernel("auto").name == "cpu"
    assert "chose 'cpu'" in caplog.text


def test_auto_passes_over_what_cannot_run_here(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    assert registry.get_kernel("auto").is_usable()


def test_a_backend_asked_for_by_name_never_falls_back(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    with pytest.raises(ResourceError, match="'gpu'"):
        registry.get_kernel("gpu")


def test_auto_fails_where_nothing_can_run(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable})
    with pytest.raises(ResourceError, match="gpu"):
        registry.get_kernel()


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(SettingsError, match="auto, gpu, cpu"):
        registry.get_kernel("tpu")


def test_stats_add_up():
    assert TileStats(1, 2, 3, 4) + TileStats(10, 20, 30, 40) == TileStats(11, 22, 33, 44)
