from __future__ import annotations

import numpy as np
import pytest

from noveltyflow.similarity.topk import TopK


def test_rows_are_views():
    found = TopK.empty(5, 2)
    found.rows(1, 3).indices[:] = 7
    assert found.indices[:, 0].tolist() == [-1, 7, 7, -1, -1]


def test_copy_owns_its_arrays():
    found = TopK.empty(2, 2)
    found.copy().indices[:] = 7
    assert (found.indices == -1).all()


@pytest.mark.parametrize(
    ("similarities", "indices", "match"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int64), "must both be"),
        (np.zeros((2, 3), np.float64), np.zeros((2, 3), np.int64), "float64"),
        (np.zeros(3, np.float32), np.zeros(3, np.int64), "must both be"),
    ],
)
def test_arrays_are_checked(similarities, indices, match):
    with pytest.raises(ValueError, match=match):
        TopK(similarities, indices)
