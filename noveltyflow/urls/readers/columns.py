"""What to say when a column is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.rejects import safe_text

_NAMES_SHOWN = 30


def column_numbers(names: Sequence[str], settings: InputSettings, source: str) -> tuple[int, int | None]:
    """Positions of the URL and of the time column among `names`; the first of equal names counts."""
    url = _position(names, settings.url_column, "--url-column", source)
    if settings.time_column is None:
        return url, None
    return url, _position(names, settings.time_column, "--time-column", source)


def _position(names: Sequence[str], name: str, option: str, source: str) -> int:
    if name not in names:
        raise missing_column(source, name, option, names)
    return names.index(name)


def missing_column(source: str, name: str, option: str, names: Iterable[str]) -> InputError:
    """Error that names the file, the column wanted, the columns there are, and the option to change."""
    found = [safe_text(each) for each in names]
    more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
    there = ", ".join(found[:_NAMES_SHOWN]) or "none"
    remedy = f"Choose one with {option}."
    if any("://" in each for each in found):
        remedy = "The file seems to have no header: give it one, or read one URL a line with --format text."
    return InputError(f"{source}: missing column {name!r}; there are: {there}{more}. {remedy}")
