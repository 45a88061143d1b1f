from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from noveltyflow.errors import DamageError
from noveltyflow.store import Scratch


def test_written_files_are_read_back(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "s"))
    assert scratch.read("a/b") is None
    assert scratch.names("a") == []
    scratch.write("a/b", b"one")
    scratch.write("a/b", b"two")
    scratch.write("a/a", b"")
    assert scratch.read("a/b") == b"two"
    assert scratch.names("a") == ["a", "b"]
    assert pickle.loads(pickle.dumps(scratch)).read("a/b") == b"two"


def test_partial_files_are_not_listed_and_do_not_stay(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.partial").write_bytes(b"half")
    scratch.write("a/b", b"whole")
    assert scratch.names("a") == ["b"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"x.partial", "b"}


def test_tables_round_trip(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    table = pa.table({"text": ["ä", None, ""], "n": [1, 2, 3]})
    scratch.write_table("t", table)
    assert scratch.read_table("t").equals(table)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"\0" + data[1:]])
def test_a_damaged_table_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    scratch.write_table("t", pa.table({"n": [1, 2, 3]}))
    (tmp_path / "t").write_bytes(damage((tmp_path / "t").read_bytes()))
    with pytest.raises(DamageError, match=f"{tmp_path}/t is damaged; remove"):
        scratch.read_table("t")


def test_each_part_of_a_file_is_read_alone(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    parts = [pa.table({"n": list(range(length))}) for length in (3, 0, 5, 0)]
    scratch.write_parts("p", parts)
    found = [scratch.read_part("p", number) for number in range(4)]
    assert [part and part.to_pydict() for part in found] == [
        part.to_pydict() if part.num_rows else None for part in parts
    ]


@pytest.mark.parametrize("at", [0, 30, -1])
def test_a_damaged_part_is_named(at: int, tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    scratch.write_parts("p", [pa.table({"n": [1, 2, 3]})])
    data = bytearray((tmp_path / "p").read_bytes())
    data[at] ^= 1
    for damaged in (data, data[: at % len(data)]):
        (tmp_path / "p").write_bytes(damaged)
        with pytest.raises(DamageError, match=f"{tmp_path}/p is damaged; remove"):
            scratch.read_part("p", 0)


def test_zeros_are_no_part_without_rows(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    scratch.write_parts("p", [pa.table({"n": [1, 2, 3]}), pa.table({"n": []})])
    (tmp_path / "p").write_bytes(bytes((tmp_path / "p").stat().st_size))
    for number in range(2):
        with pytest.raises(DamageError, match=f"{tmp_path}/p is damaged; remove"):
            scratch.read_part("p", number)


def test_remove_takes_everything_and_may_be_repeated(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "s"))
    scratch.write("a/b", b"x")
    scratch.remove()
    scratch.remove()
    assert scratch.names("a") == []
