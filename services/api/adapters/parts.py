"""Asking the other services about runs, from a job."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import httpx2 as httpx
import structlog
from pydantic import TypeAdapter

from services.api.domain import Part, Tally

log = structlog.get_logger(__name__)

ASK_SECONDS = 5.0
T = TypeVar("T")


def ask_parts(urls: Mapping[str, str], token: str, run: UUID) -> tuple[list[Part], list[str]]:
    """Every other service's part of the run, and the names of the services that could not be asked."""
    return _ask(urls, token, f"/v1/runs/{run}/part", Part.model_validate)


def ask_tallies(urls: Mapping[str, str], token: str, since: UUID, until: UUID) -> tuple[list[Tally], list[str]]:
    """Every other service's tallies of the runs with ids in [since, until), and the names of the services that could
    not be asked."""
    read = TypeAdapter(list[Tally]).validate_python
    found, failed = _ask(urls, token, f"/v1/runs/tallies?since={since}&until={until}", read)
    return [tally for tallies in found for tally in tallies], failed


def _ask(urls: Mapping[str, str], token: str, path: str, read: Callable[[Any], T]) -> tuple[list[T], list[str]]:
    found: list[T] = []
    failed: list[str] = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=ASK_SECONDS) as client:
        for name in urls.keys() - {"api"}:
            try:
                found.append(read(_get(client, urls[name] + path)))
            except (httpx.HTTPError, ValueError) as error:  # ValueError: the answer is something else
                log.warning("service not asked", peer=name, reason=f"{type(error).__name__}: {error}"[:200])
                failed.append(name)
    return found, sorted(failed)


def _get(client: httpx.Client, url: str) -> Any:
    answer = client.get(url)
    answer.raise_for_status()
    return answer.json()
