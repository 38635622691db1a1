"""Failures that `api` names."""

from shared.errors import Conflict, Unprocessable


class WorkspaceExists(Conflict):
    code, title = "workspace.exists", "The workspace exists"


class ScopeUnknown(Unprocessable):
    code, title = "key.scope_unknown", "Unknown scope"


class SpansMalformed(Unprocessable):
    code, title = "spans.malformed", "Not an OTLP trace export"
