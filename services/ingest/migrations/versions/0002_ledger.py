"""The ledger's second version: redrive, schedules, storage."""

from alembic import op

from shared.ledger import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    schema.apply(op.get_bind(), schema.V2)
