"""Events that `api` publishes."""

from typing import ClassVar
from uuid import UUID

from shared.contracts.envelope import Event


class WorkspaceCreated(Event):
    """A workspace exists and may be given keys."""

    type: ClassVar[str] = "api.workspace.created.v1"
    owner: ClassVar[str] = "api"
    consumers: ClassVar[tuple[str, ...]] = ("api.run.record",)

    workspace_id: UUID
    name: str
