from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import scipy.sparse as sp
from llvmlite import binding
from similarity.hard import HARD, Exhaustive, indexed, text_matrix, url_texts

from noveltyflow.errors import ResourceError, SettingsError
from noveltyflow.similarity.kernels import registry, searching
from noveltyflow.similarity.kernels.base import TileStats, time_shares
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.ticks import COUNTER, has_counter
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.topk import TopK

EVERY_SEARCH = {
    "groups": indexed(dense_share=1.0),
    "dense": indexed(dense_share=-1.0),
    "everything": Exhaustive(),
    "parts": indexed(part_rows=150),
}
every_search = pytest.mark.parametrize("kernel", EVERY_SEARCH.values(), ids=EVERY_SEARCH)


class Unusable(CpuKernel):
    def is_usable(self) -> bool:
        return False


def test_auto_says_what_it_chose(caplog, monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    with caplog.at_level(logging.INFO, "noveltyflow"):
        assert registry.get_kernel("auto").name == "cpu"
    assert "chose 'cpu'" in caplog.text


def test_auto_passes_over_what_cannot_run_here(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    assert registry.get_kernel("auto").is_usable()


def test_a_backend_asked_for_by_name_never_falls_back(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable, "cpu": CpuKernel})
    with pytest.raises(ResourceError, match="'gpu'"):
        registry.get_kernel("gpu")


def test_auto_fails_where_nothing_can_run(monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", {"gpu": Unusable})
    with pytest.raises(ResourceError, match="gpu"):
        registry.get_kernel()


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(SettingsError, match="auto, gpu, cpu"):
        registry.get_kernel("tpu")


def test_stats_add_up():
    assert TileStats(1, 2, 3, 4) + TileStats(10, 20, 30, 40) == TileStats(11, 22, 33, 44)


def urls(rows=400, seed=2):
    return text_matrix(url_texts(np.random.default_rng(seed), rows), n_features=1 << 12)


@every_search
def test_rows_that_share_no_column_with_a_tile_are_skipped(kernel):
    X = urls()
    apart, candidates = sp.hstack([X, X * 0], "csr"), sp.hstack([X * 0, X], "csr")
    candidates.eliminate_zeros()
    apart.eliminate_zeros()
    _, stats = search(apart, candidates, 5, kernel, exclude_self=False)
    assert stats.skipped_rows == stats.query_rows == 400
    assert stats.verified_pairs == 0


@every_search
def test_rows_whose_neighbours_are_sought_for_the_first_time_are_not_skipped(kernel):
    """Each finds more than it has room for; a similarity that was computed for an earlier row is one, too."""
    X = urls()
    _, stats = search(X[:40], X, 5, kernel, exclude_self=False, block_rows=400)
    assert stats.skipped_rows == 0


@pytest.mark.parametrize("name", ["groups", "dense", "parts"])
def test_good_thresholds_skip_rows(name):
    X, kernel = urls(), EVERY_SEARCH[name]
    prepared = kernel.prepare(X, 10)
    best, first = kernel.compute(X, prepared, TopK.empty(400, 5), queries_start=0, candidates_start=0)
    _, again = kernel.compute(X, prepared, best, queries_start=0, candidates_start=0)
    assert first.skipped_rows < again.skipped_rows <= again.query_rows == 400


@pytest.mark.parametrize("part_rows", [20, 90, 1_000])
def test_a_row_is_skipped_only_where_every_part_of_the_index_leaves_nothing(part_rows):
    X = HARD["disjoint"](90)
    _, stats = search(X[:60], X[30:], 5, indexed(part_rows=part_rows), exclude_self=False)
    assert (stats.query_rows, stats.skipped_rows) == (60, 30)


@every_search
def test_times_of_stages_are_those_of_the_calls(kernel):
    X = urls(2_000)
    search(X[:50], X[:50], 5, kernel)  # compiles
    began = time.perf_counter_ns()
    _, stats = search(X, X, 5, kernel, query_rows=500)
    took = time.perf_counter_ns() - began
    bounds = {stats.seeding_ns, stats.verifying_ns} - {0}
    assert len(bounds) == (0 if isinstance(kernel, Exhaustive) else 2)
    assert stats.preparing_ns > 0
    assert stats.accumulating_ns > 0
    assert stats.preparing_ns + stats.seeding_ns + stats.accumulating_ns + stats.verifying_ns <= took
    shares = time_shares({"query_rows": 5, "seeding_ns": 30, "verifying_ns": 10})
    assert shares == {"seeding": 0.75, "verifying": 0.25}
    assert time_shares({"query_rows": 5, "seeding_ns": 0}) == {}


@pytest.mark.parametrize(
    ("ticks", "times"),
    [
        ([1, 1, 2], (25, 26, 50)),
        ([0, 0, 0], (0, 101, 0)),
        ([3, 1, -(1 << 60)], (75, 26, 0)),
        ([1 << 62, 1 << 60, 0], (80, 21, 0)),
    ],
    ids=["counted", "not counted", "counted back", "many"],
)
def test_time_is_shared_out_as_ticks_are(ticks, times):
    stats = searching._by_stage(101, np.array(ticks))
    assert (stats.seeding_ns, stats.accumulating_ns, stats.verifying_ns) == times


@pytest.mark.parametrize(
    ("triple", "instruction"),
    [("x86_64-unknown-linux-gnu", "rdtsc"), ("aarch64-unknown-linux-gnu", "cntvct_el0")],
)
def test_the_counter_is_one_that_every_program_may_read(triple, instruction):
    """Compiled for both processors on either of them; another register of ARM would end the process."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    code = f"declare i64 @{COUNTER}() define i64 @f() {{ %t = call i64 @{COUNTER}() ret i64 %t }}"
    module = binding.parse_assembly(f'target triple = "{triple}" {code}')
    machine = binding.Target.from_triple(triple).create_target_machine()
    assert not has_counter(triple) or instruction in machine.emit_assembly(module).lower()


def test_nothing_is_counted_on_other_processors():
    assert has_counter("x86_64-unknown-linux-gnu")
    assert not has_counter("riscv64-unknown-linux-gnu")
