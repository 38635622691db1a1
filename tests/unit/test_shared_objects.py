"""The object store: whole or not at all, and never outside its own folder."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.errors import NotFound, Unavailable
from shared.objects import CHUNK_BYTES, PART_BYTES, ObjectStore


class Store(ObjectStore):
    def put(self, key: str, data: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        asyncio.run(self.put_stream(key, chunks()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'a folder'}")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process becomes larger than a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_a_passing_trouble_and_leaves_nothing_half_written(
    tmp_path: Path, full_disk: None
) -> None:
    store = ObjectStore(tmp_path.as_uri())

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 1_000_000

    with pytest.raises(Unavailable):
        asyncio.run(store.put_stream("key", chunks()))
    assert store.keys() == []


def test_what_is_put_is_there(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * ((2 * CHUNK_BYTES + 7) // 256)
    store.put("a/b/c.bin", data)
    assert store.get_bytes("a/b/c.bin") == data
    assert store.size("a/b/c.bin") == len(data)
    store.get_file("a/b/c.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert max(len(chunk) for chunk in store.chunks("a/b/c.bin")) < 2 * CHUNK_BYTES, "read in pieces"


def test_a_file_is_stored_and_replaced(store: Store, tmp_path: Path) -> None:
    for content in (b"first", b"", b"x" * (PART_BYTES + 1)):
        (tmp_path / "file").write_bytes(content)
        store.put_file("key", tmp_path / "file")
        assert store.get_bytes("key") == content


def test_a_stream_is_stored(store: Store) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(5):
            yield bytes([number]) * (PART_BYTES // 2)

    asyncio.run(store.put_stream("key", chunks()))
    assert store.size("key") == 5 * (PART_BYTES // 2)


def test_a_stream_that_breaks_leaves_what_was_there(store: Store) -> None:
    store.put("old", b"old")

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise ConnectionError("the client is gone")

    for key in ("old", "new"):
        with pytest.raises(Exception, match="the client is gone"):
            asyncio.run(store.put_stream(key, broken()))
    assert store.get_bytes("old") == b"old"
    assert store.keys() == ["old"]


@pytest.mark.parametrize("key", ["nothing", "a/b"])
def test_what_is_not_there_is_not_found(store: Store, key: str, tmp_path: Path) -> None:
    store.put("a/b/c", b"")
    for ask in (store.get_bytes, store.size, lambda key: store.get_file(key, tmp_path / "copy")):
        with pytest.raises(NotFound):
            ask(key)


def test_what_is_not_there_may_be_deleted(store: Store) -> None:
    store.delete("nothing")


def test_keys_are_listed_below_a_prefix(store: Store) -> None:
    for key in ("a/1", "a/2", "b/1"):
        store.put(key, b"")
    assert sorted(store.keys("a")) == ["a/1", "a/2"]
    store.delete("a/1")
    assert sorted(store.keys()) == ["a/2", "b/1"]


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/passwd", "..", "a/./b", "nul\x00", "a//b"])
def test_a_key_does_not_lead_out(store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "out").write_bytes(b"outside")
    try:
        store.put(key, b"mine")
    except Exception:  # refused is best
        assert (tmp_path / "out").read_bytes() == b"outside"
    else:
        inside = [path for path in (tmp_path / "a folder").rglob("*") if path.is_file()]
        assert [path.read_bytes() for path in inside] == [b"mine"]
    assert (tmp_path / "out").read_bytes() == b"outside"


def test_only_known_stores_are_opened() -> None:
    with pytest.raises(ValueError, match="file:// and s3:// are known"):
        ObjectStore("ftp://host/x").size("a")
