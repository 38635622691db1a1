"""Failures that `api` names."""

from shared.errors import Conflict, Unprocessable


class WorkspaceExists(Conflict):
    code, title = "workspace.exists", "The workspace exists"


class BatchMixed(Unprocessable):
    """Its jobs would be owed in more than one database: not all or none."""

    code, title = "job.batch_mixed", "A batch is of one service"


class ScopeUnknown(Unprocessable):
    code, title = "key.scope_unknown", "Unknown scope"


class ServiceNeeded(Unprocessable):
    code, title = "limit.service_needed", "Which service's?"


class SpansMalformed(Unprocessable):
    code, title = "spans.malformed", "Not an OTLP trace export"
