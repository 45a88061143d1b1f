"""Exact neighbours where most of the weight lies in frequent columns, so that posting lists prune little.

The weights of frequent columns are stored densely, eight bits each, for groups of 32 consecutive rows, and
summed for whole groups at once; rare columns keep posting lists. A batch of query rows goes through the block
slab by slab, so that what is read of the slab serves them all from the cache. `index` says what is stored, `batch`
what the queries of a batch need, `search` how rows are answered.
"""
