"""`workflows/score_list.yaml` and other workflow files: validated, and completed or overridden by options."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from helpers import ROOT, Cli, some_urls

from noveltyflow.config import ClusterSettings, ScoringSettings
from noveltyflow.errors import SettingsError
from noveltyflow.workflow import load_workflow

WORKFLOW = ROOT / "workflows/score_list.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "w.yaml"
    path.write_text(text)
    return path


def refusal(path: Path, **overrides: object) -> list[str]:
    """What is wrong with a workflow file, line by line."""
    with pytest.raises(SettingsError) as caught:
        load_workflow(path, overrides)
    return str(caught.value).splitlines()


def test_the_committed_file_shows_the_defaults() -> None:
    workflow = load_workflow(WORKFLOW)
    assert (workflow.inputs, workflow.out) == (["urls.txt.gz"], "urls.zarr")
    assert workflow.scoring == ScoringSettings()
    assert workflow.cluster == ClusterSettings(memory_limit="1GiB")


def test_the_committed_file_runs_as_it_stands(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "urls.txt.gz").write_bytes(gzip.compress("\n".join(some_urls(300)).encode()))
    monkeypatch.chdir(tmp_path)
    done = cli("run", WORKFLOW, "--workers", 1, "--json", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["path"], facts["urls"], facts["n_neighbors"]) == ("urls.zarr", 300, 10)
    assert (tmp_path / "urls.zarr/zarr.json").is_file()


def test_options_complete_and_override_a_file(here: Cli, scheduler: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("\n".join(some_urls(30)))
    path = write(
        tmp_path, f"inputs: [{tmp_path}/urls.txt]\nneighbors: {{n_neighbors: 7}}\ncluster:\n  # all\n"
    )
    out = tmp_path / "run.zarr"
    done = here(
        "run", path, "--out", out, "--n-neighbors", 3, "--fold-www", "--scheduler", scheduler, "--json"
    )
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["settings"]
    assert settings["neighbors"]["n_neighbors"] == 3
    assert settings["urls"]["fold_www"] is True


def test_a_file_without_out_needs_the_option(tmp_path: Path) -> None:
    path = write(tmp_path, "inputs: [urls.txt]\n")
    assert refusal(path) == [f"{path}:1: out: is missing"]
    assert load_workflow(path, {"out": "x.zarr"}).out == "x.zarr"


def test_an_unknown_key_names_its_line_and_the_nearest_right_one(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path, "inputs: [urls.txt]\nout: x.zarr\nneighbors:\n  # how many\n  n_neighbours: 5\n")
    done = cli("run", path)
    assert done.returncode == 2
    assert f"{path}:5: neighbors.n_neighbours: unknown key; did you mean 'n_neighbors'?" in done.stderr


def test_every_mistake_is_named_where_it_was_made(tmp_path: Path) -> None:
    path = write(tmp_path, "inputs: [urls.txt]\nout: x.zarr\nfeatures:\n  n_features: 0\nclster: {}\n")
    told = refusal(path, neighbors={"n_neighbors": 0})
    assert [line.partition(": ")[0] for line in told] == [f"{path}:4", "--n-neighbors", f"{path}:5"]


def test_numbers_out_of_bounds_are_told_the_bound(tmp_path: Path) -> None:
    path = write(tmp_path, "inputs: [urls.txt]\nout: x.zarr\ncluster:\n  task_seconds: -1\n")
    assert refusal(path, neighbors={"n_neighbors": 10**7}, features={"n_features": 0}) == [
        "--n-features: must be at least 1 (given: 0)",
        "--n-neighbors: must be at most 10,000 (given: 10000000)",
        f"{path}:4: cluster.task_seconds: must be at least 0.0 (given: -1)",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("inputs: 5\nout: x\n", ":1"),
        ("out: x\n", ":1"),
        ("inputs: [a]\nout: x\ncluster: 3\n", ":3"),
        ("- a\n", ""),
        ("a: [\n", ""),
        ("inputs: [a]\nout: x\nout: y\n", ":3"),
        ("inputs: [a]\nurls:\n  fold_www: true\n  fold_www: false\n", ":4"),
        ("inputs: [a]\nout: x\nurls: &all\n  again: *all\n", ":4"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(text: str, place: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert refusal(path)[0].startswith(f"{path}{place}: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nothing.yaml" in refusal(tmp_path / "nothing.yaml")[0]


@pytest.mark.parametrize("text", ["out: 2024-99-99\n", "[" * 1_200])
def test_what_no_yaml_reader_can_take_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_workflow(path)


def test_aliases_are_refused_before_they_grow(tmp_path: Path) -> None:
    lines = ["inputs: &a0 [x]", "out: y", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 40))]
    path = write(tmp_path, "\n".join([*lines, "neighbors: {n_neighbors: *a39}"]))
    assert refusal(path) == [f"{path}:3: *a0: is an alias; write out what it stands for"]


def test_a_long_wrong_value_is_not_shown_whole(tmp_path: Path) -> None:
    path = write(tmp_path, f"inputs: [x]\nout: y\nneighbors:\n  n_neighbors: [{'7, ' * 10_000}]\n")
    (message,) = refusal(path)
    assert message.startswith(f"{path}:4: neighbors.n_neighbors: ")
    assert "(given: [7, 7, " in message
    assert "…" in message
    assert len(message) < 400
