"""The run folder: its schema, blocks in and out, stage markers, and scratch space."""

from noveltyflow.store.run_store import SCHEMA_VERSION, STAGES, RunStore
from noveltyflow.store.scratch import Scratch

__all__ = ["SCHEMA_VERSION", "STAGES", "RunStore", "Scratch"]
