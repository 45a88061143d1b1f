"""Independent portions of one piece of work, each computed by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

P = TypeVar("P")
R = TypeVar("R")


def side_by_side(function: Callable[[P], R], portions: Sequence[P]) -> list[R]:
    """Results, in order, of a function that releases the GIL; a single portion stays on the caller's thread."""
    if len(portions) <= 1:
        return [function(portion) for portion in portions]
    with ThreadPoolExecutor(len(portions)) as pool:
        return list(pool.map(function, portions))
