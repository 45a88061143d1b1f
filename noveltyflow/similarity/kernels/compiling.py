"""How innermost functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False}


def uncounted(function: F) -> F:
    """Compile a function without counting references to arrays; its caller holds them, and it makes and returns none.

    Numba counts a reference, with a locked instruction, for every array that is taken out of a tuple, sliced or
    passed on, which in loops of a few nanoseconds is a large part of the time.
    """
    compiled: F = numba.njit(**_OPTIONS)(function)
    return compiled
