"""Objects in S3, served by moto, are planned and read like files."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from reading import read_shards, texts_of

from noveltyflow.config import InputSettings
from noveltyflow.errors import InputError
from noveltyflow.urls.shards import plan_shards

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
SETTINGS = InputSettings()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.makedirs("lists", exist_ok=True)
    yield filesystem
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_objects_are_found_split_and_watched_for_change(bucket):
    bucket.pipe(
        {"lists/day/b.txt": b"http://b/\n" * 50, "lists/day/a.csv": b"url\nhttp://a/\n", "lists/c.txt": b""}
    )
    for address in ("s3://lists/day", "s3://lists/day/*"):
        shards = plan_shards([address], SETTINGS, shard_bytes=100)
        assert [shard.source for shard in shards] == ["s3://lists/day/a.csv", *["s3://lists/day/b.txt"] * 5]
        assert texts_of(read_shards(shards, SETTINGS)) == ["http://a/", *["http://b/"] * 50]
    bucket.pipe("lists/day/b.txt", b"http://c/\n" * 50)
    with pytest.raises(InputError, match=r"^s3://lists/day/b\.txt: has changed"):
        read_shards(shards, SETTINGS)


@pytest.mark.parametrize("address", ["s3://lists/absent.txt", "s3://lists/absent/*", "s3://nobucket/x"])
def test_objects_that_are_not_there_are_refused_by_name(bucket, address):
    with pytest.raises(InputError, match=r"no such file|no file matches"):
        plan_shards([address], SETTINGS)
