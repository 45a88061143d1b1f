"""How the loops of this package are compiled."""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile without the interpreter's lock; a division by zero gives infinity or NaN."""
    return njit(function, cache=True, nogil=True, error_model="numpy")


def inlined(function: Any) -> Any:
    """`compiled`, and made part of each caller, whatever its size."""
    return njit(function, cache=True, nogil=True, error_model="numpy", forceinline=True)
