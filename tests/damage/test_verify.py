"""Damage done on purpose: `verify` names it, and `run --repair` brings back the very same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage.damaging import SETTINGS, assert_same_bytes, compute, flip, pipe, truncate
from helpers import Cli, some_urls

import noveltyflow.verify
from noveltyflow.errors import DamageError
from noveltyflow.run import open_run
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import neighbors
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.store import RunStore
from noveltyflow.testing.runs import content_files
from noveltyflow.verify import Audit, verify

DAMAGES = {"flipped": flip, "truncated": truncate, "missing": Path.unlink, "a pipe": pipe}
IN_PLACE = [
    "features/000002/indices/c/0",
    "features/000001/zarr.json",
    "idf/document_frequency/c/0",
    "neighbors/similarities/c/1/0",
    "neighbors/indices/c/3/0",
]
ANEW = ["rows/url/c/2", "rows/count/zarr.json", "rejects/line/c/0", "neighbors/zarr.json"]


def test_whole_run_has_no_problem_and_keeps_its_bytes(run: Path, whole: Path) -> None:
    audit = verify(str(run), rows=50)
    assert audit.problems == []
    assert audit.rows_rechecked == 50
    assert (
        audit.files
        == len([name for name in content_files(run) if not name.startswith(("stages", "checks"))]) - 1
    )
    assert open_run(str(run)).info()["audit"]["problems"] == []
    assert_same_bytes(run, whole)


def test_manifests_are_sha256sum_files(run: Path) -> None:
    for manifest in (run / "checksums").iterdir():
        subprocess.run(["sha256sum", "--check", "--quiet", manifest], cwd=run, check=True)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*IN_PLACE, *ANEW])
def test_damage_is_named_and_repaired(how: str, name: str, run: Path, whole: Path) -> None:
    DAMAGES[how](run / name)
    assert [problem for problem in verify(str(run)).problems if problem.startswith(name)]
    notes = compute(whole.parent, run, repair=True)
    assert any(note.startswith(f"damaged: {name}: ") for note in notes)
    assert verify(str(run)).problems == []
    assert_same_bytes(run, whole)


def test_a_repair_keeps_the_size_of_blocks(run: Path, whole: Path) -> None:
    flip(run / "rows/url/c/2")
    compute(whole.parent, run, repair=True, block_rows=None)
    assert_same_bytes(run, whole)


def test_blocks_of_another_size_leave_none_of_the_old_ones(run: Path, whole: Path, tmp_path: Path) -> None:
    flip(run / "stages/urls/zarr.json")
    compute(whole.parent, run, block_rows=150)
    compute(whole.parent, tmp_path / "fresh.zarr", block_rows=150)
    assert_same_bytes(run, tmp_path / "fresh.zarr")


@pytest.mark.parametrize(
    "lines", [["http://a.example/"], ["http://a.example/"] * 99, ["x://y", "http://a.example/"]]
)
def test_one_row_is_a_run(lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    compute(tmp_path)
    assert verify(str(tmp_path / "run.zarr")).problems == []


@pytest.mark.parametrize("name", ["stages/features/zarr.json", "checksums/features.sha256"])
def test_damage_to_what_vouches_is_repaired(name: str, run: Path, whole: Path) -> None:
    flip(run / name)
    compute(whole.parent, run, repair=True)
    assert_same_bytes(run, whole)


def test_only_the_damaged_blocks_are_computed_again(
    run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = []
    merge = neighbors.merge
    monkeypatch.setattr(
        neighbors, "merge", lambda store, block: merged.append(block.index) or merge(store, block)
    )
    flip(run / "neighbors/indices/c/3/0")
    compute(whole.parent, run, repair=True)
    assert merged == [3]


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("name", ["features/000001/data/c/0", "stages/neighbors/zarr.json"])
def test_an_audit_does_not_outlive_what_it_saw(name: str, repair: bool, run: Path, whole: Path) -> None:
    verify(str(run), rows=1)
    flip(run / name)
    compute(whole.parent, run, repair=repair)
    outdated = not repair and name.startswith("features")
    assert (RunStore(str(run)).aside("audit") is not None) == outdated


LINKED = [
    "features",
    "features/000001",
    "rows/url/c/2",
    "neighbors/indices/c/1/0",
    "neighbors/loop",
    "idf/gone",
]


@pytest.mark.parametrize("name", LINKED)
def test_links_are_named_and_replaced_and_not_followed(
    name: str, run: Path, whole: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.mkdir()
    (run / name).symlink_to(tmp_path / "absent" if name == "idf/gone" else outside)
    before = content_files(tmp_path / "outside")
    flip(run / "rejects/line/c/0")
    problems = verify(str(run)).problems
    assert any(problem.startswith(f"{name}: is reached by a link that leads out") for problem in problems)
    assert "rejects/line/c/0: differs from its checksum" in problems
    compute(whole.parent, run, repair=True)
    assert_same_bytes(run, whole)
    assert verify(str(run)).problems == []
    assert content_files(outside) == before


def test_a_link_within_the_run_is_damage_too_where_the_run_has_none(run: Path, whole: Path) -> None:
    (run / "features/000001").rename(run / "features/000009")
    (run / "features/000001").symlink_to("000009")
    assert "features/000001: was not stored by the run" in verify(str(run)).problems
    compute(whole.parent, run, repair=True)
    assert_same_bytes(run, whole)


def test_all_that_is_wrong_is_told_at_once(here: Cli, run: Path) -> None:
    flip(run / "stages/urls/zarr.json")
    shutil.rmtree(run / "stages/features")
    (run / "checksums/idf.sha256").unlink()
    (run / "stages/neighbors/zarr.json").rename(run / "elsewhere")
    (run / "stages/neighbors/zarr.json").symlink_to("/absent")
    (run / "audit.json").symlink_to("/absent")
    done = here("verify", run)
    assert done.returncode == 1
    told = done.stdout.splitlines()
    assert [line.removeprefix(f"{run}: ").removeprefix(f"{run}/") for line in told] == [
        "marker stages/urls is damaged",
        "stages/features: is missing",
        "checksums/idf.sha256 is damaged; give the same `noveltyflow run` command again with --repair",
        "stages/neighbors/zarr.json: is a link that leads out of the run folder; it is not followed",
    ]
    assert "0 rows rechecked, 4 problems" in done.stderr


def test_what_cannot_be_read_back_is_vouched_for_by_no_marker(run: Path) -> None:
    store = RunStore(str(run), writable=True)
    (run / "idf/gone").symlink_to("/absent")
    with pytest.raises(DamageError, match="idf/gone: is reached by a link that leads out"):
        finish(store, "idf", "x", SerialExecutor())
    assert store.figures("idf")["fingerprint"] != "x"


def test_unexpected_file_is_named_and_removed(run: Path, whole: Path) -> None:
    (run / "rows/url/c/99").write_bytes(b"stray")
    assert verify(str(run)).problems == ["rows/url/c/99: was not stored by the run"]
    compute(whole.parent, run, repair=True)
    assert_same_bytes(run, whole)


def forge(run: Path, name: str, row: object, value: object) -> list[str]:
    """Change stored values and all checksums with them, as a defect of the program would."""
    store = RunStore(str(run), writable=True)
    store.array(name)[row] = value
    stage = "urls" if name.startswith("rows") else name.split("/")[0]
    figures = store.figures(stage)
    print_ = figures.pop("fingerprint")
    del figures["checksum"]
    finish(store, stage, print_, SerialExecutor(), **figures)
    return verify(str(run), rows=300).problems


@pytest.mark.parametrize(
    ("name", "row", "value", "problem"),
    [
        ("rows/count", 7, 5, "lines read: the run says 302, but 30"),
        ("rows/count", 7, 0, "row block 0: a row was never seen"),
        ("rows/url", 7, "https://zz.example/", "row block 0: rows are not distinct and in SURT order"),
        ("rows/url", 7, "HTTPS://zz.example", "row block 0: holds a URL that is not canonical"),
        ("rows/first_seen", 7, 10**6, "row block 0: a row was first seen outside the input"),
        ("neighbors/indices", (7, 0), 7, "row block 0: a row is its own neighbour"),
        ("neighbors/indices", (7, 0), 10**6, "row block 0: a neighbour is no row of the run"),
        ("neighbors/similarities", (7, 0), 2.0, "row block 0: a similarity is not between 0 and 1"),
        ("neighbors/similarities", (7, 4), 1.0, "row block 0: similarities do not descend"),
        ("neighbors/indices", (7, 1), -1, "row block 0: an empty slot has a similarity"),
        ("idf/document_frequency", 3, 10**4, "idf/document_frequency: is not the sum"),
        ("features/000000/data", 3, 99, "row 0: stored features are not those of its URL"),
    ],
)
def test_wrong_values_with_right_checksums_are_found(
    name: str, row: object, value: object, problem: str, run: Path
) -> None:
    assert [found for found in forge(run, name, row, value) if found.startswith(problem)]


def test_wrong_neighbors_are_found_by_brute_force(run: Path) -> None:
    indices = np.asarray(RunStore(str(run)).array("neighbors/indices")[...])
    other = next(row for row in range(len(indices)) if row not in {70, *indices[70]})
    assert "row 70: a stored similarity is not that of the two rows" in forge(
        run, "neighbors/indices", (70, 0), other
    )


def test_missing_neighbor_is_found_by_brute_force(run: Path) -> None:
    for name in ("indices", "similarities"):
        values = np.asarray(RunStore(str(run)).array(f"neighbors/{name}")[70])
        fill = -1 if name == "indices" else -np.inf
        problems = forge(run, f"neighbors/{name}", 70, [*values[1:], fill])
    assert "row 70: a neighbour is missing" in problems


def test_rows_are_rechecked_in_parts_with_the_same_result(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = forge(run, "neighbors/indices", (slice(None), 0), 3)
    products = []
    product = noveltyflow.verify._product
    monkeypatch.setattr("noveltyflow.verify._SAMPLES", 7)
    monkeypatch.setattr(
        "noveltyflow.verify._product",
        lambda *args: products.append(args[0].shape[0]) or product(*args),
    )
    assert sorted(verify(str(run), rows=300).problems) == sorted(expected)
    assert max(products) == 7, "rows held at a time"
    assert verify(str(run), rows=0).rows_rechecked == 0


def test_other_header_is_found(run: Path) -> None:
    head = (run / "zarr.json").read_text()
    assert '"n_neighbors": 5' in head
    (run / "zarr.json").write_text(head.replace('"n_neighbors": 5', '"n_neighbors": 4'))
    assert any("stages/neighbors: was made with other settings" in p for p in verify(str(run)).problems)


def test_command_says_what_is_wrong_and_repairs_it(cli: Cli, scheduler: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(200)))
    out = tmp_path / "run.zarr"
    again = ("run", tmp_path / "urls.txt", "--out", out, "--scheduler", scheduler, "--block-rows", 50)
    made = cli(*again)
    assert made.returncode == 0
    assert "rows of 200 lines, 0 of them blank, 0 rejected" in made.stderr
    assert "noveltyflow rejects" not in made.stderr
    same = cli(*again).stderr
    assert "last audit" not in same
    unchecked = f"contents were not checked; noveltyflow verify {out} does that"
    assert same.startswith(f"{out} is complete; nothing to do ({unchecked})\n")
    good = cli("verify", out, "--json")
    assert good.returncode == 0, good.stderr
    assert Audit(**json.loads(good.stdout)).problems == []
    flip(out / "features/000001/data/c/0")
    bad = cli("verify", out)
    assert bad.returncode == 1
    assert bad.stdout == "features/000001/data/c/0: differs from its checksum\n"
    assert "1 problem\n" in cli("info", out).stdout
    command = f"  noveltyflow run {tmp_path / 'urls.txt'} --out {out} --block-rows 50 --repair\n"
    assert bad.stderr.endswith(f"1 problem\nto undo damage:\n{command}")
    for more in ((), ("--quiet",), ("--json",)):
        warned = cli(*again, *more)
        typed = " ".join(map(str, (*again, *more, "--repair")))
        said = f"noveltyflow: {out} is complete, but its last audit found damage; undo the damage with:"
        assert (warned.returncode, warned.stdout) == (1, "")
        assert warned.stderr == f"{said}\n  noveltyflow {typed}\n"
    mended = cli(*again, "--repair")
    assert mended.returncode == 0, mended.stderr
    assert "damaged: features/000001/data/c/0" in mended.stderr
    assert cli("verify", out).returncode == 0


def test_damage_is_told_by_the_status_when_nobody_reads(run: Path) -> None:
    flip(next((run / "rows" / "count").rglob("c/*")))
    command = (
        f'"{sys.executable}" -m noveltyflow verify "{run}" --quiet --rows 1 | true; exit ${{PIPESTATUS[0]}}'
    )
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=False).returncode == 1


def test_a_run_made_anew_behind_a_link_leaves_the_link(run: Path, whole: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(run)
    inputs = [str(whole.parent / "urls.txt")]
    plan = plan_run(inputs, str(link), SETTINGS, overwrite=True)
    execute(plan, SerialExecutor(), Silent(), block_rows=64, backend="cpu")
    assert link.is_symlink()
    assert content_files(run) == content_files(whole)
