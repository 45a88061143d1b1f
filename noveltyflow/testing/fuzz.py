"""What must hold for every input and every text, however hostile; tests and benchmarks check it."""

from __future__ import annotations

from dataclasses import dataclass, field

from noveltyflow.config import InputSettings, UrlSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.canonical import canonicalize
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.rejects import MAX_TEXT, REASONS
from noveltyflow.urls.shards import SHARD_BYTES, Shard, plan_shards


@dataclass
class Found:
    """What an input holds, numbered over all of its shards."""

    texts: list[tuple[int, int, str]] = field(default_factory=list)
    """Ordinal, line, text."""
    rejects: list[tuple[int, int, str, str]] = field(default_factory=list)
    """Ordinal, line, reason, text."""
    n_records: int = 0
    n_blank: int = 0
    n_lines: int = 0


def read_checked(
    path: str, settings: InputSettings, *, shard_bytes: int = SHARD_BYTES, batch_records: int = 65_536
) -> Found | InputError:
    """Read a whole input, or get the `InputError` that refuses it, which names it.

    Parameters
    ----------
    path
        A file.
    settings
        As for a run.
    shard_bytes, batch_records
        How the input is cut; nothing that is found may depend on them.

    Raises
    ------
    AssertionError
        When a record is lost, counted twice, or holds what must not be in it.
    """
    found = Found()
    try:
        for shard in plan_shards([path], settings, shard_bytes=shard_bytes):
            _read(shard, settings, batch_records, found)
    except InputError as error:
        _require(str(error).startswith(path), f"an error that does not name the input: {error}")
        return error
    for text in found.texts:
        check_canonical(text[2], UrlSettings())
    return found


def _read(shard: Shard, settings: InputSettings, batch_records: int, found: Found) -> None:
    first_record, first_line = found.n_records, found.n_lines
    for batch in read_shard(shard, settings, batch_records=batch_records):
        _require(
            batch.n_records == len(batch.texts) + len(batch.rejects) + batch.n_blank <= batch_records,
            f"{batch.n_records} records are not {len(batch.texts)} texts, {len(batch.rejects)} rejects and "
            f"{batch.n_blank} blank ones",
        )
        ordinals, lines = batch.ordinals.tolist(), batch.lines.tolist()
        rejects = [(r.ordinal, r.line, r.reason, r.text) for r in batch.rejects]
        numbers = sorted([*ordinals, *(reject[0] for reject in rejects)])
        _require(len(set(numbers)) == len(numbers), f"a record counted twice: {numbers}")
        for _, _, reason, text in rejects:
            _require(reason in REASONS, f"unknown reason {reason!r}")
            _require(text.isprintable() and len(text) <= MAX_TEXT, f"a reject that is not inert: {text!r}")
        for text in batch.texts:
            _require(text == text.strip(" \t") != "", f"a text that is not stripped: {text!r}")
            _require(not any(_is_unsafe(c) for c in text), f"a text that is no reject: {text!r}")
        found.texts += [
            (o + first_record, n + first_line, text)
            for o, n, text in zip(ordinals, lines, batch.texts, strict=True)
        ]
        found.rejects += [(o + first_record, n + first_line, *rest) for o, n, *rest in rejects]  # type: ignore[misc]
        found.n_records += batch.n_records
        found.n_blank += batch.n_blank
        found.n_lines += batch.n_lines


def _is_unsafe(character: str) -> bool:
    code = ord(character)
    return code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF


def check_canonical(text: str, settings: UrlSettings) -> str | None:
    """Canonical form of a text, or None where it has none.

    Raises
    ------
    AssertionError
        When it is not printable ASCII without spaces, not its own canonical form, or neither URL nor reject.
    """
    batch = canonicalize([text], settings)
    ((url,), (surt,), (reason,)) = batch
    if url is None or surt is None:
        _require(url is surt is None and reason in REASONS, f"neither URL nor reject: {batch}")
        return None
    _require(reason is None, f"URL and reject: {batch}")
    for form in (url, surt):
        _require(form.isascii() and form.isprintable() and " " not in form, f"not inert: {form!r}")
    again = canonicalize([url], settings)
    _require(again == batch, f"not its own canonical form: {batch} became {again}")
    return url


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
