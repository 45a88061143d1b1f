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
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.store import RunStore

SETTINGS = ScoringSettings(
    features=FeatureSettings(n_features=512), neighbors=NeighborSettings(n_neighbors=3)
)
NOTES = {"rows": "urls", "hash": "features", "merge": "neighbors"}
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
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """A run that nothing disturbed, and its tasks."""
    out, executor = tmp_path_factory.mktemp("undisturbed") / "run.zarr", Interrupted()
    compute(few, out, executor)
    return out, executor.counts


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


def test_a_note_of_other_settings_vouches_for_nothing(
    few: Path, whole: tuple[Path, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "run.zarr", Interrupted()
    with monkeypatch.context() as other:
        other.setattr("noveltyflow.runtime.pipeline.SCHEMA_VERSION", -1)
        interrupt(few, out, "hash", 2)
    RunStore(str(out), writable=True).unmark("urls")
    compute(few, out, again)
    assert again.counts["hash"] == whole[1]["hash"]
    assert same_bytes(out, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTES)
def test_a_killed_run_keeps_what_was_finished(
    name: str, cli: Cli, urls: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.zarr"
    notes, process = out / ".scratch/notes" / NOTES[name], start(urls, out)
    until(lambda: len(list(notes.glob("*[0-9]"))) > 1, process)
    kill_client(process)
    finished = {
        out / file for note in notes.glob("*[0-9]") for file in json.loads(note.read_bytes())["checksums"]
    }
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}
    assert len(before) > 1
    again = cli("run", urls, "--out", out, *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}
    assert same_bytes(out, undisturbed)
