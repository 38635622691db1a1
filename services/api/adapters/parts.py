"""Asking the other services for their parts of a run, from a job."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx2 as httpx
import structlog

from services.api.domain import Part

log = structlog.get_logger(__name__)

ASK_SECONDS = 5.0


def ask_parts(urls: Mapping[str, str], token: str, run: UUID) -> tuple[list[Part], list[str]]:
    """Every other service's part of the run, and the names of the services that could not be asked."""
    found: list[Part] = []
    failed: list[str] = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=ASK_SECONDS) as client:
        for name in urls.keys() - {"api"}:
            try:
                found.append(Part.model_validate(_get(client, f"{urls[name]}/v1/runs/{run}/part")))
            except (httpx.HTTPError, ValueError) as error:  # ValueError: the answer is no part
                log.warning("service not asked", peer=name, reason=f"{type(error).__name__}: {error}"[:200])
                failed.append(name)
    return found, sorted(failed)


def _get(client: httpx.Client, url: str) -> Any:
    answer = client.get(url)
    answer.raise_for_status()
    return answer.json()
