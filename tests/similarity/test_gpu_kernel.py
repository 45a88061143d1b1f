"""The CUDA sources, run on the CPU by `tests/emulation` and compiled for real devices by NVRTC."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from cupy.cuda import nvrtc, runtime
from emulation.device import EmulatedDevice
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noveltyflow.errors import ResourceError
from noveltyflow.similarity.kernels import device_rows, folded, gpu
from noveltyflow.similarity.kernels.base import BlockShape
from noveltyflow.similarity.kernels.cpu import CpuKernel
from noveltyflow.similarity.kernels.device import (
    COMPILER_OPTIONS,
    KERNELS,
    SOURCES,
    cuda_device,
    has_cuda,
    memory_errors,
    source,
)
from noveltyflow.similarity.kernels.device_rows import DeviceRows
from noveltyflow.similarity.kernels.folded import Folded
from noveltyflow.similarity.kernels.gpu import GpuKernel
from noveltyflow.similarity.neighbors import search
from noveltyflow.similarity.topk import TopK
from noveltyflow.testing.matrices import SHAPES, unit_matrices, unit_rows
from noveltyflow.testing.naive import naive_kneighbors

SIZES = {
    "few buckets": Folded(n_buckets=16, query_rows=24, candidate_rows=32),
    "a bucket for each column": Folded(),
    "little put off": Folded(n_buckets=8, query_rows=24, candidate_rows=2048, segments=1),
    "nothing put off": Folded(n_buckets=8, query_rows=24, candidate_rows=2048, segments=0),
}
every_shape = pytest.mark.parametrize("shape", sorted(SHAPES))
all_sizes = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["emulated", *(["cuda"] if has_cuda() else [])])
def device(request, library):
    """The emulation, and where this machine has a GPU that one, too."""
    return cuda_device() if request.param == "cuda" else EmulatedDevice(library)


def assert_identical(left, right):
    np.testing.assert_array_equal(left.indices, right.indices)
    np.testing.assert_array_equal(left.similarities, right.similarities)


def on_cpu(queries, others, k, **options):
    return search(queries, others, k, CpuKernel(), **options)[0]


def on_gpu(queries, others, k, sizes, device, **options):
    return search(queries, others, k, GpuKernel(sizes, device), **options)[0]


@all_sizes
@every_shape
@few
@given(st.data(), st.integers(1, 50))
def test_equals_the_naive_reference(shape, sizes, device, data, n_neighbors):
    X = data.draw(unit_matrices(shape))
    assert_identical(on_gpu(X, X, n_neighbors, sizes, device), TopK(*naive_kneighbors(X, n_neighbors)[::-1]))


@all_sizes
@every_shape
@few
@given(st.data(), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_block_size_and_thread_order_do_not_change_the_result(
    shape, sizes, library, data, n_neighbors, block_rows, query_rows, backwards
):
    X = data.draw(unit_matrices(shape))
    device = EmulatedDevice(library, threads=32 if backwards else 96, backwards=backwards)
    found = on_gpu(X, X, n_neighbors, sizes, device, block_rows=block_rows, query_rows=query_rows)
    assert_identical(found, on_cpu(X, X, n_neighbors))


@all_sizes
def test_equals_the_cpu_between_two_matrices(sizes, device):
    both = unit_rows(SHAPES["skewed"](np.random.default_rng(1), 200, 60))
    X, Y = both[::3], both[40:]
    found = on_gpu(X, Y, 9, sizes, device, exclude_self=False)
    assert_identical(found, on_cpu(X, Y, 9, exclude_self=False))


@all_sizes
def test_more_candidates_than_the_buffer_holds(sizes, device):
    rng = np.random.default_rng(2)
    X = unit_rows(SHAPES["duplicates"](rng, 3000, 8) + 0.5)
    queries = X[1200:1204]
    found = on_gpu(queries, X, 700, sizes, device, exclude_self=False)
    assert_identical(found, on_cpu(queries, X, 700, exclude_self=False))


@pytest.mark.parametrize("segments", [0, 1, 8])
def test_what_is_put_off_is_scored_once(segments, library):
    class Watched(EmulatedDevice):
        asked = 0

        def launch(self, name, blocks, threads, shared, arguments):
            if name == "score_put_off":
                self.asked = max(self.asked, int(arguments[1][0]))
            super().launch(name, blocks, threads, shared, arguments)

    rng = np.random.default_rng(13)
    X = unit_rows(SHAPES["duplicates"](rng, 2000, 8) + 0.5)
    device, queries = Watched(library), X[700:712]
    kernel = GpuKernel(Folded(segments=segments), device)
    prepared, empty = kernel.prepare(X, 10), TopK.empty(12, 3)
    known, _ = kernel.compute(queries, prepared, empty, queries_start=700, candidates_start=0)
    # Every row has a threshold now that nearly all others have to be scored for.
    found, stats = kernel.compute(queries, prepared, known, queries_start=700, candidates_start=0)
    assert_identical(found, known)
    assert 12 * 500 < stats.verified_pairs <= 12 * 2000
    assert (device.asked > 0) == (segments > 0)
    assert (device.asked > 12 * segments) == (segments == 1)  # then some had to be scored at once


@all_sizes
def test_rows_longer_than_shared_memory(sizes, device):
    rng = np.random.default_rng(3)
    X = unit_rows(rng.random((30, 3000)) * (rng.random((30, 3000)) < rng.random((30, 1))))
    assert np.diff(X.indptr).max() > device_rows.STAGED_ENTRIES > np.diff(X.indptr).min()
    assert_identical(on_gpu(X, X, 5, sizes, device), on_cpu(X, X, 5))


@all_sizes
def test_rows_of_very_many_entries(sizes, device):
    rng = np.random.default_rng(4)
    dense = rng.random((6, 40_000)) * (rng.random((6, 40_000)) < 0.001)
    dense[2:4] = rng.random((2, 40_000)) + 0.5
    X = unit_rows(dense)
    assert_identical(on_gpu(X, X, 3, sizes, device), on_cpu(X, X, 3))


@all_sizes
@pytest.mark.parametrize("threshold", [0.0, -0.5, 1e-6, 0.7, 1.0])
def test_known_neighbours_come_in_and_go_out(sizes, threshold, device):
    X = unit_rows(SHAPES["signed"](np.random.default_rng(5), 60, 20))
    known = TopK(np.full((60, 4), threshold, np.float32), np.tile(np.arange(900, 904), (60, 1)))
    before = known.copy()
    kernel = GpuKernel(sizes, device)
    found, stats = kernel.compute(X, kernel.prepare(X, 10), known, queries_start=7, candidates_start=7)
    reference = CpuKernel()
    expected, _ = reference.compute(X, reference.prepare(X, 10), known, queries_start=7, candidates_start=7)
    assert_identical(found, expected)
    assert_identical(known, before)
    assert stats.query_rows == 60
    assert stats.skipped_rows == stats.seeding_ns == stats.verifying_ns == 0 < stats.accumulating_ns


@all_sizes
@every_shape
@few
@given(st.data(), st.integers(1, 20), st.integers(0, 50), st.integers(0, 50))
def test_neighbours_that_are_found_again_change_nothing(shape, sizes, device, data, n_neighbors, start, rows):
    X = data.draw(unit_matrices(shape))
    kernel, some = GpuKernel(sizes, device), X[start : start + rows]
    best = TopK.empty(X.shape[0], n_neighbors)
    for candidates, first in ((some, start), (X, 0)):
        prepared = kernel.prepare(candidates, 10)
        best, _ = kernel.compute(X, prepared, best, queries_start=0, candidates_start=first)
    assert_identical(best, on_cpu(X, X, n_neighbors))


@all_sizes
def test_a_threshold_saves_work(sizes, device):
    X = unit_rows(SHAPES["skewed"](np.random.default_rng(6), 150, 60))
    kernel = GpuKernel(sizes, device)
    prepared = kernel.prepare(X, 10)
    options = {"queries_start": 0, "candidates_start": 0}
    first, cold = kernel.compute(X, prepared, TopK.empty(150, 3), **options)
    again, warm = kernel.compute(X, prepared, first, **options)
    assert_identical(again, first)
    assert warm.verified_pairs < cold.verified_pairs < 150 * 150


@all_sizes
def test_threads_do_not_change_the_result(sizes, device):
    X = unit_rows(SHAPES["random"](np.random.default_rng(12), 120, 40))
    found = on_gpu(X, X, 7, sizes, device, threads=4, query_rows=5)
    assert_identical(found, on_cpu(X, X, 7))


@all_sizes
def test_empty_blocks(sizes, device):
    nothing, rows = sp.csr_matrix((4, 5), dtype=np.float32), unit_rows(np.eye(5))
    for queries, others in ((nothing, rows), (rows, nothing), (rows[:0], rows), (rows, rows[:0])):
        found = on_gpu(queries, others, 2, sizes, device, exclude_self=False)
        assert_identical(found, on_cpu(queries, others, 2, exclude_self=False))


@pytest.fixture
def cautious(monkeypatch):
    """Query rows are halved as far as candidates are."""
    monkeypatch.setattr(gpu, "_FEWEST_QUERIES", 4)
    monkeypatch.setattr(gpu, "_said", {})


@all_sizes
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_memory_that_does_not_suffice_halves_the_tile(share, sizes, library, cautious, caplog):
    X = unit_rows(np.random.default_rng(7).random((120, 40)))
    large = EmulatedDevice(library)
    found = on_gpu(X, X, 5, sizes, large)
    small = EmulatedDevice(library, limit=int(share * large.xp.peak))
    with caplog.at_level(logging.WARNING, "noveltyflow"):
        again = on_gpu(X, X, 5, sizes, small)
    assert_identical(found, on_cpu(X, X, 5))
    assert_identical(again, found)
    assert "are halved" in caplog.text
    assert small.released > 0
    assert small.xp.peak <= small.xp.limit


@pytest.mark.parametrize(
    ("n_queries", "n_candidates", "what"), [(4, 2000, "candidates"), (500, 4, "query rows")]
)
def test_what_is_too_large_is_halved(n_queries, n_candidates, what, library, cautious, caplog):
    X = unit_rows(np.random.default_rng(7).random((n_candidates, 40)))
    queries = unit_rows(np.random.default_rng(8).random((n_queries, 40)))
    small = EmulatedDevice(library, limit=200_000)
    with caplog.at_level(logging.WARNING, "noveltyflow"):
        found = on_gpu(queries, X, 3, None, small, exclude_self=False)
    assert_identical(found, on_cpu(queries, X, 3, exclude_self=False))
    assert f"{what} are halved" in caplog.text


def test_what_did_not_fit_is_not_tried_again(library, cautious, caplog):
    X = unit_rows(np.random.default_rng(7).random((120, 40)))
    small = EmulatedDevice(library, limit=60_000)
    kernel = GpuKernel(device=small)
    with caplog.at_level(logging.WARNING, "noveltyflow"):
        prepared = kernel.prepare(X, 5)
        found, _ = whole_tile(kernel, X, prepared)
        released, said = small.released, len(caplog.records)
        again, _ = whole_tile(kernel, X, prepared)
    assert_identical(found, again)
    assert released > 0
    assert said > 0
    assert (small.released, len(caplog.records)) == (released, said)


def test_candidates_make_room_where_others_take_it_later(library, cautious):
    X = unit_rows(np.random.default_rng(7).random((300, 40)))
    device = EmulatedDevice(library)
    kernel = GpuKernel(device=device)
    prepared = kernel.prepare(X, 5)
    found, _ = whole_tile(kernel, X, prepared)
    device.limit_memory(prepared.nbytes + 1000)
    again, _ = whole_tile(kernel, X, prepared)
    assert_identical(found, again)
    assert prepared.part is None
    assert prepared.nbytes > 0
    assert device.xp.alive <= device.xp.limit


def test_a_limit_is_the_kernels_own(library):
    device = EmulatedDevice(library, limit=1000)
    for limit in (600, 2000, None):
        kernel = GpuKernel(device=device)
        if limit is not None:
            kernel.limit_device_memory(limit)
        assert kernel.device_memory() == min(1000, limit or 1000)


def whole_tile(kernel, X, prepared):
    return kernel.compute(X, prepared, TopK.empty(X.shape[0], 5), queries_start=0, candidates_start=0)


def test_memory_for_less_than_a_row_is_refused(library):
    X = unit_rows(SHAPES["random"](np.random.default_rng(8), 10, 40))
    kernel = GpuKernel(device=EmulatedDevice(library, limit=8))
    with pytest.raises(ResourceError, match="single row of candidates"):
        whole_tile(kernel, X, kernel.prepare(X, 10))


def test_what_libraries_raise_without_memory_is_a_memory_error():
    def failing(name, status):
        error = type(name, (RuntimeError,), {"status": status})("of a library")
        with memory_errors():
            raise error

    for name, status in (("CUBLASError", 3), ("CUBLASError", 1), ("CUDADriverError", 2)):
        with pytest.raises(MemoryError, match="of a library"):
            failing(name, status)
    for name, status in (("CUBLASError", 13), ("CUDADriverError", 700), ("OtherError", 2)):
        with pytest.raises(RuntimeError, match="of a library"):
            failing(name, status)
    with pytest.raises(MemoryError, match="cudaErrorMemoryAllocation"), memory_errors():
        raise runtime.CUDARuntimeError(2)


def test_another_kernels_block_is_refused(device):
    X = unit_rows(np.eye(3))
    with pytest.raises(TypeError, match="gpu kernel"):
        GpuKernel(device=device).compute(
            X, CpuKernel().prepare(X, 10), TopK.empty(3, 1), queries_start=0, candidates_start=0
        )


def test_folded_products_are_upper_bounds(device):
    for shape in SHAPES:
        X = unit_rows(SHAPES[shape](np.random.default_rng(10), 64, 90))
        part = Folded(n_buckets=16).prepare(device, DeviceRows.of(device, X), 0)
        products = device.xp.empty((64, 64), np.float16)
        device.matmul(part.folded, part.folded.T, products)
        bounds = device.to_host(products)
        exact = abs(X).astype(np.float64) @ abs(X).astype(np.float64).T
        assert (bounds.astype(np.float64) >= exact.toarray() * folded.KEPT).all(), shape
        assert ((bounds > 0) | (exact.toarray() == 0)).all(), shape


@all_sizes
def test_memory_is_foreseen(sizes, library):
    X = unit_rows(SHAPES["skewed"](np.random.default_rng(11), 300, 100))
    shape, device = BlockShape.of(X), EmulatedDevice(library)
    kernel = GpuKernel(sizes, device)
    foreseen = kernel.device_bytes_needed(shape, shape, 5)
    prepared = kernel.prepare(X, 10)
    assert prepared.nbytes <= device.xp.peak
    kernel.compute(X, prepared, TopK.empty(300, 5), queries_start=0, candidates_start=0)
    assert foreseen / 4 < device.xp.peak <= foreseen


def test_kernels_keep_to_their_shared_memory(library):
    X = unit_rows(SHAPES["short and long"](np.random.default_rng(14), 30, 2500))
    assert np.diff(X.indptr).max() > device_rows.STAGED_ENTRIES > np.diff(X.indptr).min()
    # With as many threads as on a device; the emulation looks at what lies beyond.
    found = on_gpu(X, X, 3, None, EmulatedDevice(library, threads=1 << 10))
    assert_identical(found, on_cpu(X, X, 3))


@pytest.mark.parametrize(
    "sizes",
    [{"n_buckets": 12}, {"n_buckets": 1 << 14}, {"candidate_rows": 12}, {"query_rows": 0}, {"segments": -1}],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be"):
        Folded(**sizes)


@pytest.mark.parametrize("architecture", ["sm_70", "sm_80", "sm_90"])
def test_the_source_compiles_for_devices(architecture):
    program = nvrtc.createProgram(source(), "folded.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*COMPILER_OPTIONS, f"-arch={architecture}"])
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    machine_code = nvrtc.getCUBIN(program)
    assert machine_code[:4] == b"\x7fELF"
    assert all(name.encode() in machine_code for name in KERNELS)


def test_the_source_needs_no_file_beside_it():
    assert "#include" not in source()


def test_the_source_is_part_of_the_package():
    assert Path(folded.__file__).parent / "cuda" == SOURCES
    assert {file.name for file in SOURCES.iterdir()} == {"folded.cu", "search.cuh"}
