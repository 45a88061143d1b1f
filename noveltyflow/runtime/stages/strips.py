"""How far every strip has come: checkpoints in scratch space, which say which tiles are in them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np

from noveltyflow.similarity.kernels.base import TileStats
from noveltyflow.similarity.tiles import Block
from noveltyflow.similarity.topk import TopK
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import blocks_of
from noveltyflow.types import AnyArray, BoolArray

_DAMAGE = (EOFError, ValueError, KeyError, TypeError, BadZipFile, TokenError, RecursionError, MemoryError)
"""What reading a checkpoint raises that is not what was written; the last three where its descriptions are nested."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StripState:
    """A strip after some of its tiles, whichever they are.

    Attributes
    ----------
    done : bool array, one for each block
        Tiles that are computed.
    best : TopK
        Neighbours among the rows of these blocks.
    stats : TileStats
        Work they took.
    """

    done: BoolArray
    best: TopK
    stats: TileStats

    @classmethod
    def begin(cls, strip: Block, n_blocks: int, n_neighbors: int) -> StripState:
        """A strip without any tile; `n_blocks` is how many it will have."""
        return cls(np.zeros(n_blocks, np.bool_), TopK.empty(strip.n_rows, n_neighbors), TileStats())

    def with_tiles(self, span: range, best: TopK, work: TileStats) -> StripState:
        """The strip after the tiles of `span` too, which make `best` of its neighbours."""
        done = self.done.copy()
        done[span.start : span.stop] = True
        return StripState(done, best, self.stats + work)


def load_state(store: RunStore, strip: Block) -> StripState | None:
    """The checkpoint of a strip; None where there is none."""
    data = store.scratch.read(_name(strip))
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            best = TopK(saved["similarities"], saved["indices"])
            done, stats = _progress(saved, len(blocks_of(store)))
            return StripState(done, best, stats)
    except _DAMAGE as error:
        _warn(store, strip, error)
        return None


def store_state(store: RunStore, strip: Block, state: StripState) -> None:
    """Write the checkpoint of a strip; it is on the disk, whole, when this returns."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        similarities=state.best.similarities,
        indices=state.best.indices,
        done=state.done,
        stats=np.array(astuple(state.stats), np.int64),
    )
    store.scratch.write(_name(strip), buffer.getbuffer())


def done_tiles(store: RunStore, strips: Sequence[Block]) -> Iterator[tuple[Block, BoolArray]]:
    """Which tiles of each strip are stored, for those that have a checkpoint, whose neighbours are not read."""
    names = {f"strips/{name}" for name in store.scratch.names("strips")}
    n_blocks = len(blocks_of(store))
    for strip in strips:
        if _name(strip) in names and (done := _stored_tiles(store, strip, n_blocks)) is not None:
            yield strip, done


def _stored_tiles(store: RunStore, strip: Block, n_blocks: int) -> BoolArray | None:
    try:
        with store.scratch.open(_name(strip)) as file, np.load(file, allow_pickle=False) as saved:
            return _progress(saved, n_blocks)[0]
    except FileNotFoundError:
        return None  # the run was completed meanwhile
    except _DAMAGE as error:
        _warn(store, strip, error)
        return None


def _progress(saved: Mapping[str, AnyArray], n_blocks: int) -> tuple[BoolArray, TileStats]:
    """Tiles that are done and what they took; an earlier version may have counted less."""
    done, stats = saved["done"], saved["stats"]
    if done.dtype != np.bool_ or done.shape != (n_blocks,):
        raise ValueError(f"tiles of {done.shape} blocks, not {n_blocks}")
    if stats.dtype != np.int64 or stats.shape != (len(fields(TileStats)),):
        raise ValueError(f"{stats.size} figures of work, not {len(fields(TileStats))}")
    return done, TileStats(*stats.tolist())


def _warn(store: RunStore, strip: Block, error: Exception) -> None:
    log.warning(
        "%s: checkpoint %s is damaged (%s); its tiles are computed anew", store.path, _name(strip), error
    )


def _name(strip: Block) -> str:
    return f"strips/{strip.start:012d}-{strip.stop:012d}.npz"
