"""Parts of the benchmark of `noveltyflow.cosine_kneighbors`; `benchmarks/neighbors.py` puts them together."""
