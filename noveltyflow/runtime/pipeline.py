"""A whole run: planned, checked against what is already there, and carried through its stages."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noveltyflow.config import ScoringSettings, fingerprint
from noveltyflow.errors import InputError, NoveltyflowError, SettingsError, StoreError, TaskError
from noveltyflow.inert import shell_line
from noveltyflow.store import SCHEMA_VERSION, STAGES, RunStore, Scratch
from noveltyflow.store.checksums import CONTENT
from noveltyflow.store.files import is_local
from noveltyflow.urls.shards import Shard, plan_shards

if TYPE_CHECKING:
    from noveltyflow.runtime.executor import Executor
    from noveltyflow.runtime.progress import Reporter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A run folder that agrees with the inputs and settings asked for, and what there is still to do."""

    store: RunStore
    settings: ScoringSettings
    shards: Sequence[Shard]
    header: dict[str, Any]
    begins: bool
    """Whether the folder is made (and what it held removed) when the run is executed."""
    spool: Path | None
    """Folder that keeps standard input while the run needs it."""

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What every stage's marker must carry."""
        return stage_fingerprints(self.header)

    @property
    def unfinished(self) -> list[str]:
        """The first stage that has not been completed, and all that rest on it."""
        if self.begins:
            return list(STAGES)
        finished = takewhile(lambda stage: self.store.finished(stage, self.fingerprints[stage]), STAGES)
        return list(STAGES[len(list(finished)) :])

    def release(self) -> None:
        """Remove what was kept of standard input."""
        _remove_spool(self.spool)

    def block_rows(self, asked: int | None) -> int | None:
        """Rows in a block that an earlier command fixed, which a repair keeps too, or else as asked.

        Raises
        ------
        StoreError
            With both figures, when others are asked for. Blocks are fixed once stage `urls` is complete, since all
            later stages are cut by them.
        """
        if "urls" in self.unfinished:
            return asked
        figures = self.store.figures("urls")
        fixed: int = figures["block_rows"]
        if asked is not None and min(asked, figures["rows"]) != fixed:
            raise StoreError(
                f"{self.store.path} is stored in blocks of {fixed:,} rows, now {asked:,} are asked "
                "for; leave --block-rows out to go on, or give --overwrite to start anew"
            )
        return fixed

    def describe(self) -> str | None:
        """What an earlier, interrupted command left to do, in one sentence; None for a fresh run."""
        todo = self.unfinished
        if not todo:
            verify = shell_line(["noveltyflow", "verify", self.store.path])
            return f"{self.store.path} is complete; nothing to do (contents were not checked; {verify} does that)"
        if self.begins:
            return None
        if todo[0] != STAGES[0]:
            return f"continuing {self.store.path} at stage {todo[0]!r}"
        if self.store.scratch.names("read"):
            return f"continuing {self.store.path} within stage {todo[0]!r}"
        return None


def plan_run(
    inputs: Sequence[str], out: str, settings: ScoringSettings, *, overwrite: bool = False
) -> PlannedRun:
    """Find the shards, and compare them and the settings with the run folder; nothing is changed yet.

    Raises
    ------
    InputError
        When an input is missing or cannot be read; nothing is left behind.
    StoreError
        When `out` holds something else, or a run of other inputs or settings; the text says what changed.
    """
    # The processes of a cluster that is already there may stand in other folders than this one.
    if "://" not in out:
        # A link to a run folder stays, also when what it points to is made anew.
        out = str(Path(out).resolve() if Path(out).is_symlink() else Path(out).absolute())
    if overwrite and Path(out).resolve() in (Path.cwd(), *Path.cwd().parents):
        raise SettingsError(
            f"{out}: this command is given inside of what --overwrite removes; leave that folder"
        )
    store = RunStore(out, writable=True)
    spool = _spool_folder(out) if "-" in inputs else None
    try:
        shards = plan_shards(inputs, settings.input, spool=spool)
        header = {"settings": settings.model_dump(mode="json"), "inputs": manifest(shards)}
        begins = overwrite or not store.holds_run()
        if not store.holds_run():
            store.require_free()
        elif not overwrite:
            _require_same(store, header)
    except BaseException:
        _remove_spool(spool)
        raise
    return PlannedRun(store, settings, shards, header, begins, spool)


def execute(
    plan: PlannedRun, executor: Executor, reporter: Reporter, *, block_rows: int | None, backend: str
) -> None:
    """Make the run folder where the plan says so, then carry out the unfinished stages."""
    # Imported late, so that a plan is made, or refused, without waiting for dask and numba.
    from noveltyflow.runtime.stages.features import compute_features, compute_idf
    from noveltyflow.runtime.stages.indexed import forget_spans
    from noveltyflow.runtime.stages.neighbors import compute_neighbors
    from noveltyflow.runtime.stages.notes import noted_keys
    from noveltyflow.runtime.stages.urls import UrlStage

    store, settings, prints, todo = plan.store, plan.settings, plan.fingerprints, plan.unfinished
    backends = executor.backends(backend)
    if plan.begins:
        if store.holds_run():
            store.remove()
        RunStore.create(store.path, plan.header)
    store.sweep()
    if "urls" in todo:
        # No part of the head, which is the same whatever they are; who goes on must give them again.
        given = {"input": {"max_ratio": settings.input.max_ratio}, "cluster": {"block_rows": block_rows}}
        store.write_aside("options", {"folder": str(Path.cwd()), **given})
    if todo:
        store.forget_audit()
    for stage in reversed(todo):
        store.unmark(stage)
        # What it left would stay where it is not written again, as blocks do when they become fewer.
        for folder in CONTENT[stage] if stage != todo[0] or not noted_keys(store, stage) else ():
            Scratch(store.path).remove(folder)
    urls = UrlStage(store, settings, plan.shards, executor, reporter, block_rows, backends)
    stages: dict[str, Callable[[str], None]] = {
        "urls": urls.run,
        "features": lambda mark: compute_features(store, settings, executor, reporter, mark),
        "idf": lambda mark: compute_idf(store, executor, reporter, mark),
        "neighbors": lambda mark: compute_neighbors(store, settings, backends, executor, reporter, mark),
    }
    # An earlier command may have been killed while its tiles filled the workers' memory.
    executor.everywhere(forget_spans)
    with _telling_loss(store):
        for stage in todo:
            started = time.monotonic()
            stages[stage](prints[stage])
            log.info("stage %s took %.1f s", stage, time.monotonic() - started)
    # A power cut may have kept the last marker, but not that this was removed.
    store.scratch.remove()


@contextlib.contextmanager
def _telling_loss(store: RunStore) -> Iterator[None]:
    """Where a run is gone, tell that, whatever went wrong because of it."""
    try:
        yield
    except InputError:
        raise  # a run of inputs without a URL is removed
    except (NoveltyflowError, OSError) as error:
        if is_local(store.path) and not store.holds_run():
            raise TaskError(
                f"{store.path}: the run vanished while it was written; remove what is left there, put the run back "
                "if it was moved, and give the same command again"
            ) from error
        raise


def _spool_folder(out: str) -> Path:
    """Where standard input is kept while the run reads it: beside the run folder."""
    if "://" in out:
        raise SettingsError(
            f"{out}: standard input needs a local --out, beside which it is kept while it is read"
        )
    return Path(f"{out}.stdin")


def _remove_spool(spool: Path | None) -> None:
    """Remove what was kept of standard input, and the folder, unless there is more in it than that."""
    if spool is None or not spool.is_dir():
        return
    for kept in spool.glob("stdin-*"):
        kept.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        spool.rmdir()


def manifest(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Every input file as often as it is given, with what tells whether it has changed; its shards are left out."""
    firsts = (shard for shard in shards if shard.start == 0)
    return [{"source": s.source, "format": s.format, "identity": s.identity} for s in firsts]


def stage_fingerprints(header: dict[str, Any]) -> dict[str, str]:
    """A fingerprint for each stage: of its own settings and of all that the stages before it depend on."""
    settings = header["settings"]
    own = {
        "urls": [settings["input"], settings["urls"], header["inputs"], SCHEMA_VERSION],
        "features": settings["features"],
        "idf": settings["features"],
        "neighbors": settings["neighbors"],
    }
    prints: dict[str, str] = {}
    before = ""
    for stage in STAGES:
        before = prints[stage] = fingerprint([before, stage, own[stage]])
    return prints


def _require_same(store: RunStore, header: dict[str, Any]) -> None:
    changed = list(_differences(store.header, header))
    if changed:
        raise StoreError(
            f"{store.path} was made with other settings or inputs:\n  "
            + "\n  ".join(changed)
            + "\ngive another --out, or --overwrite to start anew"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = []
    for group, settings in new["settings"].items():
        for name, value in settings.items():
            before = old["settings"].get(group, {}).get(name)
            if before != value:
                found.append(f"{group}.{name}: was {before!r}, now {value!r}")
    before_files = {entry["source"]: entry for entry in old["inputs"]}
    now_files = {entry["source"]: entry for entry in new["inputs"]}
    found += [f"input no longer given: {source}" for source in before_files if source not in now_files]
    found += [f"input not given before: {source}" for source in now_files if source not in before_files]
    found += [
        f"input changed: {source}"
        for source, entry in now_files.items()
        if source in before_files and before_files[source] != entry
    ]
    if not found and old["inputs"] != new["inputs"]:
        found.append("inputs are given in another order, or another number of times")
    return found
