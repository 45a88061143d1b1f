"""Compiled code that is out of date; this needs no compiler."""

from __future__ import annotations

import contextlib
from pathlib import Path


def forget_stale(folder: Path) -> None:
    """Remove what Numba has compiled of a package's functions before any file of the package was last changed.

    Numba compiles a function anew when its own file has changed, but not when that of a function that it calls has.
    """
    with contextlib.suppress(OSError):
        changed = max(source.stat().st_mtime for source in folder.rglob("*.py"))
        for compiled in folder.rglob("*.nbi"):
            if compiled.stat().st_mtime < changed:
                compiled.unlink(missing_ok=True)
