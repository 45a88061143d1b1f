"""Planning: which files an input stands for, what they are, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zlib
from pathlib import Path

import fsspec
import pytest
import zstandard
from reading import COMPRESSORS, SUFFIXES, read_file, read_shards, texts_of

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.readers import read_shard
from noveltyflow.urls.shards import plan_shards

SETTINGS = InputSettings()


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"http://h/{name}\n")


def planned(*inputs: str | Path) -> list[str]:
    return [shard.source for shard in plan_shards([str(each) for each in inputs], SETTINGS)]


def give_stdin(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_inputs_keep_their_order_and_files_are_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "z.txt", "d/b.txt", "d/a/c.txt", "d/B.txt", "g2.txt", "g10.txt")
    assert planned("z.txt", "d", "g*.txt") == [
        "z.txt",
        "d/B.txt",
        "d/a/c.txt",
        "d/b.txt",
        "g10.txt",
        "g2.txt",
    ]
    shards = plan_shards(["d"], SETTINGS)
    assert all(Path(shard.path).is_absolute() for shard in shards)
    monkeypatch.chdir("/")
    assert texts_of(read_shards(shards, SETTINGS)) == [
        "http://h/d/B.txt",
        "http://h/d/a/c.txt",
        "http://h/d/b.txt",
    ]


def test_hidden_and_bookkeeping_files_are_passed_over(tmp_path):
    tree(tmp_path, "a.txt", ".b.txt", ".c/d.txt", "e/.f", "e/g", "e/_SUCCESS", "_h")
    names = ["_h", "a.txt", "e/g"]
    assert planned(tmp_path) == [str(tmp_path / name) for name in names]
    assert planned(tmp_path / "*") == [str(tmp_path / name) for name in names]
    assert planned(tmp_path / ".*.txt") == [str(tmp_path / ".b.txt")]
    assert planned(tmp_path / ".c") == [str(tmp_path / ".c/d.txt")]
    assert planned(tmp_path / "**" / "*.txt") == [str(tmp_path / "a.txt")]


def test_a_run_beside_its_data_is_no_input(tmp_path):
    tree(tmp_path, "a.txt", "b/run.zarr/zarr.json", "b/run.zarr/rows/url/c/0", "b/run.zarr.txt")
    expected = [str(tmp_path / name) for name in ("a.txt", "b/run.zarr.txt")]
    assert planned(tmp_path) == planned(tmp_path / "*") == planned(tmp_path / "**") == expected
    assert planned(tmp_path / "b" / "run.zarr" / "zarr.json") == [str(tmp_path / "b/run.zarr/zarr.json")]


def test_links_to_directories_are_not_followed(tmp_path):
    tree(tmp_path, "a/b.txt")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "link.txt").symlink_to(tmp_path / "a" / "b.txt")
    assert planned(tmp_path) == [str(tmp_path / "a" / name) for name in ("b.txt", "link.txt")]


@pytest.mark.parametrize("name", ["a[1].txt", "what?.txt", "x*.txt", "c::d.txt", "e e.txt", "é.txt"])
def test_a_name_that_looks_like_a_pattern_is_a_name_where_it_exists(tmp_path, name):
    tree(tmp_path, name, "a1.txt", "xy.txt")
    assert texts_of(read_file(tmp_path / name)) == [f"http://h/{name}"]


def test_addresses_are_planned_and_read_like_files():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/noveltyflow/b.txt": b"http://b/\n", "/noveltyflow/a.csv": b"url\nhttp://a/\n"})
    for address in ("memory://noveltyflow", "memory://noveltyflow/*"):
        shards = plan_shards([address], SETTINGS)
        assert [shard.source for shard in shards] == [
            f"memory:///noveltyflow/{name}" for name in ("a.csv", "b.txt")
        ]
        assert texts_of(read_shards(shards, SETTINGS)) == ["http://a/", "http://b/"]
    assert texts_of(read_shards(plan_shards(["memory://noveltyflow/b.txt"], SETTINGS), SETTINGS)) == [
        "http://b/"
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'\n {"url": "http://a/"}\n', "jsonl"),
        (b'{"url": \n', "text"),
        (b"\xef\xbb\xbfid,url\n", "csv"),
        (b'"url","a,b"\n', "csv"),
        (b"url\n", "csv"),
        (b"id\turl\n", "tsv"),
        (b"http://url,x/\n", "text"),
        (b'"url\n', "text"),
        (b"", "text"),
        (b"\xff\xfe\x00http://a/\n", "text"),
        (b"BZh9 is no archive\n", "text"),
    ],
)
def test_a_name_without_suffix_leaves_the_format_to_the_content(tmp_path, data, expected):
    path = tmp_path / "input"
    path.write_bytes(data)
    [shard] = plan_shards([str(path)], SETTINGS)
    assert (shard.format, shard.compression) == (expected, None)


def test_the_format_setting_is_obeyed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"address\nhttp://a/\n")
    found = read_file(path, InputSettings(format="text"))
    assert texts_of(found) == ["address", "http://a/"]


def test_standard_input_is_spooled_and_recognised(tmp_path, monkeypatch):
    data = b"http://a/\nhttp://b/\n"
    spool = tmp_path / "deep" / "spool"
    plans = []
    for _ in range(2):
        give_stdin(monkeypatch, data)
        plans.append(plan_shards(["-"], SETTINGS, spool=spool))
    assert plans[0] == plans[1]
    [shard] = plans[0]
    assert (shard.source, shard.identity) == ("-", "sha256:" + hashlib.sha256(data).hexdigest())
    assert [path.read_bytes() for path in spool.iterdir()] == [data]
    assert texts_of(read_shards([shard], SETTINGS)) == ["http://a/", "http://b/"]
    os.utime(shard.path, (0, 0))
    assert read_shards([shard], SETTINGS).n_records == 2


def test_standard_input_leaves_nothing_half_spooled(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Broken()))
    with pytest.raises(KeyboardInterrupt):
        plan_shards(["-"], SETTINGS, spool=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_given_once_and_needs_a_spool(tmp_path, monkeypatch):
    give_stdin(monkeypatch, b"http://a/\n")
    with pytest.raises(InputError, match="only once"):
        plan_shards(["-", "-"], SETTINGS, spool=tmp_path)
    with pytest.raises(InputError, match="save it in a file"):
        plan_shards(["-"], SETTINGS)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("absent.txt", "absent.txt: no such file"),
        ("absent*.txt", r"absent\*.txt: no file matches"),
        ("empty", "empty: a directory without files"),
        ("fifo", "fifo: cannot be read: is not a regular file.*give -"),
        ("nosuch://host/list", "nosuch://host/list: cannot be read: Protocol not known"),
        ("memory://absent", "memory://absent: no such file"),
    ],
)
def test_inputs_that_are_not_there_are_refused_by_name(tmp_path, monkeypatch, item, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=f"^{message}"):
        plan_shards([item], SETTINGS)


def test_no_input_is_refused():
    with pytest.raises(InputError, match="no input"):
        plan_shards([], SETTINGS)


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    tree(tmp_path, "a.txt")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # The superuser may read everything, and tests may run as such.
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", refuse)
    with pytest.raises(InputError, match=r"a\.txt: permission denied.*readable"):
        plan_shards([str(tmp_path / "a.txt")], SETTINGS)


@pytest.mark.parametrize("given", ["in", "in/*", "in/**"])
def test_a_folder_that_may_not_be_read_is_refused_by_name(given, tmp_path, monkeypatch):
    tree(tmp_path, "in/a/x.txt", "in/b/y.txt")
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    # The superuser may read everything, and tests may run as such.
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"in.*: permission denied"):
        plan_shards([str(tmp_path / given)], SETTINGS)


def test_s3_without_s3fs_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"^s3://bucket/key: .*noveltyflow\[s3\]"):
        plan_shards(["s3://bucket/key"], SETTINGS)


def test_utf16_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("http://a/\r\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"list\.txt: is UTF-16.*iconv"):
        plan_shards([str(path)], SETTINGS)


def test_plain_text_has_no_time_column(tmp_path):
    tree(tmp_path, "a.txt")
    with pytest.raises(InputError, match=r"a\.txt: read as plain text.*'when'"):
        plan_shards([str(tmp_path)], InputSettings(time_column="when"))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_an_input_that_changed_since_it_was_planned_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"url\n" if name == "a.csv" else b"\n")
    shards = plan_shards([str(path)], SETTINGS)
    path.write_bytes(path.read_bytes() + b"x\n")
    with pytest.raises(InputError, match=r"has changed since the run was planned"):
        read_shards(shards, SETTINGS)


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path, change, compression):
    path = tmp_path / f"a.txt{SUFFIXES[compression]}"
    path.write_bytes(COMPRESSORS[compression](b"".join(b"http://a/%d\n" % i for i in range(1_000_000))))
    (shard,) = plan_shards([str(path)], SETTINGS)
    batches = read_shard(shard, SETTINGS, batch_records=1000)
    next(batches)
    if change == "gone":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(shard.size // 2 if change == "cut" else shard.size + 1)
    with pytest.raises(InputError, match=r"a\.txt.*: (has changed|no such file|gzip data are truncated)"):
        list(batches)


def test_a_decompression_bomb_is_refused_unless_it_is_trusted(tmp_path):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(COMPRESSORS["xz"](bytes(80 << 20)))
    shards = plan_shards([str(path)], SETTINGS)
    with pytest.raises(InputError, match=r"a\.txt\.xz: .* more than 500 times as many.*--max-ratio"):
        read_shards(shards, SETTINGS)
    trusted = InputSettings(max_ratio=1_000_000)
    assert read_shards(plan_shards([str(path)], trusted), trusted).n_records == 1


def test_data_that_ask_for_much_memory_to_decompress_are_refused(tmp_path):
    xz = bytearray(COMPRESSORS["xz"](b"http://a/\n"))
    xz[16] = 40  # a dictionary of 4 GiB
    xz[20:24] = zlib.crc32(xz[12:20]).to_bytes(4, "little")
    packer = zstandard.ZstdCompressor().compressobj()
    zst = bytearray(packer.compress(b"http://a/\n") + packer.flush())
    zst[5] = (31 - 10) << 3  # a window of 2 GiB
    for name, data in (("a.xz", xz), ("a.zst", zst)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: .* more than 128 MiB of memory .*smaller window"):
            plan_shards([str(tmp_path / name)], SETTINGS)


def test_an_input_that_vanished_since_it_was_planned_is_refused(tmp_path):
    tree(tmp_path, "a.txt")
    shards = plan_shards([str(tmp_path)], SETTINGS)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt: no such file"):
        read_shards(shards, SETTINGS)
