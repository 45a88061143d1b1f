"""Which of many sums are large enough, as bits: vector code; see `kernels.vectors`."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.vectors import is_flat, spread

LANES = 64
_SUMS = ir.VectorType(ir.IntType(32), LANES)


def _reaching(_typing: Any, sums: Any, start: Any, least: Any) -> Any:
    if not is_flat(sums, types.int32):
        raise numba.TypingError("a contiguous array of int32 is needed")
    return types.uint64(sums, types.int64, types.int32), _compare


def _compare(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    place = builder.bitcast(builder.gep(data, [args[1]]), _SUMS.as_pointer())
    found = builder.icmp_signed(">=", builder.load(place, align=4), spread(builder, args[2], _SUMS))
    return builder.bitcast(found, ir.IntType(LANES))


def _lowest_bit(_typing: Any, bits: Any) -> Any:
    def count(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), count


reaching: Any = intrinsic(_reaching)
"""`reaching(sums, start, least)`: a uint64 with bit i set where the int32 sums[start + i] is at least `least`."""
lowest_bit: Any = intrinsic(_lowest_bit)
"""`lowest_bit(bits)`: number of the lowest bit that is set in a uint64 other than 0."""
