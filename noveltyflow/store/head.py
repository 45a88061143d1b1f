"""The head of a run folder: the file that says what the run is of."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from noveltyflow.errors import DamageError
from noveltyflow.store.durable import load_json

HEAD = "zarr.json"
"""The file whose attribute `HEADER` says what the run is of; a folder with a head is a run."""
HEADER = "noveltyflow"
_UNMEASURED_BYTES, _MOST_RATIO = 64 << 20, 500
"""Inputs in the head may be so many bytes, and above that so many times as large as they are stored."""


def damaged_head(path: str) -> DamageError:
    """The error of whoever reads the head of the run at `path`, and finds it damaged."""
    return DamageError(f"{path}: {HEAD} is damaged; remove the folder, and make the run anew")


def pack(value: Any) -> str:
    """JSON in one short text: every task reads the head of the run, and there may be 200,000 inputs."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def unpack(text: str) -> Any:
    """What `pack` was given.

    Raises
    ------
    ValueError, zlib.error
        When the text is none of `pack`, or becomes more than 64 MiB and 500 times as many bytes.
    """
    packed, unpacking = base64.b64decode(text), zlib.decompressobj()
    data = unpacking.decompress(packed, max(_UNMEASURED_BYTES, _MOST_RATIO * len(packed)))
    if not unpacking.eof:
        raise ValueError("is cut off, or was made to fill the memory of whoever reads it")
    return load_json(data)


def is_json(data: bytes) -> bool:
    """Whether a head is whole: one that is cut off is no JSON."""
    try:
        load_json(data)
    except ValueError:
        return False
    return True
