"""Stage `urls`, first part: shards are streamed into pieces of raw records on disk.

A shard may be one compressed file of any length, so reading it is one task; the costlier work on its
records is then spread over the pieces.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.store import Scratch
from noveltyflow.store.durable import load_json
from noveltyflow.urls.batches import RecordBatch
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.rejects import Reject
from noveltyflow.urls.shards import Shard

log = logging.getLogger(__name__)

_PARTITION_BYTES = 64 << 20
_PARTITION_SHARDS = 1_024
_BATCH_RECORDS = 16_384
_BATCH_CHARACTERS = 4 << 20
_PIECE_RECORDS = 50_000
_PIECE_BYTES = 16 << 20
_SAMPLES_PER_PIECE = 256
_SAMPLE_CHARACTERS = 64 << 10
"""Of the samples of a piece together, unless it is one: the client holds those of all pieces."""


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """What was read from one shard."""

    records: int = 0
    blank: int = 0
    lines: int = 0


@dataclass(frozen=True)
class ReadReport:
    """What one partition of shards gave; stored, so that reading it again is never needed."""

    partition: int
    first_shard: int
    shards: list[ShardCounts]
    pieces: int
    samples: list[str] = field(repr=False)

    @property
    def records(self) -> int:
        """Number of input records, blank and rejected ones included."""
        return sum(shard.records for shard in self.shards)

    @property
    def names(self) -> list[str]:
        """Names of the pieces."""
        return [piece_name(self.partition, piece) for piece in range(self.pieces)]


Partition = tuple[int, int, list[Shard]]
"""Number of the partition, number of its first shard, its shards."""


def partition_shards(shards: Sequence[Shard]) -> list[Partition]:
    """Group consecutive shards, so that many tiny files make few tasks, and none of endless ones."""
    partitions: list[Partition] = []
    room = 0
    for number, shard in enumerate(shards):
        if not partitions or shard.size > room or len(partitions[-1][2]) == _PARTITION_SHARDS:
            partitions.append((len(partitions), number, []))
            room = _PARTITION_BYTES
        partitions[-1][2].append(shard)
        room -= shard.size
    return partitions


def read(
    partitions: Iterable[Partition], scratch: Scratch, settings: InputSettings
) -> list[ReadReport | InputError]:
    """Stream the shards of each partition into pieces; an input's fault is returned, not raised.

    An exception would be retried, and reading a broken file again does not mend it.
    """
    reports: list[ReadReport | InputError] = []
    for number, first_shard, shards in partitions:
        try:
            reports.append(_read_partition(number, first_shard, shards, scratch, settings))
        except InputError as error:
            reports.append(error)
    return reports


def _read_partition(
    number: int, first_shard: int, shards: list[Shard], scratch: Scratch, settings: InputSettings
) -> ReadReport:
    pieces = _PieceWriter(scratch, number)
    counts = []
    for offset, shard in enumerate(shards):
        records = blank = lines = 0
        for batch in read_shard(shard, settings, batch_records=_BATCH_RECORDS):
            pieces.add(batch, first_shard + offset)
            records, blank, lines = records + batch.n_records, blank + batch.n_blank, lines + batch.n_lines
        counts.append(ShardCounts(records, blank, lines))
    pieces.flush()
    report = ReadReport(number, first_shard, counts, pieces.written, pieces.samples)
    scratch.write(f"read/{number:06d}.json", json.dumps(asdict(report)).encode())
    return report


def stored_report(scratch: Scratch, name: str) -> ReadReport | None:
    """A report that an earlier, interrupted run left; one that is damaged is none, so its shards are read again."""
    try:
        data = load_json(scratch.read(f"read/{name}") or b"{}")
        return ReadReport(**{**data, "shards": [ShardCounts(**shard) for shard in data["shards"]]})
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s/read/%s is damaged (%s); its shards are read again", scratch.path, name, error)
        return None


class _PieceWriter:
    """Collects record batches of consecutive shards and writes them as pieces of bounded size."""

    def __init__(self, scratch: Scratch, partition: int) -> None:
        self.written = 0
        self.samples: list[str] = []
        self._scratch = scratch
        self._partition = partition
        self._batches: list[tuple[int, RecordBatch]] = []
        self._batched = self._characters = 0
        self._records: list[pa.Table] = []
        self._waiting = self._waiting_bytes = 0
        self._rejects: list[tuple[int, Reject]] = []

    def add(self, batch: RecordBatch, shard: int) -> None:
        """Take one batch; write a piece when enough has come together."""
        self._batches.append((shard, batch))
        self._batched += batch.n_records
        self._characters += sum(map(len, batch.texts))
        self._rejects += [(shard, reject) for reject in batch.rejects]
        # Of many tiny shards each gives a batch of its own, and a table has a price however small it is.
        if self._batched >= _BATCH_RECORDS or self._characters >= _BATCH_CHARACTERS:
            self._pack()
        if self._waiting + len(self._rejects) >= _PIECE_RECORDS or self._waiting_bytes >= _PIECE_BYTES:
            self.flush()

    def _pack(self) -> None:
        """Make one table of the batches that came since the last one."""
        if not self._batches:
            return
        batches = [batch for _, batch in self._batches]
        columns: dict[str, Any] = {
            "text": pa.array([text for batch in batches for text in batch.texts], pa.large_string()),
            "shard": np.repeat([shard for shard, _ in self._batches], [len(b.texts) for b in batches]),
            "ordinal": np.concatenate([batch.ordinals for batch in batches]),
            "line": np.concatenate([batch.lines for batch in batches]),
        }
        if batches[0].times is not None:
            columns["time"] = np.concatenate([batch.times for batch in batches])
        table = pa.table(columns)
        self._records.append(table)
        self._waiting += table.num_rows
        self._waiting_bytes += table.nbytes
        self._batches = []
        self._batched = self._characters = 0

    def flush(self) -> None:
        """Write what has come together, if anything."""
        self._pack()
        if not self._records:
            return
        table = pa.concat_tables(self._records)
        name = piece_name(self._partition, self.written)
        self._scratch.write_table(f"rejects/{name}-read", reject_table(self._rejects))
        self._scratch.write_table(f"pieces/{name}", table)
        step = max(1, table.num_rows // _SAMPLES_PER_PIECE)
        samples: list[str] = table["text"].take(np.arange(0, table.num_rows, step)).to_pylist()
        while len(samples) > 1 and sum(map(len, samples)) > _SAMPLE_CHARACTERS:
            samples = samples[::2]
        self.samples += samples
        self.written += 1
        self._records, self._rejects = [], []
        self._waiting = self._waiting_bytes = 0


def piece_name(partition: int, piece: int) -> str:
    """Name of one piece; names sort in input order."""
    return f"{partition:06d}-{piece:06d}"


def reject_table(rejects: Sequence[tuple[int, Reject]]) -> pa.Table:
    """Rejects with the shards they came from, as a table."""
    return pa.table(
        {
            "shard": pa.array([shard for shard, _ in rejects], pa.int64()),
            "line": pa.array([reject.line for _, reject in rejects], pa.int64()),
            "reason": pa.array([reject.reason for _, reject in rejects], pa.string()),
            "text": pa.array([reject.text for _, reject in rejects], pa.string()),
        }
    )
