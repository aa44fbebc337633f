-- What people look at, and the JSON that functions return.

CREATE FUNCTION webhooks.format_id(kind text, id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN kind || '_' || pg_catalog.replace(id::text, '-', '');
COMMENT ON FUNCTION webhooks.format_id(text, uuid) IS 'Internal: an id as users see it: prefix and 32 hex digits';

CREATE FUNCTION webhooks.format_time(at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
COMMENT ON FUNCTION webhooks.format_time(timestamptz) IS 'Internal: a time as JSON holds it: UTC, ISO 8601, milliseconds';

CREATE FUNCTION webhooks.worker()
    RETURNS TABLE (pid integer, state text, in_flight integer, threads integer, truncated_total bigint)
    LANGUAGE c VOLATILE ROWS 1 PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'worker_wrapper';
COMMENT ON FUNCTION webhooks.worker() IS 'Internal: the worker of this database, from shared memory';

CREATE FUNCTION webhooks.delivery_id(event_id uuid, webhook_id uuid) RETURNS uuid
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'delivery_id_wrapper';
COMMENT ON FUNCTION webhooks.delivery_id(uuid, uuid) IS 'Internal: the id of an event''s delivery to a webhook';

CREATE FUNCTION webhooks.wants(
    events text[], owner text, filters jsonb, event_type text, event_owner text, data text, subject text
) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'wants_wrapper';
COMMENT ON FUNCTION webhooks.wants(text[], text, jsonb, text, text, text, text) IS
    'Internal: whether a webhook with these events, owner and filters gets an event with this type, owner and content; where the filters cannot be read, whether it may get it once they can';

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

CREATE FUNCTION webhooks.visible_owner()
    RETURNS text LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'visible_owner_wrapper';
COMMENT ON FUNCTION webhooks.visible_owner IS 'Internal: the owner whose rows the caller sees; NULL: those of all, for an administrator. Everybody else is refused';

-- Views whose readers are not the owner of the tables show nothing unless may_read() says so, once for each
-- statement; security_barrier keeps conditions of the reader's from being tried on rows before. A view that is
-- a UNION ALL by itself is no barrier for the planner, which takes it apart and asks the reader's operators about
-- the most common values of the tables: so each UNION ALL stands in a FROM. Views for our own functions alone read
-- with the rights of whoever reads them.

CREATE FUNCTION webhooks.undispatched()
    RETURNS TABLE (id uuid, event_id uuid, webhook_id uuid, created_at timestamptz)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 100
    AS 'MODULE_PATHNAME', 'undispatched_wrapper';
COMMENT ON FUNCTION webhooks.undispatched IS
    'Internal: deliveries that events in the outbox stand for, by what the worker would decide: all for a reader of the log, an owner''s for the owner';

-- A delivery that succeeds at once never has a queue row: until it is settled, its event's outbox row stands for it.
CREATE VIEW webhooks.waiting WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks.waiting IS 'Internal: deliveries that have not ended, which the caller may see: as a reader of the log, or as their owner';
COMMENT ON COLUMN webhooks.waiting.id IS 'The delivery';
COMMENT ON COLUMN webhooks.waiting.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.waiting.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.waiting.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.waiting.due IS 'When the next attempt may start; NULL: at once';
COMMENT ON COLUMN webhooks.waiting.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.waiting.last_error IS 'Why the last attempt failed; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.waiting.created_at IS 'When the delivery was made';

CREATE VIEW webhooks.pending WITH (security_barrier) AS
SELECT q.id, q.event_id, q.webhook_id, q.attempts, q.due, q.last_status, q.last_error, q.created_at
  FROM webhooks.waiting q
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.pending IS 'Internal: deliveries that have not ended';
COMMENT ON COLUMN webhooks.pending.id IS 'The delivery';
COMMENT ON COLUMN webhooks.pending.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.pending.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.pending.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.pending.due IS 'When the next attempt may start; NULL: at once';
COMMENT ON COLUMN webhooks.pending.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.pending.last_error IS 'Why the last attempt failed; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.pending.created_at IS 'When the delivery was made';

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

-- A branch for each state, so that whoever asks for one does not work out the others.
CREATE VIEW webhooks.deliveries WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks.deliveries IS 'Every delivery: what waits and, until retention removes it, what has ended';
COMMENT ON COLUMN webhooks.deliveries.id IS 'delivery_ and 32 hex digits, the X-Lanonasis-Delivery header';
COMMENT ON COLUMN webhooks.deliveries.event_id IS 'event_ and 32 hex digits, the webhook-id header';
COMMENT ON COLUMN webhooks.deliveries.webhook_id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks.deliveries.event_type IS 'Type of the event, as memory.created';
COMMENT ON COLUMN webhooks.deliveries.state IS 'pending, delivered, failed or cancelled';
COMMENT ON COLUMN webhooks.deliveries.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.deliveries.next_attempt_at IS 'When the next attempt may start, while pending';
COMMENT ON COLUMN webhooks.deliveries.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.deliveries.last_error IS 'Why the last attempt failed; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.deliveries.created_at IS 'When the delivery was made';
COMMENT ON COLUMN webhooks.deliveries.completed_at IS 'When it ended';

CREATE VIEW webhooks.attempts WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks.attempts IS 'Every request that was made, until retention removes it';
COMMENT ON COLUMN webhooks.attempts.delivery_id IS 'webhooks.deliveries.id';
COMMENT ON COLUMN webhooks.attempts.attempt IS 'Counts from 1';
COMMENT ON COLUMN webhooks.attempts.started_at IS 'When it started';
COMMENT ON COLUMN webhooks.attempts.duration_ms IS 'How long it took, in milliseconds';
COMMENT ON COLUMN webhooks.attempts.status IS 'HTTP status, or NULL when there was no answer';
COMMENT ON COLUMN webhooks.attempts.error IS 'Why it failed, or a remark; administrators see the address that was refused';
COMMENT ON COLUMN webhooks.attempts.response_excerpt IS 'The first KiB of the answer';

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

CREATE VIEW webhooks.status WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks.status IS 'The worker of this database and what waits; one row';
COMMENT ON COLUMN webhooks.status.pid IS 'Process id of the worker, or NULL';
COMMENT ON COLUMN webhooks.status.state IS 'running, or why not';
COMMENT ON COLUMN webhooks.status.backlog IS 'Deliveries that wait, and events that were not dispatched yet; exact below 10,000 of each';
COMMENT ON COLUMN webhooks.status.oldest_pending_seconds IS 'How long the oldest has been due, in seconds; deliveries of webhooks that are not active or paused, and retries that are due later, do not count';
COMMENT ON COLUMN webhooks.status.in_flight IS 'Requests under way';
COMMENT ON COLUMN webhooks.status.delivered_total IS 'Deliveries that ended delivered, since the extension was created';
COMMENT ON COLUMN webhooks.status.failed_total IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks.status.last_error IS 'The last thing that went wrong in the worker itself';
COMMENT ON COLUMN webhooks.status.last_error_at IS 'When';
COMMENT ON COLUMN webhooks.status.truncated_total IS 'Rows that could not be rendered whole, since the server started';
COMMENT ON COLUMN webhooks.status.set_aside IS 'Rows that the worker passes over: see webhooks.set_aside';

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

CREATE VIEW webhooks.webhook_object WITH (security_invoker) AS
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
COMMENT ON VIEW   webhooks.webhook_object IS 'Internal: the webhook object of the API, without its secret';
COMMENT ON COLUMN webhooks.webhook_object.id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.webhook_object.owner IS 'Its owner';
COMMENT ON COLUMN webhooks.webhook_object.active IS 'Switched on, and not switched off by the worker since';
COMMENT ON COLUMN webhooks.webhook_object.events IS 'What it subscribes to';
COMMENT ON COLUMN webhooks.webhook_object.object IS 'The object';

CREATE VIEW webhooks.delivery_object WITH (security_invoker) AS
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
COMMENT ON VIEW   webhooks.delivery_object IS 'Internal: the delivery object of the API';
COMMENT ON COLUMN webhooks.delivery_object.id IS 'The delivery''s id';
COMMENT ON COLUMN webhooks.delivery_object.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.delivery_object.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.delivery_object.created_at IS 'When it was made';
COMMENT ON COLUMN webhooks.delivery_object.state IS 'pending, delivered, failed or cancelled';
COMMENT ON COLUMN webhooks.delivery_object.object IS 'The object';

CREATE VIEW webhooks.attached WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks.attached IS 'Tables whose changes are emitted. The triggers themselves hold the settings, so that they go with the table through rename, dump and restore';
COMMENT ON COLUMN webhooks.attached.table_name IS 'The table';
COMMENT ON COLUMN webhooks.attached.object IS 'What a row is called: memory emits memory.created and so on';
COMMENT ON COLUMN webhooks.attached.id_column IS 'The column that becomes data.id';
COMMENT ON COLUMN webhooks.attached.owner_column IS 'The column that holds the owner of a row';
COMMENT ON COLUMN webhooks.attached.soft_delete_column IS 'The column that is NULL while a row is not deleted';
COMMENT ON COLUMN webhooks.attached.exclude_columns IS 'Columns that are never sent';
COMMENT ON COLUMN webhooks.attached.ignore_columns IS 'Columns that are sent, but whose change alone emits nothing';
COMMENT ON COLUMN webhooks.attached.include_vectors IS 'Whether columns of pgvector''s types are sent';

CREATE VIEW webhooks.api_keys WITH (security_barrier) AS
SELECT webhooks.format_id('key', k.id) AS id,
       k.name,
       k.owner,
       k.created_at,
       k.expires_at,
       k.last_used_at,
       k.revoked_at
  FROM webhooks.api_key k
 WHERE webhooks.may_administer();
COMMENT ON VIEW   webhooks.api_keys IS 'API keys, without the keys; for administrators';
COMMENT ON COLUMN webhooks.api_keys.id IS 'key_ and 32 hex digits, as revoke_api_key() takes it';
COMMENT ON COLUMN webhooks.api_keys.name IS 'For people: what it is for';
COMMENT ON COLUMN webhooks.api_keys.owner IS 'Whose webhooks it is for';
COMMENT ON COLUMN webhooks.api_keys.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks.api_keys.expires_at IS 'From when on it is not accepted; NULL: it does not expire';
COMMENT ON COLUMN webhooks.api_keys.last_used_at IS 'When it was last seen, some seconds late';
COMMENT ON COLUMN webhooks.api_keys.revoked_at IS 'When it was revoked; NULL: it is not';
