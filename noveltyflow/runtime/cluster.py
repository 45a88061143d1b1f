"""A Dask cluster to run on: one started on this machine, or one that is already there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from typing import Any

import dask
import psutil
import yaml
from dask.utils import parse_bytes
from distributed import Client, LocalCluster, Security
from distributed.utils import silence_logging_cmgr

from noveltyflow.config import ClusterSettings
from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.runtime.forecast import Capacity
from noveltyflow.runtime.plan import require_worker_memory
from noveltyflow.runtime.tls import security
from noveltyflow.runtime.versions import OWN_PACKAGES, require_same_versions

CPU_RESOURCE = "CPU"
"""The worker resource that tasks of the CPU kernels ask for."""
_WORKER_MEMORY = 1 << 30
"""What a worker is given at least when the number of workers is chosen here."""
_MEMORY_SHARE = 0.8

log = logging.getLogger(__name__)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


DASK_CONFIG = dict(_dotted(yaml.safe_load(files(__package__).joinpath("dask.yaml").read_text("utf-8"))))
"""What `dask.yaml` says, by dotted names as `dask.config.set` takes them."""


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """Yield a client of the cluster that `settings` describe; a cluster started here ends with it.

    Raises
    ------
    ResourceError
        When the scheduler cannot be reached, runs other versions, has no workers, or none of them carries `CPU`.
    """
    with dask.config.set(DASK_CONFIG), _quiet_dask():
        if settings.scheduler is None:
            with _deaf_to_interrupts():
                cluster = LocalCluster(**local_cluster_options(settings))
            with cluster, Client(cluster) as client:
                yield client
        else:
            with _existing(settings.scheduler, security(settings)) as client:
                yield client


def _dask_log_level() -> int:
    """What of Dask's log is shown: every failure also ends in an error of ours, which says what to do."""
    return logging.INFO if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL


@contextmanager
def _quiet_dask() -> Iterator[None]:
    with ExitStack() as stack:
        # Dask's client logs through a handler of its own.
        for name in ("distributed", "distributed.client"):
            stack.enter_context(silence_logging_cmgr(_dask_log_level(), root=name))
        yield


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C, which a terminal sends to them too; this one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _existing(address: str, secured: Security | None) -> Iterator[Client]:
    try:
        client = Client(address, timeout="10s", security=secured)
    except (OSError, TypeError, ValueError) as error:
        hint = "; with tls:// give --tls-ca, --tls-cert and --tls-key" if address.startswith("tls://") else ""
        raise ResourceError(f"no Dask scheduler answers at {address}: {error}{hint}") from error
    with client:
        require_same_versions(client.get_versions(packages=OWN_PACKAGES))
        require_cpu_workers(client)
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            require_worker_memory(worker["memory_limit"] or sys.maxsize)
        yield client


def require_cpu_workers(client: Client) -> None:
    """Refuse a cluster on which tasks that ask for `CPU` would wait for ever."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise ResourceError(
            f"{client.scheduler.address} has no workers; start some with: cluster/worker ADDRESS"
        )
    without = [address for address, worker in workers.items() if not worker["resources"].get(CPU_RESOURCE)]
    if len(without) == len(workers):
        raise ResourceError(
            f"none of the {len(workers)} workers of {client.scheduler.address} carries the resource "
            f"{CPU_RESOURCE}; start workers with: dask worker --resources {CPU_RESOURCE}=1 (as cluster/worker does)"
        )
    for address in without:
        log.warning("worker %s carries no %s resource and gets no tiles", address, CPU_RESOURCE)


def local_cluster_options(settings: ClusterSettings) -> dict[str, Any]:
    """Keyword arguments of `LocalCluster`, sized from this machine."""
    workers = settings.workers or default_workers(settings)
    limit = memory_limit(settings) or int(psutil.virtual_memory().available * _MEMORY_SHARE) // workers
    require_worker_memory(limit)
    return {
        "n_workers": workers,
        "threads_per_worker": settings.threads_per_worker,
        "memory_limit": limit,
        "host": "127.0.0.1",
        "security": security(settings),
        "dashboard_address": _free_dashboard(settings.dashboard_address),
        "resources": {CPU_RESOURCE: settings.threads_per_worker},
        "silence_logs": _dask_log_level(),
    }


def local_capacity(settings: ClusterSettings) -> Capacity:
    """What a cluster started on this machine would have."""
    options = local_cluster_options(settings)
    return Capacity(options["n_workers"], options["threads_per_worker"], options["memory_limit"])


def capacity_of(client: Client) -> Capacity:
    """What a running cluster has."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [worker["memory_limit"] or sys.maxsize for worker in workers]
    return Capacity(len(limits), max(worker["nthreads"] for worker in workers), min(limits))


def memory_limit(settings: ClusterSettings) -> int | None:
    """The memory limit of one worker in bytes, or None where none is set.

    Raises
    ------
    SettingsError
        When the text is no number of bytes.
    """
    if settings.memory_limit is None:
        return None
    try:
        return int(parse_bytes(settings.memory_limit))
    except ValueError as error:
        raise SettingsError(
            f"memory_limit {settings.memory_limit!r} is not a number of bytes such as 700MiB or 2GB"
        ) from error


def default_workers(settings: ClusterSettings) -> int:
    """One worker for each usable core, as far as memory gives each of them enough."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = memory_limit(settings) or _WORKER_MEMORY
    by_memory = int(psutil.virtual_memory().available * _MEMORY_SHARE) // share
    return max(1, min(cores // settings.threads_per_worker or 1, by_memory))


def _free_dashboard(address: str) -> str:
    """The address asked for, or one with any free port where that port is taken."""
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return address
