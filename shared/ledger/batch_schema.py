"""The part of the ledger's tables that holds batches: jobs in steps, one step after the other."""

CLOSED = "9999-12-31 00:00:00+00"
"""`not_before` of a job whose step is not open yet. Not infinity, which Python's times do not know."""

BATCHES = f"""
-- Batches

CREATE TABLE batch (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  run         uuid        NOT NULL,
  cause       text        NOT NULL CHECK (cause IN ('request', 'event', 'schedule', 'job')),
  cause_id    uuid        NOT NULL,
  name        text,
  on_failure  text        NOT NULL CHECK (on_failure IN ('stop', 'continue')),
  jobs        integer     NOT NULL CHECK (jobs > 0),
  steps       smallint    NOT NULL CHECK (steps > 0),
  step        smallint    NOT NULL DEFAULT 1 CHECK (step BETWEEN 1 AND steps),
  first_job   uuid        NOT NULL,
  last_job    uuid        NOT NULL,
  state       text        NOT NULL DEFAULT 'running'
              CHECK (state IN ('running', 'ending', 'succeeded', 'failed', 'cancelled')),
  reason      jsonb,
  opens       uuid,
  created_at  timestamptz NOT NULL,
  finished_at timestamptz,
  CHECK ((finished_at IS NULL) = (state IN ('running', 'ending')))
) WITH (fillfactor = 70);
COMMENT ON COLUMN batch.step IS 'The open step, from 1. The jobs of later steps wait.';
COMMENT ON COLUMN batch.first_job IS 'Least of its jobs'' ids; with last_job it says in which weeks they are.';
COMMENT ON COLUMN batch.state IS
  'running: a step is open. ending: it goes no further, and what is left of its jobs is being called off.';
COMMENT ON COLUMN batch.reason IS 'Why it is ending, or did not succeed: code, detail and facts.';
COMMENT ON COLUMN batch.opens IS 'The job that goes on when it has ended. When that ends before, it is called off.';
CREATE INDEX batch_open ON batch (id) WHERE finished_at IS NULL;
CREATE INDEX batch_workspace ON batch (workspace, id);
CREATE INDEX batch_finished ON batch (finished_at);
CREATE INDEX batch_opens ON batch (opens) WHERE opens IS NOT NULL;

ALTER TABLE job
  ADD COLUMN batch   uuid,
  ADD COLUMN step    smallint,
  ADD COLUMN open_at timestamptz;
COMMENT ON COLUMN job.step IS
  'Of its batch, from 1. Until that is open the job is not due: not_before is {CLOSED}.';
-- So it is of a job that goes on after a batch (batch.opens).
COMMENT ON COLUMN job.open_at IS 'Not due earlier than this when its step opens.';
CREATE INDEX job_batch ON job (batch, step) WHERE batch IS NOT NULL;
CREATE INDEX job_step ON job (batch, step) WHERE batch IS NOT NULL AND finished_at IS NULL;
"""
