"""Objects for tests, put as services put them."""

import tempfile
from pathlib import Path

from shared.objects import ObjectStore


def put(objects: ObjectStore, key: str, data: bytes) -> None:
    """Store these bytes under `key`."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        objects.put_file(key, Path(file.name))
