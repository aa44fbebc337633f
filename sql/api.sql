-- What PostgREST exposes: functions that answer with an envelope and set the status, and views of own rows. What they
-- do stands in src/api; here is only how they are called. All of them judge their caller.

CREATE FUNCTION webhooks.answer_body(operation text, body bytea)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_bytes_wrapper';
CREATE FUNCTION webhooks.answer_body(operation text, body text)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_body_wrapper';
COMMENT ON FUNCTION webhooks.answer_body(text, bytea) IS 'Internal: answers a request with a JSON body, whose path the gateway tells of in a header';
COMMENT ON FUNCTION webhooks.answer_body(text, text) IS 'Internal: the same, with the body as text';

CREATE FUNCTION webhooks.answer_call(operation text, arguments text)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_call_wrapper';
COMMENT ON FUNCTION webhooks.answer_call IS 'Internal: answers a call whose arguments are in one JSON object';

CREATE FUNCTION webhooks.answer_query(operation text, parameters text)
    RETURNS json LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_query_wrapper';
COMMENT ON FUNCTION webhooks.answer_query IS 'Internal: answers a request that only reads';

-- Reading: by GET, in a transaction that cannot write. PostgREST keeps limit and offset for itself.

CREATE FUNCTION webhooks_api.list_webhooks(active text = NULL, event text = NULL, page_limit text = NULL, page_offset text = NULL) RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('list_webhooks', pg_catalog.json_build_object('active', active, 'event', event, 'limit', page_limit, 'offset', page_offset)::text);
COMMENT ON FUNCTION webhooks_api.list_webhooks IS 'GET /api/v1/webhooks';

CREATE FUNCTION webhooks_api.get_webhook(webhook_id text = NULL) RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('get_webhook', pg_catalog.json_build_object('webhook_id', webhook_id)::text);
COMMENT ON FUNCTION webhooks_api.get_webhook IS 'GET /api/v1/webhooks/{id}';

CREATE FUNCTION webhooks_api.list_deliveries(webhook_id text = NULL, state text = NULL, page_limit text = NULL, page_offset text = NULL) RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('list_deliveries', pg_catalog.json_build_object('webhook_id', webhook_id, 'state', state, 'limit', page_limit, 'offset', page_offset)::text);
COMMENT ON FUNCTION webhooks_api.list_deliveries IS 'GET /api/v1/webhooks/{id}/deliveries';

CREATE FUNCTION webhooks_api.get_delivery(delivery_id text = NULL) RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('get_delivery', pg_catalog.json_build_object('delivery_id', delivery_id)::text);
COMMENT ON FUNCTION webhooks_api.get_delivery IS 'GET /api/v1/deliveries/{id}';

CREATE FUNCTION webhooks_api.status() RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('status', NULL);
COMMENT ON FUNCTION webhooks_api.status IS 'GET /api/v1/status: the worker, and what waits for own webhooks';

CREATE FUNCTION webhooks_api.activity(minutes text = NULL, webhook_id text = NULL) RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('activity', pg_catalog.json_build_object('minutes', minutes, 'webhook_id', webhook_id)::text);
COMMENT ON FUNCTION webhooks_api.activity IS 'GET /api/v1/activity: attempts at own webhooks, and deliveries that ended, minute by minute';

CREATE FUNCTION webhooks_api.event_types() RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('event_types', NULL);
COMMENT ON FUNCTION webhooks_api.event_types IS 'GET /api/v1/event-types: what own webhooks may subscribe to';

-- Writing: by POST. PostgREST takes the overload that the Content-Type is for. The gateway sends application/octet-stream:
-- so the body arrives whole, whatever bytes it holds. As text/plain, which the gateway of 0.2 sends, PostgREST cuts it at a NUL
-- byte, which its length tells. application/json comes from rpc() of client libraries.

CREATE FUNCTION webhooks_api.create_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('create_webhook', $1);
CREATE FUNCTION webhooks_api.create_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('create_webhook', $1);
CREATE FUNCTION webhooks_api.create_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('create_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.create_webhook(bytea) IS 'POST /api/v1/webhooks';
COMMENT ON FUNCTION webhooks_api.create_webhook(text) IS 'POST /api/v1/webhooks, with the body as text';
COMMENT ON FUNCTION webhooks_api.create_webhook(json) IS 'POST /api/v1/webhooks, by rpc() with url, events, secret, active, retry_policy, filters';

CREATE FUNCTION webhooks_api.update_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('update_webhook', $1);
CREATE FUNCTION webhooks_api.update_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('update_webhook', $1);
CREATE FUNCTION webhooks_api.update_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('update_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.update_webhook(bytea) IS 'PUT /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.update_webhook(text) IS 'PUT /api/v1/webhooks/{id}, with the body as text';
COMMENT ON FUNCTION webhooks_api.update_webhook(json) IS 'PUT /api/v1/webhooks/{id}, by rpc() with webhook_id, changes';

CREATE FUNCTION webhooks_api.delete_webhook(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('delete_webhook', $1);
CREATE FUNCTION webhooks_api.delete_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('delete_webhook', $1);
CREATE FUNCTION webhooks_api.delete_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('delete_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.delete_webhook(bytea) IS 'DELETE /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.delete_webhook(text) IS 'DELETE /api/v1/webhooks/{id}, with the body as text';
COMMENT ON FUNCTION webhooks_api.delete_webhook(json) IS 'DELETE /api/v1/webhooks/{id}, by rpc() with webhook_id';

CREATE FUNCTION webhooks_api.rotate_secret(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('rotate_secret', $1);
CREATE FUNCTION webhooks_api.rotate_secret(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('rotate_secret', $1);
CREATE FUNCTION webhooks_api.rotate_secret(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('rotate_secret', $1::text);
COMMENT ON FUNCTION webhooks_api.rotate_secret(bytea) IS 'POST /api/v1/webhooks/{id}/rotate-secret';
COMMENT ON FUNCTION webhooks_api.rotate_secret(text) IS 'POST /api/v1/webhooks/{id}/rotate-secret, with the body as text';
COMMENT ON FUNCTION webhooks_api.rotate_secret(json) IS 'POST /api/v1/webhooks/{id}/rotate-secret, by rpc() with webhook_id, overlap_seconds';

CREATE FUNCTION webhooks_api.send_test(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('send_test', $1);
CREATE FUNCTION webhooks_api.send_test(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('send_test', $1);
CREATE FUNCTION webhooks_api.send_test(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('send_test', $1::text);
COMMENT ON FUNCTION webhooks_api.send_test(bytea) IS 'POST /api/v1/webhooks/{id}/test';
COMMENT ON FUNCTION webhooks_api.send_test(text) IS 'POST /api/v1/webhooks/{id}/test, with the body as text';
COMMENT ON FUNCTION webhooks_api.send_test(json) IS 'POST /api/v1/webhooks/{id}/test, by rpc() with webhook_id';

CREATE FUNCTION webhooks_api.replay(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('replay', $1);
CREATE FUNCTION webhooks_api.replay(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('replay', $1);
CREATE FUNCTION webhooks_api.replay(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('replay', $1::text);
COMMENT ON FUNCTION webhooks_api.replay(bytea) IS 'POST /api/v1/webhooks/{id}/replay';
COMMENT ON FUNCTION webhooks_api.replay(text) IS 'POST /api/v1/webhooks/{id}/replay, with the body as text';
COMMENT ON FUNCTION webhooks_api.replay(json) IS 'POST /api/v1/webhooks/{id}/replay, by rpc() with webhook_id, since, until, only_failed';

CREATE FUNCTION webhooks_api.retry_delivery(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('retry_delivery', $1);
CREATE FUNCTION webhooks_api.retry_delivery(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('retry_delivery', $1);
CREATE FUNCTION webhooks_api.retry_delivery(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('retry_delivery', $1::text);
COMMENT ON FUNCTION webhooks_api.retry_delivery(bytea) IS 'POST /api/v1/deliveries/{id}/retry';
COMMENT ON FUNCTION webhooks_api.retry_delivery(text) IS 'POST /api/v1/deliveries/{id}/retry, with the body as text';
COMMENT ON FUNCTION webhooks_api.retry_delivery(json) IS 'POST /api/v1/deliveries/{id}/retry, by rpc() with delivery_id';

CREATE FUNCTION webhooks_api.emit(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('emit', $1);
CREATE FUNCTION webhooks_api.emit(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('emit', $1);
CREATE FUNCTION webhooks_api.emit(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('emit', $1::text);
COMMENT ON FUNCTION webhooks_api.emit(bytea) IS 'Emits an event of the token''s owner';
COMMENT ON FUNCTION webhooks_api.emit(text) IS 'Emits an event of the token''s owner, with the body as text';
COMMENT ON FUNCTION webhooks_api.emit(json) IS 'Emits an event of the token''s owner, by rpc() with event_type, data, owner';

CREATE FUNCTION webhooks_api.search_performed(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('search_performed', $1);
CREATE FUNCTION webhooks_api.search_performed(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('search_performed', $1);
CREATE FUNCTION webhooks_api.search_performed(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('search_performed', $1::text);
COMMENT ON FUNCTION webhooks_api.search_performed(bytea) IS 'Emits search.performed';
COMMENT ON FUNCTION webhooks_api.search_performed(text) IS 'Emits search.performed, with the body as text';
COMMENT ON FUNCTION webhooks_api.search_performed(json) IS 'Emits search.performed, by rpc() with query, results, user_id, owner';

CREATE FUNCTION webhooks_api.user_activity(bytea) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('user_activity', $1);
CREATE FUNCTION webhooks_api.user_activity(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('user_activity', $1);
CREATE FUNCTION webhooks_api.user_activity(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('user_activity', $1::text);
COMMENT ON FUNCTION webhooks_api.user_activity(bytea) IS 'Emits user.activity';
COMMENT ON FUNCTION webhooks_api.user_activity(text) IS 'Emits user.activity, with the body as text';
COMMENT ON FUNCTION webhooks_api.user_activity(json) IS 'Emits user.activity, by rpc() with user_id, activity, details, owner';

-- The page. PostgREST sends what has this type to whoever accepts text/html.
CREATE DOMAIN webhooks_api."text/html" AS text;
COMMENT ON DOMAIN webhooks_api."text/html" IS 'A page';

CREATE FUNCTION webhooks_api.portal()
    RETURNS webhooks_api."text/html" LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'portal_wrapper';
COMMENT ON FUNCTION webhooks_api.portal IS 'GET /portal: a page for people, which knows nothing but this API';

-- Own rows, for PostgREST's filters, ordering and client libraries. Who asks is judged once for each statement;
-- security_barrier keeps conditions of the reader's from being tried on rows before.

CREATE VIEW webhooks_api.webhooks WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks_api.webhooks IS 'Own webhooks, without secrets';
COMMENT ON COLUMN webhooks_api.webhooks.id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks_api.webhooks.url IS 'Where to POST';
COMMENT ON COLUMN webhooks_api.webhooks.events IS 'Types, prefix.* or *';
COMMENT ON COLUMN webhooks_api.webhooks.active IS 'Switched on, and not switched off by the worker since';
COMMENT ON COLUMN webhooks_api.webhooks.retry_policy IS 'max_attempts, backoff_multiplier, max_delay';
COMMENT ON COLUMN webhooks_api.webhooks.filters IS 'Keys and values an event must have';
COMMENT ON COLUMN webhooks_api.webhooks.owner IS 'Its owner';
COMMENT ON COLUMN webhooks_api.webhooks.disabled_reason IS 'Why it sends nothing: the worker has switched it off, or its row cannot be read';
COMMENT ON COLUMN webhooks_api.webhooks.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks_api.webhooks.updated_at IS 'When it was last changed';
COMMENT ON COLUMN webhooks_api.webhooks.last_delivery IS 'When the last delivery succeeded';
COMMENT ON COLUMN webhooks_api.webhooks.total_attempts IS 'Requests made';
COMMENT ON COLUMN webhooks_api.webhooks.successful_deliveries IS 'Deliveries that ended delivered';
COMMENT ON COLUMN webhooks_api.webhooks.failed_deliveries IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks_api.webhooks.failing_since IS 'When the first attempt failed that no success has followed; NULL: it is not failing';
COMMENT ON COLUMN webhooks_api.webhooks.failed_attempts IS 'Attempts that failed since the last success';
COMMENT ON COLUMN webhooks_api.webhooks.last_status IS 'HTTP status of the last of them';
COMMENT ON COLUMN webhooks_api.webhooks.last_error IS 'Why the last of them failed';
COMMENT ON COLUMN webhooks_api.webhooks.paused_until IS 'Until when its endpoint has asked to be left alone, by 429 or 503 with Retry-After';

CREATE VIEW webhooks_api.deliveries WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks_api.deliveries IS 'Deliveries to own webhooks: what waits and, until retention removes it, what has ended';
COMMENT ON COLUMN webhooks_api.deliveries.id IS 'delivery_ and 32 hex digits, the X-Lanonasis-Delivery header';
COMMENT ON COLUMN webhooks_api.deliveries.event_id IS 'event_ and 32 hex digits, the webhook-id header';
COMMENT ON COLUMN webhooks_api.deliveries.webhook_id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks_api.deliveries.event_type IS 'Type of the event, as memory.created';
COMMENT ON COLUMN webhooks_api.deliveries.state IS 'pending, delivered, failed or cancelled';
COMMENT ON COLUMN webhooks_api.deliveries.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks_api.deliveries.next_attempt_at IS 'When the next attempt may start, while pending';
COMMENT ON COLUMN webhooks_api.deliveries.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks_api.deliveries.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks_api.deliveries.created_at IS 'When the delivery was made';
COMMENT ON COLUMN webhooks_api.deliveries.completed_at IS 'When it ended';

CREATE VIEW webhooks_api.attempts WITH (security_barrier) AS
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
COMMENT ON VIEW   webhooks_api.attempts IS 'Requests that were made to own webhooks, until retention removes them';
COMMENT ON COLUMN webhooks_api.attempts.delivery_id IS 'webhooks_api.deliveries.id';
COMMENT ON COLUMN webhooks_api.attempts.webhook_id IS 'webhooks_api.webhooks.id';
COMMENT ON COLUMN webhooks_api.attempts.attempt IS 'Counts from 1';
COMMENT ON COLUMN webhooks_api.attempts.started_at IS 'When it started';
COMMENT ON COLUMN webhooks_api.attempts.duration_ms IS 'How long it took, in milliseconds';
COMMENT ON COLUMN webhooks_api.attempts.status IS 'HTTP status, or NULL when there was no answer';
COMMENT ON COLUMN webhooks_api.attempts.error IS 'Why it failed, or a remark';
COMMENT ON COLUMN webhooks_api.attempts.response_excerpt IS 'The first KiB of the answer';
