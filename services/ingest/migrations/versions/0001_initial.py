"""The ledger, datasets and their versions."""

from alembic import op

from shared.ledger import schema

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE dataset (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  name        text        NOT NULL,
  version     integer     NOT NULL,
  created_at  timestamptz NOT NULL,
  UNIQUE (workspace, name)
);
COMMENT ON COLUMN dataset.version IS 'The newest version: its number is given when its upload is accepted.';

CREATE TABLE dataset_version (
  dataset       uuid        NOT NULL REFERENCES dataset (id),
  version       integer     NOT NULL,
  workspace     uuid        NOT NULL,
  run           uuid        NOT NULL,
  job           uuid        NOT NULL,
  upload        text        NOT NULL,
  upload_bytes  bigint      NOT NULL,
  upload_sha256 text        NOT NULL,
  state         text        NOT NULL CHECK (state IN ('loading', 'ready', 'failed')),
  reason        jsonb,
  object        text,
  rejects       text,
  rows_loaded   bigint,
  rows_rejected bigint,
  columns       jsonb,
  created_at    timestamptz NOT NULL,
  finished_at   timestamptz,
  PRIMARY KEY (dataset, version),
  CHECK ((state = 'failed') = (reason IS NOT NULL)),
  CHECK ((state = 'ready') = (object IS NOT NULL)),
  CHECK ((state = 'loading') = (finished_at IS NULL))
);
COMMENT ON COLUMN dataset_version.upload IS 'Key of the upload as it came, in the object store.';
COMMENT ON COLUMN dataset_version.object IS 'Key of the typed Parquet.';
COMMENT ON COLUMN dataset_version.rejects IS 'Key of the Parquet of rejects: line, column, value, code, text.';
COMMENT ON COLUMN dataset_version.columns IS 'The profile: adapters/profile.py has its shape.';
"""


def upgrade() -> None:
    schema.apply(op.get_bind(), schema.V1)
    op.execute(TABLES)
