from __future__ import annotations

import base64
import json
import pickle
import tracemalloc
import zlib
from pathlib import Path

import anndata_layout
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from noveltyflow.errors import DamageError, StoreError
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import read_csr, write_csr


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(str(tmp_path / "run.zarr"), {"settings": {"a": 1}, "inputs": []})


def test_header_survives(store: RunStore) -> None:
    again = RunStore(store.path)
    assert again.header["settings"] == {"a": 1}
    assert again.holds_run()
    assert pickle.loads(pickle.dumps(store)).header == store.header


def test_stage_is_finished_only_with_its_fingerprint(store: RunStore) -> None:
    assert not store.finished("urls", "x")
    with pytest.raises(StoreError, match="unfinished"):
        store.figures("urls")
    store.mark("urls", "x", rows=3)
    assert store.finished("urls", "x")
    assert not store.finished("urls", "y")
    assert store.figures("urls")["rows"] == 3


@pytest.mark.parametrize(
    "matrix", [sp.random(50, 1 << 20, 0.0001, "csr", np.float32, 0), sp.csr_matrix((3, 7))]
)
def test_csr_blocks_follow_anndata(store: RunStore, matrix: sp.csr_matrix) -> None:
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    write_csr(store, 0, matrix)
    again = read_csr(store, 0)
    assert again.shape == matrix.shape
    assert (again != matrix).nnz == 0
    assert (anndata_layout.read(zarr.open_group(store.path, mode="r")["features/000000"]) != matrix).nnz == 0


def test_flipped_bit_is_an_error_not_another_value(store: RunStore) -> None:
    store.put("x", np.arange(10_000))
    chunk = Path(store.path) / "x" / "c" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(bytes(damaged))
    with pytest.raises((RuntimeError, ValueError)):
        RunStore(store.path).array("x")[...]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        RunStore(str(tmp_path / "nothing")).root
    zarr.create_group(str(tmp_path / "other"))
    with pytest.raises(StoreError, match="not a run of noveltyflow"):
        RunStore(str(tmp_path / "other")).root
    with pytest.raises(StoreError, match="exists and is not a run"):
        RunStore(str(tmp_path / "other")).require_free()
    with pytest.raises(StoreError, match="memory"):
        RunStore.create("memory://x", {})


def test_other_schema_version_is_refused(store: RunStore) -> None:
    root = zarr.open_group(store.path, mode="r+")
    root.attrs["noveltyflow"] = {**store.header, "schema_version": 999}
    with pytest.raises(StoreError, match="999"):
        RunStore(store.path).root


def test_links_out_of_the_folder_are_not_followed(store: RunStore, tmp_path: Path) -> None:
    store.put("x", np.arange(10))
    outside = tmp_path / "outside"
    (Path(store.path) / "x" / "c").rename(outside)
    (Path(store.path) / "x" / "c").symlink_to(outside)
    for access in (lambda: RunStore(store.path).read("x"), lambda: store.array("x").__setitem__(0, 5)):
        with pytest.raises(StoreError, match="link that leads out"):
            access()
    (Path(store.path) / "features").symlink_to(outside)
    (outside / "000000").mkdir()
    with pytest.raises(StoreError, match="link that leads out"):
        store.preallocate("features/000000", (5,), 5, int)
    assert (outside / "000000").is_dir(), "what is made anew is removed first"
    (Path(store.path) / ".scratch").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="link that leads out"):
        store.scratch.write("precious", b"written")
    assert not (tmp_path / "precious").exists()
    assert outside.is_dir()


def test_a_head_made_to_fill_memory_is_damaged(store: RunStore) -> None:
    packing = zlib.compressobj()
    bomb = [packing.compress(b"[" + b" " * (1 << 20)) for _ in range(120)]
    head = json.loads((Path(store.path) / "zarr.json").read_text())
    head["attributes"]["noveltyflow"]["inputs"] = base64.b64encode(
        b"".join([*bomb, packing.flush()])
    ).decode()
    (Path(store.path) / "zarr.json").write_text(json.dumps(head))
    tracemalloc.start()
    with pytest.raises(DamageError, match=r"zarr\.json is damaged"):
        RunStore(store.path).header
    assert tracemalloc.get_traced_memory()[1] < 150 << 20
    tracemalloc.stop()


DEEP = "[" * 100_000


@pytest.mark.parametrize("member", ["", '"attributes": '])
def test_a_head_nested_without_end_is_damaged(member: str, store: RunStore) -> None:
    (Path(store.path) / "zarr.json").write_text(f"{{{member}{DEEP}" if member else DEEP)
    with pytest.raises(DamageError, match=r"zarr\.json is damaged"):
        RunStore(store.path).root
    with pytest.raises(DamageError, match=r"zarr\.json is damaged"):
        store.require_free()
    assert not store.holds_run()


def test_what_is_nested_without_end_is_damaged(store: RunStore) -> None:
    store.mark("urls", "x")
    store.put("y", np.arange(3))
    for name in ("audit.json", "stages/urls/zarr.json", "y/zarr.json"):
        (Path(store.path) / name).write_text(DEEP)
    with pytest.raises(DamageError, match=r"audit\.json is damaged"):
        store.aside("audit")
    assert store.marker("urls") is None
    assert store.allocated("y") is None
    with pytest.raises(DamageError, match="y is damaged"):
        store.read("y")
