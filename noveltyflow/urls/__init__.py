"""Input: shards, readers, the canonical form of URLs, and rejects. Pure functions without dask."""
