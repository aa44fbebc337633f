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

CREATE FUNCTION webhooks.unreadable(
    url text, events text[], secret text, previous_secret text, filters jsonb,
    max_attempts integer, backoff_multiplier float8, max_delay integer
) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'unreadable_wrapper';
COMMENT ON FUNCTION webhooks.unreadable(text, text[], text, text, jsonb, integer, float8, integer) IS
    'Why a webhook with these values sends nothing: what of them cannot be read; NULL: all can';

CREATE FUNCTION webhooks.shown_error(error text)
    RETURNS text LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'shown_error_wrapper';
COMMENT ON FUNCTION webhooks.shown_error IS 'The error of an attempt as the caller may read it: which address was refused is for administrators alone';

REVOKE ALL ON FUNCTION webhooks.unreadable, webhooks.shown_error FROM PUBLIC;

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
           'delivery_stats', jsonb_build_object(
               'total_attempts', coalesce(s.total_attempts, 0),
               'successful_deliveries', coalesce(s.successful_deliveries, 0),
               'failed_deliveries', coalesce(s.failed_deliveries, 0))) AS object
  FROM webhooks.webhook w
  LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
  LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id;

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
       coalesce(s.failed_deliveries, 0) AS failed_deliveries
  FROM webhooks.webhook w
  LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
  LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id
 WHERE coalesce(w.owner = (SELECT webhooks.visible_owner()), (SELECT webhooks.visible_owner()) IS NULL);
COMMENT ON COLUMN webhooks_api.webhooks.disabled_reason IS 'Why it sends nothing: the worker has switched it off, or its row cannot be read';

COMMENT ON FUNCTION webhooks.wants(text[], text, jsonb, text, text, text, text) IS
    'Whether a webhook with these events, owner and filters gets an event with this type, owner and content; where the filters cannot be read, whether it may get it once they can';

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
               coalesce(q.due, q.created_at)                 AS next_attempt_at,
               q.last_status,
               q.last_error,
               q.created_at,
               NULL::timestamptz                             AS completed_at
          FROM webhooks.pending q
          JOIN webhooks.webhook w ON w.id = q.webhook_id
          LEFT JOIN webhooks.event e ON e.id = q.event_id
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
               coalesce(q.due, q.created_at)               AS next_attempt_at,
               q.last_status,
               q.last_error,
               q.created_at,
               NULL::timestamptz                           AS completed_at
          FROM webhooks.webhook w
          JOIN webhooks.waiting q ON q.webhook_id = w.id
          LEFT JOIN webhooks.event e ON e.id = q.event_id
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
