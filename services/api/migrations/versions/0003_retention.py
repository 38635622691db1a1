"""Spans and recorded events age out: indexes that find the oldest."""

from alembic import op

revision = "0003"
down_revision = "0002"

# A BRIN index forgets nothing: once the space of deleted rows is used again, it would find them everywhere.
INDEXES = """
DROP INDEX span_started;
CREATE INDEX span_started ON span (started_at);
CREATE INDEX run_event_time ON run_event (time);
"""


def upgrade() -> None:
    op.execute(INDEXES)
