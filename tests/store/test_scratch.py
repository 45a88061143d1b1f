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


def test_remove_takes_everything_and_may_be_repeated(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "s"))
    scratch.write("a/b", b"x")
    scratch.remove()
    scratch.remove()
    assert scratch.names("a") == []
