"""One Zarr v3 folder that holds everything a workflow produced."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.storage import MemoryStore

from noveltyflow.config import fingerprint as digest
from noveltyflow.errors import DamageError, StoreError, UnfinishedError
from noveltyflow.store import profile
from noveltyflow.store.durable import PARTIAL, inside, load_json, sync, sync_folder, sync_parents
from noveltyflow.store.files import is_local, open_files
from noveltyflow.store.head import HEAD, HEADER, damaged_head, is_json, pack, unpack
from noveltyflow.store.scratch import Scratch

SCHEMA_VERSION = 3
STAGES = ("urls", "features", "idf", "neighbors")
SCRATCH = ".scratch"
"""Name of the folder of unfinished work in a run folder."""
ASIDE = ("audit.json", "options.json", "work.json", profile.FOLDER)
"""Names in a run folder that are no content of the run."""
_SEAL = "seal"
"""The attribute of a marker that is a checksum of all others."""
_EVERY_CHUNK: ArrayConfigParams = {"write_empty_chunks": True}
"""Zarr leaves out chunks that hold the fill value alone; then a lost one could not be told from them."""

_BYTES = re.compile(r"""\bb(["'])(.*)\1""")
"""Bytes as Python writes them, in which codecs tell what a library said."""

log = logging.getLogger(__name__)


def compressor() -> ZstdCodec:
    """The codec of every chunk; its checksum turns a flipped bit into an error."""
    return ZstdCodec(level=1, checksum=True)


def _described() -> tuple[dict[str, Any], zarr.Group]:
    """Files of a group in memory, and the group: what is made there is described as Zarr does it."""
    files: dict[str, Any] = {}
    return files, zarr.open_group(MemoryStore(files), mode="w", zarr_format=3)


@dataclass(frozen=True)
class RunStore:
    """A run folder at a path or fsspec address.

    Pickles as its address and mode only; arrays are opened where they are used.

    Raises
    ------
    StoreError
        When the folder is absent, is no run, or has another schema version.
    """

    path: str
    writable: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Only the address and the mode travel."""
        return {"path": self.path, "writable": self.writable}

    @classmethod
    def create(cls, path: str, header: Mapping[str, Any]) -> RunStore:
        """Make an empty run folder that carries `header` (JSON-able) and the schema version.

        Raises
        ------
        StoreError
            When nothing can be written there.
        """
        if path.startswith("memory:"):
            raise StoreError(f"{path}: a run in one process's memory is lost to all others; give a folder")
        packed = {"inputs": pack(header["inputs"])} if "inputs" in header else {}
        attributes = {HEADER: {"schema_version": SCHEMA_VERSION, **header, **packed}}
        head = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
        try:
            # Unlike Zarr's own, it has its name only once the disk holds what is in it.
            Scratch(path).write(HEAD, json.dumps(head, indent=2).encode())
        except OSError as error:
            raise StoreError(f"{path}: cannot be made: {error}; choose another --out") from error
        store = cls(path, writable=True)
        store.flush_folders([HEAD])
        return store

    @cached_property
    def root(self) -> zarr.Group:
        """The Zarr group, opened once for each process."""
        try:
            files = open_files(self.path, writable=self.writable)
            # Consolidated metadata, which no run has, could bring arrays of format 2, whose filters may unpickle.
            group = zarr.open_group(
                files, mode="r+" if self.writable else "r", zarr_format=3, use_consolidated=False
            )
        except json.JSONDecodeError as error:
            raise damaged_head(self.path) from error
        except (FileNotFoundError, ValueError) as error:
            raise StoreError(
                f"{self.path}: no run here; make one with: noveltyflow run INPUT --out {self.path}"
            ) from error
        header = group.attrs.asdict().get(HEADER)
        if not isinstance(header, dict):
            raise StoreError(f"{self.path}: a Zarr folder, but not a run of noveltyflow")
        if header.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: schema version {header.get('schema_version')}, this noveltyflow reads "
                f"{SCHEMA_VERSION}; make the run anew with --overwrite"
            )
        return group

    @cached_property
    def header(self) -> dict[str, Any]:
        """What `create` was given, and the schema version."""
        header: dict[str, Any] = self.root.attrs.asdict()[HEADER]  # type: ignore[assignment]
        try:
            return {**header, "inputs": unpack(header["inputs"])} if "inputs" in header else header
        except (ValueError, zlib.error) as error:
            raise damaged_head(self.path) from error

    @cached_property
    def reader(self) -> RunStore:
        """The same run, opened for reading: there a missing chunk is an error, not an empty one."""
        return RunStore(self.path) if self.writable else self

    @property
    def scratch(self) -> Scratch:
        """Space for unfinished work; removed when the run is complete."""
        if is_local(self.path):
            inside(Path(self.path), SCRATCH)
        return Scratch(f"{self.path.rstrip('/')}/{SCRATCH}")

    def holds_run(self) -> bool:
        """Whether a run, complete or not, is at the address."""
        try:
            head = load_json(Scratch(self.path).read(HEAD) or b"")
            return "schema_version" in head["attributes"][HEADER]
        except (NotADirectoryError, ValueError, KeyError, TypeError):
            return False

    def require_free(self) -> None:
        """Refuse an address that holds anything else, which may be somebody's work.

        A head that a killed process was writing is nothing.
        """
        fs, root = fsspec.core.url_to_fs(self.path)
        if not fs.exists(root):
            return
        names = (
            [str(path).rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)] if fs.isdir(root) else [""]
        )
        if HEAD in names and not is_json(Scratch(self.path).read(HEAD) or b""):
            raise damaged_head(self.path)
        if not all(name.startswith(HEAD) and name.endswith(PARTIAL) for name in names):
            raise StoreError(f"{self.path}: exists and is not a run of noveltyflow; choose another --out")

    def remove(self) -> None:
        """Delete the run: its markers first, its head last, so that a kill leaves an empty run, never half of one."""
        fs, root = fsspec.core.url_to_fs(self.path)
        first = [f"{root}/stages", f"{root}/{SCRATCH}"]
        others = [path for path in fs.ls(root, detail=False) if not str(path).endswith(f"/{HEAD}")]
        for path in [*first, *others]:
            if fs.exists(path):
                fs.rm(path, recursive=True)
        fs.rm(root, recursive=True)

    def aside(self, name: str) -> dict[str, Any] | None:
        """What lies in `NAME.json` beside the content of the run, such as `audit`; None where there is nothing."""
        data = Scratch(self.path).read(f"{name}.json")
        try:
            values: dict[str, Any] | None = None if data is None else dict(load_json(data))
        except (TypeError, ValueError) as error:
            raise DamageError(f"{self.path}/{name}.json is damaged; remove it") from error
        return values

    def write_aside(self, name: str, values: Mapping[str, Any]) -> None:
        """Store what may differ between runs of the same content, such as what `verify` found."""
        Scratch(self.path).write(f"{name}.json", json.dumps(values, indent=2).encode())

    def forget_audit(self) -> None:
        """No longer show what was found in files that are about to change."""
        Scratch(self.path).remove("audit.json")

    def sweep(self) -> None:
        """Remove files that a killed process was writing; object stores keep none."""
        if is_local(self.path):
            for partial in Path(self.path).rglob(f"*{PARTIAL}"):
                partial.unlink(missing_ok=True)

    def array(self, name: str) -> zarr.Array[Any]:
        """One stored array, such as `rows/url`."""
        found = self.root[name]
        if not isinstance(found, zarr.Array):
            raise StoreError(f"{self.path}: {name} is not an array; the run is damaged")
        return found.with_config(_EVERY_CHUNK)

    def allocated(self, name: str) -> zarr.Array[Any] | None:
        """An array as an earlier command made it; None where there is none, or its description is damaged."""
        try:
            return self.array(name)
        except (KeyError, ValueError, StoreError):
            return None

    def read(self, name: str, selection: Any = ...) -> np.ndarray[Any, Any]:
        """Some or all of a stored array.

        Raises
        ------
        DamageError
            When a chunk is missing or not what was stored.
        """
        with self._naming_damage(name, selection):
            return np.asarray(self.reader.array(name)[selection])

    def take(self, name: str, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Some rows of a stored array, by their int64 numbers in any order; see `read`."""
        if not len(rows) or (rows[-1] - rows[0] + 1 == len(rows) and np.all(np.diff(rows) == 1)):
            return self.read(name, slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0))
        with self._naming_damage(name, slice(int(rows.min()), int(rows.max()) + 1)):
            return np.asarray(self.reader.array(name).oindex[rows])

    @contextmanager
    def _naming_damage(self, name: str, selection: Any) -> Iterator[None]:
        """Whatever goes wrong with what a codec reads is said of the array and its rows."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            first = selection[0] if isinstance(selection, tuple) else selection
            rows = f", rows {first.start}-{first.stop - 1}" if isinstance(first, slice) else ""
            why = _BYTES.sub(r"\2", str(error))
            raise DamageError(
                f"{self.path}: {name}{rows} is damaged ({why}); {DamageError.remedy}"
            ) from error

    def preallocate(
        self, name: str, shape: tuple[int, ...], chunk_rows: int, dtype: Any, fill: Any = 0
    ) -> None:
        """Make an array whose chunks hold whole row blocks, so that no two tasks write one chunk.

        One that is there already, with the same description, stays as it is.
        """
        wanted, described = _described()
        described.create_array(
            name,
            shape=shape,
            chunks=(chunk_rows, *(max(1, length) for length in shape[1:])),
            dtype=dtype,
            fill_value=fill,
            compressors=compressor(),
        )
        description = f"{name}/{HEAD}"
        if Scratch(self.path).read(description) != wanted[description].to_bytes():
            Scratch(self.path).remove(name)
        self._describe(wanted)

    def make_group(self, name: str) -> None:
        """Make a group, or mend its description; what is in it stays."""
        wanted, described = _described()
        described.create_group(name)
        self._describe(wanted)

    def _describe(self, wanted: Mapping[str, Any]) -> None:
        """Write descriptions, but the run's own, where others are: Zarr would keep what is left of damaged ones."""
        files = Scratch(self.path)
        for file, content in wanted.items():
            if file != HEAD and files.read(file) != content.to_bytes():
                files.write(file, content.to_bytes())

    def put(self, name: str, values: np.ndarray[Any, Any], attributes: dict[str, Any] | None = None) -> None:
        """Store a small or per-block array whole, in one chunk."""
        self.root.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, length) for length in values.shape),
            dtype=values.dtype,
            compressors=compressor(),
            attributes=attributes,
            overwrite=True,
        )
        self.array(name)[...] = values

    def marker(self, stage: str) -> dict[str, Any] | None:
        """As `require_marker`, but one that is no longer what was written vouches for nothing: None."""
        root = self.root  # where the head is damaged there is no run at all
        try:
            return self._marker_of(root, stage)
        except DamageError as error:
            log.warning("%s; the stage counts as unfinished", error)
            return None

    def require_marker(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left: its `fingerprint` and figures; None while it is unfinished.

        Raises
        ------
        DamageError
            When the marker is no longer what was written.
        """
        return self._marker_of(self.root, stage)

    def _marker_of(self, root: zarr.Group, stage: str) -> dict[str, Any] | None:
        name = f"stages/{stage}"
        try:
            figures = dict(root[name].attrs.asdict())
        except KeyError:
            return None
        except (TypeError, ValueError):
            figures = {}
        if figures.pop(_SEAL, None) != digest(figures):
            raise DamageError(f"{self.path}: marker {name} is damaged")
        return figures

    def mark(self, stage: str, fingerprint: str, **figures: Any) -> None:
        """Vouch for a stage, after everything it stored has reached the disk."""
        name = f"stages/{stage}"
        attributes = {"fingerprint": fingerprint, **figures}
        attributes[_SEAL] = digest(attributes)
        self.root.create_group(name, attributes=attributes, overwrite=True)
        self.flush(["stages/zarr.json", f"{name}/zarr.json"])

    def unmark(self, stage: str) -> None:
        """No longer vouch for a stage; absent is fine."""
        name = f"stages/{stage}"
        if name in self.root:
            del self.root[name]
            if is_local(self.path):
                sync_folder(Path(self.path) / "stages")

    def flush(self, names: Sequence[str]) -> None:
        """Have the disk hold some files and their folders; remote stores do so by themselves."""
        if is_local(self.path):
            for name in names:
                sync(Path(self.path) / name)
            self.flush_folders(names)

    def flush_folders(self, names: Sequence[str]) -> None:
        """Have the disk hold the names of files whose contents it holds."""
        if is_local(self.path):
            sync_parents(Path(self.path), names)

    def finished(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage was completed with exactly these settings and inputs."""
        marker = self.marker(stage)
        return marker is not None and marker.get("fingerprint") == fingerprint

    def figures(self, stage: str) -> dict[str, Any]:
        """Figures of a finished stage.

        Raises
        ------
        UnfinishedError
            When the stage is unfinished, saying which is next and how to go on.
        """
        marker = self.marker(stage)
        if marker is None:
            first = next(name for name in STAGES if name == stage or self.marker(name) is None)
            raise UnfinishedError(
                f"{self.path}: the run is unfinished, and stage {first!r} is next; {UnfinishedError.remedy}"
            )
        return marker
