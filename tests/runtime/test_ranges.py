"""Ranges of SURT order: whatever URLs have in common, no range is much larger than the others."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.config import ScoringSettings, UrlSettings
from noveltyflow.runtime.executor import SerialExecutor
from noveltyflow.runtime.pipeline import execute, plan_run
from noveltyflow.runtime.progress import Silent
from noveltyflow.runtime.stages import read, rows
from noveltyflow.runtime.stages import urls as stage
from noveltyflow.store import RunStore
from noveltyflow.urls.canonical import canonicalize

HOSTS = st.sampled_from(["a", "ab", "b.a", "a.b", "c"])
URLS = st.builds(
    "{}://{}{}/{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["", "u1@", "u2@"]),
    HOSTS,
    st.text("ab/?-", max_size=3),
)


@given(st.lists(URLS, max_size=30))
def test_keys_are_in_the_order_of_rows(urls: list[str]) -> None:
    batch = canonicalize(urls, UrlSettings())
    found = [
        (surt, url)
        for surt, url in zip(batch.surts, batch.urls, strict=True)
        if surt is not None and url is not None
    ]
    assert sorted(found) == sorted(found, key=lambda pair: rows._key(*pair))


def test_long_urls_make_shorter_ranges() -> None:
    urls = [f"http://a/{number:04d}" for number in range(900)]
    urls += [f"http://b/{number:04d}/{'x' * 1_000}" for number in range(300)]
    keys = sorted(rows._key(*pair) for pair in zip(*_canonical(urls), strict=True))
    ends = [0, *np.searchsorted(keys, rows.borders(urls, UrlSettings(), 12)), len(keys)]
    sizes = [sum(len(key) for key in keys[start:end]) for start, end in pairwise(ends)]
    assert len(sizes) == 12
    assert max(sizes) < 2 * np.mean(sizes)


def _canonical(urls: list[str]) -> tuple[list[str], list[str]]:
    batch = canonicalize(urls, UrlSettings())
    return [surt or "" for surt in batch.surts], [url or "" for url in batch.urls]


def test_urls_that_share_a_surt_are_parted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_PIECE_RECORDS", 50)
    monkeypatch.setattr(read, "_BATCH_RECORDS", 50)
    monkeypatch.setattr(stage, "_RANGE_RECORDS", 25)
    source, lengths = tmp_path / "urls.txt", []
    users = [f"http://u{number:03d}@a.example/" for number in range(200)]
    source.write_text("\n".join(users[::2] + users[1::2] + users[:40]))
    sliced = stage.slices_of_blocks

    def watched(found: list[int], *more: object) -> object:
        lengths.extend(found)
        return sliced(found, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "slices_of_blocks", watched)
    plan = plan_run([str(source)], str(tmp_path / "run.zarr"), ScoringSettings())
    execute(plan, SerialExecutor(), Silent(), block_rows=60, backend="cpu")
    assert len(lengths) > 5
    assert max(lengths) <= 50
    store = RunStore(str(tmp_path / "run.zarr"))
    assert store.read("rows/url").tolist() == users
    assert store.read("rows/count").tolist() == [2] * 40 + [1] * 160
