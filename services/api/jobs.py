"""What `api` says to itself."""

from typing import ClassVar

from shared.ledger.messages import EventArgs


class RecordEvent(EventArgs):
    """Keep a completion event in the read model of its run."""

    kind: ClassVar[str] = "api.run.record"
    queue: ClassVar[str] = "api.jobs"
