"""The ledger, channels, rules, messages, deliveries and their attempts."""

from alembic import op

from shared.ledger import schema

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE channel (
  id              uuid        PRIMARY KEY,
  workspace       uuid        NOT NULL,
  name            text        NOT NULL,
  kind            text        NOT NULL CHECK (kind IN ('email', 'webhook')),
  recipients      text[]      NOT NULL,
  url             text,
  secret          text,
  disabled_reason text,
  created_at      timestamptz NOT NULL,
  UNIQUE (workspace, name),
  CHECK (kind <> 'email' OR (cardinality(recipients) > 0 AND url IS NULL AND secret IS NULL)),
  CHECK (kind <> 'webhook' OR (cardinality(recipients) = 0 AND url IS NOT NULL AND secret IS NOT NULL))
);
COMMENT ON COLUMN channel.recipients IS 'E-mail addresses; each gets a message of its own.';
COMMENT ON COLUMN channel.secret IS
  'Signs webhooks (Standard Webhooks 1.0), so it is kept as it is. Shown once, when the channel is made.';
COMMENT ON COLUMN channel.disabled_reason IS 'Why nothing is sent any more (the endpoint said 410 Gone); null: in use.';

CREATE TABLE rule (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  name        text        NOT NULL,
  event_type  text        NOT NULL,
  filter      jsonb       NOT NULL,
  channel     uuid        NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
  created_at  timestamptz NOT NULL,
  UNIQUE (workspace, name)
);
COMMENT ON COLUMN rule.event_type IS 'An event type, a prefix such as reports.*, or *.';
COMMENT ON COLUMN rule.filter IS 'Path into the event''s data -> the value that must stand there; all must hold.';
CREATE INDEX rule_channel ON rule (channel);

CREATE TABLE message (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  run         uuid        NOT NULL,
  rule        uuid        NOT NULL,
  rule_name   text        NOT NULL,
  event       jsonb       NOT NULL,
  event_id    uuid        NOT NULL,
  event_type  text        NOT NULL,
  created_at  timestamptz NOT NULL
);
COMMENT ON TABLE message IS 'What a rule has to say about an event. Its id is derived from both: told once.';
COMMENT ON COLUMN message.event IS 'The CloudEvent, which webhooks carry and templates speak about.';
CREATE INDEX message_workspace ON message (workspace, id);
CREATE INDEX message_run ON message (run);

CREATE TABLE delivery (
  id           uuid        PRIMARY KEY,
  workspace    uuid        NOT NULL,
  run          uuid        NOT NULL,
  message      uuid        NOT NULL REFERENCES message (id),
  channel      uuid        NOT NULL,
  channel_name text        NOT NULL,
  channel_kind text        NOT NULL,
  destination  text        NOT NULL,
  status       text        NOT NULL CHECK (status IN ('pending', 'delivered', 'failed')),
  attempts     integer     NOT NULL DEFAULT 0,
  reason       jsonb,
  job          uuid,
  created_at   timestamptz NOT NULL,
  finished_at  timestamptz,
  CHECK ((status = 'pending') = (finished_at IS NULL))
);
COMMENT ON TABLE delivery IS 'One message on its way to one destination. Its id is the Message-ID and webhook-id.';
COMMENT ON COLUMN delivery.channel_name IS 'As it was then: a channel may be deleted, its deliveries stay told.';
COMMENT ON COLUMN delivery.destination IS 'The address; of a webhook the host alone, for a path often is a secret.';
COMMENT ON COLUMN delivery.attempts IS 'Times that the destination was tried.';
COMMENT ON COLUMN delivery.reason IS 'Code and detail of the last failure; null when delivered.';
CREATE INDEX delivery_workspace ON delivery (workspace, id);
CREATE INDEX delivery_run ON delivery (run);
CREATE INDEX delivery_message ON delivery (message);

CREATE TABLE delivery_attempt (
  delivery    uuid        NOT NULL REFERENCES delivery (id),
  number      integer     NOT NULL,
  outcome     text        NOT NULL CHECK (outcome IN ('delivered', 'retried', 'failed')),
  code        text,
  detail      text        NOT NULL,
  response    text        NOT NULL,
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  PRIMARY KEY (delivery, number)
);
COMMENT ON COLUMN delivery_attempt.response IS 'The beginning of what the destination answered, at most 1 KB.';
"""


def upgrade() -> None:
    schema.apply(op.get_bind(), schema.V1)
    op.execute(TABLES)
