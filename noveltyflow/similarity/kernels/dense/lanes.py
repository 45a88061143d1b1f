"""The innermost loop of the dense search as vector code that keeps its sums in registers.

A loop over arrays in Python would store and load the sums for every column; see `kernels.vectors`.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.dense.index import GROUP_ROWS
from noveltyflow.similarity.kernels.vectors import is_flat, spread

_SUMS = ir.VectorType(ir.IntType(16), GROUP_ROWS)
_LEVELS = ir.VectorType(ir.IntType(8), GROUP_ROWS)
_ARRAYS = (types.uint16, types.uint8, types.uint16, types.uint16)


def _typed(arrays: tuple[Any, ...]) -> bool:
    """Whether these are contiguous arrays of the numbers that the code below reads and writes."""
    return all(is_flat(array, number) for array, number in zip(arrays, _ARRAYS, strict=True))


def _add_columns(saturating: bool) -> Any:
    """Make the function; `saturating` sums stop at 65,535, others must be known to stay below."""

    @intrinsic
    def add(
        _typing: Any, sums: Any, at: Any, levels: Any, first: Any, columns: Any, factors: Any, n: Any
    ) -> Any:
        if not _typed((sums, levels, columns, factors)):
            raise numba.TypingError("uint16 sums, uint8 levels, uint16 columns and factors are needed")
        signature = types.uint16(sums, types.int64, levels, types.int64, columns, factors, types.int64)
        return signature, lambda *code: _generate(code, saturating)

    return add


def _generate(code: tuple[Any, ...], saturating: bool) -> Any:
    context, builder, signature, args = code

    def data(number: int) -> Any:
        return context.make_array(signature.args[number])(context, builder, args[number]).data

    sums, levels, columns, factors = data(0), data(2), data(4), data(5)
    at, first, n = args[1], args[3], args[6]
    place = builder.bitcast(builder.gep(sums, [at]), _SUMS.as_pointer())
    begun = builder.load(place, align=2)
    before = builder.block
    loop, after = builder.append_basic_block("columns"), builder.append_basic_block("done")
    int64, zero, one = ir.IntType(64), ir.IntType(64)(0), ir.IntType(64)(1)
    builder.cbranch(builder.icmp_signed(">", n, zero), loop, after)
    builder.position_at_end(loop)
    number, total = builder.phi(int64), builder.phi(_SUMS)
    column = builder.zext(builder.load(builder.gep(columns, [number])), int64)
    start = builder.add(first, builder.mul(column, int64(GROUP_ROWS)))
    level = builder.load(builder.bitcast(builder.gep(levels, [start]), _LEVELS.as_pointer()), align=1)
    products = builder.mul(
        builder.zext(level, _SUMS), spread(builder, builder.load(builder.gep(factors, [number])), _SUMS)
    )
    more = _add(builder, total, products, saturating)
    following = builder.add(number, one)
    for value, origin in ((zero, before), (following, loop)):
        number.add_incoming(value, origin)
    for value, origin in ((begun, before), (more, loop)):
        total.add_incoming(value, origin)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
    builder.position_at_end(after)
    result = builder.phi(_SUMS)
    for value, origin in ((begun, before), (more, loop)):
        result.add_incoming(value, origin)
    builder.store(result, place, align=2)
    return _call(builder, "llvm.vector.reduce.umax", ir.IntType(16), result)


def _add(builder: Any, total: Any, products: Any, saturating: bool) -> Any:
    return (
        _call(builder, "llvm.uadd.sat", _SUMS, total, products)
        if saturating
        else builder.add(total, products)
    )


def _call(builder: Any, name: str, result: Any, *vectors: Any) -> Any:
    """Call one of the compiler's own functions for vectors of sums."""
    function = ir.FunctionType(result, [_SUMS] * len(vectors))
    declare: Any = cgutils.get_or_insert_function
    declared = declare(builder.module, function, f"{name}.v{GROUP_ROWS}i16")
    return builder.call(declared, vectors)


add_columns = _add_columns(saturating=False)
"""`add_columns(sums, at, levels, first, columns, factors, n)`: for every i below n and the 32 rows j of a group, add
factors[i] * levels[first + 32 * columns[i] + j] to sums[at + j]; returns the largest of the 32 sums."""
add_largest = _add_columns(saturating=True)
"""The same with sums that stop at 65,535: the largest levels of a group can be too large together."""
