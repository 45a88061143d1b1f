"""Exact cosine neighbours of sparse unit rows.

The similarity of a pair is computed in one way only: float32 weights are multiplied and summed in
float64 over the shared columns in ascending order, and the sum is rounded once to float32. It therefore
does not depend on block size, tile order, threads or workers, nor on which of the two rows asks.
"""
