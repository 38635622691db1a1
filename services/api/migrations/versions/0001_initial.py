"""The ledger, workspaces, keys, runs and spans."""

from alembic import op

from shared.ledger import schema

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE workspace (
  id          uuid        PRIMARY KEY,
  name        text        NOT NULL UNIQUE,
  created_at  timestamptz NOT NULL
);

CREATE TABLE api_key (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL REFERENCES workspace (id),
  name        text        NOT NULL,
  prefix      text        NOT NULL,
  digest      text        NOT NULL UNIQUE,
  scopes      text[]      NOT NULL,
  created_at  timestamptz NOT NULL,
  revoked_at  timestamptz
);
COMMENT ON COLUMN api_key.digest IS 'SHA-256 of the key; the key itself is shown once and kept nowhere.';
CREATE INDEX api_key_workspace ON api_key (workspace);

CREATE TABLE audit_entry (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  actor       text        NOT NULL,
  action      text        NOT NULL,
  subject     text        NOT NULL,
  facts       jsonb       NOT NULL
);
CREATE INDEX audit_entry_workspace ON audit_entry (workspace, id);

CREATE TABLE run (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  trace_id    text,
  state       text        NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
  reason      text,
  created_at  timestamptz NOT NULL,
  finished_at timestamptz
);
COMMENT ON TABLE run IS 'Read model: what the ledgers said when they were last asked.';
CREATE INDEX run_workspace ON run (workspace, id);
CREATE INDEX run_trace ON run (trace_id);

CREATE TABLE run_event (
  id          uuid        PRIMARY KEY,
  run         uuid        NOT NULL,
  workspace   uuid        NOT NULL,
  type        text        NOT NULL,
  source      text        NOT NULL,
  subject     text        NOT NULL,
  time        timestamptz NOT NULL,
  causation   uuid        NOT NULL,
  data        jsonb       NOT NULL
);
CREATE INDEX run_event_run ON run_event (run);

CREATE TABLE span (
  trace_id    text        NOT NULL,
  span_id     text        NOT NULL,
  parent_id   text,
  workspace   uuid,
  service     text        NOT NULL,
  name        text        NOT NULL,
  kind        text        NOT NULL,
  status      text        NOT NULL,
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  attributes  jsonb       NOT NULL,
  PRIMARY KEY (trace_id, span_id)
);
CREATE INDEX span_started ON span USING brin (started_at);
"""


def upgrade() -> None:
    schema.apply(op.get_bind(), schema.V1)
    op.execute(TABLES)
