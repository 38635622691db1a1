"""The ledger's tables, the same in every service's schema. One constant a version; a service's migration applies it.

States of a job, and the moves that the database allows (docs/state-machine.md draws them):

    queued -> running                    claimed; the attempt number goes up by one
    queued -> failed | cancelled         deadline or start_by passed, quarantined while waiting; cancelled
    running -> succeeded | failed | cancelled
    running -> queued                    a passing failure, the lease was lost, or it goes on as another kind
    failed | cancelled -> queued         redrive

Partitions are weeks by id, which begins with a time (shared/ids.py): finished work can be dropped by the
week. A stray id outside them goes to the default partition and is lost to nobody.
"""

from datetime import UTC, datetime

import psycopg
from sqlalchemy import Connection as SqlConnection

from shared.ledger import batch_schema, limits_schema, partitions

V1 = """
CREATE TABLE job (
  id          uuid        NOT NULL,
  kind        text        NOT NULL,
  queue       text        NOT NULL,
  priority    smallint    NOT NULL,
  args        jsonb       NOT NULL,
  workspace   uuid        NOT NULL,
  run         uuid        NOT NULL,
  cause       text        NOT NULL CHECK (cause IN ('request', 'event', 'schedule', 'job')),
  cause_id    uuid        NOT NULL,
  state       text        NOT NULL DEFAULT 'queued'
              CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  attempt     integer     NOT NULL DEFAULT 0,
  max_attempts integer    NOT NULL,
  crashes     integer     NOT NULL DEFAULT 0,
  not_before  timestamptz NOT NULL,
  deadline    timestamptz,
  progress    jsonb,
  result      jsonb,
  error       jsonb,
  worker      uuid,
  traceparent text,
  created_at  timestamptz NOT NULL,
  started_at  timestamptz,
  finished_at timestamptz,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

COMMENT ON COLUMN job.attempt IS 'Tries begun so far; the number of the running one is its fencing token.';
COMMENT ON COLUMN job.crashes IS 'Attempts that ended because their worker died.';
COMMENT ON COLUMN job.not_before IS 'Due time: earlier than this it is not dispatched.';
COMMENT ON COLUMN job.worker IS 'The worker incarnation that holds the running attempt; see worker.';
COMMENT ON COLUMN job.error IS 'Reason of the last attempt that did not succeed: code, detail and facts.';

-- What is due, a lane at a time, oldest due time first.
CREATE INDEX job_due ON job (queue, priority, not_before, id) WHERE state = 'queued';
CREATE INDEX job_running ON job (worker) WHERE state = 'running';
CREATE INDEX job_deadline ON job (deadline) WHERE state = 'queued' AND deadline IS NOT NULL;
CREATE INDEX job_run ON job (run);

CREATE TABLE attempt (
  job         uuid        NOT NULL,
  number      integer     NOT NULL,
  outcome     text        NOT NULL
              CHECK (outcome IN ('succeeded', 'retried', 'snoozed', 'failed', 'cancelled', 'lost')),
  worker      uuid,
  version     text,
  seconds     real,
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  error       jsonb,
  PRIMARY KEY (job, number)
) PARTITION BY RANGE (job);

COMMENT ON COLUMN attempt.seconds IS 'What the body took, without waiting for the others of its message.';

CREATE TABLE event (
  id          uuid        NOT NULL,
  position    bigint,
  type        text        NOT NULL,
  subject     text        NOT NULL,
  time        timestamptz NOT NULL,
  workspace   uuid        NOT NULL,
  run         uuid        NOT NULL,
  causation   uuid        NOT NULL,
  traceparent text,
  data        jsonb       NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

COMMENT ON COLUMN event.position IS
  'Place in the feed, given after the commit by the leading dispatcher: no gaps, no later arrivals before it.';
CREATE INDEX event_unplaced ON event (id) WHERE position IS NULL;
CREATE INDEX event_position ON event (position);
CREATE INDEX event_run ON event (run);
CREATE SEQUENCE event_positions;

CREATE TABLE cursor (
  name        text        PRIMARY KEY,
  position    bigint      NOT NULL,
  moved_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cursor IS
  'published: the last event given to the broker. feed:<producer>: the last one taken in from its feed.';

CREATE TABLE idempotency (
  workspace   uuid        NOT NULL,
  key         text        NOT NULL,
  fingerprint text        NOT NULL,
  response    jsonb       NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (workspace, key)
);
COMMENT ON COLUMN idempotency.fingerprint IS 'SHA-256 of the request; the same key with another request is refused.';

CREATE TABLE effect (
  key         text        PRIMARY KEY,
  job         uuid        NOT NULL,
  result      jsonb,
  created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE effect IS 'Outside effects that happened, by key, so that a later attempt does not repeat them.';

CREATE TABLE worker (
  id          uuid        PRIMARY KEY,
  name        text        NOT NULL,
  version     text        NOT NULL,
  started_at  timestamptz NOT NULL DEFAULT now(),
  lease_until timestamptz NOT NULL,
  ended_at    timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE worker IS 'One row a worker incarnation. Its jobs are its own until lease_until.';
COMMENT ON COLUMN worker.ended_at IS 'When it stopped in good order; what it then still held did not crash it.';

CREATE FUNCTION job_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.state, NEW.state) NOT IN (
       ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
       ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'),
       ('failed', 'queued'), ('cancelled', 'queued')) THEN
    RAISE EXCEPTION 'job %: illegal move % -> %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.attempt <> OLD.attempt + (CASE WHEN NEW.state = 'running' THEN 1 ELSE 0 END) THEN
    RAISE EXCEPTION 'job %: attempt % -> % in % -> %', OLD.id, OLD.attempt, NEW.attempt, OLD.state, NEW.state
      USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER job_move BEFORE UPDATE OF state ON job FOR EACH ROW
  WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION job_move();

CREATE FUNCTION job_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'job %: the attempt number moves only with a claim', OLD.id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER job_fence BEFORE UPDATE OF attempt ON job FOR EACH ROW
  WHEN (OLD.attempt <> NEW.attempt AND OLD.state = NEW.state) EXECUTE FUNCTION job_fence();

CREATE FUNCTION job_enter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'job %: enters the ledger queued, at attempt 0', NEW.id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER job_enter BEFORE INSERT ON job FOR EACH ROW
  WHEN (NEW.state <> 'queued' OR NEW.attempt <> 0) EXECUTE FUNCTION job_enter();

CREATE TABLE job_default PARTITION OF job DEFAULT;
CREATE TABLE attempt_default PARTITION OF attempt DEFAULT;
CREATE TABLE event_default PARTITION OF event DEFAULT;
"""

_V2 = """
-- Redrive

CREATE TABLE intervention (
  job         uuid        NOT NULL,
  at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  act         text        NOT NULL CHECK (act IN ('redriven', 'cancelled', 'prioritised')),
  by          text        NOT NULL,
  state       text        NOT NULL,
  attempt     integer     NOT NULL,
  error       jsonb,
  args        jsonb,
  priority    smallint,
  PRIMARY KEY (job, at)
) PARTITION BY RANGE (job);
COMMENT ON TABLE intervention IS 'What people did to jobs, and how each job stood before: state, attempt, reason.';
COMMENT ON COLUMN intervention.by IS 'The caller: its key''s beginning, a service account, a schedule.';
COMMENT ON COLUMN intervention.args IS 'The arguments before they were edited; null when they were left as they were.';
COMMENT ON COLUMN intervention.priority IS 'The lane before it was put into another; null when it was left there.';
CREATE TABLE intervention_default PARTITION OF intervention DEFAULT;

-- From where on the ledger remembers: older weeks were dropped.
CREATE TABLE horizon (
  name        text        PRIMARY KEY CHECK (name IN ('job', 'event')),
  before      uuid        NOT NULL,
  position    bigint      NOT NULL
);
COMMENT ON COLUMN horizon.before IS 'Rows whose id is smaller were dropped, unless they had not ended.';
COMMENT ON COLUMN horizon.position IS 'The last place of the feed that was dropped.';
CREATE INDEX idempotency_created ON idempotency (created_at);
CREATE INDEX effect_created ON effect (created_at);

-- As before; and whoever moves a job, it has an end exactly when it has ended: unfinished jobs are looked for by it.
CREATE OR REPLACE FUNCTION job_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.state, NEW.state) NOT IN (
       ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
       ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'),
       ('failed', 'queued'), ('cancelled', 'queued')) THEN
    RAISE EXCEPTION 'job %: illegal move % -> %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.attempt <> OLD.attempt + (CASE WHEN NEW.state = 'running' THEN 1 ELSE 0 END) THEN
    RAISE EXCEPTION 'job %: attempt % -> % in % -> %', OLD.id, OLD.attempt, NEW.attempt, OLD.state, NEW.state
      USING ERRCODE = 'check_violation';
  END IF;
  NEW.finished_at := CASE WHEN NEW.state NOT IN ('queued', 'running') THEN coalesce(NEW.finished_at, now()) END;
  RETURN NEW;
END $$;

-- Dead letters.
CREATE INDEX job_dead ON job (workspace, id) WHERE state IN ('failed', 'cancelled');

-- Schedules

CREATE TABLE schedule (
  id          uuid        PRIMARY KEY,
  workspace   uuid        NOT NULL,
  name        text        NOT NULL,
  kind        text        NOT NULL,
  args        jsonb       NOT NULL,
  cron        text,
  every_seconds integer   CHECK (every_seconds > 0),
  at          timestamptz,
  zone        text        NOT NULL,
  starts_at   timestamptz,
  ends_at     timestamptz,
  anchor      timestamptz NOT NULL,
  jitter_seconds integer  NOT NULL,
  misfire     text        NOT NULL CHECK (misfire IN ('skip', 'once', 'all')),
  grace_seconds integer   NOT NULL,
  window_seconds integer  NOT NULL,
  overlap     text        NOT NULL CHECK (overlap IN ('allow', 'skip', 'queue', 'cancel')),
  lane        text        CHECK (lane IN ('urgent', 'normal', 'bulk')),
  state       text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'ended', 'broken')),
  reason      jsonb,
  next_slot   timestamptz,
  next_at     timestamptz,
  waiting     integer     NOT NULL DEFAULT 0,
  fired       bigint      NOT NULL DEFAULT 0,
  last_slot   timestamptz,
  last_job    uuid,
  moved_at    timestamptz NOT NULL,
  created_at  timestamptz NOT NULL,
  updated_at  timestamptz NOT NULL,
  CHECK (num_nonnulls(cron, every_seconds, at) = 1),
  CHECK (state <> 'active' OR (next_slot IS NOT NULL AND next_at IS NOT NULL)),
  UNIQUE (workspace, name)
) WITH (fillfactor = 70);
COMMENT ON COLUMN schedule.anchor IS 'What an interval is counted from.';
COMMENT ON COLUMN schedule.lane IS 'Of the jobs that it fires; null: the kind''s own.';
COMMENT ON COLUMN schedule.state IS 'ended: nothing comes after. broken: it could not be fired; see reason.';
COMMENT ON COLUMN schedule.next_slot IS 'The first slot that nothing was decided about.';
COMMENT ON COLUMN schedule.next_at IS 'When that fires: the slot and its jitter.';
COMMENT ON COLUMN schedule.waiting IS 'Slots that wait for the job before them (overlap queue, cancel).';
COMMENT ON COLUMN schedule.moved_at IS 'When next_slot was set. Later than now: the clock was set back.';
CREATE INDEX schedule_due ON schedule (next_at) WHERE state = 'active';
CREATE INDEX schedule_waiting ON schedule (id) WHERE waiting > 0;

CREATE TABLE slot (
  id          uuid        NOT NULL,
  schedule    uuid        NOT NULL,
  at          timestamptz NOT NULL,
  through     timestamptz,
  slots       integer     DEFAULT 1,
  due_at      timestamptz NOT NULL,
  outcome     text        NOT NULL CHECK (outcome IN ('fired', 'waiting', 'skipped')),
  run         uuid,
  reason      jsonb,
  decided_at  timestamptz NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
COMMENT ON TABLE slot IS 'What became of each time at which a schedule was to fire. Ages out by the week, as jobs do.';
COMMENT ON COLUMN slot.id IS 'Derived from the schedule and the time, and the id of the job that it fired.';
COMMENT ON COLUMN slot.through IS 'Of a row that stands for several slots, skipped for one reason: the last of them.';
COMMENT ON COLUMN slot.slots IS 'How many slots the row stands for; null: more than were counted.';
CREATE INDEX slot_schedule ON slot (schedule, id);
CREATE INDEX slot_waiting ON slot (schedule, id) WHERE outcome = 'waiting';
CREATE TABLE slot_default PARTITION OF slot DEFAULT;

-- The unfinished jobs of a schedule, for its overlap policy.
CREATE INDEX job_schedule ON job (cause_id) WHERE cause = 'schedule' AND state IN ('queued', 'running');

-- The runs that schedules began; for statements that name a workspace, and no others.
CREATE INDEX job_scheduled ON job (workspace, run) WHERE cause = 'schedule' AND workspace IS NOT NULL;

-- Workers

ALTER TABLE worker
  ADD COLUMN renewed_at timestamptz,
  ADD COLUMN queues     text[]      NOT NULL DEFAULT '{}',
  ADD COLUMN pool       text,
  ADD COLUMN slots      integer,
  ADD COLUMN busy       real,
  ADD COLUMN draining_at timestamptz,
  ADD COLUMN drained_by text;
COMMENT ON COLUMN worker.renewed_at IS 'Its last heartbeat: when it renewed its lease.';
COMMENT ON COLUMN worker.slots IS 'Messages that it works on at a time.';
COMMENT ON COLUMN worker.busy IS 'Slots at work, a mean over the time between its last two heartbeats.';
COMMENT ON COLUMN worker.draining_at IS 'Since then it may claim nothing: it ends what it runs, and stops.';

-- Attempts are stored in the order in which they end: all that a look at the last minute needs is where that begins.
CREATE INDEX attempt_finished ON attempt USING brin (finished_at) WITH (autosummarize = on, pages_per_range = 16);

-- Jobs that go on as another kind

ALTER TABLE job ADD COLUMN began_as text;
COMMENT ON COLUMN job.began_as IS 'The kind that it was owed as, of a job that went on as another.';
ALTER TABLE attempt DROP CONSTRAINT attempt_outcome_check, ADD CONSTRAINT attempt_outcome_check
  CHECK (outcome IN ('succeeded', 'retried', 'snoozed', 'failed', 'cancelled', 'lost', 'continued'));

-- Unique jobs

CREATE TABLE unique_key (
  workspace   uuid        NOT NULL,
  kind        text        NOT NULL,
  key         text        NOT NULL,
  job         uuid        NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (workspace, kind, key)
) WITH (fillfactor = 50);
COMMENT ON TABLE unique_key IS 'The job that was owed last under each key; its state says whether the key is free.';
CREATE INDEX unique_key_created ON unique_key (created_at);

-- Jobs that are to be started by a time

ALTER TABLE job ADD COLUMN start_by timestamptz;
COMMENT ON COLUMN job.start_by IS 'Given up when its first attempt has not begun by then.';
CREATE INDEX job_start_by ON job (start_by) WHERE start_by IS NOT NULL AND attempt = 0 AND finished_at IS NULL;

-- Storage

CREATE INDEX job_workspace ON job (workspace, id);

-- The indexes of unfinished jobs are for the statements that look for such, and say `finished_at IS NULL`. Those that
-- know a job by its id must never be planned over them: until autovacuum has seen a table of fast-changing states, its
-- statistics say that nearly nothing is queued.
DROP INDEX job_due, job_running, job_deadline;
CREATE INDEX job_due ON job (queue, priority, workspace, not_before, id) WHERE state = 'queued' AND finished_at IS NULL;
CREATE INDEX job_running ON job (worker) WHERE state = 'running' AND finished_at IS NULL;
CREATE INDEX job_deadline ON job (deadline) WHERE finished_at IS NULL AND deadline IS NOT NULL;
"""
V2 = _V2 + limits_schema.LIMITS + batch_schema.BATCHES

VERSIONS = (V1, V2)


def apply(bind: SqlConnection, version: str) -> None:
    """Run one version of the ledger's tables in a migration, and make the partitions of these weeks."""
    connection = bind.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    connection.execute(version.encode())
    partitions.ensure(connection, datetime.now(UTC))
