"""A run's answers as files: tables streamed block by block, and the neighbour graph."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from noveltyflow.columns import EXPORT_COLUMNS
from noveltyflow.errors import SettingsError
from noveltyflow.inert import defused
from noveltyflow.run import DEFAULT_SCORE, Run
from noveltyflow.similarity.tiles import Block
from noveltyflow.similarity.topk import NO_NEIGHBOR
from noveltyflow.store.durable import naming
from noveltyflow.types import AnyArray, Float32Array, Int64Array

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".parquet", ".npz")
_TEXT_COLUMNS = ("url", "nearest_url", "source", "text")
"""Columns of rows and of rejects that hold text from inputs."""


def export(
    run: Run,
    path: str,
    *,
    score: str = DEFAULT_SCORE,
    defuse: bool = True,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write all rows of a run to a file, its format by suffix; the number of rows.

    Parameters
    ----------
    run
        An open run.
    path
        `.csv`, `.csv.gz`, `.jsonl`, `.parquet`: a table. `.npz`: the neighbour graph, float32 CSR of shape
        (n_rows, n_rows), readable by `scipy.sparse.load_npz`. The file appears when it is complete.
    score
        What `novelty` and `percentile` are computed from.
    defuse
        Make CSV cells inert: `'` before what a spreadsheet would run as a formula (first character `=`, `+`, `-`,
        `@`), and escapes for what is not printable.
    progress
        Called with the number of rows just written, if given.

    Raises
    ------
    SettingsError
        When the suffix is none of the above, or the folder does not exist.
    """
    suffix = next(
        (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.endswith(suffix)), None
    )
    if suffix is None:
        raise SettingsError(f"{path}: cannot tell the format; end the name with one of {' '.join(SUFFIXES)}")
    if not Path(path).absolute().parent.is_dir():
        raise SettingsError(f"{path}: the folder does not exist")
    progress = progress or (lambda _: None)
    with naming(path), _complete_or_absent(path) as partial:
        if suffix == ".npz":
            _write_graph(run, partial, progress)
        else:
            _WRITERS[suffix](_frames(run, score, progress), partial, defuse)
    return run.n_rows


@contextmanager
def _complete_or_absent(path: str) -> Iterator[str]:
    partial = f"{path}.partial"
    try:
        yield partial
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _frames(run: Run, score: str, progress: Callable[[int], None]) -> Iterator[pd.DataFrame]:
    """Row blocks in order, one in memory at a time."""
    for frame in run.iter_frames(score):
        yield frame[list(EXPORT_COLUMNS)]
        progress(len(frame))


def _write_csv(frames: Iterator[pd.DataFrame], path: str, defuse: bool) -> None:
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        _csv_into(file, frames, defuse)


def _write_csv_gz(frames: Iterator[pd.DataFrame], path: str, defuse: bool) -> None:
    # No time of writing in the header: the same run gives the same bytes.
    with (
        Path(path).open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        _csv_into(file, frames, defuse)


def _csv_into(file: IO[str], frames: Iterator[pd.DataFrame], defuse: bool) -> None:
    for number, frame in enumerate(frames):
        table_to_csv(frame, file, defuse=defuse, header=number == 0)


def table_to_csv(frame: pd.DataFrame, file: IO[str], *, defuse: bool, header: bool = True) -> None:
    """Append a table to a text file as CSV, its text defused or as it is."""
    if defuse:
        text = [name for name in _TEXT_COLUMNS if name in frame]
        frame = frame.assign(**{name: frame[name].map(defused, na_action="ignore") for name in text})
    frame = (
        frame.replace({"nearest_similarity": {-np.inf: np.nan}}) if "nearest_similarity" in frame else frame
    )
    frame.to_csv(file, index=False, header=header, lineterminator="\n")


def _write_jsonl(frames: Iterator[pd.DataFrame], path: str, _defuse: bool) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        for frame in frames:
            table_to_jsonl(frame, file)


def table_to_jsonl(frame: pd.DataFrame, file: IO[str]) -> None:
    """Append a table to a text file, one JSON object a line; what is missing or infinite is null."""
    for record in frame.to_dict("records"):
        file.write(json.dumps({name: _json_value(value) for name, value in record.items()}) + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def _write_parquet(frames: Iterator[pd.DataFrame], path: str, _defuse: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


_WRITERS: dict[str, Callable[[Iterator[pd.DataFrame], str, bool], None]] = {
    ".csv": _write_csv,
    ".csv.gz": _write_csv_gz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}


def _write_graph(run: Run, path: str, progress: Callable[[int], None]) -> None:
    """Write the graph as `scipy.sparse.save_npz` does, but with one row block in memory at a time.

    An npz file is a zip archive with one npy file for each array, so each array is streamed into its entry.
    """
    lengths = np.concatenate([_graph_block(run, block)[0] for block in run.blocks])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    small = {"format": np.array(b"csr"), "shape": np.array([run.n_rows] * 2), "indptr": indptr}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in small.items():
            _write_entry(archive, name, values.dtype, values.shape, [values])
        shape = (int(indptr[-1]),)
        indices = (_graph_block(run, block)[1] for block in run.blocks)
        _write_entry(archive, "indices", np.dtype(np.int64), shape, indices)
        data = (_reported(_graph_block(run, block)[2], block.n_rows, progress) for block in run.blocks)
        _write_entry(archive, "data", np.dtype(np.float32), shape, data)


def _graph_block(run: Run, block: Block) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Row lengths, columns ascending within each row, and similarities of one block of the graph."""
    rows, similarities = run.neighbor_block(block)
    order = np.argsort(np.where(rows == NO_NEIGHBOR, np.iinfo(np.int64).max, rows), axis=1)
    indices: Int64Array = np.take_along_axis(rows, order, axis=1)
    data: Float32Array = np.take_along_axis(similarities, order, axis=1)
    filled = indices != NO_NEIGHBOR
    return filled.sum(axis=1), indices[filled], data[filled]


def _reported(values: Float32Array, n_rows: int, progress: Callable[[int], None]) -> Float32Array:
    progress(n_rows)
    return values


def _write_entry(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[AnyArray],
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        for part in parts:
            entry.write(np.ascontiguousarray(part, dtype).tobytes())
