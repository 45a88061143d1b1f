"""Compiled loops that turn prepared text into hashed rows.

MurmurHash3_x86_32 (Austin Appleby, public domain) with seed 0, as scikit-learn uses it. What calls each other
stands in one module because Numba's cache looks only at the file of the function that is called.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from noveltyflow.features._compiling import compiled, inlined
from noveltyflow.types import AnyArray

Scratch: TypeAlias = tuple[AnyArray, AnyArray, AnyArray, AnyArray]
"""Words and hash states of one text (uint32), starts and stops of its units (int64)."""
Tokens: TypeAlias = tuple[AnyArray, AnyArray, AnyArray, AnyArray]
"""The word at each byte, starts and stops of the tokens, first token of each row (uint32)."""
TokenScratch: TypeAlias = tuple[AnyArray, AnyArray, AnyArray]
"""State, position up to which it is hashed, and an index, for each token (uint32)."""

_SPACE = 32
STRIDE = 32
"""Elements that one round of a vectorised loop takes, at most; arrays need room for one stride more."""
_GROUP_BYTES = 2048
"""Text whose tokens are hashed together: it and what belongs to it stay in the innermost cache."""

_U1, _U2, _U3, _U4 = (
    np.uint32(0xCC9E2D51),
    np.uint32(0x1B873593),
    np.uint32(0x85EBCA6B),
    np.uint32(0xC2B2AE35),
)
_ADD = np.uint32(0xE6546B64)


@inlined
def _scramble(word: Any) -> Any:
    """Spread one 32-bit word of input over 32 bits."""
    word = np.uint32(word * _U1)
    word = np.uint32(np.uint32(word << np.uint32(15)) | np.uint32(word >> np.uint32(17)))
    return np.uint32(word * _U2)


@inlined
def _absorb(state: Any, word: Any) -> Any:
    """State of the hash after one more whole word."""
    state = np.uint32(state ^ _scramble(word))
    state = np.uint32(np.uint32(state << np.uint32(13)) | np.uint32(state >> np.uint32(19)))
    return np.uint32(np.uint32(state * np.uint32(5)) + _ADD)


@inlined
def _finish(state: Any, tail: Any, length: Any) -> Any:
    """Hash value from the state after all whole words, the zero-padded tail, and the length in bytes."""
    state = np.uint32(np.uint32(state ^ _scramble(tail)) ^ np.uint32(length))
    state = np.uint32(np.uint32(state ^ np.uint32(state >> np.uint32(16))) * _U3)
    state = np.uint32(np.uint32(state ^ np.uint32(state >> np.uint32(13))) * _U4)
    return np.uint32(state ^ np.uint32(state >> np.uint32(16)))


@inlined
def _word(byte_0: Any, byte_1: Any, byte_2: Any, byte_3: Any) -> Any:
    """Four bytes as a little-endian word."""
    low = np.uint32(np.uint32(byte_0) | np.uint32(np.uint32(byte_1) << np.uint32(8)))
    high = np.uint32(np.uint32(byte_2) | np.uint32(np.uint32(byte_3) << np.uint32(8)))
    return np.uint32(low | np.uint32(high << np.uint32(16)))


@inlined
def _word_at(buffer: AnyArray, at: Any) -> Any:
    """Read the word at a position; the buffer is padded so that reading past a row is harmless."""
    return _word(buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3])


@compiled
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


@inlined
def _strides(count: Any) -> Any:
    """`count` rounded up to whole strides."""
    return (count + STRIDE - 1) // STRIDE * STRIDE


@compiled
def _hash_fixed(
    text: AnyArray, length: int, first: int, last: int, hashes: AnyArray, words: AnyArray, states: AnyArray
) -> int:
    """Write the hashes of all byte n-grams, `first <= n <= last`, of ASCII text; gives how many there are.

    N-grams that start at the same byte share the state after their common whole words, so each state is
    advanced once in four lengths. All loops run in whole strides over slices that start at 0, because only
    then does the compiler vectorise them; what they write beyond the end is overwritten by what comes next.
    """
    _read_words(text, length, words)
    states[: _strides(length)] = np.uint32(0)
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


@compiled
def _hash_units(
    buffer: AnyArray, starts: AnyArray, stops: AnyArray, n_units: int, first: int, last: int, hashes: AnyArray
) -> int:
    """Write the hashes of all runs of n units, `first <= n <= last`; a unit is a code point."""
    n_hashes = 0
    for n in range(first, last + 1):
        for i in range(n_units - n + 1):
            hashes[n_hashes] = murmurhash3(buffer, starts[i], stops[i + n - 1])
            n_hashes += 1
    return n_hashes


@compiled
def _is_ascii(buffer: AnyArray, start: int, stop: int) -> bool:
    seen = np.uint8(0)
    for at in range(start, stop):
        seen |= buffer[at]
    return bool(seen < 128)


@compiled
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


@compiled
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


@compiled
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


@compiled
def fold(content: AnyArray, lowercase: bool, spaces: bool, folded: AnyArray) -> None:
    """Copy bytes; with `lowercase`, ASCII letters in lower case; with `spaces`, ASCII white space as spaces."""
    for i in range(len(content)):
        code = content[i]
        upper = np.uint8(code - np.uint8(65)) < np.uint8(26)
        space = (np.uint8(code - np.uint8(9)) < np.uint8(5)) | (np.uint8(code - np.uint8(28)) < np.uint8(4))
        code = np.uint8(code | np.uint8(32)) if upper & lowercase else code
        folded[i] = np.uint8(_SPACE) if space & spaces else code


@compiled
def hash_rows(
    buffer: AnyArray,
    offsets: AnyArray,
    padded_words: bool,
    min_n: int,
    max_n: int,
    longest: int,
    hashes: AnyArray,
    ends: AnyArray,
) -> None:
    """Write the hashes of the character n-grams of all rows one after another; `ends[i]` is where row i ends.

    With `padded_words`, of each word of rows like ` one two `. `longest` is the length of the longest row in bytes.
    """
    words, states = np.empty(longest + 2 * STRIDE, np.uint32), np.empty(longest + 2 * STRIDE, np.uint32)
    scratch = (words, states, np.empty(longest, np.int64), np.empty(longest, np.int64))
    at = 0
    for row in range(len(offsets) - 1):
        start, stop, out = offsets[row], offsets[row + 1], hashes[at:]
        if padded_words:
            at += _hash_padded_words(buffer, start, stop, min_n, max_n, out, scratch)
        else:
            at += _hash_segment(buffer, start, stop, min_n, max_n, False, out, scratch)
        ends[row] = at


@compiled
def hash_words(
    buffer: AnyArray,
    offsets: AnyArray,
    min_n: int,
    max_n: int,
    longest: int,
    hashes: AnyArray,
    ends: AnyArray,
) -> None:
    """`hash_rows` for runs of `min_n` to `max_n` tokens; a space ends every row.

    Some rows are taken together, so that the processor works on several hashes at a time.
    """
    room = _GROUP_BYTES + longest + 2 * STRIDE
    most_tokens = room // 3 + 1
    text, marked, words = np.empty(room, np.uint8), np.empty(room, np.uint16), np.empty(room, np.uint32)
    starts, stops = np.empty(most_tokens, np.uint32), np.empty(most_tokens, np.uint32)
    states, positions = np.empty(most_tokens, np.uint32), np.empty(most_tokens, np.uint32)
    active, first = np.empty(most_tokens, np.uint32), np.zeros(len(offsets), np.uint32)
    row, at = 0, 0
    while row < len(ends):
        start = row
        while row < len(ends) and offsets[row] - offsets[start] < _GROUP_BYTES:
            row += 1
        length = offsets[row] - offsets[start]
        _mark_tokens(buffer[offsets[start] :], length, text, marked)
        length = _copy_tokens(marked, offsets[start : row + 1], text, starts, stops, first)
        _read_words(text, length, words)
        group = ends[start:row]
        at = _start_rows(first, min_n, max_n, at, group)
        _hash_runs((words, starts, stops, first), min_n, max_n, (states, positions, active), hashes, group)


@compiled
def _mark_tokens(content: AnyArray, length: int, word: AnyArray, marked: AnyArray) -> None:
    """Add 256 to the bytes of tokens, runs of two or more word bytes; other bytes become a space.

    To the space after a token 768 is added. Word bytes are ASCII letters, digits, the underscore, and every
    byte of a longer code point.
    """
    word[0], word[1] = 0, 0
    before, left, here, right = word, word[1:], word[2:], word[3:]
    for i in range(_strides(length)):
        code = content[i]
        letter = np.uint8(np.uint8(code | np.uint8(32)) - np.uint8(97)) < np.uint8(26)
        digit = np.uint8(code - np.uint8(48)) < np.uint8(10)
        here[i] = letter | digit | (code == np.uint8(95)) | (code >= np.uint8(128))
    for i in range(_strides(length)):
        kept = here[i] & (left[i] | right[i])
        closed = before[i] & left[i] & (here[i] ^ np.uint8(1))
        code = content[i] if kept else np.uint8(_SPACE)
        flags = np.uint16(np.uint16(kept | closed) | np.uint16(np.uint16(closed) << np.uint16(1)))
        marked[i] = np.uint16(np.uint16(flags << np.uint16(8)) | np.uint16(code))


@compiled
def _copy_tokens(
    marked: AnyArray, offsets: AnyArray, text: AnyArray, starts: AnyArray, stops: AnyArray, first: AnyArray
) -> Any:
    """Write the tokens of all rows with a space after each; gives the length of that text.

    Token `i` is `text[starts[i]:stops[i]]`, and token `first[j]` the first of row `j`. Every byte is written
    and the position advanced only after one that is kept: there is no branch for the processor to predict
    wrongly. Positions have no sign, because Numba counts a negative one from the end.
    """
    length, n_tokens = np.uint64(0), np.uint64(0)
    for row in range(len(offsets) - 1):
        for at in range(np.uint64(offsets[row] - offsets[0]), np.uint64(offsets[row + 1] - offsets[0])):
            mark = marked[at]
            text[length] = np.uint8(mark)
            stops[n_tokens] = length
            length += np.uint64(mark >> 8) & np.uint64(1)
            n_tokens += np.uint64(mark >> 9)
        first[row + 1] = n_tokens
    starts[0] = 0
    for token in range(1, np.int64(n_tokens)):
        starts[token] = stops[token - 1] + 1
    return np.int64(length)


@compiled
def _read_words(text: AnyArray, length: int, words: AnyArray) -> None:
    """Write the word that starts at each byte, in whole strides over slices that start at 0."""
    byte_1, byte_2, byte_3 = text[1:], text[2:], text[3:]
    for i in range(_strides(length)):
        words[i] = _word(text[i], byte_1[i], byte_2[i], byte_3[i])


@compiled
def _start_rows(first: AnyArray, min_n: int, max_n: int, at: int, starts: AnyArray) -> int:
    """Where the hashes of each row start, if those of the first row do `at`; gives where the last row ends."""
    for row in range(len(starts)):
        starts[row] = at
        n_tokens: Any = np.int64(first[row + 1]) - np.int64(first[row])
        last = min(max_n, n_tokens)
        # Of n tokens there are n_tokens - n + 1 runs.
        at += max(last - min_n + 1, 0) * (2 * (n_tokens + 1) - min_n - last) // 2
    return at


@compiled
def _hash_runs(
    tokens: Tokens, min_n: int, max_n: int, scratch: TokenScratch, hashes: AnyArray, ends: AnyArray
) -> None:
    """Write the hashes of the runs of tokens of some rows; `ends` advances from the start to the end of each.

    Runs from the same token share the state after their common whole words.
    """
    words, starts, stops, first = tokens
    states, positions, active = scratch
    n_rows = len(ends)
    n_tokens: Any = np.int64(first[n_rows])
    states[:n_tokens] = np.uint32(0)
    positions[:n_tokens] = starts[:n_tokens]
    for n in range(min_n, min(max_n, n_tokens) + 1):
        last = stops[n - 1 :]
        n_active = 0
        for row in range(n_rows):
            for token in range(np.int64(first[row]), np.int64(first[row + 1]) - n + 1):
                active[n_active] = token
                n_active += positions[token] + 4 <= last[token]
        _absorb_words(words, last, n_active, states, positions, active)
        for row in range(n_rows):
            out = ends[row]
            for token in range(np.int64(first[row]), np.int64(first[row + 1]) - n + 1):
                at, stop = positions[token], last[token]
                tail = np.uint32(words[at] & np.uint32((1 << (8 * (stop - at))) - 1))
                hashes[out] = _finish(states[token], tail, stop - starts[token])
                out += 1
            ends[row] = out


@compiled
def _absorb_words(
    words: AnyArray, stops: AnyArray, n_active: int, states: AnyArray, positions: AnyArray, active: AnyArray
) -> None:
    """Advance the first states of the list `active` by all whole words from their positions to their stops.

    Each takes one word at a time in turn, because a state has to wait for itself but for no other.
    """
    while n_active > 0:
        left = 0
        for i in range(n_active):
            token = active[i]
            at = positions[token]
            states[token] = _absorb(states[token], words[at])
            positions[token] = at + 4
            active[left] = token
            left += at + 8 <= stops[token]
        n_active = left
