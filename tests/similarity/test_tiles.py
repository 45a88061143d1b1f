from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.similarity.tiles import Block, split_rows, strip


@given(st.integers(0, 200), st.integers(1, 60))
def test_blocks_cover_every_row_once(n_rows, block_rows):
    blocks = split_rows(n_rows, block_rows)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(n_rows))
    assert all(block.n_rows == block_rows for block in blocks[:-1])
    assert [block.index for block in blocks] == list(range(len(blocks)))


def test_a_strip_starts_at_the_diagonal_and_moves_away():
    blocks = split_rows(50, 10)
    assert [tile.candidates.index for tile in strip(blocks[1], blocks)] == [1, 0, 2, 3, 4]


@pytest.mark.parametrize(("n_rows", "block_rows"), [(-1, 5), (5, 0)])
def test_impossible_sizes_are_refused(n_rows, block_rows):
    with pytest.raises(ValueError, match="cannot cut"):
        split_rows(n_rows, block_rows)


def test_blocks_sort_by_position():
    assert sorted([Block(1, 5, 9), Block(0, 0, 5)])[0].start == 0
