"""Compiled loops that turn prepared text into hashed rows.

MurmurHash3_x86_32 (Austin Appleby, public domain) with seed 0, as scikit-learn uses it. All loops stand in
one module because Numba's cache looks only at the file of the function that is called.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit

from noveltyflow.types import AnyArray

Scratch: TypeAlias = tuple[AnyArray, AnyArray, AnyArray, AnyArray]
"""Words and hash states of one text (uint32), starts and stops of its units (int64)."""

CHAR, CHAR_WB, WORD = 0, 1, 2
_SPACE = 32
STRIDE = 32
"""Elements that one round of a vectorised loop takes, at most; arrays need room for one stride more."""

_U1, _U2, _U3, _U4 = (
    np.uint32(0xCC9E2D51),
    np.uint32(0x1B873593),
    np.uint32(0x85EBCA6B),
    np.uint32(0xC2B2AE35),
)
_ADD = np.uint32(0xE6546B64)


def _compiled(function: Any) -> Any:
    return njit(function, cache=True, nogil=True, error_model="numpy")


def _inlined(function: Any) -> Any:
    return njit(function, cache=True, nogil=True, error_model="numpy", inline="never", forceinline=True)


@_inlined
def _scramble(word: Any) -> Any:
    """Spread one 32-bit word of input over 32 bits."""
    word = np.uint32(word * _U1)
    word = np.uint32(np.uint32(word << np.uint32(15)) | np.uint32(word >> np.uint32(17)))
    return np.uint32(word * _U2)


@_inlined
def _absorb(state: Any, word: Any) -> Any:
    """State of the hash after one more whole word."""
    state = np.uint32(state ^ _scramble(word))
    state = np.uint32(np.uint32(state << np.uint32(13)) | np.uint32(state >> np.uint32(19)))
    return np.uint32(np.uint32(state * np.uint32(5)) + _ADD)


@_inlined
def _finish(state: Any, tail: Any, length: Any) -> Any:
    """Hash value from the state after all whole words, the zero-padded tail, and the length in bytes."""
    state = np.uint32(np.uint32(state ^ _scramble(tail)) ^ np.uint32(length))
    state = np.uint32(np.uint32(state ^ np.uint32(state >> np.uint32(16))) * _U3)
    state = np.uint32(np.uint32(state ^ np.uint32(state >> np.uint32(13))) * _U4)
    return np.uint32(state ^ np.uint32(state >> np.uint32(16)))


@_inlined
def _word(byte_0: Any, byte_1: Any, byte_2: Any, byte_3: Any) -> Any:
    """Four bytes as a little-endian word."""
    low = np.uint32(np.uint32(byte_0) | np.uint32(np.uint32(byte_1) << np.uint32(8)))
    high = np.uint32(np.uint32(byte_2) | np.uint32(np.uint32(byte_3) << np.uint32(8)))
    return np.uint32(low | np.uint32(high << np.uint32(16)))


@_inlined
def _word_at(buffer: AnyArray, at: Any) -> Any:
    """Read the word at a position; the buffer is padded so that reading past a row is harmless."""
    return _word(buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3])


@_compiled
def murmurhash3(buffer: AnyArray, start: int, stop: int) -> Any:
    """MurmurHash3_x86_32, seed 0, of `buffer[start:stop]`; three readable bytes must follow."""
    state = np.uint32(0)
    at = start
    while at + 4 <= stop:
        state = _absorb(state, _word_at(buffer, at))
        at += 4
    tail = np.uint32(0)
    if at < stop:
        tail = np.uint32(_word_at(buffer, at) & np.uint32((1 << (8 * (stop - at))) - 1))
    return _finish(state, tail, stop - start)


@_inlined
def _strides(count: Any) -> Any:
    """`count` rounded up to whole strides."""
    return (count + STRIDE - 1) // STRIDE * STRIDE


@_compiled
def _hash_fixed(
    text: AnyArray, length: int, first: int, last: int, hashes: AnyArray, words: AnyArray, states: AnyArray
) -> int:
    """Write the hashes of all byte n-grams, `first <= n <= last`, of ASCII text; gives how many there are.

    N-grams that start at the same byte share the state after their common whole words, so each state is
    advanced once in four lengths. All loops run in whole strides over slices that start at 0, because only
    then does the compiler vectorise them; what they write beyond the end is overwritten by what comes next.
    """
    byte_1, byte_2, byte_3 = text[1:], text[2:], text[3:]
    for i in range(_strides(length)):
        words[i] = _word(text[i], byte_1[i], byte_2[i], byte_3[i])
        states[i] = np.uint32(0)
    n_hashes = 0
    absorbed = 0
    rest = words
    for n in range(first, last + 1):
        while absorbed + 4 <= n:
            for i in range(_strides(length - absorbed)):
                states[i] = _absorb(states[i], rest[i])
            absorbed += 4
            rest = rest[4:]
        mask = np.uint32((1 << (8 * (n - absorbed))) - 1)
        count = length - n + 1
        out = hashes[n_hashes:]
        for i in range(_strides(count)):
            out[i] = _finish(states[i], np.uint32(rest[i] & mask), n)
        n_hashes += count
    return n_hashes


@_compiled
def _hash_units(
    buffer: AnyArray, starts: AnyArray, stops: AnyArray, n_units: int, first: int, last: int, hashes: AnyArray
) -> int:
    """Write the hashes of all runs of n units, `first <= n <= last`; a unit is a code point or a word."""
    n_hashes = 0
    for n in range(first, last + 1):
        for i in range(n_units - n + 1):
            hashes[n_hashes] = murmurhash3(buffer, starts[i], stops[i + n - 1])
            n_hashes += 1
    return n_hashes


@_compiled
def _is_ascii(buffer: AnyArray, start: int, stop: int) -> bool:
    seen = np.uint8(0)
    for at in range(start, stop):
        seen |= buffer[at]
    return bool(seen < 128)


@_compiled
def _code_points(buffer: AnyArray, start: int, stop: int, starts: AnyArray, stops: AnyArray) -> int:
    """Byte ranges of the code points of UTF-8 text, and how many there are."""
    n_units = 0
    for at in range(start, stop):
        if buffer[at] & 0xC0 != 0x80:
            starts[n_units] = at
            if n_units > 0:
                stops[n_units - 1] = at
            n_units += 1
    if n_units > 0:
        stops[n_units - 1] = stop
    return n_units


@_compiled
def _hash_segment(
    buffer: AnyArray,
    start: int,
    stop: int,
    min_n: int,
    max_n: int,
    whole: bool,
    hashes: AnyArray,
    scratch: Scratch,
) -> Any:
    """Write the hashes of the character n-grams of one segment, and give their number.

    With `whole`, a segment shorter than the n-gram counts once, as scikit-learn's `char_wb` has it.
    """
    words, states, starts, stops = scratch
    ascii_only = _is_ascii(buffer, start, stop)
    length = stop - start if ascii_only else _code_points(buffer, start, stop, starts, stops)
    first = min(min_n, length) if whole else min_n
    last = min(max_n, length)
    if ascii_only:
        return _hash_fixed(buffer[start:], length, first, last, hashes, words, states)
    return _hash_units(buffer, starts, stops, length, first, last, hashes)


@_compiled
def _hash_padded_words(
    buffer: AnyArray, start: int, stop: int, min_n: int, max_n: int, hashes: AnyArray, scratch: Scratch
) -> Any:
    """Write the hashes of a row like ` one two `: each word with a space on either side is a segment."""
    n_hashes = 0
    left = start
    for at in range(start + 1, stop):
        if buffer[at] != _SPACE:
            continue
        if at > left + 1:
            n_hashes += _hash_segment(buffer, left, at + 1, min_n, max_n, True, hashes[n_hashes:], scratch)
        left = at
    return n_hashes


@_compiled
def _hash_tokens(
    buffer: AnyArray,
    start: int,
    stop: int,
    word_bytes: AnyArray,
    min_n: int,
    max_n: int,
    hashes: AnyArray,
    text: AnyArray,
    scratch: Scratch,
) -> Any:
    """Write the hashes of a row's word n-grams: runs of two or more word bytes, joined by spaces."""
    _, _, starts, stops = scratch
    length = 0
    n_units = 0
    at = start
    while at < stop:
        left = length
        while at < stop and word_bytes[buffer[at]]:
            text[length] = buffer[at]
            length += 1
            at += 1
        if length - left < 2:
            length = left
        else:
            starts[n_units] = left
            stops[n_units] = length
            n_units += 1
            text[length] = _SPACE
            length += 1
        at += 1
    return _hash_units(text, starts, stops, n_units, min_n, min(max_n, n_units), hashes)


@_inlined
def _column(hashed: Any, divisor: Any, power_of_two: bool) -> Any:
    """`abs(int32) % n_features`, where unsigned arithmetic gives 2**31 for the smallest int32."""
    negative = np.uint32(hashed >> np.uint32(31))
    magnitude = np.uint32(np.uint32(hashed ^ np.uint32(np.uint32(0) - negative)) + negative)
    if power_of_two:
        return np.uint32(magnitude & np.uint32(divisor - np.uint32(1)))
    return np.uint32(magnitude % divisor)


@_compiled
def hash_rows(
    buffer: AnyArray,
    offsets: AnyArray,
    analyzer: int,
    word_bytes: AnyArray,
    min_n: int,
    max_n: int,
    longest: int,
    hashes: AnyArray,
    ends: AnyArray,
) -> None:
    """Write the hashes of all rows one after another; `ends[i]` is where row i ends.

    `longest` is the length of the longest row in bytes.
    """
    text = np.empty(longest + STRIDE, np.uint8)
    words, states = np.empty(longest + 2 * STRIDE, np.uint32), np.empty(longest + 2 * STRIDE, np.uint32)
    scratch = (words, states, np.empty(longest, np.int64), np.empty(longest, np.int64))
    at = 0
    for row in range(len(offsets) - 1):
        start, stop, out = offsets[row], offsets[row + 1], hashes[at:]
        if analyzer == CHAR:
            at += _hash_segment(buffer, start, stop, min_n, max_n, False, out, scratch)
        elif analyzer == CHAR_WB:
            at += _hash_padded_words(buffer, start, stop, min_n, max_n, out, scratch)
        else:
            at += _hash_tokens(buffer, start, stop, word_bytes, min_n, max_n, out, text, scratch)
        ends[row] = at


@_compiled
def place_keys(
    hashes: AnyArray,
    ends: AnyArray,
    rows: AnyArray,
    n_features: int,
    signed: bool,
    keys: AnyArray,
) -> None:
    """Line `i` of the matrix `keys` gets the keys of row `rows[i]`, then the largest uint32 to its end.

    A key is a column; if `signed`, shifted by one bit that is set for a negative hash.
    """
    divisor = np.uint32(n_features)
    power_of_two = n_features & (n_features - 1) == 0
    for line in range(len(rows)):
        row = rows[line]
        start = ends[row - 1] if row > 0 else 0
        count = ends[row] - start
        if power_of_two and not signed:
            for i in range(count):
                keys[line, i] = _column(hashes[start + i], divisor, True)
        else:
            for i in range(count):
                hashed = hashes[start + i]
                column = _column(hashed, divisor, power_of_two)
                if signed:
                    column = np.uint32(np.uint32(column << np.uint32(1)) | np.uint32(hashed >> np.uint32(31)))
                keys[line, i] = column
        keys[line, count:] = np.uint32(0xFFFFFFFF)


@_compiled
def emit_rows(
    keys: AnyArray,
    positions: AnyArray,
    counts: AnyArray,
    signed: bool,
    at: int,
    indptr: AnyArray,
    indices: AnyArray,
    data: AnyArray,
) -> int:
    """Append rows of sorted keys to a CSR matrix that has `at` entries, equal columns summed.

    Row `i` is `keys[positions[i]:positions[i] + counts[i]]`; `indptr[i]` gets where it ends. A sum is written
    with each of its keys and kept with the last: there is no branch for the processor to predict wrongly.
    """
    shift = np.uint32(1) if signed else np.uint32(0)
    for row in range(len(counts)):
        start = positions[row]
        total = np.int64(0)
        for i in range(start, start + counts[row]):
            column = np.uint32(keys[i] >> shift)
            total += 1 - 2 * np.int64(keys[i] & shift)
            indices[at] = column
            data[at] = total
            last = i + 1 == start + counts[row] or np.uint32(keys[i + 1] >> shift) != column
            at += last
            total = np.int64(0) if last else total
        indptr[row] = at
    return at
