"""Text from inputs made harmless for whatever shows it: a terminal, a log, a spreadsheet."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the same in full width, which some spreadsheets take for the first."""


def printable(text: str) -> str:
    r"""The text with every character that is not printable escaped, so that it cannot steer a terminal.

    Control and format characters, lone surrogates and every space but U+0020 appear as Python's backslash escapes
    (`\xff`, `\n`, `\u202e`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The text with all but its line breaks made `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str, most: int) -> str:
    """The text, of which no more than `most` characters are shown: an ellipsis stands for its middle."""
    if len(text) <= most:
        return text
    begin = most // 2
    return f"{text[:begin]}…{text[len(text) - (most - 1 - begin) :]}"


def shell_line(words: Iterable[str]) -> str:
    r"""The words as one line that is printable, and from which a shell makes these very words again.

    What is not printable stands in `$'...'`, in octal numbers of its bytes (`\033`), as bash, zsh and ksh read it.
    """
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    plain = (c.isprintable() and c not in "'\\" for c in word)
    return f"$'{''.join(c if keep else _octal(c) for c, keep in zip(word, plain, strict=True))}'"


def _octal(character: str) -> str:
    # File names hold bytes that are no text as lone surrogates; others of these stand in no name.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", errors))


def defused(cell: str) -> str:
    """The cell as `printable` gives it, with `'` before it when a spreadsheet would run it."""
    cell = printable(cell)
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
