"""Codes that are known, as bits, and products of a group: see `kernels.vectors`."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from noveltyflow.similarity.kernels.reaching import LANES
from noveltyflow.similarity.kernels.vectors import is_flat, spread

FILTER_BITS = 1 << 12
"""Bits that tell which codes a query may have: as many as eight registers of 512 bits."""
_SUMS = ir.VectorType(ir.IntType(32), LANES)
_CODES = ir.VectorType(ir.IntType(16), LANES)
_WORDS = ir.VectorType(ir.IntType(16), 32)
_HALF_BITS = ir.VectorType(ir.IntType(1), 32)
_PLACES = ir.VectorType(ir.IntType(64), LANES)
_POINTERS = ir.VectorType(ir.IntType(32).as_pointer(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_INT64 = ir.IntType(64)
_PACKED = (types.uint32, types.uint64)


def _known(_typing: Any, codes: Any, start: Any, words: Any) -> Any:
    if not is_flat(codes, types.uint16) or not is_flat(words, types.uint32):
        raise numba.TypingError("contiguous arrays of uint16 and uint32 are needed")
    return types.uint64(codes, types.int64, words), _look_up


def _look_up(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    codes = context.make_array(signature.args[0])(context, builder, args[0]).data
    words = context.make_array(signature.args[2])(context, builder, args[2]).data
    place = builder.gep(codes, [args[1]])
    features = context.codegen().magic_tuple()[-1].split(",")
    look_up = _permuted if "+avx512bw" in features else _gathered
    return look_up(builder, place, words)


def _permuted(builder: Any, codes: Any, words: Any) -> Any:
    """Words from eight registers, which hold the filter; of their numbers, six bits choose within two registers."""
    first = builder.bitcast(words, _WORDS.as_pointer())
    filter_words = [builder.load(builder.gep(first, [_INT64(part)]), align=4) for part in range(8)]
    name = "llvm.x86.avx512.vpermi2var.hi.512"
    declare: Any = cgutils.get_or_insert_function
    permute = declare(builder.module, ir.FunctionType(_WORDS, [_WORDS] * 3), name)
    found = _INT64(0)
    for half in range(2):
        place = builder.bitcast(builder.gep(codes, [_INT64(32 * half)]), _WORDS.as_pointer())
        code = builder.load(place, align=2)
        number = builder.lshr(code, _each(4))
        pairs = [
            builder.call(permute, [filter_words[part], number, filter_words[part + 1]])
            for part in range(0, 8, 2)
        ]
        for bit in (1 << 6, 1 << 7):
            upper = builder.icmp_unsigned("!=", builder.and_(number, _each(bit)), _each(0))
            pairs = [
                builder.select(upper, above, below)
                for below, above in zip(pairs[::2], pairs[1::2], strict=True)
            ]
        bits = builder.trunc(builder.lshr(pairs[0], builder.and_(code, _each(15))), _HALF_BITS)
        half_found = builder.zext(builder.bitcast(bits, ir.IntType(32)), _INT64)
        found = builder.or_(found, builder.shl(half_found, _INT64(32 * half)))
    return found


def _gathered(builder: Any, codes: Any, words: Any) -> Any:
    place = builder.bitcast(codes, _CODES.as_pointer())
    code = builder.and_(builder.zext(builder.load(place, align=2), _SUMS), _all(FILTER_BITS - 1))
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


def _each(number: int) -> Any:
    return ir.Constant(_WORDS, [number] * 32)


def _add_hits(_typing: Any, hits: Any, first: Any, codes: Any, table: Any, weights: Any, bounds: Any) -> Any:
    numbers = ((codes, types.uint16), (table, types.uint16), (bounds, types.uint32))
    if not all(is_flat(*array) for array in numbers) or not _is_packed(weights):
        raise numba.TypingError(
            "contiguous arrays of uint16, uint16, uint32 or uint64, and uint32 are needed"
        )
    return types.void(types.uint64, types.int64, codes, table, weights, bounds), _sum_products


def _is_packed(weights: Any) -> bool:
    return any(is_flat(weights, number) for number in _PACKED)


def _rows_of_group(_typing: Any, weights: Any) -> Any:
    if not _is_packed(weights):
        raise numba.TypingError("a contiguous array of uint32 or uint64 is needed")
    return types.int64(weights), lambda *_: _INT64(weights.dtype.bitwidth // 8)


def _sum_products(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    codes, table, weights, bounds = (
        context.make_array(signature.args[number])(context, builder, args[number]).data
        for number in range(2, 6)
    )
    n_rows = signature.args[4].dtype.bitwidth // 8
    packed, sums = ir.VectorType(ir.IntType(8), n_rows), ir.VectorType(ir.IntType(32), n_rows)
    target = builder.bitcast(bounds, sums.as_pointer())
    begun, before = builder.load(target, align=4), builder.block
    loop, after = builder.append_basic_block("hits"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_unsigned("!=", args[0], _INT64(0)), loop, after)
    builder.position_at_end(loop)
    hits, total = builder.phi(_INT64), builder.phi(sums)
    place = builder.add(args[1], builder.cttz(hits, ir.IntType(1)(1)))
    code = builder.zext(builder.load(builder.gep(codes, [place])), _INT64)
    factor = builder.zext(builder.load(builder.gep(table, [code])), ir.IntType(32))
    members = builder.load(builder.bitcast(builder.gep(weights, [place]), packed.as_pointer()), align=n_rows)
    products = builder.mul(builder.zext(members, sums), spread(builder, factor, sums))
    more, left = builder.add(total, products), builder.and_(hits, builder.sub(hits, _INT64(1)))
    for phi, first, following in ((hits, args[0], left), (total, begun, more)):
        phi.add_incoming(first, before)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("!=", left, _INT64(0)), loop, after)
    builder.position_at_end(after)
    result = builder.phi(sums)
    result.add_incoming(begun, before)
    result.add_incoming(more, loop)
    builder.store(result, target, align=4)
    return context.get_dummy_value()


def _prefetch(_typing: Any, numbers: Any, place: Any) -> Any:
    if not is_flat(numbers):
        raise numba.TypingError("a contiguous array is needed")
    return types.void(numbers, types.int64), _ask_for


def _ask_for(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    flag = ir.IntType(32)
    address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
    declare: Any = cgutils.get_or_insert_function
    kinds = [ir.IntType(8).as_pointer(), flag, flag, flag]
    declared = declare(builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    builder.call(declared, [address, flag(0), flag(3), flag(1)])
    return context.get_dummy_value()


known: Any = intrinsic(_known)
"""`known(codes, start, words)`: a uint64 with bit i set where bit number codes[start + i], modulo `FILTER_BITS`, of
`words` is set, which are `FILTER_BITS` / 32 uint32."""
add_hits: Any = intrinsic(_add_hits)
"""`add_hits(hits, first, codes, table, weights, bounds)`: for every bit i that is set, add the product of
table[codes[first + i]] and byte j of weights[first + i] to bounds[j], for all of its bytes."""
rows_of_group: Any = intrinsic(_rows_of_group)
"""`rows_of_group(weights)`: bytes of a number of `weights`, one for each row of a group."""
prefetch: Any = intrinsic(_prefetch)
"""`prefetch(numbers, place)`: ask for numbers[place], which may stand beyond the end, to be in the cache soon."""
