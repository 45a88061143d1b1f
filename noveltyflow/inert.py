"""Text from inputs made harmless for whatever shows it: a terminal, a log, a spreadsheet."""

from __future__ import annotations

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


def defused(cell: str) -> str:
    """The cell as `printable` gives it, with `'` before it when a spreadsheet would run it."""
    cell = printable(cell)
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
