"""Tile kernels: one seam, one module for each kind of processor."""

from pathlib import Path

from noveltyflow.similarity.kernels.stale import forget_stale

forget_stale(Path(__file__).parent)
