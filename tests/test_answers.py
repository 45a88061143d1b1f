"""Everything one can ask a finished run: in Python, lazily, and by the commands."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import Cli
from zarr.storage import LocalStore

import noveltyflow
from noveltyflow.columns import EXPORT_COLUMNS
from noveltyflow.errors import NoveltyflowError
from noveltyflow.export import export, table_to_csv
from noveltyflow.inert import defused
from noveltyflow.run import Run

SCORES = ("nearest", "kth", "mean", "median")


@pytest.fixture(scope="module")
def run(small_run: str) -> Run:
    return noveltyflow.open_run(small_run)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return run.frame().compute()


@pytest.fixture
def chunks_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the chunks that were read from a store."""
    names: list[str] = []
    get = LocalStore.get

    async def counted(self: LocalStore, key: str, *args: Any, **more: Any) -> Any:
        if not key.endswith("zarr.json"):
            names.append(key)
        return await get(self, key, *args, **more)

    monkeypatch.setattr(LocalStore, "get", counted)
    return names


def test_opening_and_building_read_metadata_only(small_run: str, chunks_read: list[str]) -> None:
    run = noveltyflow.open_run(small_run)
    for score in SCORES:
        assert isinstance(run.scores(score), da.Array)
        assert run.scores(score).shape == run.percentiles(score).shape == (len(run),)
    assert isinstance(run.frame(), dd.DataFrame)
    run.rejects()
    run.info()
    assert chunks_read == []


def test_a_question_reads_only_the_blocks_it_needs(small_run: str, chunks_read: list[str]) -> None:
    run = noveltyflow.open_run(small_run)
    assert len(run.blocks) > 2
    run.scores("nearest").blocks[1].compute()
    assert chunks_read == ["neighbors/similarities/c/1/0"]


@pytest.mark.parametrize("score", SCORES)
def test_scores_follow_their_formulas(run: Run, score: str) -> None:
    similarities = np.maximum(run.similarities.compute(), 0)
    expected = {
        "nearest": 1 - similarities[:, 0],
        "kth": 1 - similarities[:, -1],
        "mean": 1 - similarities.mean(axis=1),
        "median": 1 - np.median(similarities, axis=1),
    }[score]
    np.testing.assert_allclose(run.scores(score).compute(), np.maximum(expected, 0), atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_top_is_the_head_of_the_sorted_frame(run: Run, score: str) -> None:
    frame = run.frame(score).compute()
    expected = frame.sort_values(["novelty", "row"], ascending=[False, True]).head(25).reset_index(drop=True)
    pd.testing.assert_frame_equal(run.top(25, score), expected)


def test_percentiles_agree_everywhere(run: Run, table: pd.DataFrame) -> None:
    np.testing.assert_array_equal(run.percentiles().compute(), table["percentile"])
    rank = table["novelty"].round(6).rank(method="average")
    np.testing.assert_allclose(table["percentile"], 100 * (rank - 0.5) / len(table), atol=1e-3)


def test_frame_meta_is_true_and_rows_ascend(run: Run, table: pd.DataFrame) -> None:
    assert list(table.columns) == list(EXPORT_COLUMNS)
    assert table.dtypes.to_dict() == run.frame().dtypes.to_dict()
    assert table["row"].tolist() == list(range(len(run)))
    assert run.frame().loc[160:170].compute()["row"].tolist() == list(range(160, 171))


def test_every_url_is_found_and_its_neighbours_are_the_graph(run: Run, table: pd.DataFrame) -> None:
    graph = run.kneighbors_graph()
    assert isinstance(graph, sp.csr_matrix)
    for row in range(0, len(run), 17):
        url = table["url"][row]
        assert run.find(url) == row
        neighbors = run.neighbors(url)
        np.testing.assert_array_equal(np.sort(neighbors["row"]), graph[row].indices)
        assert neighbors["url"].tolist() == table["url"][neighbors["row"]].tolist()
        assert neighbors["similarity"].is_monotonic_decreasing
    nearest = table["nearest_url"].to_numpy()
    assert nearest[5] == run.neighbors(table["url"][5])["url"][0]


@pytest.mark.parametrize("url", ["http://not.there/", "http://", "mailto:a@b.example"])
def test_unknown_url_is_a_key_error(run: Run, url: str) -> None:
    with pytest.raises(KeyError):
        run.find(url)


def test_find_makes_canonical(run: Run, table: pd.DataFrame) -> None:
    host, _, path = table["url"][3].removeprefix("https://").partition("/")
    assert run.find(f"HTTPS://{host.upper()}:443/x/../{path}#part") == 3


def test_unknown_score_is_refused(run: Run) -> None:
    with pytest.raises(NoveltyflowError, match=r"newest.*nearest"):
        run.scores("newest")


def test_rejects_say_where_and_why(run: Run, url_list: Path) -> None:
    rejects = run.rejects().compute()
    assert rejects["line"].tolist() == [12, 13, 14, 417, 418, 419]
    assert rejects["reason"].tolist() == ["empty-host", "control-character", "no-host"] * 2
    assert set(rejects["source"]) == {str(url_list)}
    assert rejects["text"].tolist() == ["http://", "bad\\x01line", "mailto:someone@site.example"] * 2


def test_rejects_are_printed_in_input_order(here: Cli, small_run: str, run: Run) -> None:
    expected = run.rejects().compute()
    done = here("rejects", small_run, "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert pd.read_csv(io.StringIO(done.stdout)).to_dict("records") == expected.to_dict("records")
    done = here("rejects", small_run, "--format", "jsonl", "-n", 4)
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected[:4].to_dict("records")
    assert "4 of 6 rejected lines; -n 6" in done.stderr
    shown = here("rejects", small_run).stdout
    assert all(text in shown for text in expected["text"])


def test_many_rejects_are_printed_chunk_after_chunk(
    here: Cli, small_run: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noveltyflow.store.rejects.CHUNK_ROWS", 4)
    assert [len(columns["line"]) for columns in run.iter_rejects(5)] == [4, 1]
    assert len(here("rejects", small_run, "--format", "csv").stdout.splitlines()) == 1 + 6


def test_info_accounts_for_every_line(here: Cli, small_run: str, table: pd.DataFrame) -> None:
    facts = json.loads(here("info", small_run, "--json").stdout)
    assert facts["lines_read"] == 445
    assert facts["lines_blank"] == 4
    assert facts["lines_rejected"] == 6 == sum(facts["reject_reasons"].values())
    assert facts["rows"] == len(table)
    assert facts["urls"] == table["count"].sum()
    assert facts["lines_read"] == facts["lines_blank"] + facts["lines_rejected"] + table["count"].sum()
    assert "lines_read  445" in here("info", small_run).stdout


def test_info_tells_where_the_time_of_the_search_went(here: Cli, small_run: str) -> None:
    facts = json.loads(here("info", small_run, "--json").stdout)["tile_stats"]
    assert 0 <= facts["skipped_rows"] < facts["query_rows"]
    assert facts["preparing_ns"] > 0
    shown = here("info", small_run).stdout
    assert f"skipped_rows {facts['skipped_rows']:,}, preparing " in shown
    shares = [int(share) for share in re.findall(r"(?:prepar|seed|accumulat|verify)ing (\d+)%", shown)]
    assert len(shares) == 4
    assert abs(sum(shares) - 100) <= 2, "each is rounded"


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_exported_tables_hold_the_frame(
    here: Cli, small_run: str, table: pd.DataFrame, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"novelty{suffix}"
    done = here("export", small_run, path)
    assert (done.returncode, done.stdout) == (0, "")
    readers: dict[str, Any] = {".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}
    again = readers.get(suffix, pd.read_csv)(path)
    assert list(again.columns) == list(EXPORT_COLUMNS)
    for name in EXPORT_COLUMNS:
        if table[name].dtype.kind == "f":
            np.testing.assert_allclose(again[name], table[name], rtol=1e-6)
        else:
            assert again[name].tolist() == table[name].tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_exported_score_is_the_one_asked_for(here: Cli, small_run: str, run: Run, tmp_path: Path) -> None:
    here("export", small_run, tmp_path / "x.parquet", "--score", "mean")
    np.testing.assert_array_equal(
        pd.read_parquet(tmp_path / "x.parquet")["novelty"], run.scores("mean").compute()
    )


def test_exported_graph_is_loaded_by_scipy(here: Cli, small_run: str, run: Run, tmp_path: Path) -> None:
    assert here("export", small_run, tmp_path / "graph.npz").returncode == 0
    graph = sp.load_npz(tmp_path / "graph.npz")
    assert (graph != run.kneighbors_graph()).nnz == 0
    assert graph.has_sorted_indices


def test_same_run_exports_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        export(run, str(tmp_path / name))
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


@pytest.mark.parametrize("name", ["novelty.xlsx", "nowhere/novelty.csv"])
def test_bad_export_is_refused(cli: Cli, small_run: str, name: str, tmp_path: Path) -> None:
    done = cli("export", small_run, tmp_path / name)
    assert done.returncode == 2
    assert name in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\uff1d1+1", "\tx", "\t=1", "a\x1b[2J\u202e"])
def test_cells_that_a_spreadsheet_or_terminal_would_obey_are_defused(cell: str) -> None:
    inert = {"\t": f"\\t{cell[1:]}", "a": "a\\x1b[2J\\u202e"}.get(cell[0], f"'{cell}")
    assert defused(cell) == inert
    frame = pd.DataFrame({"url": [cell], "nearest_url": [None]})
    for defuse, expected in ((True, inert), (False, cell)):
        out = io.StringIO(newline="")
        table_to_csv(frame, out, defuse=defuse)
        assert next(csv.DictReader(io.StringIO(out.getvalue(), newline="")))["url"] == expected


def test_top_prints_data_on_stdout_only(cli: Cli, small_run: str, run: Run) -> None:
    top = run.top(3)
    as_csv = cli("top", small_run, "-n", 3, "--format", "csv")
    assert as_csv.stderr == ""
    assert pd.read_csv(io.StringIO(as_csv.stdout))["url"].tolist() == top["url"].tolist()
    lines = cli("top", small_run, "-n", 3, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["row"] for line in lines] == top["row"].tolist()
    shown = cli("top", small_run, "-n", 3).stdout
    assert all(url in shown for url in top["url"])


def test_neighbors_prints_the_nearest(
    here: Cli, cli: Cli, small_run: str, run: Run, table: pd.DataFrame
) -> None:
    done = here("neighbors", small_run, table["url"][0])
    assert done.returncode == 0
    assert run.neighbors(table["url"][0])["url"][0] in done.stdout
    few = here("neighbors", small_run, table["url"][0], "-n", 3)
    assert [line.split() for line in few.stdout.splitlines()] == [
        line.split() for line in done.stdout.splitlines()[:4]
    ]
    assert few.stderr == "3 of 10 neighbours; -n 10 prints all\n"
    stranger = cli("neighbors", small_run, "http://not.there/")
    assert stranger.returncode == 2
    said = f"noveltyflow: http://not.there/ is not a row of {small_run}; only its URLs can be asked for\n"
    assert stranger.stderr == said


def test_export_says_that_it_replaced_a_file(here: Cli, small_run: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    assert here("export", small_run, file).stderr.endswith(f" rows in {file}\n")
    assert here("export", small_run, file).stderr.endswith(f" rows; replaced {file}\n")


def test_quiet_is_quiet_and_json_is_json(cli: Cli, small_run: str, url_list: Path) -> None:
    args = ("run", url_list, "--out", small_run, "--workers", 2)
    done = cli(*args, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = cli(*args, "--quiet", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["rows"] == len(noveltyflow.open_run(small_run))


def test_questions_run_on_any_dask_scheduler(run: Run) -> None:
    with dask.config.set(scheduler="synchronous"):
        alone = run.top(5)
    pd.testing.assert_frame_equal(alone, run.top(5))
