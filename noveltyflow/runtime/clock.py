"""Lets Dask wait by a clock that never goes back; scheduler and workers load it before they begin (`dask.yaml`).

Dask's message queues and Tornado's timeouts wait until a time of day. When that is set back by an hour, all
messages would wait for an hour.
"""

from __future__ import annotations

import time

from distributed import batched
from tornado.ioloop import IOLoop

_OFFSET = time.time() - time.monotonic()


def steady_time(*_: object) -> float:
    """Seconds since 1970 as they were when this process began, counted on without jumps."""
    return time.monotonic() + _OFFSET


batched.time = steady_time
IOLoop.time = steady_time  # type: ignore[method-assign, assignment]
