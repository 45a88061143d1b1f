"""Tile kernels: one seam, one module for each kind of processor."""
