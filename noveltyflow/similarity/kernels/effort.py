"""What computing everything takes, in multiply-adds of a search that uses bounds: it gives up where it takes more."""

from __future__ import annotations

from noveltyflow.similarity.kernels.compiling import uncounted

_MULTIPLY_ADD, _SUM, _ROW = 0.8, 0.2, 3_000
"""Of one multiply-add, of clearing and comparing a candidate's sum, and of a query: fitted to seventeen searches.
What neighbours take is left out, since bounds insert them as well."""


@uncounted
def effort_of_everything(multiply_adds: float, candidates: int) -> float:
    """What one query takes that needs so many multiply-adds."""
    return _MULTIPLY_ADD * multiply_adds + _SUM * candidates + _ROW
