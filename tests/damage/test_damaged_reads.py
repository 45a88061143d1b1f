"""Whoever reads what is damaged is told which file it is, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from damage.damaging import flip, pipe
from helpers import Cli

from noveltyflow.errors import DamageError
from noveltyflow.run import open_run
from noveltyflow.store.profile import open_stages

DAMAGED_READS = {
    "rows/count/c/0": ("top", "export"),
    "rows/first_seen/c/4": ("export",),
    "rows/url/c/1": ("top", "neighbors", "export"),
    "neighbors/indices/c/0/0": ("top", "neighbors", "export"),
    "neighbors/similarities/c/0/0": ("top", "neighbors", "export"),
}
"""By the damaged file, which questions come to it."""


@pytest.mark.parametrize("name", DAMAGED_READS)
@pytest.mark.parametrize("how", ["flipped", "cut off", "missing"])
def test_who_asks_for_what_is_damaged_is_told_its_name_and_the_remedy(
    how: str, name: str, cli: Cli, run: Path, whole: Path, tmp_path: Path
) -> None:
    first = open_run(str(run)).frame().head(1)["url"].iloc[0]
    arguments = {"top": ["-n", 300], "neighbors": [first], "export": [tmp_path / "rows.csv"]}
    if how == "missing":
        (run / name).unlink()
    elif how == "flipped":
        flip(run / name)
    else:
        (run / name).write_bytes((run / name).read_bytes()[:-3])
    array = name.split("/c/")[0]
    for command in DAMAGED_READS[name]:
        done = cli(command, run, *arguments[command])
        assert done.returncode == 1
        said = f"chunk {name} is missing" if how == "missing" else rf"{array}, rows \d+-\d+ is damaged \(.*\)"
        ready = f"noveltyflow run {whole.parent / 'urls.txt'} --out {run} .*--repair"
        told = rf"^noveltyflow: \S*{run}: {said}; undo the damage with:\n  {ready}$"
        assert re.search(told, done.stderr, re.MULTILINE), command
        assert 'b"' not in done.stderr
        assert "b'" not in done.stderr
    assert not (tmp_path / "rows.csv").exists()


def test_damaged_chunk_is_an_error_that_names_it_when_read(run: Path) -> None:
    flip(run / "rows/url/c/0")
    (run / "neighbors/indices/c/1/0").unlink()
    flip(run / "neighbors/similarities/c/2/0")
    opened = open_run(str(run))
    with pytest.raises(DamageError, match=r"neighbors/similarities, rows 128-191 is damaged.*--repair"):
        opened.scores().compute()
    flip(run / "neighbors/similarities/c/2/0")
    with pytest.raises(DamageError, match=r"rows/url, rows 0-63 is damaged.*--repair"):
        opened.top(1000)
    with pytest.raises(DamageError, match=r"neighbors/indices/c/1/0 is missing.*--repair"):
        opened.neighbor_block(opened.blocks[1])


@pytest.mark.parametrize("content", ["x", "[1]"])
def test_a_damaged_audit_is_named(cli: Cli, run: Path, content: str) -> None:
    (run / "audit.json").write_text(content)
    done = cli("info", run)
    assert done.returncode == 1
    assert f"{run}/audit.json is damaged; remove it" in done.stderr


def ask_everything(run: str) -> None:
    opened = open_run(run)
    opened.info()
    opened.top(len(opened))
    opened.neighbor_block(opened.blocks[0])


@pytest.mark.parametrize(
    "name",
    [
        "zarr.json",
        "rows/url/zarr.json",
        "audit.json",
        "work.json",
        "memory/worker.csv",
        "neighbors/indices/c/0/0",
    ],
)
def test_a_pipe_among_the_files_of_a_run_is_named_and_not_waited_for(name: str, run: Path) -> None:
    open_stages(str(run)).close()
    pipe(run / name)
    with pytest.raises(DamageError, match=f"{name}: is neither a file nor a folder, .*remove it"):
        ask_everything(str(run))
