"""At most three sends to one host of webhooks at a time, by all workers together, until the operator says otherwise."""

from alembic import op

revision = "0004"
down_revision = "0003"

RULE = "INSERT INTO limit_rule (key, concurrency) VALUES ('each:host', 3) ON CONFLICT DO NOTHING"


def upgrade() -> None:
    op.execute(RULE)
