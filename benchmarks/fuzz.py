"""Throw hostile inputs at every reader and hostile texts at the canonical form, and count what was found.

    python benchmarks/fuzz.py --cases 1000000

One case is one whole input (a few lines, of any format, perhaps compressed, perhaps damaged) or one text. What must
hold is in `noveltyflow.testing.fuzz`; a case that breaks it is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from noveltyflow.config import InputSettings, UrlSettings
from noveltyflow.errors import InputError
from noveltyflow.testing.fuzz import Found, check_canonical, read_checked
from noveltyflow.testing.strategies import NASTY_FRAGMENTS, PREFIXES

LIMIT = 120
"""Longest accepted record of every case, so that short inputs reach it."""
FOLDINGS = [name for name, field in UrlSettings.model_fields.items() if field.annotation is bool]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}


def hostile_text(choose: random.Random) -> str:
    """A text that is not quite a URL."""
    pieces = choose.choices(NASTY_FRAGMENTS, k=choose.randrange(12))
    if choose.random() < 0.3:
        pieces.append(any_character(choose))
    label = choose.choice(["", "xn--", "www.www."]) + choose.choice(["a", "ß", any_character(choose)])
    host = choose.choice(["", "host.example/", "a.b:80/x?", f"{label}.b/", f"b.{label}:81/"])
    return choose.choice(PREFIXES) + host + "".join(pieces)


def any_character(choose: random.Random) -> str:
    """One code point, lone surrogates included, more often a letter of a known script."""
    return chr(choose.randrange(choose.choice([0x250, 0x3000, 0x110000])))


def hostile_line(choose: random.Random) -> bytes:
    """A line without its end."""
    kind = choose.random()
    if kind < 0.1:
        return choose.choice([b"", b" ", b"\t ", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\r", b"a\rb"])
    if kind < 0.2:
        return choose.randbytes(choose.randrange(20)).replace(b"\n", b"")
    if kind < 0.25:
        return b"a" * choose.randrange(LIMIT - 3, LIMIT + 4)
    return hostile_text(choose).encode("utf-8", "surrogatepass").replace(b"\n", b"")


def text(choose: random.Random) -> bytes:
    """Lines with mixed ends, with or without a last one."""
    ended = (hostile_line(choose) + choose.choice([b"\n", b"\r\n"]) for _ in range(choose.randrange(12)))
    return b"".join(ended) + choose.choice([b"", hostile_line(choose)])


def table(choose: random.Random, delimiter: str) -> bytes:
    """A table with hostile cells, some rows of a wrong length, some quotes left open."""
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=choose.choice(["\n", "\r\n"]))
    writer.writerow(["id", "url"])
    for _ in range(choose.randrange(8)):
        writer.writerow([hostile_text(choose) for _ in range(choose.choice([0, 1, 2, 2, 2, 2, 3]))])
    data = sink.getvalue().encode("utf-8", "surrogatepass")
    return data + choose.choice([b"", b"", hostile_line(choose), b'1,"open\n'])


def json_lines(choose: random.Random) -> bytes:
    """Objects with hostile values, and lines that are none."""
    values: list[object] = [None, 1, [], {"url": "http://a/"}, "\ud800", "", "http://a.example/"]
    lines = []
    for _ in range(choose.randrange(10)):
        value = hostile_text(choose) if choose.random() < 0.7 else choose.choice(values)
        whole = json.dumps(
            {choose.choice(["url", "url", "url", "x"]): value}, ensure_ascii=choose.random() < 0.5
        )
        lines.append(
            whole.encode("utf-8", "surrogatepass") if choose.random() < 0.8 else hostile_line(choose)
        )
    return b"\n".join(lines)


def parquet(choose: random.Random) -> bytes:
    """A table whose texts may be no UTF-8."""
    values = [choose.choice([None, hostile_line(choose)]) for _ in range(choose.randrange(12))]
    kind = choose.choice([pa.binary(), pa.string(), pa.large_string()])
    column = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    if kind != pa.binary():
        column = pa.Array.from_buffers(kind, len(column), column.buffers())  # no check that it is UTF-8
    sink = io.BytesIO()
    pq.write_table(pa.table({"url": column}), sink, row_group_size=choose.randrange(1, 6))
    return sink.getvalue()


MAKERS: dict[str, tuple[float, Callable[[random.Random], bytes]]] = {
    "text": (3, text),
    "csv": (2, lambda choose: table(choose, ",")),
    "tsv": (2, lambda choose: table(choose, "\t")),
    "jsonl": (2, json_lines),
    "parquet": (0.3, parquet),
}


def damaged(data: bytes, choose: random.Random) -> bytes:
    """The bytes with a few of them changed, lost, added, or cut off."""
    changed = bytearray(data)
    for _ in range(choose.randrange(1, 4)):
        at = choose.randrange(len(changed) + 1)
        what = choose.randrange(4)
        if what == 0:
            changed[at : at + 1] = choose.randbytes(1)
        elif what == 1:
            del changed[at : at + choose.randrange(8)]
        elif what == 2:
            changed[at:at] = choose.randbytes(choose.randrange(8))
        else:
            del changed[at:]
    return bytes(changed)


def input_case(choose: random.Random, path: Path) -> str:
    """One input for the readers; what came of it."""
    (kind,) = choose.choices(list(MAKERS), [weight for weight, _ in MAKERS.values()])
    data = MAKERS[kind][1](choose)
    spoiled = choose.random() < 0.25
    data = damaged(data, choose) if spoiled else data
    packed = kind != "parquet" and choose.random() < 0.2
    if packed:
        data = choose.choice(list(PACKERS.values()))(data)
        data = damaged(data, choose) if choose.random() < 0.4 else data
    path.write_bytes(data)
    settings = InputSettings.model_validate(
        {"format": choose.choice([kind, "auto"]), "max_line_bytes": LIMIT}
    )
    found = read_checked(str(path), settings)
    if not packed and choose.random() < 0.3:
        cut = read_checked(
            str(path), settings, shard_bytes=choose.randrange(1, 64), batch_records=choose.randrange(1, 5)
        )
        _require_equal(found, cut)
    if isinstance(found, InputError):
        return f"{kind}: refused"
    if kind == "text" and settings.format == "text" and not packed:
        lines = data.removeprefix(b"\xef\xbb\xbf")
        expected = lines.count(b"\n") + (lines[-1:] not in (b"", b"\n"))
        if found.n_records != expected:
            raise AssertionError(f"{expected} lines, {found.n_records} records")
    return f"{kind}: read"


def _require_equal(found: Found | InputError, cut: Found | InputError) -> None:
    refused = [isinstance(each, InputError) for each in (found, cut)]
    if any(refused) != all(refused) or (not any(refused) and found != cut):
        raise AssertionError(f"cut otherwise, the input gives {cut} in place of {found}")


def text_case(choose: random.Random) -> str:
    """One text for the canonical form; what came of it."""
    settings = UrlSettings(**{name: choose.random() < 0.3 for name in FOLDINGS})
    return (
        "canonical form: none"
        if check_canonical(hostile_text(choose), settings) is None
        else "canonical form"
    )


def run(cases: int, seed: int, say: Callable[[str], None]) -> tuple[Counter[str], list[str]]:
    """All cases; how often each outcome was seen, and the cases that broke a promise."""
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(seed, seed + cases):
            choose = random.Random(number)  # each case can be repeated alone
            try:
                outcomes[
                    text_case(choose) if choose.random() < 0.5 else input_case(choose, Path(folder, "input"))
                ] += 1
            except Exception as error:  # whatever is raised is a finding
                problems.append(f"--cases 1 --seed {number}: {type(error).__name__}: {str(error)[:300]!r}")
                say(problems[-1])
    return outcomes, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    outcomes, problems = run(options.cases, options.seed, lambda text: print(text, file=sys.stderr))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>10,}  {outcome}")
    print(f"{options.cases:,} cases in {time.monotonic() - started:.0f} s, {len(problems):,} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
