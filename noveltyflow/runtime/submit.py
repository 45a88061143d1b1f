"""One call for a whole workflow: plan, connect to a cluster, execute."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import DamageError
from noveltyflow.runtime.pipeline import PlannedRun, execute, plan_run
from noveltyflow.runtime.progress import Reporter, Silent
from noveltyflow.store import STAGES
from noveltyflow.store.lock import locked
from noveltyflow.urls.shards import plan_shards
from noveltyflow.workflow import Workflow

if TYPE_CHECKING:
    from noveltyflow.runtime.forecast import Forecast

log = logging.getLogger(__name__)


def run_workflow(
    workflow: Workflow, reporter: Reporter | None = None, *, overwrite: bool = False, repair: bool = False
) -> None:
    """Carry out a workflow, or what is left of it, on the cluster that it names.

    Parameters
    ----------
    workflow
        Validated inputs, output and settings.
    reporter
        Told about progress; by default nobody is.
    overwrite
        Replace a run that is already there.
    repair
        Check every file of finished stages first, and compute again what is damaged.

    Raises
    ------
    NoveltyflowError
        `InputError`, `StoreError`, `ResourceError` before work begins, `DamageError` where an audit found damage to
        a complete run; `TaskError` when it fails half-way.
    """
    reporter = reporter or Silent()
    # What is planned holds only as long as nobody else writes the run.
    with locked(workflow.out):
        plan = plan_run(workflow.inputs, workflow.out, workflow.scoring, overwrite=overwrite)
        try:
            block_rows = plan.block_rows(workflow.cluster.block_rows)
            _execute(plan, workflow.cluster, block_rows, reporter, repair=repair and not plan.begins)
        finally:
            plan.release()


def plan_workflow(
    workflow: Workflow, reporter: Reporter | None = None, *, rows: int | None = None
) -> Forecast:
    """Say what a workflow will take; nothing is changed or started.

    Parameters
    ----------
    workflow
        Validated inputs, output and settings.
    reporter
        Told what the forecast leaves open; by default nobody is.
    rows
        Number of rows to plan for, instead of as many as the input has lines.

    Raises
    ------
    NoveltyflowError
        `InputError` when an input cannot be read, `ResourceError` when the run does not fit into the cluster, or on
        the disk.
    """
    cluster = workflow.cluster
    shards = plan_shards(workflow.inputs, workflow.input)
    _quiet_dask()
    # Imported late, so that inputs are refused without waiting for dask and numba.
    from noveltyflow.runtime.cluster import capacity_of, connect, local_capacity, memory_limit
    from noveltyflow.runtime.forecast import forecast, require_fit
    from noveltyflow.runtime.seats import choose_backends

    if cluster.scheduler is None:
        capacity = local_capacity(cluster)
    else:
        with connect(cluster) as client:
            limit = memory_limit(cluster, "device_memory_limit")
            capacity = capacity_of(client, choose_backends(client, cluster.backend), limit)
    found = forecast(shards, workflow.scoring, capacity, block_rows=cluster.block_rows, rows=rows, timed=True)
    require_fit(found, workflow.out, reporter or Silent())
    return found


def _quiet_dask() -> None:
    """Let Dask log nothing where it is not in use yet, to the end of the process.

    Every failure also ends in an error of ours, which says what to do, and workers that end log what no one needs.
    """
    import dask

    level = "info" if log.isEnabledFor(logging.DEBUG) else "critical"
    dask.config.set(logging={"distributed": level, "distributed.client": level})


def _execute(
    plan: PlannedRun, cluster: ClusterSettings, block_rows: int | None, reporter: Reporter, *, repair: bool
) -> None:
    nothing_to_do = not plan.unfinished and not repair
    if nothing_to_do and (plan.store.aside("audit") or {}).get("problems"):
        raise DamageError(
            f"{plan.store.path} is complete, but its last audit found damage; {DamageError.remedy}"
        )
    if (what := plan.describe()) is not None and not repair:
        reporter.note(what)
    if nothing_to_do:
        plan.store.scratch.remove()
        return
    _quiet_dask()
    # Imported late, so that a plan is made, or refused, without waiting for dask and numba.
    from noveltyflow.runtime.cluster import capacity_of, connect, memory_limit
    from noveltyflow.runtime.dask_executor import DaskExecutor
    from noveltyflow.runtime.disk import RoomWatch
    from noveltyflow.runtime.forecast import forecast, require_fit
    from noveltyflow.runtime.profile import MemoryProfile
    from noveltyflow.runtime.repair import repair_run

    device_limit = memory_limit(cluster, "device_memory_limit")
    with ExitStack() as stack:
        client = stack.enter_context(connect(cluster))
        reporter.note(f"dashboard: {client.dashboard_link}")
        client.register_plugin(RoomWatch(plan.store.path))
        if cluster.profile_memory:
            reporter = stack.enter_context(MemoryProfile(client, plan.store.path, reporter))
        token = plan.fingerprints["neighbors"]
        executor = DaskExecutor(
            client, token, cluster.task_seconds, device_limit, owns_workers=cluster.scheduler is None
        )
        log.info("%d threads, %d bytes for each task", executor.n_threads, executor.memory_per_thread)
        backends = executor.backends(cluster.backend)
        if plan.unfinished == list(STAGES):
            capacity = capacity_of(client, backends, device_limit)
            found = forecast(plan.shards, plan.settings, capacity, block_rows=block_rows)
            log.info("forecast: %s", found)
            require_fit(found, plan.store.path, reporter)
        if repair:
            repair_run(plan, executor, reporter, backends)
        execute(plan, executor, reporter, block_rows=block_rows, backend=cluster.backend)
