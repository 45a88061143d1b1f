"""Which of many sums are large enough, as bits: vector code; see `kernels.vectors`."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.vectors import is_flat, spread

LANES = 64
_SUMS = ir.VectorType(ir.IntType(32), LANES)
_CODES = ir.VectorType(ir.IntType(16), LANES)
_PLACES = ir.VectorType(ir.IntType(64), LANES)
_POINTERS = ir.VectorType(ir.IntType(32).as_pointer(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


def _reaching(_typing: Any, sums: Any, start: Any, least: Any) -> Any:
    if not is_flat(sums, types.int32):
        raise numba.TypingError("a contiguous array of int32 is needed")
    return types.uint64(sums, types.int64, types.int32), _compare


def _compare(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    place = builder.bitcast(builder.gep(data, [args[1]]), _SUMS.as_pointer())
    found = builder.icmp_signed(">=", builder.load(place, align=4), spread(builder, args[2], _SUMS))
    return builder.bitcast(found, ir.IntType(LANES))


def _known(_typing: Any, codes: Any, start: Any, words: Any) -> Any:
    if not is_flat(codes, types.uint16) or not is_flat(words, types.uint32):
        raise numba.TypingError("contiguous arrays of uint16 and uint32 are needed")
    return types.uint64(codes, types.int64, words), _look_up


def _look_up(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    codes = context.make_array(signature.args[0])(context, builder, args[0]).data
    words = context.make_array(signature.args[2])(context, builder, args[2]).data
    place = builder.bitcast(builder.gep(codes, [args[1]]), _CODES.as_pointer())
    code = builder.zext(builder.load(place, align=2), _SUMS)
    offsets = builder.zext(builder.shl(builder.lshr(code, _all(5)), _all(2)), _PLACES)
    base = spread(builder, builder.ptrtoint(words, ir.IntType(64)), _PLACES)
    word = _gather(builder, builder.inttoptr(builder.add(base, offsets), _POINTERS))
    return builder.bitcast(
        builder.trunc(builder.lshr(word, builder.and_(code, _all(31))), _BITS), ir.IntType(LANES)
    )


def _gather(builder: Any, pointers: Any) -> Any:
    kinds = [_POINTERS, ir.IntType(32), _BITS, _SUMS]
    name = f"llvm.masked.gather.v{LANES}i32.v{LANES}p0"
    declare: Any = cgutils.get_or_insert_function
    declared = declare(builder.module, ir.FunctionType(_SUMS, kinds), name)
    every = ir.Constant(_BITS, [1] * LANES)
    return builder.call(declared, [pointers, ir.IntType(32)(4), every, ir.Constant(_SUMS, ir.Undefined)])


def _all(number: int) -> Any:
    return ir.Constant(_SUMS, [number] * LANES)


def _lowest_bit(_typing: Any, bits: Any) -> Any:
    def count(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), count


reaching: Any = intrinsic(_reaching)
"""`reaching(sums, start, least)`: a uint64 with bit i set where the int32 sums[start + i] is at least `least`."""
known: Any = intrinsic(_known)
"""`known(codes, start, words)`: a uint64 with bit i set where bit number codes[start + i] of `words` is set."""
lowest_bit: Any = intrinsic(_lowest_bit)
"""`lowest_bit(bits)`: number of the lowest bit that is set in a uint64 other than 0."""
