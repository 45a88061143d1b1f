"""Whether a cluster runs the code of the command that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noveltyflow.errors import ResourceError

OWN_PACKAGES = ["noveltyflow"]
"""What `Client.get_versions` is to tell besides what it always tells."""
_SAME_EVERYWHERE = ("noveltyflow", "dask", "distributed")
_MOST_SHOWN = 8


def require_same_versions(found: Mapping[str, Any]) -> None:
    """Refuse a cluster of other versions: its tasks would fail, or give another result.

    Parameters
    ----------
    found
        What `Client.get_versions(packages=OWN_PACKAGES)` says of the client, the scheduler and the workers.

    Raises
    ------
    ResourceError
        Naming the processes with another version, and both versions.
    """
    own = _versions(found["client"])
    workers = {f"worker {address}": told for address, told in found["workers"].items()}
    others = [
        f"{process} has {name} {version or '(none)'}, this command {own[name]}"
        for process, told in {"the scheduler": found["scheduler"], **workers}.items()
        for name, version in _versions(told).items()
        if version != own[name]
    ]
    if others:
        more = [f"and {len(others) - _MOST_SHOWN:,} more"] if len(others) > _MOST_SHOWN else []
        raise ResourceError(
            "\n  ".join(["the cluster runs other versions than this command:", *others[:_MOST_SHOWN], *more])
            + "\ninstall the same release of noveltyflow, with its constraints, everywhere and restart the cluster"
        )


def _versions(told: Mapping[str, Any]) -> dict[str, str | None]:
    """Versions that must agree; of Python's only the first two numbers, between which code cannot travel."""
    packages = told["packages"]
    python = ".".join(packages["python"].split(".")[:2])
    return {"python": python, **{name: packages[name] for name in _SAME_EVERYWHERE}}
