"""Records the memory of every worker, and of the command itself, while a run goes on."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import psutil
from distributed import Client, WorkerPlugin

from noveltyflow.errors import SettingsError
from noveltyflow.runtime.load import spilled_bytes
from noveltyflow.runtime.progress import Reporter
from noveltyflow.store.files import is_local
from noveltyflow.store.profile import Sample, open_samples, open_stages, write_sample

SAMPLE_SECONDS = 0.5
_TELL_SECONDS = 5.0
"""How long workers, one of which may be stopped, are waited for when a profile ends."""

log = logging.getLogger(__name__)


class Sampler:
    """A thread that appends what this process holds to its file in the run folder, twice a second.

    Parameters
    ----------
    run
        Path of the run folder.
    role
        What the process is, with which the name of its file begins.
    about
        Gives the memory limit, and what Dask manages and has spilled, in bytes.
    """

    def __init__(self, run: str, role: str, about: Callable[[], tuple[int, int, int]]) -> None:
        self._run, self._name = run, f"{role}-{socket.gethostname()}-{os.getpid()}"
        self._about = about
        self._end = Event()
        self._thread = Thread(target=self._sample, name="memory-profile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after one more sample."""
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        try:
            with open_samples(self._run, self._name) as file:
                while True:
                    limit, managed, spilled = self._about()
                    rss, free = process.memory_info().rss, psutil.virtual_memory().available
                    write_sample(file, Sample(round(time.time(), 3), rss, limit, managed, spilled, free))
                    if self._end.wait(SAMPLE_SECONDS):
                        break
        except OSError as error:
            # A full disk or a folder that is gone ends the run where that matters; here it only ends the profile.
            log.warning("the memory profile of %s ends here: %s", self._name, error)


class _OnWorkers(WorkerPlugin):  # type: ignore[misc] # distributed is not typed for mypy
    """A sampler on every worker, also on those that come later."""

    name = "noveltyflow-memory"

    def __init__(self, run: str) -> None:
        self._run = run
        self._sampler: Sampler | None = None

    def setup(self, worker: Any) -> None:
        """See `WorkerPlugin.setup`."""

        def about() -> tuple[int, int, int]:
            limit = worker.memory_manager.memory_limit or psutil.virtual_memory().total
            return limit, worker.state.nbytes, spilled_bytes(worker)

        self._sampler = Sampler(self._run, "worker", about)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - as Dask calls it
        """See `WorkerPlugin.teardown`."""
        if self._sampler is not None:
            self._sampler.stop()


class MemoryProfile:
    """A reporter that passes on all it is told, and records memory from the first stage to the last.

    Parameters
    ----------
    client
        A connected client.
    run
        Path of the run folder.
    reporter
        Who is told.

    Raises
    ------
    SettingsError
        When the run folder is an address, where nothing can be appended.
    """

    def __init__(self, client: Client, run: str, reporter: Reporter) -> None:
        if not is_local(run):
            raise SettingsError(f"{run}: --profile-memory needs a run folder on a file system")
        self._client, self._run, self._reporter = client, run, reporter
        self._sampler: Sampler | None = None

    def __enter__(self) -> MemoryProfile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is None:
            return
        self._sampler.stop()
        # Where nobody is left to tell, the threads end with their workers.
        if self._client.status != "running":
            return
        end = self._client.scheduler.unregister_worker_plugin
        try:
            self._client.sync(end, name=_OnWorkers.name, callback_timeout=_TELL_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("not every worker was told that the memory profile has ended: %s", error)

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See `Reporter.start`."""
        with open_stages(self._run) as stages:
            stages.write(f"{time.time():.3f},{stage}\n")
        if self._sampler is None:
            self._sampler = Sampler(self._run, "client", lambda: (0, 0, 0))
            self._client.register_plugin(_OnWorkers(self._run))
        self._reporter.start(stage, total, unit)

    def advance(self, amount: int) -> None:
        """See `Reporter.advance`."""
        self._reporter.advance(amount)

    def finish(self, message: str) -> None:
        """See `Reporter.finish`."""
        self._reporter.finish(message)

    def note(self, message: str) -> None:
        """See `Reporter.note`."""
        self._reporter.note(message)
