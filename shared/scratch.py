"""Room on the local disk for one attempt at a job."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID


@contextmanager
def scratch(root: Path, job: UUID, attempt: int) -> Iterator[Path]:
    """An empty directory, removed at the end.

    If the process is killed in here it stays behind: the job's next attempt begins by removing what the
    ones before left. An attempt that is only frozen loses its files, and its commit would be refused anyway.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in root.glob(f"{job}.*"):
        shutil.rmtree(left, ignore_errors=True)
    directory = root / f"{job}.{attempt}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
