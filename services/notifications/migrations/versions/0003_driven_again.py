"""Deliveries that are driven again begin their retry schedule anew."""

from alembic import op

revision = "0003"
down_revision = "0002"

COLUMN = """
ALTER TABLE delivery ADD COLUMN attempts_before integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN delivery.attempts_before IS 'Of attempts: those made before it was last driven again.';
"""


def upgrade() -> None:
    op.execute(COLUMN)
