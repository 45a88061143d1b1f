"""Stage `urls`: from shards to rows in the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import dask.bag as db
import numpy as np

from noveltyflow.config import ScoringSettings
from noveltyflow.config import fingerprint as digest
from noveltyflow.errors import InputError, StoreError
from noveltyflow.runtime.executor import Executor
from noveltyflow.runtime.memory import fit_blocks, sampled_shape, with_lengths
from noveltyflow.runtime.plan import MOST_TASKS
from noveltyflow.runtime.progress import Reporter
from noveltyflow.runtime.stages.notes import key_of, resumed
from noveltyflow.runtime.stages.read import (
    Partition,
    ReadReport,
    partition_shards,
    read,
    stored_report,
)
from noveltyflow.runtime.stages.rows import (
    BORDERS,
    PORTION_ROWS,
    Piece,
    borders,
    canonical,
    located_rejects,
    rows,
    slices_of_blocks,
    sort,
)
from noveltyflow.runtime.stages.seal import finish
from noveltyflow.similarity.tiles import split_rows
from noveltyflow.store import RunStore
from noveltyflow.store.blocks import allocate_rows, allocated_block_rows
from noveltyflow.store.rejects import write_rejects
from noveltyflow.types import Int64Array
from noveltyflow.urls.shards import Shard

_RANGE_RECORDS = 100_000
_MOST_SAMPLES = 100_000
_MODEL_SAMPLES = 2_000


@dataclass(frozen=True)
class _Range:
    """A sorted range of SURT order: its rows, the records that they stand for, and the bytes of portions of rows."""

    rows: int
    urls: int
    portion_bytes: Int64Array

    @property
    def portions(self) -> Int64Array:
        """Rows in each portion; only the last may have fewer than `PORTION_ROWS`."""
        starts = np.arange(0, self.rows, PORTION_ROWS)
        return np.minimum(PORTION_ROWS, self.rows - starts)


@dataclass(frozen=True)
class UrlStage:
    """Everything that the parts of the stage share."""

    store: RunStore
    settings: ScoringSettings
    shards: Sequence[Shard]
    executor: Executor
    reporter: Reporter
    block_rows: int | None
    backends: Sequence[str]

    def run(self, fingerprint: str) -> None:
        """Read, canonicalise, sort, collapse and store; then mark the stage done."""
        reports = self._read()
        samples = _thin([text for report in reports for text in report.samples], _MOST_SAMPLES)
        ranges = self._sort(reports, samples, fingerprint)
        n_rows, n_urls = sum(one.rows for one in ranges), sum(one.urls for one in ranges)
        counts = self._store_rejects(reports)
        _require_balance(self.store, counts, n_urls)
        if n_rows == 0:
            # The same input will never hold a URL, so there is nothing to go on with.
            self.store.remove()
            raise InputError(_no_url(counts))
        block_rows = self._store_rows(ranges, n_rows, samples, fingerprint)
        figures = {"rows": n_rows, "urls": n_urls, "block_rows": block_rows, **counts}
        finish(self.store, "urls", fingerprint, self.executor, **figures)
        self.store.scratch.remove()

    def _read(self) -> list[ReadReport]:
        scratch = self.store.scratch
        stored = (stored_report(scratch, name) for name in scratch.names("read"))
        # A damaged one is named when it is read; who removes it has its shards read again.
        rejects = (name.removesuffix("-read") for name in scratch.names("rejects"))
        pieces = set(scratch.names("pieces")).intersection(rejects)
        done = [report for report in stored if report is not None and pieces.issuperset(report.names)]
        partitions = partition_shards(self.shards)
        missing = [p for p in partitions if p[0] not in {report.partition for report in done}]
        self.reporter.start("read", None, "lines")
        self.reporter.advance(sum(report.records for report in done))
        for report in self._read_missing(missing):
            self.reporter.advance(report.records)
            done.append(report)
        self.reporter.finish(f"{sum(r.records for r in done):,} lines; shards: {len(self.shards):,}")
        return sorted(done, key=lambda report: report.partition)

    def _read_missing(self, partitions: list[Partition]) -> Iterator[ReadReport]:
        if not partitions:
            return
        bag = db.from_sequence(partitions, npartitions=min(len(partitions), MOST_TASKS))
        reports = bag.map_partitions(read, self.store.scratch, self.settings.input)
        for report in chain.from_iterable(self.executor.compute(reports.to_delayed())):
            if isinstance(report, InputError):
                raise report
            yield report

    def _pieces(self, reports: Sequence[ReadReport]) -> list[Piece]:
        records = [shard.records for report in reports for shard in report.shards]
        bases = (np.cumsum(records) - records).tolist()
        return [
            (
                name,
                report.first_shard,
                bases[report.first_shard : report.first_shard + len(report.shards)],
            )
            for report in reports
            for name in report.names
        ]

    def _sort(self, reports: Sequence[ReadReport], samples: Sequence[str], fingerprint: str) -> list[_Range]:
        """Every range of SURT order, all of them stored in scratch."""
        store, total = self.store, sum(report.records for report in reports)
        inner = borders(samples, self.settings.urls, min(-(-total // _RANGE_RECORDS), MOST_TASKS))
        groups = _grouped(self._pieces(reports))
        # What was sorted by other borders, or from other groups, would be of no use.
        cut = digest([fingerprint, inner, len(groups), PORTION_ROWS])
        store.scratch.write(BORDERS, json.dumps(inner).encode())
        self.reporter.start("canonical", total, "lines")
        with_time = self.settings.input.time_column is not None
        tasks = {
            f"{number:06d}": (store, number, group, self.settings.urls, with_time)
            for number, group in enumerate(groups)
        }
        for _, n_urls in resumed(store, "canonical", cut, self.executor, "canonical", canonical, tasks):
            self.reporter.advance(n_urls)
        self.reporter.finish(f"{total:,} lines")
        self.reporter.start("sort", total, "lines")
        ranges = {f"{number:06d}": (store, number, len(groups)) for number in range(len(inner) + 1)}
        found: dict[str, _Range] = {}
        for key, (n_rows, n_urls, lengths) in resumed(
            store, "sorted", cut, self.executor, "sort", sort, ranges
        ):
            found[key] = _Range(n_rows, n_urls, np.array(lengths, np.int64))
            self.reporter.advance(n_urls)
        self.reporter.finish(f"{sum(one.rows for one in found.values()):,} distinct URLs")
        return [found[key] for key in ranges]

    def _store_rejects(self, reports: Sequence[ReadReport]) -> dict[str, Any]:
        shards = [shard for report in reports for shard in report.shards]
        tables = located_rejects(self.store.scratch, self.shards, [shard.lines for shard in shards])
        reasons = write_rejects(self.store, tables)
        return {
            "lines_read": sum(shard.records for shard in shards),
            "lines_blank": sum(shard.blank for shard in shards),
            "lines_rejected": sum(reasons.values()),
            "reject_reasons": reasons,
        }

    def _store_rows(
        self, ranges: Sequence[_Range], n_rows: int, samples: Sequence[str], fingerprint: str
    ) -> int:
        sampled = sampled_shape(_thin(samples, _MODEL_SAMPLES), n_rows, self.settings)
        shape = with_lengths(
            sampled,
            np.concatenate([one.portions for one in ranges]),
            np.concatenate([one.portion_bytes for one in ranges]),
        )
        allowed, n_threads = self.executor.memory_per_thread, self.executor.n_threads
        # An earlier command may have had other workers, and have stored blocks of the size that fitted those.
        asked = self.block_rows or allocated_block_rows(self.store, n_rows)
        block_rows, _ = fit_blocks(
            shape, self.settings, self.backends, allowed, n_threads, asked, self.executor.threads_per_worker
        )
        blocks = split_rows(n_rows, block_rows)
        with_time = self.settings.input.time_column is not None
        allocate_rows(self.store, n_rows, block_rows, with_time=with_time)
        self.reporter.start("rows", n_rows, "rows")
        slices = slices_of_blocks([one.rows for one in ranges], blocks)
        tasks = {key_of(block): (self.store, block, part) for block, part in zip(blocks, slices, strict=True)}
        for _, stored in resumed(self.store, "urls", fingerprint, self.executor, "rows", rows, tasks):
            self.reporter.advance(stored)
        self.reporter.finish(f"{n_rows:,} rows in {len(blocks):,} blocks of {block_rows:,}")
        return block_rows


def _grouped(pieces: list[Piece]) -> list[list[Piece]]:
    """Consecutive pieces that become one file, so that there are not too many of these."""
    size = -(-len(pieces) // MOST_TASKS) or 1
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


def _thin(items: Sequence[str], most: int) -> list[str]:
    return list(items[:: -(-len(items) // most) or 1])


def _require_balance(store: RunStore, counts: dict[str, Any], n_urls: int) -> None:
    """Nothing may be lost between reading and storing."""
    if counts["lines_read"] != counts["lines_blank"] + counts["lines_rejected"] + n_urls:
        raise StoreError(
            f"{store.path}: {counts['lines_read']:,} lines were read, but {counts['lines_blank']:,} blank ones, "
            f"{counts['lines_rejected']:,} rejects and {n_urls:,} URLs are stored; this is a defect, please report "
            "it, and run again with --overwrite"
        )


def _no_url(counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts["reject_reasons"].items()) or "none"
    return (
        f"no URL in the input: {counts['lines_read']:,} lines read, {counts['lines_blank']:,} blank, "
        f"rejects: {reasons}; check the format, and --url-column for tables"
    )
