"""The ledger, definitions, renders and artifacts."""

from alembic import op

from shared.ledger import schema

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE definition (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  name        text        NOT NULL,
  dataset     text        NOT NULL,
  body        jsonb       NOT NULL,
  created_at  timestamptz NOT NULL,
  UNIQUE (workspace, name)
);
COMMENT ON COLUMN definition.dataset IS 'Exact name of a dataset, or * for every dataset of the workspace.';
COMMENT ON COLUMN definition.body IS 'The whole definition; services/reports/domain/definition.py has its shape.';
CREATE INDEX definition_dataset ON definition (workspace, dataset);

CREATE TABLE render (
  id            uuid        PRIMARY KEY,
  workspace     uuid        NOT NULL,
  run           uuid        NOT NULL,
  job           uuid        NOT NULL,
  definition_id uuid        NOT NULL,
  definition    jsonb       NOT NULL,
  dataset_id    uuid        NOT NULL,
  dataset       text        NOT NULL,
  version       integer     NOT NULL,
  object        text        NOT NULL,
  rows_loaded   bigint      NOT NULL,
  rows_rejected bigint      NOT NULL,
  state         text        NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'ready', 'failed')),
  reason        jsonb,
  figures       jsonb,
  created_at    timestamptz NOT NULL,
  finished_at   timestamptz,
  CHECK ((state = 'failed') = (reason IS NOT NULL)),
  CHECK ((state = 'queued') = (finished_at IS NULL))
);
COMMENT ON TABLE render IS
  'One definition over one version of a dataset. Its id is derived from the event and the definition, so that an '
  'event that comes twice makes one render.';
COMMENT ON COLUMN render.definition IS
  'The definition as it was when the data came: changing or deleting it later changes no render.';
COMMENT ON COLUMN render.state IS
  'queued until the job ends; failed with its reason; ready with artifacts. A redriven job takes failed to ready.';
COMMENT ON COLUMN render.created_at IS 'Also the date in the files, so that every attempt writes the same bytes.';
CREATE INDEX render_workspace ON render (workspace, id);
CREATE INDEX render_run ON render (run);

CREATE TABLE artifact (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  render      uuid        NOT NULL REFERENCES render (id) ON DELETE CASCADE,
  format      text        NOT NULL,
  object      text        NOT NULL,
  bytes       bigint      NOT NULL,
  media_type  text        NOT NULL,
  filename    text        NOT NULL,
  created_at  timestamptz NOT NULL,
  UNIQUE (render, format)
);
COMMENT ON COLUMN artifact.object IS 'Key in the object store: reports/<workspace>/<render>/report.<format>.';
"""


def upgrade() -> None:
    schema.apply(op.get_bind(), schema.V1)
    op.execute(TABLES)
