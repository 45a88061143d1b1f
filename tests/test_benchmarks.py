"""The benchmarks of neighbours and of whole runs work on generated rows, and their figures add up."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, some_urls


def run(script: str, *args: object, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{script}", *map(str, args)]
    environment = os.environ | {"NOVELTYFLOW_DATA": str(data), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def cells_of(table: str) -> dict[str, list[str]]:
    """Cells of every line of a Markdown table, by the first of them."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {cells[0]: [cell.strip() for cell in cells] for cells in lines}


def number(cell: str) -> float:
    """First number in a cell."""
    found = re.search(r"[\d.,]+", cell)
    assert found is not None, cell
    return float(found[0].strip(",").replace(",", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one generated list of 1,500 lines, duplicates included."""
    folder = tmp_path_factory.mktemp("data")
    with gzip.open(folder / "gov_1m.txt.gz", "wt") as file:
        file.writelines(f"{url}\n" for url in some_urls(1_500))
    return folder


@pytest.mark.slow
def test_neighbors_make_one_table(folder: Path, tmp_path: Path) -> None:
    only = ["gov 200k", "growth: gov [248]00k", "shape: short and long", "scoop timeline"]
    options = [option for pattern in only for option in ("--only", pattern)]
    done = run("neighbors.py", "--quick", *options, "--out", tmp_path / "table.md", data=folder)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "table.md").read_text()
    table = cells_of(text)
    assert "Quick run" in text
    assert "Left out: scoop timeline: scoop_timeline.csv.gz is not in" in text

    growth = [table[f"growth: gov {size}k"] for size in (200, 400, 800)]
    assert [int(number(cells[1])) for cells in growth] == [200, 400, 800]
    assert all(cells[5] == cells[6] == cells[7] == "" for cells in growth)
    assert re.search(r"exponent of \*\*-?\d+\.\d\d\*\*", text)
    assert growth[0][8:11] == table["gov 200k"][8:11], "the same rows take the same work"

    shape = table["shape: short and long"]
    assert [shape[1], shape[3]] == ["300", "10"]
    assert number(shape[11]) > 50, "one row in 300 has nearly all entries"
    for cells in (table["gov 200k"], shape):
        ours, peer, ratio = (number(cells[column]) for column in (4, 5, 6))
        assert (peer - 0.01) / (ours + 0.01) - 0.1 <= ratio <= (peer + 0.01) / max(ours - 0.01, 1e-3) + 0.1
        assert cells[5].split("(")[1].startswith(("sparse_dot_topn", "sp_matmul_rs"))
        assert number(cells[8]) > 0
        assert number(cells[10]) > 0
        assert cells[13] == "20 rows"


def test_a_pattern_without_a_case_is_refused(tmp_path: Path) -> None:
    done = run("neighbors.py", "--only", "nothing", "--out", tmp_path / "table.md", data=tmp_path)
    assert done.returncode == 1
    assert "no case matches ['nothing']; there are: gov 200k" in done.stderr


@pytest.mark.slow
def test_a_whole_run_equals_the_plain_loop(folder: Path) -> None:
    source = folder / "gov_1m.txt.gz"
    done = run("end_to_end.py", source, "--memory-limit", "1GiB", data=folder)
    assert done.returncode == 0, done.stderr
    cells = cells_of(done.stdout)[source.name]
    assert int(number(cells[1])) == len(set(some_urls(1_500)))
    through_dask, ratio = number(cells[2]), number(cells[4])
    plain = sum(map(float, cells[3].split(", "))) / 2
    assert ratio == pytest.approx(
        through_dask / plain, abs=0.1 * through_dask / plain / max(plain, 0.1) + 0.01
    )
    assert re.findall(r"(\w+) [\d.]+, [\d.]+ s", cells[7]) == [
        "read",
        "canonical",
        "hash",
        "weight",
        "search",
    ]
    assert "tile" in cells[6]


@pytest.mark.slow
def test_memory_shows_every_process_against_what_it_may_have(folder: Path) -> None:
    done = run("memory.py", "--memory-limit", "1GiB", data=folder)
    assert done.returncode == 0, done.stderr
    table = cells_of(done.stdout)
    assert set(table) == {"process", "client and scheduler", "worker 0", "worker 1"}
    for name in ("worker 0", "worker 1"):
        assert 100 < number(table[name][1]) < number(table[name][2]) == 1024
    assert 100 < number(table["client and scheduler"][1]) < 500
