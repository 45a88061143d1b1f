"""Novelty definitions over similarities, and percentile ranks: block in, block out."""
