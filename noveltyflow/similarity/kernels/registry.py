"""Which kernel computes the tiles. Only `auto` chooses, and it says what it chose."""

from __future__ import annotations

import logging
from collections.abc import Callable

from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.similarity.kernels.base import TileKernel
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.gpu import GpuKernel

logger = logging.getLogger(__name__)

KERNELS: dict[str, Callable[[], TileKernel]] = {"gpu": GpuKernel, "cpu": CpuKernel}
"""Kernels by backend name, the preferred first."""


def get_kernel(backend: str = "auto") -> TileKernel:
    """Kernel of the backend of that name, or with `auto` the preferred one that is usable here.

    Raises
    ------
    SettingsError
        If no backend has that name.
    ResourceError
        If this machine cannot run the backend asked for, or with `auto` any.
    """
    if backend == "auto":
        return _preferred()
    if backend not in KERNELS:
        known = ", ".join(["auto", *KERNELS])
        raise SettingsError(f"unknown backend {backend!r}; choose one of: {known}")
    kernel = KERNELS[backend]()
    if not kernel.is_usable():
        raise ResourceError(
            f"backend {backend!r} cannot run on this machine; use backend='auto' to see what can"
        )
    return kernel


def _preferred() -> TileKernel:
    for name, make in KERNELS.items():
        kernel = make()
        if kernel.is_usable():
            logger.info("backend 'auto' chose %r", name)
            return kernel
    raise ResourceError(f"none of the backends can run on this machine: {', '.join(KERNELS)}")
