"""The benchmarks of neighbours and of whole runs work on generated rows, and their figures add up."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forecast
import memory
import neighbors
import numpy as np
import pytest
import simulated_rows
from helpers import ROOT, some_urls
from kneighbors import ours, peers
from kneighbors.cases import Case
from kneighbors.matrices import build
from kneighbors.table import Line

from noveltyflow import cosine_kneighbors


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
    assert growth[0][8:12] == table["gov 200k"][8:12], "the same rows take the same work"

    shape = table["shape: short and long"]
    assert [shape[1], shape[3]] == ["300", "10"]
    assert number(shape[12]) > 50, "one row in 300 has nearly all entries"
    for cells in (table["gov 200k"], shape):
        own, peer, ratio = (number(cells[column]) for column in (4, 5, 6))
        assert (peer - 0.01) / (own + 0.01) - 0.1 <= ratio <= (peer + 0.01) / max(own - 0.01, 1e-3) + 0.1
        assert cells[5].split("(")[1].startswith(("sparse_dot_topn", "sp_matmul_rs"))
        assert number(cells[8]) > 0
        assert number(cells[10]) > 0
        assert 0 <= number(cells[11]) < 100
        shares = [number(share) for share in cells[13].split(", ")]
        assert len(shares) == 4
        assert abs(sum(shares) - 100) <= 2, "each is rounded"
        assert cells[15] == "200 rows"


@pytest.mark.parametrize("k", [1, 10])
def test_a_wrong_neighbour_is_found_even_where_all_are_equally_similar(k: int, tmp_path: Path) -> None:
    matrix = build(Case("shape: one digit", "one digit", rows=250, idf=False), tmp_path)
    indices, similarities = cosine_kneighbors(matrix, k)
    assert ours._check(matrix, k, (indices, similarities)) == 200
    row = ours.sample_rows(250, 200)[7]
    for slot in (0, k - 1):
        other = indices.copy()
        other[row, slot] = np.setdiff1d(np.arange(250), [row, *indices[row]])[-1]
        with pytest.raises(AssertionError, match=f"row {row} is answered"):
            ours._check(matrix, k, (other, similarities))
    with pytest.raises(AssertionError, match="row"):
        ours._check(matrix, k, (indices, np.nextafter(similarities, np.float32(2))))


def test_the_peer_with_chunks_is_tried_up_to_widths_that_no_longer_help(tmp_path: Path) -> None:
    matrix = build(Case("shape: numbered", "numbered", rows=60, idf=False), tmp_path)
    plain, *others = (
        product(matrix, matrix.T.tocsr(), 4, threshold=0.0, sort=True, n_threads=2)
        for product in peers.PEERS.values()
    )
    for other in others:
        np.testing.assert_allclose(other.data, plain.data, rtol=1e-5)  # ties may be others
    assert [name for name in peers.PEERS if name.endswith("columns")] == [
        f"sp_matmul_rs, {width}k columns" for width in (16, 64, 128, 256)
    ]


def test_a_line_that_goes_wrong_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(case: Case, _scratch: Path) -> Line:
        if case.name == "gov 200k":
            raise AssertionError("row 3 has other neighbours")
        return Line(case, problem="not measured here")

    monkeypatch.setattr(neighbors, "_measure", measure)
    out = tmp_path / "table.md"
    for pattern, status in (("gov 200k*", 1), ("scoop*", 0)):
        monkeypatch.setattr(sys, "argv", ["neighbors.py", "--only", pattern, "--out", str(out)])
        assert neighbors.main() == status
        assert ("Left out: gov 200k: FAILED, AssertionError: row 3 has other" in out.read_text()) == status
        assert "not measured here" in out.read_text()


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
    done = run("memory.py", folder / "gov_1m.txt.gz", "--memory-limit", "1GiB", data=folder)
    assert done.returncode == 0, done.stderr
    table = cells_of(done.stdout)
    assert set(table) == {"process", "client and scheduler", "worker 0", "worker 1"}
    for name in ("worker 0", "worker 1"):
        assert 100 < number(table[name][1]) < number(table[name][2]) == 1024
    assert 100 < number(table["client and scheduler"][1]) < 500


@pytest.mark.parametrize(
    ("client", "worker", "busy", "arguments", "said"),
    [
        (499, 560, 0.9, [], ""),
        (500, 560, 0.9, [], "client and scheduler held 500 MiB, not less than 500"),
        (499, 561, 0.9, [], "a worker held 561 MiB, more than 80% of its limit"),
        (499, 560, 0.9, ["--workers", "3"], "there were 2 workers in place of 3"),
        (499, 560, 0.894, [], "kernels were busy 89.4% of the time, not 90%"),
        (499, 560, 0.894, ["short.txt"], ""),
    ],
)
def test_memory_fails_where_a_promise_is_not_kept(
    client: int,
    worker: int,
    busy: float,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = {"rows": 9, "block_rows": 9, "kernel_share": busy}
    monkeypatch.setattr(memory, "_watched", lambda command: (0, client << 20, [worker << 20] * 2, 0))
    monkeypatch.setattr(memory, "open_run", lambda path: SimpleNamespace(info=lambda: facts))
    monkeypatch.setattr(memory, "describe_machine", lambda: "this machine")
    monkeypatch.setattr("sys.argv", ["memory.py", *arguments])
    assert memory.main() == int(bool(said))
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert bool(shown) == bool(said)


@pytest.mark.slow
def test_a_forecast_is_shown_beside_what_is_measured(folder: Path) -> None:
    done = run("forecast.py", folder / "gov_1m.txt.gz", "--memory-limit", "1GiB", data=folder)
    cells = cells_of(done.stdout)["given"]
    assert len(cells) == len(cells_of(done.stdout)["list"])
    assert int(number(cells[1])) == len(set(some_urls(1_500)))
    assert number(cells[10]) == number(cells[11]) == 1_500
    assert number(cells[5]) > 0
    planned, most, at_end = (number(cell) for cell in cells[6:9])
    assert planned >= most >= at_end > 0
    # How long it takes depends on what else the machine does, and only that may be said here.
    said = "" if done.returncode == 0 else "given: it took "
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == done.returncode


@pytest.mark.parametrize(
    ("seconds", "disk", "said"),
    [
        (30, 100, []),
        (3.4, 100, []),
        (10, 101, ["list: the run folder held 101 bytes, more than the 100 that were forecast"]),
        (30.1, 99, ["list: it took 30.1 s, 10.0 were forecast: off by more than three times"]),
        (3.3, 99, ["list: it took 3.3 s, 10.0 were forecast: off by more than three times"]),
    ],
)
def test_a_forecast_fails_where_it_promised_less(
    seconds: float,
    disk: int,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planned = {"seconds": 10.0, "disk": 100, "lines": 9, "nonzeros": 9}
    monkeypatch.setattr(forecast, "_finished", lambda *_: (json.dumps(planned), 0))
    monkeypatch.setattr(forecast, "_measured", lambda _: (forecast.Figures(seconds, disk, 8, 7), disk, 8))
    monkeypatch.setattr(forecast, "_lists", lambda _: [("list", ["list.txt"])])
    monkeypatch.setattr(forecast, "describe_machine", lambda: "this machine")
    monkeypatch.setattr("sys.argv", ["forecast.py"])
    assert forecast.main() == int(bool(said))
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.slow
def test_simulated_rows_show_what_scheduler_and_client_hold(folder: Path) -> None:
    done = run("simulated_rows.py", "--rows", 3, "--block-rows", 1, data=folder)
    assert done.returncode == 0, done.stderr
    cells = cells_of(done.stdout)["3"]
    assert [number(cell) for cell in cells[1:3]] == [3, 9]
    assert 100 < number(cells[6]) < 500
    assert 100 < number(cells[7]) < 500


def test_simulated_rows_fail_where_a_promise_is_not_kept() -> None:
    def broken(tasks: int, scheduler: int, client: int) -> list[str]:
        return list(simulated_rows._broken(tasks, scheduler=scheduler << 20, client=client << 20))

    assert broken(100_000, 499, 499) == []
    assert broken(100_001, 500, 501) == [
        "the scheduler held 500 MiB, not less than 500",
        "the client held 501 MiB, not less than 500",
        "the scheduler had 100,001 tasks, more than 100,000",
    ]
