"""What vector code shares that is written for the compiler's intermediate code, where loops in Python would not do.

Vectors of any length are legal there: the compiler cuts them to what the processor has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types


def is_flat(array: Any, number: Any = None) -> bool:
    """Whether a type is that of a contiguous array of one dimension that holds such numbers, or whichever."""
    flat = isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1
    return bool(flat and number in (None, array.dtype))


def spread(builder: Any, number: Any, vector: Any) -> Any:
    """Code that fills a `vector` with one number."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, number, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(single, undefined, zeros)
