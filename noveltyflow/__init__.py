"""Find what is new in a very large list of URLs: exact, out-of-core, from a laptop to a cluster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noveltyflow.features.vectorizer import HashingVectorizer
    from noveltyflow.run import Run, open_run
    from noveltyflow.runtime.submit import run_workflow
    from noveltyflow.similarity.neighbors import cosine_kneighbors
    from noveltyflow.workflow import Workflow, load_workflow

_HOMES = {
    "HashingVectorizer": "noveltyflow.features.vectorizer",
    "Run": "noveltyflow.run",
    "Workflow": "noveltyflow.workflow",
    "cosine_kneighbors": "noveltyflow.similarity.neighbors",
    "load_workflow": "noveltyflow.workflow",
    "open_run": "noveltyflow.run",
    "run_workflow": "noveltyflow.runtime.submit",
}

__all__ = [
    "HashingVectorizer",
    "Run",
    "Workflow",
    "cosine_kneighbors",
    "load_workflow",
    "open_run",
    "run_workflow",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import noveltyflow` alone loads no heavy package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
