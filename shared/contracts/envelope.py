"""CloudEvents 1.0 (JSON format) as it travels between services, and the base of every event's data."""

import builtins
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """The data of one event type. Subclasses name the type and stand in their producer's file.

    Unknown fields are ignored: a consumer one version behind its producer goes on working.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]
    """`service.noun.verbed.vN`; also the routing key."""
    owner: ClassVar[str]
    """The team or person who answers for it."""
    consumers: ClassVar[tuple[str, ...]]
    """The kinds of the jobs that it causes, one a subscription. A run waits for each of them."""

    @classmethod
    def producer(cls) -> str:
        return cls.type.split(".", 1)[0]


E = TypeVar("E", bound="Event")


class Reason(BaseModel):
    """Why something failed or was left out: a stable code and one sentence for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    code: str
    detail: str


class Envelope(BaseModel):
    """A CloudEvents 1.0 event. Extension attributes have lower-case names, as the specification asks."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: UUID
    source: str
    """`/millrace/<service>`"""
    type: str
    subject: str
    """The id of the resource that the event is about."""
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    workspace: UUID
    runid: UUID
    causationid: UUID
    """The job, or the request's run, that published it."""
    traceparent: str | None = Field(default=None, max_length=128)
    data: dict[str, Any]

    def read(self, event: builtins.type[E]) -> E:
        """The data as the given event type. Raises ValidationError when it is not of that shape."""
        return event.model_validate(self.data)
