"""The object store: big things (uploads, Parquet, artifacts), named by key and never overwritten in part."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from shared.errors import NotFound, Unavailable

log = structlog.get_logger(__name__)

CHUNK_BYTES = 4 * 1024 * 1024
"""Read at a time."""
REASON_CHARACTERS = 300
PART_BYTES = 8 * 1024 * 1024
"""Stored at a time; S3 takes no part under 5 MiB but the last."""


class ObjectStore:
    """`file:///directory` or `s3://bucket/prefix`, over obstore. A put is visible whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store: Any = None

    @property
    def store(self) -> Any:
        if self._store is None:
            self._store = _open(self.url)
        return self._store

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's bytes under `key`, streamed; replaces what was there."""
        import obstore

        with path.open("rb") as file:
            obstore.put(self.store, key, file, chunk_size=PART_BYTES)

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store a stream. If it raises, the part that came is discarded and `key` stays as it was.

        Raises Unavailable when the store does not take it: a full disk, a bucket that does not answer.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            await obstore.put_async(self.store, key, chunks, chunk_size=PART_BYTES, max_concurrency=2)
        except BaseError as error:
            log.error("the object store took no object", key=key, reason=str(error)[:REASON_CHARACTERS])
            raise Unavailable("The object store does not take anything for a moment.", retry_after=10) from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to `path`, streamed. Raises NotFound."""
        with path.open("wb") as file:
            for chunk in self.chunks(key):
                file.write(chunk)

    def get_slice(self, key: str, path: Path, start: int, end: int) -> None:
        """Copy the object's bytes from `start` to before `end` to `path`, streamed. Raises NotFound."""
        with path.open("wb") as file:
            for chunk in self.chunks(key, {"range": (start, end)}):
                file.write(chunk)

    def get_bytes(self, key: str) -> bytes:
        return b"".join(self.chunks(key))

    def chunks(self, key: str, options: Any = None) -> Iterator[bytes]:
        """The object's bytes, or what `options` (obstore's) say of it. Raises NotFound."""
        import obstore

        try:
            answer = obstore.get(self.store, key, options=options)
        except FileNotFoundError:
            raise NotFound("The object is not in the store.", object=key) from None
        for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)

    def size(self, key: str) -> int:
        """Bytes of the object. Raises NotFound."""
        import obstore

        try:
            return int(obstore.head(self.store, key)["size"])
        except FileNotFoundError:
            raise NotFound("The object is not in the store.", object=key) from None

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""
        import obstore

        try:
            obstore.delete(self.store, key)
        except FileNotFoundError:
            return

    def keys(self, prefix: str = "") -> list[str]:
        import obstore

        return [entry["path"] for page in obstore.list(self.store, prefix=prefix or None) for entry in page]


def _open(url: str) -> Any:
    from obstore.store import LocalStore, S3Store

    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(Path(unquote(parts.path)), mkdir=True, automatic_cleanup=True)
    if parts.scheme == "s3":
        return S3Store(parts.netloc, prefix=parts.path.strip("/") or None)
    raise ValueError(f"MILLRACE_OBJECTS_URL is {parts.scheme}://…; file:// and s3:// are known")
