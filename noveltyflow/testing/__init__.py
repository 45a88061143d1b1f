"""Help for tests: the naive reference, comparison that knows ties, Hypothesis strategies."""
