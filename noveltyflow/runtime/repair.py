"""Damage in finished stages: found by checksum, named, and computed again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from noveltyflow.errors import DamageError
from noveltyflow.runtime.executor import Executor
from noveltyflow.runtime.pipeline import PlannedRun
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.features import hash_blocks, sum_frequencies
from noveltyflow.runtime.stages.neighbors import recompute_neighbors
from noveltyflow.runtime.stages.seal import damages, still_damaged
from noveltyflow.similarity.tiles import Block
from noveltyflow.store import STAGES, RunStore, Scratch
from noveltyflow.store.blocks import blocks_of
from noveltyflow.store.checksums import Damage

_IN_PLACE = {
    "features": re.compile(r"features/(\d+)/.+"),
    "idf": re.compile(r"idf/document_frequency/.+"),
    "neighbors": re.compile(r"neighbors/(?:similarities|indices)/c/(\d+)/0"),
}
"""Files that can be computed again from what earlier stages stored, with their block where they have one."""


def repair_run(plan: PlannedRun, executor: Executor, reporter: Reporter, backends: Sequence[str]) -> None:
    """Check every finished stage; what is damaged is as it was, or is left for the run to compute anew.

    A damaged block of `features` or `neighbors` is computed again in its place. Damage to anything else (rows,
    rejects, descriptions of arrays) unmarks its stage and all later ones, so that the run carries them out again.
    """
    plan.store.forget_audit()
    for stage in [stage for stage in STAGES if stage not in plan.unfinished]:
        try:
            lost = _damages_without_strays(plan.store, stage, executor, reporter)
        except DamageError as error:
            reporter.note(f"damaged: {error}")
            _start_again_at(plan, stage)
            return
        if lost and not _repaired(plan, stage, lost, executor, reporter, backends):
            _start_again_at(plan, stage)
            return
    if not plan.unfinished:
        reporter.note(f"{plan.store.path}: now every file is as it was stored")


def _damages_without_strays(
    store: RunStore, stage: str, executor: Executor, reporter: Reporter
) -> list[Damage]:
    """What is wrong with a stage, once what it did not store is removed; a link may have stood for what it did."""
    _, found = damages(store, stage, executor)
    for damage in found:
        reporter.note(f"damaged: {damage}")
    strays = [damage for damage in found if damage.stray]
    for damage in strays:
        Scratch(store.path).remove(damage.name)
    return damages(store, stage, executor)[1] if strays else found


def _start_again_at(plan: PlannedRun, stage: str) -> None:
    for later in reversed(STAGES[STAGES.index(stage) :]):
        plan.store.unmark(later)


def _repaired(
    plan: PlannedRun,
    stage: str,
    found: Sequence[Damage],
    executor: Executor,
    reporter: Reporter,
    backends: Sequence[str],
) -> bool:
    """Whether all damaged files of a stage could be computed again and are to the byte what they were."""
    matches = [_IN_PLACE[stage].fullmatch(damage.name) if stage in _IN_PLACE else None for damage in found]
    if None in matches:
        return False
    blocks = blocks_of(plan.store)
    numbers = {int(match[1]) for match in matches if match is not None and match.groups()}
    if not numbers <= set(range(len(blocks))):
        return False
    _recompute(plan, stage, [blocks[number] for number in sorted(numbers)], executor, reporter, backends)
    return not still_damaged(plan.store, stage, [damage.name for damage in found], executor)


def _recompute(
    plan: PlannedRun,
    stage: str,
    blocks: Sequence[Block],
    executor: Executor,
    reporter: Reporter,
    backends: Sequence[str],
) -> None:
    store, settings = plan.store, plan.settings
    if stage == "features":
        hash_blocks(store, settings.features, executor, reporter, blocks, plan.fingerprints[stage])
    elif stage == "idf":
        sum_frequencies(store, executor, reporter)
    else:
        fingerprint = plan.fingerprints[stage]
        recompute_neighbors(store, settings, backends, executor, reporter, blocks, fingerprint)
