\echo Use "ALTER EXTENSION webhooks UPDATE TO '0.3.0'" to load this file. \quit

-- From 0.2.0 to 0.3.0. CREATE EXTENSION at 0.3.0 makes the same from sql/*.sql: a test compares the two.

-- attach() has more arguments, so it is made anew. When this script is over, the library gives the rights on it back, and
-- roles with a right of grant_access() what that right needs now.
DROP FUNCTION webhooks.attach(regclass, text, name, name, text[], name);
CREATE FUNCTION webhooks.attach(
    table_name regclass, object text = 'memory', id_column name = 'id', owner_column name = NULL,
    exclude_columns text[] = '{}', soft_delete_column name = NULL, ignore_columns text[] = '{}',
    include_vectors boolean = false
) RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_table_wrapper';
COMMENT ON FUNCTION webhooks.attach IS 'Emits an event for each change of a table the caller owns; again replaces the settings';
REVOKE ALL ON FUNCTION webhooks.attach FROM PUBLIC;

CREATE OR REPLACE VIEW webhooks.attached WITH (security_barrier) AS
SELECT t.tgrelid::regclass AS table_name,
       s.object,
       s.id_column,
       s.owner_column,
       s.soft_delete_column,
       s.exclude_columns,
       s.ignore_columns,
       s.include_vectors
  FROM pg_catalog.pg_trigger t
 CROSS JOIN LATERAL (
        -- The arguments, each with a NUL behind it: key=value, or by place as 0.2 wrote them.
        SELECT coalesce(max(a.value) FILTER (WHERE a.key = 'object'), 'memory') AS object,
               coalesce(max(a.value) FILTER (WHERE a.key = 'id'), 'id') AS id_column,
               max(a.value) FILTER (WHERE a.key = 'owner' AND a.value <> '') AS owner_column,
               max(a.value) FILTER (WHERE a.key = 'soft_delete' AND a.value <> '') AS soft_delete_column,
               coalesce(array_agg(a.value ORDER BY a.place) FILTER (WHERE a.key = 'exclude'), '{}') AS exclude_columns,
               coalesce(array_agg(a.value ORDER BY a.place) FILTER (WHERE a.key = 'ignore'), '{}') AS ignore_columns,
               coalesce(bool_or(NOT a.has_key OR a.key = 'vectors' AND a.value = 'include'), true) AS include_vectors
          FROM (SELECT k.place, k.has_key,
                       CASE WHEN k.has_key THEN split_part(k.text, '=', 1)
                            ELSE coalesce((ARRAY['object', 'id', 'owner', 'soft_delete'])[k.place], 'exclude') END AS key,
                       CASE WHEN k.has_key THEN substr(k.text, strpos(k.text, '=') + 1) ELSE k.text END AS value
                  FROM (SELECT u.place, convert_from(decode(u.text, 'escape'), 'UTF8') COLLATE "default" AS text,
                               strpos(split_part(encode(t.tgargs, 'escape'), '\000', 1), '=') > 0 AS has_key
                          FROM unnest(string_to_array(encode(t.tgargs, 'escape'), '\000'))
                               WITH ORDINALITY AS u(text, place)
                         WHERE u.place <= t.tgnargs) k) a) s
 WHERE t.tgfoid = 'webhooks.emit_changes'::regproc
   AND t.tgparentid = 0
   AND t.tgname = 'webhooks_emit_insert'
   AND webhooks.may_read();
COMMENT ON COLUMN webhooks.attached.ignore_columns IS 'Columns that are sent, but whose change alone emits nothing';
COMMENT ON COLUMN webhooks.attached.include_vectors IS 'Whether columns of pgvector''s types are sent';

ALTER TABLE webhooks.home ADD COLUMN made_schema boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN webhooks.home.made_schema IS 'CREATE EXTENSION has made the schema webhooks, so DROP EXTENSION drops it if it is empty';

ALTER TABLE webhooks.home ADD COLUMN served_version text;
COMMENT ON COLUMN webhooks.home.served_version IS 'Under which version of the extension a worker has last told PostgREST to read the schema again';

-- Webhooks whose row cannot be read: deliveries that wait for a filter, and the reason where people look.

ALTER TABLE webhooks.queue ADD COLUMN undecided boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN webhooks.queue.undecided IS 'The webhook''s filters could not be read when the event was dispatched: they judge it once they can be';

-- Since when a webhook is failing, with what, and how often; and a retry that is to be made now.

ALTER TABLE webhooks.webhook_stats
    ADD COLUMN first_failed_at timestamptz,
    ADD COLUMN failed_attempts bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_status     integer,
    ADD COLUMN last_error      text;
COMMENT ON COLUMN webhooks.webhook_stats.activation IS 'The webhook''s activation that what follows belongs to';
COMMENT ON COLUMN webhooks.webhook_stats.first_failed_at IS 'When the first attempt failed that no success has followed';
COMMENT ON COLUMN webhooks.webhook_stats.failed_attempts IS 'Attempts that failed since the last success';
COMMENT ON COLUMN webhooks.webhook_stats.last_status IS 'HTTP status of the last of them';
COMMENT ON COLUMN webhooks.webhook_stats.last_error IS 'Why the last of them failed';
COMMENT ON FUNCTION webhooks.retry_delivery IS 'Queues a delivery that has ended again, with a fresh max_attempts; attempts one that is pending now';
COMMENT ON COLUMN webhooks.outbox.command IS 'NULL: an event; queued: the queue has new rows of a webhook; hurry and an id: that delivery is to be attempted now';

CREATE FUNCTION webhooks.unreadable(
    url text, events text[], secret text, previous_secret text, filters jsonb,
    max_attempts integer, backoff_multiplier float8, max_delay integer
) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'unreadable_wrapper';
COMMENT ON FUNCTION webhooks.unreadable(text, text[], text, text, jsonb, integer, float8, integer) IS
    'Internal: why a webhook with these values sends nothing: what of them cannot be read; NULL: all can';

CREATE FUNCTION webhooks.shown_error(error text)
    RETURNS text LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'shown_error_wrapper';
COMMENT ON FUNCTION webhooks.shown_error IS 'Internal: the error of an attempt as the caller may read it: which address was refused is for administrators alone';

REVOKE ALL ON FUNCTION webhooks.unreadable, webhooks.shown_error FROM PUBLIC;

-- Endpoints that ask to be left alone for a while.

ALTER TABLE webhooks.webhook_stats
    ADD COLUMN paused_until timestamptz,
    ADD COLUMN paused_url   text;
COMMENT ON COLUMN webhooks.webhook_stats.paused_until IS 'Until when its endpoint has asked to be left alone; it holds for this activation and URL';
COMMENT ON COLUMN webhooks.webhook_stats.paused_url IS 'The URL that asked';
COMMENT ON COLUMN webhooks.set_aside.stage IS 'dispatch, fetch (its event cannot be read), settle (its outcome cannot be written) or delivery (the worker itself has failed at it three times)';

-- An endpoint that has asked to be left alone by Retry-After. The row that says so is the worker's; another URL, and switching
-- the webhook on again, end what it says. A pause that ends later than in a day was begun under a clock that was ahead.
CREATE VIEW webhooks.paused WITH (security_barrier) AS
SELECT w.id AS webhook_id, s.paused_until
  FROM webhooks.webhook w
  JOIN webhooks.webhook_stats s ON s.webhook_id = w.id
 WHERE s.paused_until > clock_timestamp()
   AND s.paused_until < clock_timestamp() + interval '1 day 1 minute'
   AND s.activation = w.activation
   AND s.paused_url = w.url;
COMMENT ON VIEW   webhooks.paused IS 'Internal: webhooks whose endpoints have asked to be left alone for a while';
COMMENT ON COLUMN webhooks.paused.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.paused.paused_until IS 'Until when';

REVOKE ALL ON webhooks.paused FROM PUBLIC;

CREATE OR REPLACE VIEW webhooks.webhook_object WITH (security_invoker) AS
SELECT w.id,
       w.owner,
       w.active AND d.webhook_id IS NULL AS active,
       w.events,
       jsonb_build_object(
           'id', webhooks.format_id('webhook', w.id),
           'url', w.url,
           'events', w.events,
           'active', w.active AND d.webhook_id IS NULL,
           'retry_policy', jsonb_build_object(
               'max_attempts', w.max_attempts,
               'backoff_multiplier', w.backoff_multiplier,
               'max_delay', w.max_delay),
           'filters', w.filters,
           'owner', w.owner,
           'disabled_reason', coalesce(d.reason, webhooks.unreadable(
               w.url, w.events, w.secret,
               CASE WHEN w.previous_secret_expires_at > clock_timestamp() THEN w.previous_secret END,
               w.filters, w.max_attempts, w.backoff_multiplier, w.max_delay)),
           'created_at', webhooks.format_time(w.created_at),
           'updated_at', webhooks.format_time(w.updated_at),
           'last_delivery', webhooks.format_time(s.last_delivery),
           'failing', CASE WHEN s.failed_attempts > 0 AND s.activation = w.activation THEN jsonb_build_object(
               'since', webhooks.format_time(s.first_failed_at),
               'attempts', s.failed_attempts,
               'last_status', s.last_status,
               'last_error', s.last_error) END,
           'paused_until', webhooks.format_time(p.paused_until),
           'delivery_stats', jsonb_build_object(
               'total_attempts', coalesce(s.total_attempts, 0),
               'successful_deliveries', coalesce(s.successful_deliveries, 0),
               'failed_deliveries', coalesce(s.failed_deliveries, 0))) AS object
  FROM webhooks.webhook w
  LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
  LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id
  LEFT JOIN webhooks.paused p ON p.webhook_id = w.id;

CREATE OR REPLACE VIEW webhooks_api.webhooks WITH (security_barrier) AS
SELECT webhooks.format_id('webhook', w.id) AS id,
       w.url,
       w.events,
       w.active AND d.webhook_id IS NULL AS active,
       jsonb_build_object(
           'max_attempts', w.max_attempts,
           'backoff_multiplier', w.backoff_multiplier,
           'max_delay', w.max_delay) AS retry_policy,
       w.filters,
       w.owner,
       coalesce(d.reason, webhooks.unreadable(
           w.url, w.events, w.secret,
           CASE WHEN w.previous_secret_expires_at > clock_timestamp() THEN w.previous_secret END,
           w.filters, w.max_attempts, w.backoff_multiplier, w.max_delay)) AS disabled_reason,
       w.created_at,
       w.updated_at,
       s.last_delivery,
       coalesce(s.total_attempts, 0) AS total_attempts,
       coalesce(s.successful_deliveries, 0) AS successful_deliveries,
       coalesce(s.failed_deliveries, 0) AS failed_deliveries,
       CASE WHEN s.activation = w.activation THEN s.first_failed_at END AS failing_since,
       CASE WHEN s.activation = w.activation THEN s.failed_attempts ELSE 0 END AS failed_attempts,
       CASE WHEN s.activation = w.activation THEN s.last_status END AS last_status,
       CASE WHEN s.activation = w.activation THEN webhooks.shown_error(s.last_error) END AS last_error,
       p.paused_until
  FROM webhooks.webhook w
  LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
  LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id
  LEFT JOIN webhooks.paused p ON p.webhook_id = w.id
 WHERE coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL);
COMMENT ON COLUMN webhooks_api.webhooks.disabled_reason IS 'Why it sends nothing: the worker has switched it off, or its row cannot be read';

COMMENT ON COLUMN webhooks_api.webhooks.failing_since IS 'When the first attempt failed that no success has followed; NULL: it is not failing';
COMMENT ON COLUMN webhooks_api.webhooks.failed_attempts IS 'Attempts that failed since the last success';
COMMENT ON COLUMN webhooks_api.webhooks.last_status IS 'HTTP status of the last of them';
COMMENT ON COLUMN webhooks_api.webhooks.last_error IS 'Why the last of them failed';
COMMENT ON COLUMN webhooks_api.webhooks.paused_until IS 'Until when its endpoint has asked to be left alone, by 429 or 503 with Retry-After';
COMMENT ON FUNCTION webhooks_api.activity IS 'GET /api/v1/activity: attempts at own webhooks, and deliveries that ended, minute by minute';

COMMENT ON FUNCTION webhooks.wants(text[], text, jsonb, text, text, text, text) IS
    'Internal: whether a webhook with these events, owner and filters gets an event with this type, owner and content; where the filters cannot be read, whether it may get it once they can';

-- Administrators see the address that was refused; owners, and roles with the right read, do not.

CREATE OR REPLACE VIEW webhooks.waiting WITH (security_barrier) AS
SELECT p.id, p.event_id, p.webhook_id, p.attempts, p.due, p.last_status,
       webhooks.shown_error(p.last_error) AS last_error, p.created_at
  FROM (
        SELECT q.id, q.event_id, q.webhook_id, q.attempts, q.due, q.last_status, q.last_error, q.created_at
          FROM webhooks.queue q
        UNION ALL
        SELECT u.id, u.event_id, u.webhook_id, 0, NULL, NULL, NULL, u.created_at
          FROM webhooks.undispatched() u
       ) p
 WHERE (SELECT webhooks.may_read())
    OR p.webhook_id IN (SELECT m.id FROM webhooks.webhook m WHERE m.owner = (SELECT webhooks.visible_owner()));
COMMENT ON COLUMN webhooks.waiting.last_error IS 'Why the last attempt failed; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.pending.last_error IS 'Why the last attempt failed; administrators see the address that was refused';

CREATE OR REPLACE VIEW webhooks.deliveries WITH (security_barrier) AS
SELECT dl.id, dl.event_id, dl.webhook_id, dl.event_type, dl.state, dl.attempts, dl.next_attempt_at, dl.last_status,
       webhooks.shown_error(dl.last_error) AS last_error, dl.created_at, dl.completed_at
  FROM (
        SELECT webhooks.format_id('delivery', q.id)          AS id,
               webhooks.format_id('event', q.event_id)       AS event_id,
               webhooks.format_id('webhook', q.webhook_id)   AS webhook_id,
               e.type                                        AS event_type,
               'pending'                                     AS state,
               q.attempts,
               greatest(coalesce(q.due, q.created_at), p.paused_until) AS next_attempt_at,
               q.last_status,
               q.last_error,
               q.created_at,
               NULL::timestamptz                             AS completed_at
          FROM webhooks.pending q
          JOIN webhooks.webhook w ON w.id = q.webhook_id
          LEFT JOIN webhooks.event e ON e.id = q.event_id
          LEFT JOIN webhooks.paused p ON p.webhook_id = q.webhook_id
        UNION ALL
        -- Of webhooks that were deleted, until the worker has moved it into the log.
        SELECT webhooks.format_id('delivery', q.id),
               webhooks.format_id('event', q.event_id),
               webhooks.format_id('webhook', q.webhook_id),
               e.type,
               'cancelled',
               q.attempts,
               NULL,
               q.last_status,
               q.last_error,
               q.created_at,
               NULL
          FROM webhooks.queue q
          LEFT JOIN webhooks.event e ON e.id = q.event_id
         WHERE NOT EXISTS (SELECT FROM webhooks.webhook w WHERE w.id = q.webhook_id)
        UNION ALL
        SELECT webhooks.format_id('delivery', d.id),
               webhooks.format_id('event', d.event_id),
               webhooks.format_id('webhook', d.webhook_id),
               e.type,
               d.state,
               d.attempts,
               NULL,
               d.status,
               d.error,
               d.created_at,
               d.completed_at
          FROM webhooks.delivery d
          LEFT JOIN webhooks.event e ON e.id = d.event_id
       ) dl
 WHERE webhooks.may_read();
COMMENT ON COLUMN webhooks.deliveries.last_error IS 'Why the last attempt failed; administrators see the address that was refused';

CREATE OR REPLACE VIEW webhooks.attempts WITH (security_barrier) AS
SELECT al.delivery_id, al.attempt, al.started_at, al.duration_ms, al.status,
       webhooks.shown_error(al.error) AS error, al.response_excerpt
  FROM (
        SELECT webhooks.format_id('delivery', a.delivery_id) AS delivery_id,
               a.attempt,
               a.started_at,
               a.duration_ms,
               a.status,
               a.error,
               a.response_excerpt
          FROM webhooks.attempt a
        UNION ALL
        SELECT webhooks.format_id('delivery', d.id),
               d.attempts,
               d.started_at,
               d.duration_ms,
               d.status,
               d.error,
               d.response_excerpt
          FROM webhooks.delivery d
         WHERE d.started_at IS NOT NULL
       ) al
 WHERE webhooks.may_read();
COMMENT ON COLUMN webhooks.attempts.error IS 'Why it failed, or a remark; administrators see the address that was refused';

CREATE OR REPLACE VIEW webhooks.delivery_object WITH (security_invoker) AS
SELECT q.id, q.event_id, q.webhook_id, q.created_at, 'pending' AS state,
       jsonb_build_object(
           'id', webhooks.format_id('delivery', q.id),
           'event_id', webhooks.format_id('event', q.event_id),
           'webhook_id', webhooks.format_id('webhook', q.webhook_id),
           'event_type', e.type,
           'state', 'pending',
           'attempts', q.attempts,
           'attempt_count', q.attempts,
           'next_attempt_at', webhooks.format_time(greatest(coalesce(q.due, q.created_at), p.paused_until)),
           'last_status', q.last_status,
           'last_error', q.last_error,
           'created_at', webhooks.format_time(q.created_at),
           'completed_at', NULL) AS object
  FROM webhooks.pending q
  JOIN webhooks.webhook w ON w.id = q.webhook_id
  LEFT JOIN webhooks.event e ON e.id = q.event_id
  LEFT JOIN webhooks.paused p ON p.webhook_id = q.webhook_id
UNION ALL
SELECT q.id, q.event_id, q.webhook_id, q.created_at, 'cancelled',
       jsonb_build_object(
           'id', webhooks.format_id('delivery', q.id),
           'event_id', webhooks.format_id('event', q.event_id),
           'webhook_id', webhooks.format_id('webhook', q.webhook_id),
           'event_type', e.type,
           'state', 'cancelled',
           'attempts', q.attempts,
           'attempt_count', q.attempts,
           'next_attempt_at', NULL,
           'last_status', q.last_status,
           'last_error', q.last_error,
           'created_at', webhooks.format_time(q.created_at),
           'completed_at', NULL)
  FROM webhooks.queue q
  LEFT JOIN webhooks.event e ON e.id = q.event_id
 WHERE NOT EXISTS (SELECT FROM webhooks.webhook w WHERE w.id = q.webhook_id)
UNION ALL
SELECT d.id, d.event_id, d.webhook_id, d.created_at, d.state,
       jsonb_build_object(
           'id', webhooks.format_id('delivery', d.id),
           'event_id', webhooks.format_id('event', d.event_id),
           'webhook_id', webhooks.format_id('webhook', d.webhook_id),
           'event_type', e.type,
           'state', d.state,
           'attempts', d.attempts,
           'attempt_count', d.attempts,
           'next_attempt_at', NULL,
           'last_status', d.status,
           'last_error', d.error,
           'created_at', webhooks.format_time(d.created_at),
           'completed_at', webhooks.format_time(d.completed_at))
  FROM webhooks.delivery d
  LEFT JOIN webhooks.event e ON e.id = d.event_id;

CREATE OR REPLACE VIEW webhooks_api.deliveries WITH (security_barrier) AS
SELECT dl.id, dl.event_id, dl.webhook_id, dl.event_type, dl.state, dl.attempts, dl.next_attempt_at,
       dl.last_status, webhooks.shown_error(dl.last_error) AS last_error, dl.created_at, dl.completed_at
  FROM (
        SELECT webhooks.format_id('delivery', q.id)        AS id,
               webhooks.format_id('event', q.event_id)     AS event_id,
               webhooks.format_id('webhook', q.webhook_id) AS webhook_id,
               e.type                                      AS event_type,
               'pending'                                   AS state,
               q.attempts,
               greatest(coalesce(q.due, q.created_at), p.paused_until) AS next_attempt_at,
               q.last_status,
               q.last_error,
               q.created_at,
               NULL::timestamptz                           AS completed_at
          FROM webhooks.webhook w
          JOIN webhooks.waiting q ON q.webhook_id = w.id
          LEFT JOIN webhooks.event e ON e.id = q.event_id
          LEFT JOIN webhooks.paused p ON p.webhook_id = q.webhook_id
         WHERE coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL)
        UNION ALL
        SELECT webhooks.format_id('delivery', d.id),
               webhooks.format_id('event', d.event_id),
               webhooks.format_id('webhook', d.webhook_id),
               e.type,
               d.state,
               d.attempts,
               NULL,
               d.status,
               d.error,
               d.created_at,
               d.completed_at
          FROM (SELECT id, owner FROM webhooks.webhook UNION ALL SELECT id, owner FROM webhooks.deleted_webhook) w
          JOIN webhooks.delivery d ON d.webhook_id = w.id
          LEFT JOIN webhooks.event e ON e.id = d.event_id
         WHERE coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL)
       ) dl;

CREATE OR REPLACE VIEW webhooks_api.attempts WITH (security_barrier) AS
SELECT at.delivery_id, at.webhook_id, at.attempt, at.started_at, at.duration_ms, at.status,
       webhooks.shown_error(at.error) AS error, at.response_excerpt
  FROM (
        SELECT webhooks.format_id('delivery', a.delivery_id) AS delivery_id,
               webhooks.format_id('webhook', w.id)           AS webhook_id,
               a.attempt,
               a.started_at,
               a.duration_ms,
               a.status,
               a.error,
               a.response_excerpt
          FROM (SELECT id, owner FROM webhooks.webhook UNION ALL SELECT id, owner FROM webhooks.deleted_webhook) w
          JOIN (SELECT id, webhook_id FROM webhooks.delivery UNION ALL SELECT id, webhook_id FROM webhooks.queue) d ON d.webhook_id = w.id
          JOIN webhooks.attempt a ON a.delivery_id = d.id
         WHERE coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL)
        UNION ALL
        SELECT webhooks.format_id('delivery', d.id),
               webhooks.format_id('webhook', w.id),
               d.attempts,
               d.started_at,
               d.duration_ms,
               d.status,
               d.error,
               d.response_excerpt
          FROM (SELECT id, owner FROM webhooks.webhook UNION ALL SELECT id, owner FROM webhooks.deleted_webhook) w
          JOIN webhooks.delivery d ON d.webhook_id = w.id
         WHERE d.started_at IS NOT NULL
           AND coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL)
       ) at;

-- A restore goes on while the worker works.

ALTER TABLE webhooks.worker_state ADD COLUMN restored_at timestamptz;
COMMENT ON COLUMN webhooks.worker_state.restored_at IS 'When rows of a dump last came; for an hour from then on events that nothing refers to stay';

CREATE FUNCTION webhooks.restored()
    RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'restored';
COMMENT ON FUNCTION webhooks.restored IS 'Internal: trigger function of tables that pg_dump takes along: merges a row with one that is there, and tells the worker';

REVOKE ALL ON FUNCTION webhooks.restored FROM PUBLIC;
CREATE TRIGGER restored_row BEFORE INSERT ON webhooks.webhook_stats FOR EACH ROW EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored_row BEFORE INSERT ON webhooks.disabled      FOR EACH ROW EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored_row BEFORE INSERT ON webhooks.set_aside     FOR EACH ROW EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored_row BEFORE INSERT ON webhooks.creation      FOR EACH ROW EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored_row BEFORE INSERT ON webhooks.event_type    FOR EACH ROW EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.webhook_stats FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.disabled      FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.set_aside     FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.event         FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.outbox        FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
CREATE TRIGGER restored AFTER INSERT ON webhooks.queue         FOR EACH STATEMENT EXECUTE FUNCTION webhooks.restored();
ALTER TABLE webhooks.webhook_stats ENABLE ALWAYS TRIGGER restored_row, ENABLE ALWAYS TRIGGER restored;
ALTER TABLE webhooks.disabled      ENABLE ALWAYS TRIGGER restored_row, ENABLE ALWAYS TRIGGER restored;
ALTER TABLE webhooks.set_aside     ENABLE ALWAYS TRIGGER restored_row, ENABLE ALWAYS TRIGGER restored;
ALTER TABLE webhooks.creation      ENABLE ALWAYS TRIGGER restored_row;
ALTER TABLE webhooks.event_type    ENABLE ALWAYS TRIGGER restored_row;
ALTER TABLE webhooks.event         ENABLE ALWAYS TRIGGER restored;
ALTER TABLE webhooks.outbox        ENABLE ALWAYS TRIGGER restored;
ALTER TABLE webhooks.queue         ENABLE ALWAYS TRIGGER restored;

-- What an operator looks at.

-- What waits, in a time that does not grow with it: counted up to 10,000, and beyond that by the figures that PostgreSQL
-- keeps of its tables.
CREATE VIEW webhooks.backlog WITH (security_barrier) AS
SELECT CASE WHEN q.counted < 10000 THEN q.counted
            ELSE greatest(q.counted, pg_stat_get_live_tuples('webhooks.queue'::regclass)) END
     + CASE WHEN o.counted < 10000 THEN o.counted
            ELSE greatest(o.counted, pg_stat_get_live_tuples('webhooks.outbox'::regclass)) END AS backlog
  FROM (SELECT count(*) AS counted FROM (SELECT FROM webhooks.queue LIMIT 10000) w) q,
       (SELECT count(*) AS counted FROM (SELECT FROM webhooks.outbox x WHERE x.command IS NULL LIMIT 10000) w) o
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.backlog IS 'Internal: how much waits, in bounded time';
COMMENT ON COLUMN webhooks.backlog.backlog IS 'Deliveries, and events that were not dispatched yet; exact below 10,000 of each';

-- Since when something has been due: an event that was not dispatched, or a delivery whose time has come, of a webhook that is
-- active and not paused. Of each webhook that has rows in the queue, the first that are due is looked for among its first hundred.
CREATE VIEW webhooks.oldest_due WITH (security_barrier) AS
WITH RECURSIVE waiting (webhook_id) AS (
    (SELECT q.webhook_id FROM webhooks.queue q ORDER BY q.webhook_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.webhook_id FROM webhooks.queue q WHERE q.webhook_id > w.webhook_id ORDER BY q.webhook_id LIMIT 1)
      FROM waiting w WHERE w.webhook_id IS NOT NULL)
SELECT least(
           (SELECT min(d.since)
              FROM waiting t
              JOIN webhooks.webhook w ON w.id = t.webhook_id AND w.active
             CROSS JOIN LATERAL (
                    SELECT f.since
                      FROM (SELECT q.id, q.seq, coalesce(q.due, to_timestamp(q.seq / 1000000.0)) AS since
                              FROM webhooks.queue q WHERE q.webhook_id = t.webhook_id ORDER BY q.seq LIMIT 100) f
                     WHERE f.since <= clock_timestamp()
                       AND f.id <> ALL (ARRAY(SELECT a.id FROM webhooks.set_aside a))
                     ORDER BY f.seq LIMIT 1) d
             WHERE NOT EXISTS (SELECT FROM webhooks.disabled x
                                WHERE x.webhook_id = w.id AND x.activation = w.activation)
               AND NOT EXISTS (SELECT FROM webhooks.paused p WHERE p.webhook_id = w.id)),
           (SELECT e.created_at
              FROM webhooks.outbox o JOIN webhooks.event e ON e.id = o.id
             WHERE o.command IS NULL AND NOT EXISTS (SELECT FROM webhooks.set_aside a WHERE a.id = o.id)
             ORDER BY o.xid, o.id LIMIT 1)) AS since
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.oldest_due IS 'Internal: since when the oldest has been due that the worker is to send; one row';
COMMENT ON COLUMN webhooks.oldest_due.since IS 'NULL: nothing is due';

CREATE OR REPLACE VIEW webhooks.status WITH (security_barrier) AS
SELECT k.pid,
       k.state,
       b.backlog,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - due.since)), 0)::float8 AS oldest_pending_seconds,
       k.in_flight,
       s.delivered_total,
       s.failed_total,
       s.last_error,
       s.last_error_at,
       k.truncated_total,
       (SELECT count(*) FROM webhooks.set_aside) AS set_aside
  FROM webhooks.worker() k, webhooks.worker_state s, webhooks.backlog b, webhooks.oldest_due due
 WHERE webhooks.may_read();
COMMENT ON COLUMN webhooks.status.backlog IS 'Deliveries that wait, and events that were not dispatched yet; exact below 10,000 of each';
COMMENT ON COLUMN webhooks.status.oldest_pending_seconds IS 'How long the oldest has been due, in seconds; deliveries of webhooks that are not active or paused, and retries that are due later, do not count';

CREATE FUNCTION webhooks.requests_in_flight()
    RETURNS TABLE (webhook_id uuid, delivery_id uuid, since timestamptz, phase text)
    LANGUAGE c VOLATILE ROWS 100 PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'requests_in_flight_wrapper';
COMMENT ON FUNCTION webhooks.requests_in_flight() IS 'Internal: requests that are under way, from shared memory';

CREATE VIEW webhooks.in_flight WITH (security_barrier) AS
SELECT webhooks.format_id('webhook', r.webhook_id) AS webhook_id,
       webhooks.format_id('delivery', r.delivery_id) AS delivery_id,
       r.since,
       r.phase
  FROM webhooks.requests_in_flight() r
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.in_flight IS 'Requests that are under way';
COMMENT ON COLUMN webhooks.in_flight.webhook_id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks.in_flight.delivery_id IS 'delivery_ and 32 hex digits';
COMMENT ON COLUMN webhooks.in_flight.since IS 'Since when';
COMMENT ON COLUMN webhooks.in_flight.phase IS 'waiting for a thread, connecting (name and TLS included), sending, waiting for the answer, or reading the answer';

CREATE VIEW webhooks.webhooks WITH (security_barrier) AS
SELECT webhooks.format_id('webhook', w.id) AS id,
       w.owner,
       CASE WHEN (SELECT webhooks.may_administer()) THEN w.url END AS url,
       w.events,
       CASE WHEN (SELECT webhooks.may_administer()) THEN w.filters END AS filters,
       w.active AND d.webhook_id IS NULL AS active,
       coalesce(d.reason, webhooks.unreadable(
           w.url, w.events, w.secret,
           CASE WHEN w.previous_secret_expires_at > clock_timestamp() THEN w.previous_secret END,
           w.filters, w.max_attempts, w.backoff_multiplier, w.max_delay)) AS disabled_reason,
       p.paused_until,
       w.created_at,
       s.last_delivery,
       CASE WHEN s.activation = w.activation THEN s.first_failed_at END AS failing_since,
       CASE WHEN s.activation = w.activation THEN s.failed_attempts ELSE 0 END AS failed_attempts,
       CASE WHEN s.activation = w.activation THEN s.last_status END AS last_status,
       CASE WHEN s.activation = w.activation THEN webhooks.shown_error(s.last_error) END AS last_error,
       coalesce(s.total_attempts, 0) AS total_attempts,
       coalesce(s.successful_deliveries, 0) AS successful_deliveries,
       coalesce(s.failed_deliveries, 0) AS failed_deliveries
  FROM webhooks.webhook w
  LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
  LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id
  LEFT JOIN webhooks.paused p ON p.webhook_id = w.id
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.webhooks IS 'Webhooks, without their secrets';
COMMENT ON COLUMN webhooks.webhooks.id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks.webhooks.owner IS 'Receives only events of this owner; NULL: of all';
COMMENT ON COLUMN webhooks.webhooks.url IS 'Where it is sent to; for administrators';
COMMENT ON COLUMN webhooks.webhooks.events IS 'Types, prefix.* or *';
COMMENT ON COLUMN webhooks.webhooks.filters IS 'Keys and values an event must have; for administrators';
COMMENT ON COLUMN webhooks.webhooks.active IS 'Switched on, and not switched off by the worker since';
COMMENT ON COLUMN webhooks.webhooks.disabled_reason IS 'Why it sends nothing: the worker has switched it off, or its row cannot be read';
COMMENT ON COLUMN webhooks.webhooks.paused_until IS 'Until when its endpoint has asked to be left alone, by 429 or 503 with Retry-After';
COMMENT ON COLUMN webhooks.webhooks.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks.webhooks.last_delivery IS 'When the last delivery succeeded';
COMMENT ON COLUMN webhooks.webhooks.failing_since IS 'When the first attempt failed that no success has followed; NULL: it is not failing';
COMMENT ON COLUMN webhooks.webhooks.failed_attempts IS 'Attempts that failed since the last success';
COMMENT ON COLUMN webhooks.webhooks.last_status IS 'HTTP status of the last of them';
COMMENT ON COLUMN webhooks.webhooks.last_error IS 'Why the last of them failed; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.webhooks.total_attempts IS 'Requests made';
COMMENT ON COLUMN webhooks.webhooks.successful_deliveries IS 'Deliveries that ended delivered';
COMMENT ON COLUMN webhooks.webhooks.failed_deliveries IS 'Deliveries that ended failed';

REVOKE ALL ON FUNCTION webhooks.requests_in_flight FROM PUBLIC;
REVOKE ALL ON webhooks.backlog, webhooks.oldest_due, webhooks.in_flight, webhooks.webhooks FROM PUBLIC;

-- What is not for people says so.

COMMENT ON FUNCTION webhooks.emit_changes IS 'Internal: trigger function of attached tables; attach() makes the triggers';
COMMENT ON FUNCTION webhooks.webhook_changed IS 'Internal: trigger function of webhooks.webhook: tells the worker and every backend';
COMMENT ON FUNCTION webhooks.install IS 'Internal: what CREATE EXTENSION does last: notes which database this is and calls the launcher at commit';
COMMENT ON FUNCTION webhooks.may_read IS 'Internal: whether the caller may read the log of all owners; the views ask it';
COMMENT ON FUNCTION webhooks.may_administer IS 'Internal: whether the caller is an administrator; the view of API keys asks it';
COMMENT ON FUNCTION webhooks.format_id(text, uuid) IS 'Internal: an id as users see it: prefix and 32 hex digits';
COMMENT ON FUNCTION webhooks.format_time(timestamptz) IS 'Internal: a time as JSON holds it: UTC, ISO 8601, milliseconds';
COMMENT ON FUNCTION webhooks.worker() IS 'Internal: the worker of this database, from shared memory';
COMMENT ON FUNCTION webhooks.delivery_id(uuid, uuid) IS 'Internal: the id of an event''s delivery to a webhook';
COMMENT ON FUNCTION webhooks.visible_owner IS 'Internal: the owner whose rows the caller sees; NULL: those of all, for an administrator. Everybody else is refused';
COMMENT ON FUNCTION webhooks.undispatched IS
    'Internal: deliveries that events in the outbox stand for, by what the worker would decide: all for a reader of the log, an owner''s for the owner';
COMMENT ON VIEW   webhooks.waiting IS 'Internal: deliveries that have not ended, which the caller may see: as a reader of the log, or as their owner';
COMMENT ON VIEW   webhooks.pending IS 'Internal: deliveries that have not ended';
COMMENT ON VIEW   webhooks.webhook_object IS 'Internal: the webhook object of the API, without its secret';
COMMENT ON VIEW   webhooks.delivery_object IS 'Internal: the delivery object of the API';
COMMENT ON FUNCTION webhooks.answer_call IS 'Internal: answers a call whose arguments are in one JSON object';
COMMENT ON FUNCTION webhooks.answer_query IS 'Internal: answers a request that only reads';

-- Bodies as bytes, and what the functions for text are for now. When this script is over, the library gives each new function
-- the rights on the old one of its name.

CREATE FUNCTION webhooks.answer_body(operation text, body bytea)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_bytes_wrapper';
COMMENT ON FUNCTION webhooks.answer_body(text, bytea) IS 'Internal: answers a request with a JSON body, whose path the gateway tells of in a header';
COMMENT ON FUNCTION webhooks.answer_body(text, text) IS 'Internal: the same, with the body as text';
CREATE FUNCTION webhooks_api.create_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('create_webhook', $1);
COMMENT ON FUNCTION webhooks_api.create_webhook(bytea) IS 'POST /api/v1/webhooks';
COMMENT ON FUNCTION webhooks_api.create_webhook(text) IS 'POST /api/v1/webhooks, with the body as text';
CREATE FUNCTION webhooks_api.update_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('update_webhook', $1);
COMMENT ON FUNCTION webhooks_api.update_webhook(bytea) IS 'PUT /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.update_webhook(text) IS 'PUT /api/v1/webhooks/{id}, with the body as text';
CREATE FUNCTION webhooks_api.delete_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('delete_webhook', $1);
COMMENT ON FUNCTION webhooks_api.delete_webhook(bytea) IS 'DELETE /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.delete_webhook(text) IS 'DELETE /api/v1/webhooks/{id}, with the body as text';
CREATE FUNCTION webhooks_api.rotate_secret(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('rotate_secret', $1);
COMMENT ON FUNCTION webhooks_api.rotate_secret(bytea) IS 'POST /api/v1/webhooks/{id}/rotate-secret';
COMMENT ON FUNCTION webhooks_api.rotate_secret(text) IS 'POST /api/v1/webhooks/{id}/rotate-secret, with the body as text';
CREATE FUNCTION webhooks_api.send_test(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('send_test', $1);
COMMENT ON FUNCTION webhooks_api.send_test(bytea) IS 'POST /api/v1/webhooks/{id}/test';
COMMENT ON FUNCTION webhooks_api.send_test(text) IS 'POST /api/v1/webhooks/{id}/test, with the body as text';
CREATE FUNCTION webhooks_api.replay(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('replay', $1);
COMMENT ON FUNCTION webhooks_api.replay(bytea) IS 'POST /api/v1/webhooks/{id}/replay';
COMMENT ON FUNCTION webhooks_api.replay(text) IS 'POST /api/v1/webhooks/{id}/replay, with the body as text';
CREATE FUNCTION webhooks_api.retry_delivery(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('retry_delivery', $1);
COMMENT ON FUNCTION webhooks_api.retry_delivery(bytea) IS 'POST /api/v1/deliveries/{id}/retry';
COMMENT ON FUNCTION webhooks_api.retry_delivery(text) IS 'POST /api/v1/deliveries/{id}/retry, with the body as text';
CREATE FUNCTION webhooks_api.emit(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('emit', $1);
COMMENT ON FUNCTION webhooks_api.emit(bytea) IS 'Emits an event of the token''s owner';
COMMENT ON FUNCTION webhooks_api.emit(text) IS 'Emits an event of the token''s owner, with the body as text';
CREATE FUNCTION webhooks_api.search_performed(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('search_performed', $1);
COMMENT ON FUNCTION webhooks_api.search_performed(bytea) IS 'Emits search.performed';
COMMENT ON FUNCTION webhooks_api.search_performed(text) IS 'Emits search.performed, with the body as text';
CREATE FUNCTION webhooks_api.user_activity(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('user_activity', $1);
COMMENT ON FUNCTION webhooks_api.user_activity(bytea) IS 'Emits user.activity';
COMMENT ON FUNCTION webhooks_api.user_activity(text) IS 'Emits user.activity, with the body as text';

COMMENT ON FUNCTION webhooks_api.check_request IS 'PostgREST''s db-pre-request: ends requests for schema webhooks_api with 401 unless they carry a good token, and with 405 if they write to a view; passes all others';

REVOKE ALL ON FUNCTION webhooks.answer_body(text, bytea),
    webhooks_api.create_webhook(bytea),
    webhooks_api.update_webhook(bytea),
    webhooks_api.delete_webhook(bytea),
    webhooks_api.rotate_secret(bytea),
    webhooks_api.send_test(bytea),
    webhooks_api.replay(bytea),
    webhooks_api.retry_delivery(bytea),
    webhooks_api.emit(bytea),
    webhooks_api.search_performed(bytea),
    webhooks_api.user_activity(bytea) FROM PUBLIC;
