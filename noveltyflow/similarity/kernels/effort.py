"""What computing everything takes beside its multiply-adds, in multiply-adds: bounds give up where they take more."""

ROW_COST, NEIGHBOR_COST = 5_000, 1_000
"""For a query row, and for each of its neighbours."""
