from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.similarity.tiles import Block, next_span, split_rows, strip, tiles


@given(st.integers(0, 200), st.integers(1, 60))
def test_blocks_cover_every_row_once(n_rows, block_rows):
    blocks = split_rows(n_rows, block_rows)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(n_rows))
    assert all(block.n_rows == block_rows for block in blocks[:-1])
    assert [block.index for block in blocks] == list(range(len(blocks)))


def test_a_strip_starts_at_the_diagonal_and_moves_away():
    blocks = split_rows(50, 10)
    assert [tile.candidates.index for tile in strip(blocks[1], blocks)] == [1, 0, 2, 3, 4]


def test_tiles_pair_every_block_with_every_block():
    blocks = split_rows(30, 10)
    pairs = {(tile.queries.index, tile.candidates.index) for tile in tiles(blocks, blocks)}
    assert pairs == {(i, j) for i in range(3) for j in range(3)}


@pytest.mark.parametrize(("n_rows", "block_rows"), [(-1, 5), (5, 0)])
def test_impossible_sizes_are_refused(n_rows, block_rows):
    with pytest.raises(ValueError, match="cannot cut"):
        split_rows(n_rows, block_rows)


def test_blocks_sort_by_position():
    assert sorted([Block(1, 5, 9), Block(0, 0, 5)])[0].start == 0


@given(st.integers(1, 40), st.data())
def test_spans_compute_every_tile_once_whatever_their_sizes(n_blocks, data):
    blocks = split_rows(n_blocks, 1)
    queries = blocks[data.draw(st.integers(0, n_blocks - 1))]
    done = np.zeros(n_blocks, bool)
    while not done.all():
        nearest = next(t.candidates for t in strip(queries, blocks) if not done[t.candidates.index])
        size = data.draw(st.integers(1, 9))
        span = next_span(queries, blocks, done, size)
        indexes = [block.index for block in span]
        assert nearest in span
        assert len(span) <= size
        assert indexes == list(range(indexes[0], indexes[-1] + 1))
        assert not done[indexes].any()
        done[indexes] = True
    assert next_span(queries, blocks, done, 3) == []


def test_strips_share_the_spans_of_a_size():
    blocks = split_rows(10, 1)
    spans = {tuple(b.index for b in next_span(b, blocks, np.zeros(10, bool), 4)) for b in blocks}
    assert spans == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)}
