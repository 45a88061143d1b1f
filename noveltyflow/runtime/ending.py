"""Lets a process end at once: the command, and workers, which load this before they begin (`dask.yaml`).

Python looks through all objects once more when it ends, which takes half a second after all that these import, frees
nothing that is in use, and is waited for by whoever ends a cluster.
"""

import atexit
import gc

atexit.register(gc.freeze)
