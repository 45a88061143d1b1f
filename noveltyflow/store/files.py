"""The Zarr store of a run: transient faults are tried again, and a chunk that is gone is an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from noveltyflow.errors import DamageError
from noveltyflow.store.durable import inside, load_json, may_pass, naming, pauses, readable

T = TypeVar("T")


def is_local(path: str) -> bool:
    """Whether `path` is a folder of this machine's file system and no address."""
    return "://" not in path


def open_files(path: str, *, writable: bool) -> RunFiles:
    """Open the store at a path or fsspec address.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    """
    if not is_local(path):
        return RunFiles(FsspecStore.from_url(path, read_only=not writable))
    if not Path(path).is_dir():
        raise FileNotFoundError(path)
    return RunFiles(LocalStore(path, read_only=not writable))


class RunFiles(WrapperStore[Store]):
    """Wraps any store of Zarr's.

    Zarr takes an absent chunk for one that holds nothing but the fill value. A run writes every chunk, so when
    it is opened for reading an absent one is damage. (Writing a part of a new chunk must find it absent.)
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As in every store; an absent chunk raises `DamageError` when the store is read-only."""
        found = await self._tried(key, lambda: self._store.get(key, prototype, byte_range), readable)
        if found is None and self.read_only and "/c/" in key:
            raise DamageError(f"{self._store}: chunk {key} is missing; {DamageError.remedy}")
        if found is not None and key.endswith("zarr.json"):
            load_json(found.to_bytes())  # Zarr fails otherwise where it is nested too deeply
        return found

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """As in every store."""
        await self._tried(key, lambda: self._store.set_if_not_exists(key, value))

    async def set(self, key: str, value: Buffer) -> None:
        """As in every store."""
        await self._tried(key, lambda: self._store.set(key, value))

    async def delete(self, key: str) -> None:
        """As in every store."""
        await self._tried(key, lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """As in every store."""
        await self._tried(prefix, lambda: self._store.delete_dir(prefix))

    async def _tried(
        self, key: str, action: Callable[[], Awaitable[T]], check: Callable[[Path, str], Path] = inside
    ) -> T:
        """Result of `action` on a key that passes `check` where it is a file; an error says which key it was."""
        if isinstance(self._store, LocalStore):
            check(self._store.root, key)
        with naming(key):
            return await _retried(action)


async def _retried(action: Callable[[], Awaitable[T]]) -> T:
    """See `durable.retried`; here the thread is free meanwhile."""
    for pause in pauses():
        try:
            return await action()
        except OSError as error:
            if not may_pass(error):
                raise
            await asyncio.sleep(pause)
    return await action()
