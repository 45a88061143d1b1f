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
import hypothesis
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import Cli, in_shell, some_urls
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore

import noveltyflow
from noveltyflow.cli import cli as commands
from noveltyflow.columns import EXPORT_COLUMNS
from noveltyflow.config import FeatureSettings, InputSettings, NeighborSettings, ScoringSettings, UrlSettings
from noveltyflow.errors import NoveltyflowError, UnfinishedError
from noveltyflow.export import export, table_to_csv
from noveltyflow.inert import defused, shell_line
from noveltyflow.options import given_settings, run_command
from noveltyflow.run import Run
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.store import RunStore
from noveltyflow.store.profile import open_stages

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


def test_a_command_continues_a_run_with_the_same_settings() -> None:
    settings = ScoringSettings(
        features=FeatureSettings(ngram_range=(2, 3), lowercase=False),
        urls=UrlSettings(fold_www=True),
        input=InputSettings(time_column="seen at"),
    )
    inputs = [{"source": "a b.txt"}, {"source": "-"}]
    command = run_command(inputs, "x.zarr", settings.model_dump(mode="json"))
    assert command == (
        "noveltyflow run 'a b.txt' - --out x.zarr --time-column 'seen at' --fold-www --ngram-range 2 3 --no-lowercase"
    )
    assert "run INPUT... --out" in run_command(inputs * 10, "x.zarr", settings.model_dump(mode="json"))


def test_a_command_that_is_pasted_gives_every_setting_again() -> None:
    hostile = "it's\x1b[2J\u202e \udcff\\ü\n"
    settings = ScoringSettings(
        input=InputSettings(
            format="tsv", url_column=hostile, time_column="-t", max_line_bytes=99, max_ratio=501
        ),
        urls=UrlSettings(**dict.fromkeys(UrlSettings.model_fields, True)),
        features=FeatureSettings(
            analyzer="word",
            ngram_range=(1, 2),
            lowercase=False,
            n_features=7,
            sublinear_tf=True,
            smooth_idf=False,
        ),
        neighbors=NeighborSettings(n_neighbors=3),
    )
    for _, group in settings:
        assert all(value != type(group).model_fields[name].default for name, value in group)
    line = run_command([{"source": hostile}], hostile, settings.model_dump(mode="json"))
    assert line.isprintable()
    words = in_shell(line)
    parsed = commands.commands["run"].make_context("run", words[2:]).params
    assert (parsed.pop("inputs"), parsed.pop("out")) == ((hostile,), hostile)
    options = {name: value for name, value in parsed.items() if "__" in name}
    assert ScoringSettings(**given_settings(options)).model_dump() == settings.model_dump()


def test_the_command_that_continues_a_run_has_the_options_it_was_given(here: Cli, tmp_path: Path) -> None:
    source, out = tmp_path / "urls.txt", str(tmp_path / "run.zarr")
    source.write_text("\n".join(some_urls(20)))

    def unfinished(block_rows: int | None, **options: int) -> list[str]:
        plan = plan_run([str(source)], out, ScoringSettings(input=InputSettings(**options)), overwrite=True)
        execute(plan, SerialExecutor(), Silent(), block_rows=block_rows, backend="cpu")
        RunStore(out, writable=True).unmark("neighbors")
        return continued()

    def continued() -> list[str]:
        return in_shell(json.loads(here("info", out, "--json").stdout)["continue_with"])

    plain = ["noveltyflow", "run", str(source), "--out", out]
    assert unfinished(None) == plain
    assert unfinished(7, max_ratio=900) == [*plain, "--max-ratio", "900", "--block-rows", "7"]
    with open_stages(out):
        facts = json.loads(here("info", out, "--json").stdout)
    assert in_shell(facts["continue_with"])[-1] == "--profile-memory"
    assert facts["settings"]["cluster"] == {"block_rows": 7, "profile_memory": True}
    assert facts["settings"]["input"]["max_ratio"] == 900
    RunStore(out, writable=True).write_aside(
        "options", {"input": {"max_ratio": "many"}, "cluster": {"block_rows": [7], "x": 1, "backend": "cpu"}}
    )
    assert continued() == [*plain, "--profile-memory", "--backend", "cpu"]
    RunStore(out, writable=True).write_aside("options", {"input": 3, "cluster": [1]})
    assert continued() == [*plain, "--profile-memory"]


def test_who_asks_an_unfinished_run_is_told_what_is_next_and_the_command(cli: Cli, tmp_path: Path) -> None:
    source, out = tmp_path / "urls.txt", tmp_path / "run.zarr"
    source.write_text("\n".join(some_urls(20)))
    plan = plan_run([str(source)], str(out), ScoringSettings())
    execute(plan, SerialExecutor(), Silent(), block_rows=7, backend="cpu")
    store = RunStore(str(out), writable=True)
    for stage in ("neighbors", "idf"):
        store.unmark(stage)
    command = f"noveltyflow run {source} --out {out} --block-rows 7"
    said = f"noveltyflow: {out}: the run is unfinished, and stage 'idf' is next; complete it with:\n  {command}\n"
    for words in (("top", out), ("verify", out), ("export", out, tmp_path / "rows.csv")):
        done = cli(*words)
        assert (done.returncode, done.stderr) == (2, said)
    with pytest.raises(UnfinishedError, match=r"stage 'idf' is next; .*noveltyflow info"):
        noveltyflow.open_run(str(out))


def test_info_says_what_an_unfinished_run_has_yet_to_do(
    here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "urls.txt", str(tmp_path / "run.zarr")
    source.write_text("\n".join(some_urls(20)))
    plan = plan_run([str(source)], out, ScoringSettings())

    class KilledError(Exception):
        pass

    def killed(*_args: object) -> None:
        raise KilledError

    def left_by_a_kill_in(step: str) -> tuple[list[str], str]:
        with monkeypatch.context() as patched:
            patched.setattr(step, killed)
            with pytest.raises(KilledError):
                execute(plan, SerialExecutor(), Silent(), block_rows=7, backend="cpu")
        return json.loads(here("info", out, "--json").stdout)["to_do"], here("info", out).stdout

    stages = "noveltyflow.runtime.stages"
    left, told = left_by_a_kill_in(f"{stages}.features.compute_idf")
    assert left == ["idf", "tiles", "merging"]
    assert "to_do  idf, tiles, merging\n" in told
    plan = plan_run([str(source)], out, ScoringSettings())
    left, told = left_by_a_kill_in(f"{stages}.neighbors._merge_strips")
    assert left == ["merging"]
    assert "to_do  merging\n" in told


def test_the_command_that_continues_a_run_works_in_any_folder(
    here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, elsewhere = tmp_path / "it's here", tmp_path / "elsewhere"
    for folder in (began, elsewhere):
        folder.mkdir()
        (folder / "urls.txt").write_text("\n".join(some_urls(20)))
    monkeypatch.chdir(began)
    plan = plan_run(["urls.txt"], "run.zarr", ScoringSettings())
    execute(plan, SerialExecutor(), Silent(), block_rows=None, backend="cpu")
    RunStore("run.zarr", writable=True).unmark("neighbors")

    def continued(run: str) -> str:
        command: str = json.loads(here("info", run, "--json").stdout)["continue_with"]
        return command

    assert continued("run.zarr") == "noveltyflow run urls.txt --out run.zarr"
    monkeypatch.chdir(elsewhere)
    there, command = continued(f"../{began.name}/run.zarr").split(" && ")
    assert in_shell(there) == ["cd", str(began)]
    monkeypatch.chdir(began)
    given = commands.commands["run"].make_context("run", in_shell(command)[2:]).params
    assert plan_run(given["inputs"], given["out"], ScoringSettings()).unfinished == ["neighbors"]
    monkeypatch.chdir(elsewhere)
    RunStore(str(began / "run.zarr"), writable=True).write_aside("options", {"folder": ["x"]})
    assert continued(str(began / "run.zarr")).startswith("noveltyflow run urls.txt --out ")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
@hypothesis.settings(max_examples=25)
def test_a_line_for_a_shell_is_inert_and_means_the_same(words: list[str]) -> None:
    assert shell_line(words).isprintable()
    assert in_shell(shell_line(words)) == words


@pytest.mark.parametrize("source", ["--overwrite", "-x.txt", "https://me:key@host/u", "s3://b/u?key=1"])
def test_no_command_is_given_that_could_be_misread_or_tell_a_secret(source: str) -> None:
    command = run_command([{"source": source}], "x.zarr", ScoringSettings().model_dump(mode="json"))
    assert command == "noveltyflow run INPUT... --out x.zarr"


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
