"""The part of the ledger's tables that limits what runs: rules, token buckets, and the trigger that holds them."""

ASKED = "asked."
"""The prefixes of keys that requests name begin with it."""

LIMITS = """
-- Limits

CREATE TABLE limit_rule (
  key         text        PRIMARY KEY CHECK (
                key ~ '^(queue|kind|key|each):.' OR key ~ '^workspace:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
  concurrency integer     CHECK (concurrency > 0),
  per_second  double precision CHECK (per_second > 0),
  burst       integer     NOT NULL DEFAULT 1 CHECK (burst > 0),
  weight      real        NOT NULL DEFAULT 1 CHECK (weight > 0),
  paused_at   timestamptz,
  paused_by   text,
  updated_at  timestamptz NOT NULL DEFAULT now(),
  updated_by  text
);
COMMENT ON COLUMN limit_rule.key IS
  'queue:, kind: or workspace: and its name; key: and what jobs name; each: and the first part of what jobs name, for
   every such name by itself.';
COMMENT ON COLUMN limit_rule.concurrency IS 'At most so many of its jobs run at once.';
COMMENT ON COLUMN limit_rule.per_second IS 'At most so many of its jobs begin a second, after a burst of so many.';
COMMENT ON COLUMN limit_rule.weight IS 'Of a workspace: its share beside the others in a lane.';

CREATE TABLE limit_bucket (
  key         text        PRIMARY KEY,
  tokens      double precision NOT NULL,
  filled_at   timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE limit_bucket IS 'Token buckets of the rules with a rate: a token for each job that may begin.';

ALTER TABLE job ADD COLUMN limit_key text;
COMMENT ON COLUMN job.limit_key IS 'What the job names to be limited by, prefix:name, such as a host that it calls.';

CREATE FUNCTION limit_tokens(tokens double precision, filled_at timestamptz, per_second double precision, burst integer)
RETURNS double precision LANGUAGE sql AS $$
  SELECT CASE WHEN filled_at > clock_timestamp() THEN burst
              ELSE least(burst, tokens + extract(epoch FROM clock_timestamp() - filled_at)::float * per_second) END
$$;
COMMENT ON FUNCTION limit_tokens IS 'What a bucket holds now; all, if that was filled later: the clock was set back.';

-- Whoever claims counts by it what runs under the job's own key.
CREATE INDEX job_limited ON job (limit_key) WHERE state = 'running' AND finished_at IS NULL AND limit_key IS NOT NULL;

CREATE FUNCTION job_start() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  rule limit_rule;
  keys text[];
  running jsonb;
  taken jsonb;
  begun jsonb := '{}';
  taking jsonb := '{}';
  bucket text;
  jobs bigint;
  found_tokens double precision;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM limit_rule) THEN
    RETURN NEW;
  END IF;
  keys := ARRAY['queue:' || NEW.queue, 'kind:' || NEW.kind, 'workspace:' || NEW.workspace, 'key:' || NEW.limit_key,
                'each:' || split_part(NEW.limit_key, ':', 1)];
  IF NOT EXISTS (SELECT 1 FROM limit_rule
                 WHERE key = ANY(keys) AND num_nonnulls(concurrency, per_second, paused_at) > 0) THEN
    RETURN NEW;
  END IF;
  -- One claim of limited jobs decides at a time, and sees what those before it have committed. Until it commits nobody
  -- else begins one: what it has counted once for a job of its message holds for the others.
  PERFORM pg_advisory_xact_lock(hashtext('limits ' || current_schema()));
  running := coalesce(nullif(current_setting('millrace.running', true), ''), '{}');
  taken := coalesce(nullif(current_setting('millrace.taken', true), ''), '{}');
  FOR rule IN SELECT * FROM limit_rule WHERE key = ANY(keys) LOOP
    IF rule.paused_at IS NOT NULL THEN
      RETURN NULL;
    END IF;
    bucket := CASE WHEN rule.key LIKE 'each:%' THEN 'each:' || NEW.limit_key ELSE rule.key END;
    IF rule.concurrency IS NOT NULL AND rule.key ~ '^(key|each):' THEN
      -- By its own index, which has the message's other jobs, too.
      SELECT count(*) INTO jobs FROM (
        SELECT FROM job WHERE state = 'running' AND finished_at IS NULL AND limit_key = NEW.limit_key
        LIMIT rule.concurrency) AS found;
      IF jobs >= rule.concurrency THEN
        RETURN NULL;
      END IF;
    ELSIF rule.concurrency IS NOT NULL THEN
      jobs := running ->> bucket;
      IF jobs IS NULL THEN
        SELECT count(*) INTO jobs FROM job
        WHERE state = 'running' AND finished_at IS NULL
          AND CASE split_part(rule.key, ':', 1)
                WHEN 'queue' THEN job.queue = NEW.queue WHEN 'kind' THEN job.kind = NEW.kind
                ELSE job.workspace = NEW.workspace END;
        running := running || jsonb_build_object(bucket, jobs);
        PERFORM set_config('millrace.running', running::text, true);
      END IF;
      IF jobs >= rule.concurrency THEN
        RETURN NULL;
      END IF;
      begun := begun || jsonb_build_object(bucket, jobs + 1);
    END IF;
    IF rule.per_second IS NOT NULL THEN
      SELECT limit_tokens(tokens, filled_at, rule.per_second, rule.burst) INTO found_tokens
      FROM limit_bucket WHERE key = bucket;
      IF NOT FOUND THEN
        INSERT INTO limit_bucket (key, tokens, filled_at) VALUES (bucket, rule.burst, clock_timestamp());
        found_tokens := rule.burst;
      END IF;
      jobs := coalesce((taken ->> bucket)::bigint, 0);
      IF found_tokens - jobs < 1 THEN
        RETURN NULL;
      END IF;
      taking := taking || jsonb_build_object(bucket, jobs + 1);
    END IF;
  END LOOP;
  IF begun <> '{}' THEN
    PERFORM set_config('millrace.running', (running || begun)::text, true);
  END IF;
  IF taking <> '{}' THEN
    PERFORM set_config('millrace.taken', (taken || taking)::text, true);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION job_start IS 'A claim passes over a job that a limit holds back: it stays queued.';
CREATE TRIGGER job_start BEFORE UPDATE OF state ON job FOR EACH ROW
  WHEN (OLD.state = 'queued' AND NEW.state = 'running') EXECUTE FUNCTION job_start();

CREATE FUNCTION job_started() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE limit_bucket
  SET filled_at = clock_timestamp(), tokens = limit_tokens(tokens, filled_at, per_second, burst) - taken.jobs::bigint
  FROM jsonb_each_text(current_setting('millrace.taken')::jsonb) AS taken (key, jobs), limit_rule
  WHERE limit_bucket.key = taken.key AND per_second IS NOT NULL AND limit_rule.key = CASE
    WHEN taken.key LIKE 'each:%' THEN 'each:' || split_part(taken.key, ':', 2) ELSE taken.key END;
  PERFORM set_config('millrace.taken', '', true);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION job_started IS 'The jobs that a claim began take their tokens, once for all of them.';
CREATE TRIGGER job_started AFTER UPDATE OF state ON job FOR EACH STATEMENT
  WHEN (current_setting('millrace.taken', true) <> '') EXECUTE FUNCTION job_started();

-- Why

CREATE TABLE outage (
  name        text        PRIMARY KEY,
  since       timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  detail      text        NOT NULL
);
COMMENT ON TABLE outage IS 'What the leading Beat cannot reach now, told by itself: broker. Gone when it can again.';
"""
