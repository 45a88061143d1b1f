"""Lets a worker end at once; it loads this before it begins (`dask.yaml`).

Python looks through all objects once more when it ends, which takes half a second after all that a worker imports,
and for so long whoever ends a cluster waits.
"""

import atexit
import gc

atexit.register(gc.freeze)
