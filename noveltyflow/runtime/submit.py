"""One call for a whole workflow: plan, connect to a cluster, execute."""

from __future__ import annotations

import logging

from noveltyflow.config import ClusterSettings
from noveltyflow.runtime.cluster import connect
from noveltyflow.runtime.dask_executor import DaskExecutor
from noveltyflow.runtime.pipeline import PlannedRun, execute, plan_run
from noveltyflow.runtime.progress import Reporter, Silent
from noveltyflow.runtime.repair import repair_run
from noveltyflow.store.lock import locked
from noveltyflow.workflow import Workflow

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
        `InputError`, `StoreError`, `ResourceError` before work begins; `TaskError` when it fails half-way.
    """
    reporter = reporter or Silent()
    # What is planned holds only as long as nobody else writes the run.
    with locked(workflow.out):
        plan = plan_run(workflow.inputs, workflow.out, workflow.scoring, overwrite=overwrite)
        try:
            _execute(plan, workflow.cluster, reporter, repair=repair and not plan.begins)
        finally:
            plan.release()


def _execute(plan: PlannedRun, cluster: ClusterSettings, reporter: Reporter, *, repair: bool) -> None:
    if (what := plan.describe()) is not None and not repair:
        reporter.note(what)
    if not plan.unfinished and not repair:
        plan.store.scratch.remove()
        return
    with connect(cluster) as client:
        reporter.note(f"dashboard: {client.dashboard_link}")
        executor = DaskExecutor(client, plan.fingerprints["neighbors"], cluster.checkpoint_seconds)
        log.info("%d threads, %d bytes for each task", executor.n_threads, executor.memory_per_thread)
        if repair:
            repair_run(plan, executor, reporter, cluster.backend)
        execute(plan, executor, reporter, block_rows=cluster.block_rows, backend=cluster.backend)
