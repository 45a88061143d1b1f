"""Before and after the tiles too, an interrupted run does again only the pieces that were in flight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import Cli, some_urls
from runtime.faults import OPTIONS, kill_client, same_bytes, start, until

from noveltyflow.config import FeatureSettings, NeighborSettings, ScoringSettings
from noveltyflow.errors import DamageError
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import read
from noveltyflow.runtime.stages import urls as stage

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=3)
)
NOTES = {"canonical": "canonical", "sort": "sorted", "rows": "urls", "hash": "features", "merge": "neighbors"}
"""Tasks that store pieces, and what these are called among the notes."""


class Interrupted(SerialExecutor):
    """Counts tasks, and ends the run after some tasks of one name, as a kill would."""

    def __init__(self, name: str = "", after: int = 0) -> None:
        super().__init__()
        self.counts = Counter[str]()
        self._name, self._after = name, after

    def run(self, name: str, *more: object) -> Iterator[object]:  # type: ignore[override]
        for result in super().run(name, *more):  # type: ignore[arg-type]
            self.counts[name] += 1
            if name == self._name and self.counts[name] == self._after:
                raise KeyboardInterrupt
            yield result


def compute(urls: Path, out: Path, executor: Interrupted, block_rows: int | None = 30) -> None:
    plan = plan_run([str(urls)], str(out), SETTINGS)
    execute(plan, executor, Silent(), block_rows=block_rows, backend="cpu")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "urls.txt"
    path.write_text("\n".join(["", "http://", *some_urls(200, seed=3)]))
    return path


@pytest.fixture(scope="module")
def whole(
    few: Path, small_pieces: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Counter[str]]:
    """A run that nothing disturbed, and its tasks."""
    out, executor = tmp_path_factory.mktemp("undisturbed") / "run.zarr", Interrupted()
    compute(few, out, executor)
    return out, executor.counts


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """So that a short list has as many pieces as a long one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_PIECE_RECORDS", 20)
        patch.setattr(read, "_BATCH_RECORDS", 20)
        patch.setattr(stage, "_RANGE_RECORDS", 25)
        yield


def interrupt(few: Path, out: Path, name: str, after: int, block_rows: int | None = 30) -> None:
    with pytest.raises(KeyboardInterrupt):
        compute(few, out, Interrupted(name, after), block_rows)


@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize("name", NOTES)
def test_finished_pieces_are_not_done_again(
    name: str, after: int, few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    out, again = tmp_path / "run.zarr", Interrupted()
    interrupt(few, out, name, after)
    compute(few, out, again)
    assert again.counts[name] == whole[1][name] - after > 0
    assert same_bytes(out, whole[0])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize("name", NOTES)
def test_damaged_pieces_and_notes_are_as_good_as_none(
    name: str, damage: Callable[[Path], None], few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    out, again = tmp_path / "run.zarr", Interrupted()
    interrupt(few, out, name, 4)
    of_content, of_note, *_ = sorted((out / ".scratch/notes" / NOTES[name]).iterdir())
    damage(out / list(json.loads(of_content.read_bytes())["checksums"])[-1])
    damage(of_note)
    compute(few, out, again)
    assert again.counts[name] == whole[1][name] - 4 + 2
    assert same_bytes(out, whole[0])


@pytest.mark.parametrize(("name", "array"), [("rows", "rows/url"), ("merge", "neighbors/indices")])
def test_a_damaged_description_of_an_array_costs_its_pieces_and_no_more(
    name: str, array: str, few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    """No note vouches for any of them: each names the description too."""
    out, again = tmp_path / "run.zarr", Interrupted()
    interrupt(few, out, name, 4)
    cut(out / array / "zarr.json")
    compute(few, out, again)
    assert again.counts[name] == whole[1][name]
    assert again.counts["canonical"] == 0
    assert same_bytes(out, whole[0])


@pytest.mark.parametrize("name", ["pieces/000000-000002", "rejects/000000-000002-read"])
def test_a_damaged_piece_of_what_was_read_is_named_and_can_be_removed(
    name: str, few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    interrupt(few, out, "canonical", 1)
    path = out / ".scratch" / name
    cut(path)
    with pytest.raises(DamageError, match=f"{path} is damaged; remove it, and give the same command again"):
        compute(few, out, Interrupted())
    path.unlink()
    compute(few, out, Interrupted())
    assert same_bytes(out, whole[0])


def test_blocks_keep_their_size_unless_another_one_is_asked_for(
    few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    out, again = tmp_path / "run.zarr", Interrupted()
    interrupt(few, out, "rows", 2, block_rows=50)
    interrupt(few, out, "rows", 1, block_rows=None)
    assert len(list((out / ".scratch/notes/urls").iterdir())) == 3
    compute(few, out, again)
    assert again.counts["rows"] == whole[1]["rows"]
    assert same_bytes(out, whole[0])


@pytest.mark.parametrize("name", ["canonical", "sort"])
def test_pieces_that_were_cut_by_other_borders_are_done_again(
    name: str, few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "run.zarr", Interrupted()
    with monkeypatch.context() as other:
        other.setattr(stage, "_RANGE_RECORDS", 40)
        interrupt(few, out, name, 3)
    compute(few, out, again)
    assert again.counts["canonical"] == whole[1]["canonical"]
    assert again.counts["sort"] == whole[1]["sort"]
    assert same_bytes(out, whole[0])


def times_of(files: set[Path]) -> dict[Path, tuple[int, int]]:
    """What changes when a file is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def killed(urls: Path, out: Path, name: str, pieces: int) -> set[Path]:
    """Kill the command once so many pieces are finished; the files of all that are."""
    notes, process = out / ".scratch/notes" / NOTES[name], start(urls, out)
    until(lambda: len(list(notes.glob("*[0-9]"))) >= pieces, process)
    kill_client(process)
    found = [json.loads(note.read_bytes())["checksums"] for note in notes.glob("*[0-9]")]
    return {out / file for checksums in found for file in checksums}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "hash", "merge"])
def test_a_killed_run_keeps_the_blocks_that_were_finished(
    name: str, cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    finished = times_of(killed(urls, out, name, 2))
    again = cli("run", urls, "--out", out, *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert finished == times_of(set(finished))
    assert same_bytes(out, undisturbed)


@pytest.mark.slow
def test_a_killed_run_keeps_what_was_canonical(cli: Cli, tmp_path: Path) -> None:
    """Killed while it sorts, too: then the scratch files of before can still be looked at."""
    urls, out, undisturbed = (tmp_path / name for name in ("urls.txt", "run.zarr", "undisturbed.zarr"))
    urls.write_text("\n".join(some_urls(1_000) * 250))
    finished = times_of(killed(urls, out, "canonical", 1))
    killed(urls, out, "sort", 1)
    assert finished == times_of(set(finished))
    for path in (out, undisturbed):
        done = cli("run", urls, "--out", path, *OPTIONS)
        assert done.returncode == 0, done.stderr
    assert same_bytes(out, undisturbed)
