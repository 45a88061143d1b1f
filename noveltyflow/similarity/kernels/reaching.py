"""Which of many sums are large enough, as bits: see `kernels.vectors`."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.vectors import is_flat, spread

LANES = 64


def _reaching(_typing: Any, sums: Any, start: Any, least: Any) -> Any:
    if not (is_flat(sums, types.int32) or is_flat(sums, types.float64)):
        raise numba.TypingError("a contiguous array of int32 or float64 is needed")
    return types.uint64(sums, types.int64, sums.dtype), _compare


def _compare(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kind = signature.args[0].dtype
    vector = ir.VectorType(context.get_value_type(kind), LANES)
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    place = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
    sums, least = builder.load(place, align=kind.bitwidth // 8), spread(builder, args[2], vector)
    compare = builder.icmp_signed if isinstance(kind, types.Integer) else builder.fcmp_ordered
    return builder.bitcast(compare(">=", sums, least), ir.IntType(LANES))


def _lowest_bit(_typing: Any, bits: Any) -> Any:
    def count(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), count


reaching: Any = intrinsic(_reaching)
"""`reaching(sums, start, least)`: a uint64 with bit i set where sums[start + i], int32 or float64, is at least
`least`."""
lowest_bit: Any = intrinsic(_lowest_bit)
"""`lowest_bit(bits)`: number of the lowest bit that is set in a uint64 other than 0."""
