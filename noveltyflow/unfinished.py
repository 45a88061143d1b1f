"""How far a run has come that is not complete yet, and with which settings it was begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from noveltyflow.config import ClusterSettings, InputSettings
from noveltyflow.run import stage_facts
from noveltyflow.store import STAGES, RunStore
from noveltyflow.store.profile import is_profiled


def unfinished_facts(path: str) -> dict[str, Any] | None:
    """What is there of an unfinished run, JSON-able; None where the run is complete.

    Of every checkpoint only which tiles are in it is read.

    Raises
    ------
    StoreError
        When there is no run.
    """
    store = RunStore(path)
    if store.marker(STAGES[-1]) is not None:
        return None
    done = [stage for stage in STAGES if store.marker(stage) is not None]
    tiles = _tiles(store) if "urls" in done else {}
    return {
        "path": path,
        "schema_version": store.header["schema_version"],
        "complete": False,
        "stages_done": done,
        "to_do": _to_do(done, tiles),
        **stage_facts(store),
        **tiles,
        "settings": stored_settings(store),
        "inputs": store.header["inputs"],
    }


def stored_settings(store: RunStore) -> dict[str, Any]:
    """By group and name, those that decide the result of a run, and others that the command was given for it."""
    settings, beside = store.header["settings"], store.aside("options") or {}
    cluster = _with(beside.get("cluster"), ClusterSettings, {})
    return {
        **settings,
        "input": _with(beside.get("input"), InputSettings, settings["input"]),
        "cluster": {**cluster, "profile_memory": is_profiled(store.path)},
    }


def folder_of(store: RunStore) -> str | None:
    """The folder in which the command was given that began a run; None where it is not known."""
    folder = (store.aside("options") or {}).get("folder")
    return folder if isinstance(folder, str) and Path(folder).is_absolute() else None


def _with(given: Any, model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a model with what is given for it besides, as far as that makes sense there."""
    for name, value in given.items() if isinstance(given, Mapping) else ():
        with suppress(ValidationError):
            model.model_validate({**values, name: value})
            values = {**values, name: value}
    return values


def _tiles(store: RunStore) -> dict[str, int]:
    # Imported late: what is needed to know of checkpoints takes as long as all the rest.
    from noveltyflow.runtime.stages.strips import done_tiles
    from noveltyflow.store.blocks import blocks_of

    blocks = blocks_of(store)
    return {
        "tiles_done": sum(int(done.sum()) for _, done in done_tiles(store, blocks)),
        "tiles": len(blocks) ** 2,
    }


def _to_do(done: Sequence[str], tiles: Mapping[str, int]) -> list[str]:
    """The stages that are left; of the last one its tiles, as long as some are, and the merging of their results."""
    stages = [stage for stage in STAGES[:-1] if stage not in done]
    computed = bool(tiles) and tiles["tiles_done"] == tiles["tiles"]
    return [*stages, "merging"] if computed else [*stages, "tiles", "merging"]
