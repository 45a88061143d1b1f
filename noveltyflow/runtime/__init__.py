"""The writing side: plan, stages, executors."""
