"""`benchmarks/check_run.py` passes a sound run and finds what is wrong with others."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr
from helpers import ROOT


@pytest.fixture(scope="module")
def check_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_run", ROOT / "benchmarks/check_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(
    check_run: ModuleType, small_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[zarr.Group, ModuleType]:
    """A copy of a sound run that may be spoilt, and the script, which will look at it."""
    shutil.copytree(small_run, tmp_path / "run.zarr")
    monkeypatch.setattr("sys.argv", ["check_run.py", str(tmp_path / "run.zarr"), "--rows", "1000"])
    return zarr.open_group(tmp_path / "run.zarr", mode="r+"), check_run


def test_a_sound_run_passes(check: tuple[zarr.Group, ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    assert check[1].main() == 0
    shown = capsys.readouterr()
    assert "445 lines read = 4 blank + 6 rejects + 435 counted" in shown.out
    assert "rows equal brute force over scikit-learn (k = 10, ties aware)" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("name", "at", "told"),
    [
        ("neighbors/similarities", (7, 3), "the similarities differ"),
        ("neighbors/indices", (7, 3), "stand only in"),
        ("rows/count", 7, "lines read, but"),
    ],
)
def test_a_wrong_number_is_found(
    name: str,
    at: int | tuple[int, int],
    told: str,
    check: tuple[zarr.Group, ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    group, script = check
    values = np.asarray(group[name][...])
    values[at] = values[at] * np.float32(0.999) if values.dtype.kind == "f" else values[at] + 1
    group[name][...] = values
    assert script.main() == 1
    assert told in capsys.readouterr().err


def test_no_run_is_a_clear_error(
    check_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check_run.py", str(tmp_path / "nothing.zarr")])
    assert check_run.main() == 1
    assert "no run here" in capsys.readouterr().err
