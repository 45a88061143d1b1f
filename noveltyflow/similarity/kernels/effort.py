"""How much a search may do before it stops looking for what it can leave out, because that has spared nothing."""

from __future__ import annotations

from noveltyflow.similarity.kernels.compiling import uncounted

_TIMES_ALL, _PATIENCE = 2, 3_000_000


@uncounted
def allowance(everything: float) -> float:
    """Multiply-adds that may be spent on rows for which computing everything takes `everything`, and some more."""
    return float(_TIMES_ALL * everything + _PATIENCE)
