"""The object store in a folder."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.errors import NotFound
from shared.objects import PART_BYTES, ObjectStore

PIECES = [bytes([number]) * 999_983 for number in range(21)]
"""20 MiB, in pieces that no part is a multiple of."""


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore((tmp_path / "objects").as_uri())


async def stream(broken: bool = False) -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece
    if broken:
        raise ConnectionError("cut off")


def test_a_stream_of_many_parts_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    whole = b"".join(PIECES)
    assert len(whole) > 2 * PART_BYTES
    asyncio.run(store.put_stream("a/b", stream()))
    assert store.size("a/b") == len(whole)
    store.get_file("a/b", tmp_path / "copy")
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == hashlib.sha256(whole).digest()


def test_a_file_of_many_parts_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"".join(PIECES))
    store.put_file("file", tmp_path / "file")
    assert store.get_bytes("file") == (tmp_path / "file").read_bytes()


def test_a_stream_that_breaks_off_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="cut off"):
        asyncio.run(store.put_stream("broken", stream(broken=True)))
    with pytest.raises(NotFound):
        store.size("broken")
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []


def test_parts_are_as_large_as_s3_asks() -> None:
    assert PART_BYTES >= 5 * 1024 * 1024
