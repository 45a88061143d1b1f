"""What an unfinished run says of itself, and the command that continues it."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis
import pytest
from helpers import Cli, in_shell, some_urls
from hypothesis import given
from hypothesis import strategies as st

import noveltyflow
from noveltyflow.cli import cli as commands
from noveltyflow.config import FeatureSettings, InputSettings, NeighborSettings, ScoringSettings, UrlSettings
from noveltyflow.errors import UnfinishedError
from noveltyflow.inert import shell_line
from noveltyflow.options import given_settings, run_command
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.store import RunStore
from noveltyflow.store.profile import open_stages


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
