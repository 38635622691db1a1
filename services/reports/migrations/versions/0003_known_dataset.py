"""The newest version of each dataset, so that a report of it can be asked for at any time."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLE = """
CREATE TABLE known_dataset (
  workspace   uuid        NOT NULL,
  name        text        NOT NULL,
  version     integer     NOT NULL,
  completed   jsonb       NOT NULL,
  PRIMARY KEY (workspace, name)
);
COMMENT ON COLUMN known_dataset.completed IS 'Data of the newest version''s completion event.';

-- What came before this table, from the jobs of its events.
INSERT INTO known_dataset (workspace, name, version, completed)
SELECT DISTINCT ON (workspace, data ->> 'name') workspace, data ->> 'name', (data ->> 'version')::integer, data
FROM (SELECT workspace, args -> 'envelope' -> 'data' AS data FROM job WHERE kind = 'reports.definition.match') AS seen
ORDER BY workspace, data ->> 'name', (data ->> 'version')::integer DESC;
"""


def upgrade() -> None:
    op.execute(TABLE)
