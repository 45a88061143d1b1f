"""One call for a whole workflow: plan, connect to a cluster, execute."""

from __future__ import annotations

import logging

from noveltyflow.config import ClusterSettings
from noveltyflow.runtime.pipeline import PlannedRun, execute, plan_run
from noveltyflow.runtime.progress import Reporter, Silent
from noveltyflow.workflow import Workflow

log = logging.getLogger(__name__)


def run_workflow(workflow: Workflow, reporter: Reporter | None = None, *, overwrite: bool = False) -> None:
    """Carry out a workflow, or what is left of it, on the cluster that it names.

    Parameters
    ----------
    workflow
        Validated inputs, output and settings.
    reporter
        Told about progress; by default nobody is.
    overwrite
        Replace a run that is already there.

    Raises
    ------
    NoveltyflowError
        `InputError`, `StoreError`, `ResourceError` before work begins; `TaskError` when it fails half-way.
    """
    reporter = reporter or Silent()
    plan = plan_run(workflow.inputs, workflow.out, workflow.scoring, overwrite=overwrite)
    try:
        plan.require_block_rows(workflow.cluster.block_rows)
        _execute(plan, workflow.cluster, reporter)
    finally:
        plan.release()


def _execute(plan: PlannedRun, cluster: ClusterSettings, reporter: Reporter) -> None:
    if (what := plan.describe()) is not None:
        reporter.note(what)
    if not plan.unfinished:
        plan.store.scratch.remove()
        return
    # Imported late, so that a plan is made, or refused, without waiting for dask.
    from noveltyflow.runtime.cluster import connect, memory_limit
    from noveltyflow.runtime.dask_executor import DaskExecutor

    with connect(cluster) as client:
        reporter.note(f"dashboard: {client.dashboard_link}")
        device_limit = memory_limit(cluster, "device_memory_limit")
        executor = DaskExecutor(client, plan.fingerprints["neighbors"], device_limit)
        log.info("%d threads, %d bytes for each task", executor.n_threads, executor.memory_per_thread)
        execute(plan, executor, reporter, block_rows=cluster.block_rows, backend=cluster.backend)
