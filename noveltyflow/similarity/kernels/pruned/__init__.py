"""Exact neighbours among non-negative rows without computing every pair.

The candidates are indexed in groups of four or eight consecutive rows. A query row accumulates an upper bound of its
similarity to every group from the posting lists of its rare columns; what is skipped is bounded by
Cauchy-Schwarz. Groups that can still reach the row's k-th similarity are bounded member by member, and only
members that pass get their exact similarity. `index` says what is stored, `search` how a row is answered.
"""
