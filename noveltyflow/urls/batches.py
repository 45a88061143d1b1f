"""What every reader yields: batches of records, accounted for to the line."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

import numpy as np

from noveltyflow.types import Int64Array
from noveltyflow.urls.rejects import Reason, Reject, make_reject

BATCH_CHARACTERS = 16 << 20
"""A batch is closed early once its texts hold this many characters, so that long lines cannot fill memory."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one shard; `n_records == len(texts) + len(rejects) + n_blank`."""

    texts: list[str]
    """Accepted URL texts, stripped of surrounding spaces and tabs; length n."""
    ordinals: Int64Array
    """0-based record number within the shard, int64 (n,), ascending; blank and rejected records count too."""
    lines: Int64Array
    """1-based physical line within the shard on which each record starts, int64 (n,); Parquet: row number."""
    times: Int64Array | None
    """Microseconds since 1970-01-01 UTC, int64 (n,); None without a time column."""
    rejects: list[Reject]
    """Records that are not valid, in input order."""
    n_records: int
    """Records of every kind in this batch."""
    n_blank: int
    """Records without a URL: blank lines, empty or null fields."""
    n_lines: int
    """Physical lines consumed, header included (Parquet: rows); their sum numbers lines over shards."""


@dataclass(slots=True)
class BatchBuilder:
    """Collects the records of a shard in input order and cuts them into batches."""

    batch_records: int
    timed: bool = False
    ordinal: int = 0
    n_records: int = 0
    n_blank: int = 0
    n_characters: int = 0
    texts: list[str] = field(default_factory=list)
    ordinals: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    rejects: list[Reject] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether the batch must be taken before another record is added."""
        return self.n_records >= self.batch_records or self.n_characters >= BATCH_CHARACTERS

    def add(self, line: int, text: str, time: int = 0) -> None:
        """Count an accepted record."""
        self.texts.append(text)
        self.ordinals.append(self.ordinal)
        self.lines.append(line)
        self.times.append(time)
        self.n_characters += len(text)
        self._count()

    def blank(self) -> None:
        """Count a record without a URL."""
        self.n_blank += 1
        self._count()

    def reject(self, line: int, reason: Reason, raw: str | bytes) -> None:
        """Count a record that is not valid."""
        self.rejects.append(make_reject(self.ordinal, line, reason, raw))
        self._count()

    def add_lines(self, lines: list[str]) -> int:
        """Count checked lines, each of them one record, until the batch is full; return how many fitted."""
        part = lines[: self.batch_records - self.n_records]
        texts = list(filter(None, part))
        base = self.ordinal
        if len(texts) == len(part):
            numbers = np.arange(base, base + len(part), dtype=np.int64)
            self.ordinals.frombytes(numbers.tobytes())
            self.lines.frombytes((numbers + 1).tobytes())
        else:
            kept = [i for i, text in enumerate(part, base) if text]
            self.ordinals.extend(kept)
            self.lines.extend([i + 1 for i in kept])
        self.texts += texts
        self.n_blank += len(part) - len(texts)
        self.n_characters += sum(map(len, texts))
        self._count(len(part))
        return len(part)

    def take(self, n_lines: int | None = None) -> RecordBatch:
        """Return what was collected, and start the next batch; `n_lines` is `n_records` unless given."""
        batch = RecordBatch(
            self.texts,
            _int64(self.ordinals),
            _int64(self.lines),
            _int64(self.times) if self.timed else None,
            self.rejects,
            self.n_records,
            self.n_blank,
            self.n_records if n_lines is None else n_lines,
        )
        self.texts, self.rejects = [], []
        self.ordinals, self.lines, self.times = array("q"), array("q"), array("q")
        self.n_records = self.n_blank = self.n_characters = 0
        return batch

    def _count(self, n: int = 1) -> None:
        self.ordinal += n
        self.n_records += n


def _int64(values: array[int]) -> Int64Array:
    return np.array(values, dtype=np.int64)


def check_text(value: str) -> tuple[str, Reason | None]:
    """Strip spaces and tabs around `value` and name what is wrong with the rest, if anything."""
    text = value.strip(" \t")
    if text.isascii():
        return text, None if text.isprintable() else "control-character"
    if _SURROGATE.search(text):
        return text, "encoding"
    return text, "control-character" if _CONTROL.search(text) else None
