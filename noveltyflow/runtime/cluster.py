"""A Dask cluster to run on: one started on this machine, or one that is already there."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from multiprocessing import resource_tracker
from typing import Any

import dask
import psutil
import yaml
from dask.utils import parse_bytes
from distributed import Client, LocalCluster

import noveltyflow.runtime.clock  # noqa: F401 - for the client, which loads no preloads
from noveltyflow.config import ClusterSettings
from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.runtime.forecast import Capacity
from noveltyflow.runtime.plan import require_worker_memory
from noveltyflow.runtime.seats import (
    CPU_RESOURCE,
    RESOURCES,
    choose_backends,
    device_memory,
    wait_for_workers,
    workers_of,
)
from noveltyflow.runtime.tls import security
from noveltyflow.runtime.versions import OWN_PACKAGES, require_same_versions
from noveltyflow.similarity.kernels.device import MEMORY_SHARE, has_cuda, lack_of_cuda

_WORKER_MEMORY = 1 << 30
"""What a worker is given at least when the number of workers is chosen here."""
_MEMORY_SHARE = 0.8
_COMMAND_SECONDS, _SCHEDULER_SECONDS, _WORKER_SECONDS = 3.5, 1.5, 2.0
"""What one core takes for the imports of the command, to start and end a scheduler, and for those of a worker: on two
quiet cores a run of 500 rows took 4.5, 5.1 and 7.2 s with 1, 2 and 4 workers (AMD EPYC); on an older
Intel Xeon all of this is half as much again."""
_CLOSE_SECONDS = 15.0
"""How long a cluster started here may take to end; it takes about one."""
_START_SECONDS, _FIRST_WORKER_SECONDS = 300.0, 30.0
"""And how long until all its workers are there."""

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
        When the scheduler cannot be reached, runs other versions, has no workers, or none that can compute tiles
        with the backend asked for; when that is `gpu` and this machine, where no scheduler was named, has no GPU.
    """
    with dask.config.set(DASK_CONFIG):
        if settings.scheduler is None:
            with _local_cluster(settings) as cluster, Client(cluster) as client:
                _wait_for(client, len(cluster.worker_spec))
                yield client
        else:
            with _existing(settings, settings.scheduler) as client:
                yield client


def _wait_for(client: Client, n_workers: int) -> None:
    """Wait until own workers are there: one that was lost while it started on a busy machine is started again."""
    there = wait_for_workers(client, n_workers, _START_SECONDS)
    what = f"{there} of {n_workers} workers have started within {_START_SECONDS:.0f} s"
    if there == 0:
        raise ResourceError(f"{what}; end other processes, or ask for fewer with --workers")
    if there < n_workers:
        log.warning("%s; the run goes on with these", what)


@contextmanager
def _existing(settings: ClusterSettings, address: str) -> Iterator[Client]:
    secured, speaks_tls = security(settings), address.startswith("tls://")
    files = "--tls-ca, --tls-cert and --tls-key"
    if speaks_tls and secured is None:
        raise ResourceError(f"no Dask scheduler answers at {address} without certificates; give {files}")
    try:
        client = Client(address, timeout="10s", security=secured)
    except (OSError, TypeError, ValueError) as error:
        hint = f"if it speaks TLS, give tls://{address.rpartition('://')[2]} with {files}"
        if speaks_tls:
            hint = f"see that {files} are of those that the cluster trusts"
        raise ResourceError(f"no Dask scheduler answers at {address}: {error}; {hint}") from error
    with client:
        require_same_versions(client.get_versions(packages=OWN_PACKAGES))
        if not workers_of(client):
            log.warning("waiting for the first worker of %s", address)
            wait_for_workers(client, 1, _FIRST_WORKER_SECONDS)
        choose_backends(client, settings.backend)
        for worker in workers_of(client).values():
            require_worker_memory(worker["memory_limit"] or sys.maxsize)
        yield client


@contextmanager
def _local_cluster(settings: ClusterSettings) -> Iterator[Any]:
    """A cluster on this machine, ended in good order also where Ctrl-C comes while it starts."""
    with ThreadPoolExecutor(1, initializer=_deafen) as starter:
        start = starter.submit(_started_cluster, settings)
        try:
            yield start.result()
        finally:
            if start.exception() is None:
                _end(start.result())


def _deafen() -> None:
    """Let this thread, and with it all threads and processes that it starts, hear no Ctrl-C.

    A terminal sends it to every process of the command; the main thread hears it, and ends the others.
    """
    resource_tracker.ensure_running()  # started later, it would let its thread hear again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _end(cluster: Any) -> None:
    """End a cluster, where Dask can wait for ever for a worker lost just before; processes end with this one."""
    try:
        cluster.close(timeout=_CLOSE_SECONDS)
    except TimeoutError:
        log.info("a worker was lost just before the end, and is not waited for")


def _started_cluster(settings: ClusterSettings) -> Any:
    backend, options = _local_backend(settings)
    # Where another command takes the port between our look and Dask's, the note on the dashboard tells which it is.
    warnings.filterwarnings("ignore", r"Port \d+ is already in use", UserWarning)
    if backend == "cpu":
        return LocalCluster(**options)
    from dask_cuda import LocalCUDACluster

    log.info("backend %r: workers are started on the GPUs of this machine", settings.backend)
    cluster = None
    try:
        cluster = LocalCUDACluster(**options)
        cluster.sync(_all_started, cluster)
    except Exception as error:  # of any kind: it comes from whatever the workers load
        if cluster is not None:
            _end(cluster)
        raise _unfit(settings, error) from error
    return cluster


def _unfit(settings: ClusterSettings, error: BaseException) -> ResourceError:
    """What to tell where dask-cuda cannot use the GPUs of this machine."""
    root = _root_of(error)
    remedy = "choose --backend cpu"
    if settings.rmm_pool_size is not None:
        remedy = "lower --rmm-pool-size, or leave it out"
    return ResourceError(
        f"workers cannot be started on this machine's GPUs: {type(root).__name__}: {root}; {remedy}"
    )


async def _all_started(cluster: Any) -> None:
    """Raise what kept a worker from starting, which dask-cuda does not."""
    await asyncio.gather(*cluster.workers.values())


def _root_of(error: BaseException) -> BaseException:
    """What an error was raised from in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _local_backend(settings: ClusterSettings) -> tuple[str, dict[str, Any]]:
    """Backend of a cluster on this machine, `gpu` where `auto` finds what that needs, and the cluster's options."""
    if settings.backend == "cpu":
        return "cpu", local_cluster_options(settings)
    if not has_cuda():
        if settings.backend == "auto":
            for name in settings.for_devices:
                log.warning("this machine has no GPU, and %s does nothing", name)
            return "cpu", local_cluster_options(settings)
        raise ResourceError(
            f"backend 'gpu' needs an NVIDIA GPU, and there is {lack_of_cuda()} here; choose --backend cpu, or name a "
            "cluster that has GPU workers with --scheduler"
        )
    try:
        import dask_cuda  # noqa: F401
    except ImportError as error:
        if settings.backend == "auto":
            log.warning(
                "backend 'auto': this machine has a GPU but no dask-cuda (%s); tiles go to the CPU", error
            )
            return "cpu", local_cluster_options(settings)
        raise ResourceError(
            f"backend 'gpu' needs dask-cuda, which the extra gpu of noveltyflow brings: {error}"
        ) from error
    return "gpu", cuda_cluster_options(settings)


def cuda_cluster_options(settings: ClusterSettings) -> dict[str, Any]:
    """Keyword arguments of `LocalCUDACluster`: a worker for each GPU, whose threads share the cores."""
    import cupy

    devices = int(cupy.cuda.runtime.getDeviceCount())
    workers = settings.workers or devices
    if workers > devices:
        raise ResourceError(
            f"this machine has {devices} GPUs, and {workers} workers are asked for, one on each; lower --workers, or "
            "choose --backend cpu"
        )
    options = local_cluster_options(settings.model_copy(update={"workers": workers}))
    threads = max(settings.threads_per_worker, _cores() // workers)
    return options | {
        "threads_per_worker": threads,
        "resources": {RESOURCES["gpu"]: 1},
        "device_memory_limit": settings.device_memory_limit or "default",
        # Its own preload would take the place of those of the configuration, and not stand beside them.
        "preload": list(DASK_CONFIG["distributed.worker.preload"]),
        **_rmm_options(settings),
    }


def _rmm_options(settings: ClusterSettings) -> dict[str, Any]:
    """Keyword arguments of `LocalCUDACluster` for a pool, which grows no further than CuPy's own would."""
    pool, limit = memory_limit(settings, "rmm_pool_size"), memory_limit(settings, "device_memory_limit")
    if pool is None:
        return {}
    if limit is not None and pool > limit:
        raise SettingsError(
            f"rmm_pool_size {settings.rmm_pool_size!r} is more than device_memory_limit "
            f"{settings.device_memory_limit!r}; lower the one or raise the other"
        )
    return {
        "rmm_pool_size": pool,
        "rmm_maximum_pool_size": limit or MEMORY_SHARE,
        "rmm_allocator_external_lib_list": ["cupy"],
    }


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
        "silence_logs": logging.getLogger("distributed").level,
    }


def local_capacity(settings: ClusterSettings) -> Capacity:
    """What a cluster started on this machine would have; see `connect` for what it raises."""
    backend, options = _local_backend(settings)
    workers = options["n_workers"]
    started = _COMMAND_SECONDS + _SCHEDULER_SECONDS + _WORKER_SECONDS * -(-workers // _cores())
    limit = options["memory_limit"]
    device_mem = _local_device_memory(settings, workers) if backend == "gpu" else None
    return Capacity(workers, options["threads_per_worker"], limit, (backend,), started, device_mem)


def _local_device_memory(settings: ClusterSettings, workers: int) -> int | None:
    """Bytes that tiles may take of the smallest GPU, which is asked without being used."""
    from dask_cuda.utils import cuda_visible_devices, get_device_total_memory, nvml_device_index
    from pynvml import NVMLError

    try:
        visible = cuda_visible_devices(0)
        totals = [get_device_total_memory(nvml_device_index(number, visible)) for number in range(workers)]
    except (NVMLError, ValueError) as error:  # ValueError: CUDA_VISIBLE_DEVICES names what is not there
        raise _unfit(settings, error) from error
    shares = [int(MEMORY_SHARE * total) for total in totals if total]
    limit = memory_limit(settings, "device_memory_limit")
    return min([*shares, *([limit] if limit else [])], default=None)


def capacity_of(client: Client, backends: Sequence[str], device_limit: int | None) -> Capacity:
    """What a running cluster has, whose tiles go to `backends` and may take so much of a device."""
    workers = workers_of(client).values()
    limits = [worker["memory_limit"] or sys.maxsize for worker in workers]
    threads = max(worker["nthreads"] for worker in workers)
    device_mem = device_memory(client, device_limit) if "gpu" in backends else None
    return Capacity(len(limits), threads, min(limits), tuple(backends), _COMMAND_SECONDS, device_mem)


def memory_limit(settings: ClusterSettings, name: str = "memory_limit") -> int | None:
    """The setting `name`, the memory limit of one worker or of its device, in bytes; None where it is not set.

    Raises
    ------
    SettingsError
        When the text is no number of bytes above 0.
    """
    text = getattr(settings, name)
    if text is None:
        return None
    try:
        limit = int(parse_bytes(text))
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise SettingsError(f"{name} {text!r} is not a number of bytes such as 700MiB or 2GB")
    return limit


def default_workers(settings: ClusterSettings) -> int:
    """One worker for each usable core, as far as memory gives each of them enough."""
    share = memory_limit(settings) or _WORKER_MEMORY
    by_memory = int(psutil.virtual_memory().available * _MEMORY_SHARE) // share
    return max(1, min(_cores() // settings.threads_per_worker or 1, by_memory))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_dashboard(address: str) -> str:
    """The address asked for, or one with any free port where that port is taken."""
    host, _, port = address.rpartition(":")
    # Dask takes an address without a host for all of this machine's.
    host = host or "127.0.0.1"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return f"{host}:{port}"
