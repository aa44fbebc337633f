-- The functions users call. Each is written in Rust (src/functions/), checks its caller there, and
-- works as the owner of the extension only as far as it touches our tables.

CREATE FUNCTION webhooks.create_webhook(
    url text, events text[], secret text = NULL, active boolean = true, retry_policy jsonb = NULL,
    filters jsonb = NULL, owner text = NULL
) RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_webhook_wrapper';
COMMENT ON FUNCTION webhooks.create_webhook IS 'Creates a webhook and returns it, with its secret: the only time it is shown';

CREATE FUNCTION webhooks.list_webhooks(
    active boolean = NULL, event text = NULL, page_limit integer = 20, page_offset integer = 0
) RETURNS jsonb LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_webhooks_wrapper';
COMMENT ON FUNCTION webhooks.list_webhooks IS 'The caller''s webhooks, newest first: {webhooks, pagination}';

CREATE FUNCTION webhooks.get_webhook(webhook_id text)
    RETURNS jsonb LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'get_webhook_wrapper';
COMMENT ON FUNCTION webhooks.get_webhook IS 'A webhook, without its secret';

CREATE FUNCTION webhooks.update_webhook(webhook_id text, changes jsonb)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'update_webhook_wrapper';
COMMENT ON FUNCTION webhooks.update_webhook IS 'Changes the given keys of a webhook and returns it, without its secret';

CREATE FUNCTION webhooks.delete_webhook(webhook_id text)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'delete_webhook_wrapper';
COMMENT ON FUNCTION webhooks.delete_webhook IS 'Deletes a webhook and cancels what waits for it; the log stays until retention removes it';

CREATE FUNCTION webhooks.rotate_secret(webhook_id text, overlap interval = '24 hours')
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rotate_secret_wrapper';
COMMENT ON FUNCTION webhooks.rotate_secret IS 'Gives a webhook a new secret and returns it; deliveries are signed with the previous one too until the overlap ends';

CREATE FUNCTION webhooks.list_deliveries(
    webhook_id text, state text = NULL, page_limit integer = 20, page_offset integer = 0
) RETURNS jsonb LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'list_deliveries_wrapper';
COMMENT ON FUNCTION webhooks.list_deliveries IS 'The deliveries of a webhook, newest first: {deliveries, pagination}';

CREATE FUNCTION webhooks.get_delivery(delivery_id text)
    RETURNS jsonb LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'get_delivery_wrapper';
COMMENT ON FUNCTION webhooks.get_delivery IS 'A delivery with its attempts and its request, without signatures';

CREATE FUNCTION webhooks.retry_delivery(delivery_id text)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'retry_delivery_wrapper';
COMMENT ON FUNCTION webhooks.retry_delivery IS 'Queues a delivery that has ended again, with a fresh max_attempts; attempts one that is pending now';

CREATE FUNCTION webhooks.replay(
    webhook_id text, since timestamptz, until timestamptz = now(), only_failed boolean = false
) RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'replay_wrapper';
COMMENT ON FUNCTION webhooks.replay IS 'Queues the stored events of a period that match the webhook now again; returns how many';

CREATE FUNCTION webhooks.send_test(webhook_id text)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'send_test_wrapper';
COMMENT ON FUNCTION webhooks.send_test IS 'Sends a webhook.test event to this webhook alone, active or not; returns the event''s id';

CREATE FUNCTION webhooks.register_event_type(type text, description text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'register_event_type_wrapper';
COMMENT ON FUNCTION webhooks.register_event_type IS 'Makes an event type known, so that webhooks may subscribe to it; again replaces the description';

CREATE FUNCTION webhooks.emit(event_type text, data jsonb, owner text = NULL)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'emit_wrapper';
COMMENT ON FUNCTION webhooks.emit IS 'Emits an event; returns its id, or NULL when nobody subscribes and so nothing is stored';

CREATE FUNCTION webhooks.search_performed(query text, results jsonb, user_id text = NULL, owner text = NULL)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'search_performed_wrapper';
COMMENT ON FUNCTION webhooks.search_performed IS 'Emits search.performed with a summary of the results: count, ids, scores';

CREATE FUNCTION webhooks.user_activity(user_id text, activity text, details jsonb = '{}', owner text = NULL)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'user_activity_wrapper';
COMMENT ON FUNCTION webhooks.user_activity IS 'Emits user.activity';

CREATE FUNCTION webhooks.attach(
    table_name regclass, object text = 'memory', id_column name = 'id', owner_column name = NULL,
    exclude_columns text[] = '{}', soft_delete_column name = NULL, ignore_columns text[] = '{}',
    include_vectors boolean = false
) RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_table_wrapper';
COMMENT ON FUNCTION webhooks.attach IS 'Emits an event for each change of a table the caller owns; again replaces the settings';

CREATE FUNCTION webhooks.detach(table_name regclass)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';
COMMENT ON FUNCTION webhooks.detach IS 'Ends what attach() began';

CREATE FUNCTION webhooks.sign(body text, secret text)
    RETURNS text LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'sign_wrapper';
COMMENT ON FUNCTION webhooks.sign IS 'The X-Lanonasis-Signature of a body: HMAC-SHA256 in lower-case hex';

CREATE FUNCTION webhooks.verify(body text, signature text, secret text)
    RETURNS boolean LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'verify_wrapper';
COMMENT ON FUNCTION webhooks.verify IS 'Whether a signature is that of the body; takes the same time wherever they differ';

CREATE FUNCTION webhooks.start_worker()
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'start_worker_wrapper';
COMMENT ON FUNCTION webhooks.start_worker IS 'Starts the worker of this database, now; true when it runs';

CREATE FUNCTION webhooks.stop_worker()
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'stop_worker_wrapper';
COMMENT ON FUNCTION webhooks.stop_worker IS 'Stops the worker of this database, now, until start_worker() or the server''s restart; true when it is gone';

CREATE FUNCTION webhooks.metrics()
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'metrics_wrapper';
COMMENT ON FUNCTION webhooks.metrics IS 'Figures of this database in the OpenMetrics text format';

CREATE FUNCTION webhooks.emit_changes()
    RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'emit_changes';
COMMENT ON FUNCTION webhooks.emit_changes IS 'Internal: trigger function of attached tables; attach() makes the triggers';

CREATE FUNCTION webhooks.webhook_changed()
    RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'webhook_changed';
COMMENT ON FUNCTION webhooks.webhook_changed IS 'Internal: trigger function of webhooks.webhook: tells the worker and every backend';

-- Fires for COPY and restore too, and in sessions that play a replica: the worker must know every change.
CREATE TRIGGER webhook_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON webhooks.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION webhooks.webhook_changed();
ALTER TABLE webhooks.webhook ENABLE ALWAYS TRIGGER webhook_changed;

CREATE FUNCTION webhooks.restored()
    RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'restored';
COMMENT ON FUNCTION webhooks.restored IS 'Internal: trigger function of tables that pg_dump takes along: merges a row with one that is there, and tells the worker';

-- A restore goes on while the worker works. Rows that it may have written by then are merged; of all others no key can be
-- there. Our own statements are passed by, and those below the executor fire nothing.
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

CREATE FUNCTION webhooks.install()
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'install_wrapper';
COMMENT ON FUNCTION webhooks.install IS 'Internal: what CREATE EXTENSION does last: notes which database this is and calls the launcher at commit';
