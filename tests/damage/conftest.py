from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damage.damaging import compute
from helpers import some_urls


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "urls.txt").write_text("\n".join([*some_urls(300, seed=5), "", "http://"]))
    compute(folder)
    return folder / "run.zarr"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run.zarr"))
