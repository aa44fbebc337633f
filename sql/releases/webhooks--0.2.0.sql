-- Tables. The extension's owner alone may touch them; everybody else goes through functions and views.
-- Each has a primary key, so that a FOR ALL TABLES publication does not make our own DELETE fail, and
-- each says USING heap, since the library writes some of them below the executor.

COMMENT ON SCHEMA webhooks IS 'Signed, retried, rate-limited webhooks sent by PostgreSQL itself';

CREATE TABLE webhooks.event_type (
    name          text        PRIMARY KEY,
    description   text        NOT NULL,
    builtin       boolean     NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL DEFAULT now()
) USING heap;
COMMENT ON TABLE  webhooks.event_type IS 'Event types that a webhook may subscribe to';
COMMENT ON COLUMN webhooks.event_type.name IS 'object.action, in lower case';
COMMENT ON COLUMN webhooks.event_type.description IS 'One sentence for people: when it is sent';
COMMENT ON COLUMN webhooks.event_type.builtin IS 'Comes with the extension (and so is not dumped)';
COMMENT ON COLUMN webhooks.event_type.registered_at IS 'When register_event_type() or attach() added it';

CREATE TABLE webhooks.webhook (
    id                         uuid        PRIMARY KEY,
    owner                      text,
    url                        text        NOT NULL,
    events                     text[]      NOT NULL,
    secret                     text        NOT NULL,
    previous_secret            text,
    previous_secret_expires_at timestamptz,
    active                     boolean     NOT NULL DEFAULT true,
    activation                 integer     NOT NULL DEFAULT 0,
    max_attempts               integer     NOT NULL DEFAULT 3,
    backoff_multiplier         float8      NOT NULL DEFAULT 2,
    max_delay                  integer     NOT NULL DEFAULT 300,
    filters                    jsonb,
    created_at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_under              pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    paused_at                  timestamptz,
    paused_under               pg_snapshot,
    resumed_at                 timestamptz,
    resumed_under              pg_snapshot
) USING heap;
CREATE INDEX webhook_owner ON webhooks.webhook (owner, id);
COMMENT ON TABLE  webhooks.webhook IS 'Endpoints and what they subscribe to; written by users, never by the worker';
COMMENT ON COLUMN webhooks.webhook.id IS 'UUID version 7; shown as webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks.webhook.owner IS 'Receives only events of this owner; NULL: of all';
COMMENT ON COLUMN webhooks.webhook.url IS 'Where to POST, as it was given';
COMMENT ON COLUMN webhooks.webhook.events IS 'Types, prefix.* or *';
COMMENT ON COLUMN webhooks.webhook.secret IS 'Signing secret, in clear since HMAC needs it';
COMMENT ON COLUMN webhooks.webhook.previous_secret IS 'The secret before the last rotation';
COMMENT ON COLUMN webhooks.webhook.previous_secret_expires_at IS 'Until when deliveries are signed with the previous secret too';
COMMENT ON COLUMN webhooks.webhook.active IS 'Switched on by its user; see also webhooks.disabled';
COMMENT ON COLUMN webhooks.webhook.activation IS 'Counts how often it was switched on: a row of webhooks.disabled holds for the activation it names';
COMMENT ON COLUMN webhooks.webhook.max_attempts IS 'Attempts in all, 1 to 100';
COMMENT ON COLUMN webhooks.webhook.backoff_multiplier IS 'Base of the delay between attempts, 1 to 10';
COMMENT ON COLUMN webhooks.webhook.max_delay IS 'Longest delay between attempts, in seconds, 1 to 86400';
COMMENT ON COLUMN webhooks.webhook.filters IS 'Keys and values an event must have; NULL: no filter';
COMMENT ON COLUMN webhooks.webhook.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks.webhook.updated_at IS 'When it was last changed';
COMMENT ON COLUMN webhooks.webhook.created_under IS 'Snapshot of its creation: what had committed by then is not for it';
COMMENT ON COLUMN webhooks.webhook.paused_at IS 'When it was last switched off (created so, by its user, or by the worker)';
COMMENT ON COLUMN webhooks.webhook.paused_under IS 'Snapshot of that: what had committed by then is still for it';
COMMENT ON COLUMN webhooks.webhook.resumed_at IS 'When it was last switched on again';
COMMENT ON COLUMN webhooks.webhook.resumed_under IS 'Snapshot of that: what committed between the two is not for it';

CREATE TABLE webhooks.deleted_webhook (
    id         uuid        PRIMARY KEY,
    owner      text,
    deleted_at timestamptz NOT NULL DEFAULT clock_timestamp()
) USING heap;
COMMENT ON TABLE  webhooks.deleted_webhook IS 'Whose a deleted webhook was, as long as something of it is logged';
COMMENT ON COLUMN webhooks.deleted_webhook.id IS 'Id of the webhook';
COMMENT ON COLUMN webhooks.deleted_webhook.owner IS 'Its owner';
COMMENT ON COLUMN webhooks.deleted_webhook.deleted_at IS 'When it was deleted';

CREATE TABLE webhooks.disabled (
    webhook_id     uuid        PRIMARY KEY,
    activation     integer     NOT NULL,
    reason         text        NOT NULL,
    disabled_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_under pg_snapshot NOT NULL DEFAULT pg_current_snapshot()
) USING heap;
COMMENT ON TABLE  webhooks.disabled IS 'Webhooks that the worker has switched off; apart from webhooks.webhook, so that worker and users never lock the same row';
COMMENT ON COLUMN webhooks.disabled.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.disabled.activation IS 'The activation that it ended; switching on again starts the next';
COMMENT ON COLUMN webhooks.disabled.reason IS 'Why, for people';
COMMENT ON COLUMN webhooks.disabled.disabled_at IS 'When';
COMMENT ON COLUMN webhooks.disabled.disabled_under IS 'Snapshot of that, as webhooks.webhook.paused_under';

CREATE TABLE webhooks.webhook_stats (
    webhook_id            uuid        PRIMARY KEY,
    total_attempts        bigint      NOT NULL DEFAULT 0,
    successful_deliveries bigint      NOT NULL DEFAULT 0,
    failed_deliveries     bigint      NOT NULL DEFAULT 0,
    last_delivery         timestamptz,
    activation            integer     NOT NULL DEFAULT 0,
    failing_since         timestamptz,
    failed_since_success  bigint      NOT NULL DEFAULT 0
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE  webhooks.webhook_stats IS 'Counters of each webhook, written by the worker alone';
COMMENT ON COLUMN webhooks.webhook_stats.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.webhook_stats.total_attempts IS 'Requests made';
COMMENT ON COLUMN webhooks.webhook_stats.successful_deliveries IS 'Deliveries that ended delivered';
COMMENT ON COLUMN webhooks.webhook_stats.failed_deliveries IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks.webhook_stats.last_delivery IS 'When the last delivery succeeded';
COMMENT ON COLUMN webhooks.webhook_stats.activation IS 'The webhook''s activation that the next two belong to';
COMMENT ON COLUMN webhooks.webhook_stats.failing_since IS 'When the first delivery failed that no success has followed';
COMMENT ON COLUMN webhooks.webhook_stats.failed_since_success IS 'Deliveries that failed since the last success';

CREATE TABLE webhooks.creation (
    owner text          PRIMARY KEY,
    at    timestamptz[] NOT NULL
) USING heap;
COMMENT ON TABLE  webhooks.creation IS 'When each owner created webhooks in the last hour, deleted ones included: the creation limit';
COMMENT ON COLUMN webhooks.creation.owner IS 'Owner of the webhooks';
COMMENT ON COLUMN webhooks.creation.at IS 'Creations of the last hour';

CREATE TABLE webhooks.event (
    id         uuid        PRIMARY KEY,
    created_at timestamptz NOT NULL,
    type       text        NOT NULL,
    owner      text,
    target     uuid,
    about      uuid,
    data       text        NOT NULL,
    subject    text
) USING heap;
COMMENT ON TABLE  webhooks.event IS 'What happened: written once, by the transaction in which it happened';
COMMENT ON COLUMN webhooks.event.id IS 'UUID version 7; shown as event_ and 32 hex digits';
COMMENT ON COLUMN webhooks.event.created_at IS 'When the statement emitted it';
COMMENT ON COLUMN webhooks.event.type IS 'webhooks.event_type.name';
COMMENT ON COLUMN webhooks.event.owner IS 'Whose event it is; NULL: nobody''s, and so only for webhooks without an owner';
COMMENT ON COLUMN webhooks.event.target IS 'Only for this webhook (a test)';
COMMENT ON COLUMN webhooks.event.about IS 'Never for this webhook, since it is about it';
COMMENT ON COLUMN webhooks.event.data IS 'The data of the body, as canonical JSON';
COMMENT ON COLUMN webhooks.event.subject IS 'What filters judge where data does not hold the whole row';

CREATE TABLE webhooks.outbox (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id          uuid NOT NULL,
    command     text,
    webhook_id  uuid,
    PRIMARY KEY (xid, id)
) USING heap;
COMMENT ON TABLE  webhooks.outbox IS 'What the worker has not dealt with yet: events to dispatch, rows of the queue to notice';
COMMENT ON COLUMN webhooks.outbox.xid IS 'The top-level transaction that wrote it: with a snapshot this tells what is newly visible';
COMMENT ON COLUMN webhooks.outbox.id IS 'webhooks.event.id, or an id of the command''s own';
COMMENT ON COLUMN webhooks.outbox.command IS 'NULL: an event; queued: the queue has new rows of a webhook';
COMMENT ON COLUMN webhooks.outbox.webhook_id IS 'The webhook of a command';

CREATE TABLE webhooks.queue (
    id              uuid        PRIMARY KEY,
    event_id        uuid        NOT NULL,
    webhook_id      uuid        NOT NULL,
    seq             bigint      NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0,
    attempts_before integer     NOT NULL DEFAULT 0,
    due             timestamptz,
    last_status     integer,
    last_error      text,
    created_at      timestamptz NOT NULL
) USING heap;
CREATE INDEX queue_webhook ON webhooks.queue (webhook_id, seq);
CREATE INDEX queue_due ON webhooks.queue (due, id) WHERE due IS NOT NULL;
COMMENT ON TABLE  webhooks.queue IS 'Deliveries that wait for their first or next attempt';
COMMENT ON COLUMN webhooks.queue.id IS 'UUID version 8, derived from event and webhook; shown as delivery_ and 32 hex digits';
COMMENT ON COLUMN webhooks.queue.event_id IS 'webhooks.event.id';
COMMENT ON COLUMN webhooks.queue.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.queue.seq IS 'Order within a webhook: microseconds since 1970 when it was queued, made unique';
COMMENT ON COLUMN webhooks.queue.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.queue.attempts_before IS 'Requests made before retry_delivery() gave it a fresh max_attempts';
COMMENT ON COLUMN webhooks.queue.due IS 'When the next attempt may start; NULL: at once';
COMMENT ON COLUMN webhooks.queue.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.queue.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks.queue.created_at IS 'When the delivery was made';

CREATE TABLE webhooks.delivery (
    id               uuid        PRIMARY KEY,
    event_id         uuid        NOT NULL,
    webhook_id       uuid        NOT NULL,
    state            text        NOT NULL CHECK (state IN ('delivered', 'failed', 'cancelled')),
    attempts         integer     NOT NULL,
    created_at       timestamptz NOT NULL,
    completed_at     timestamptz NOT NULL,
    started_at       timestamptz,
    duration_ms      integer,
    status           integer,
    error            text,
    response_excerpt text
) USING heap;
CREATE INDEX delivery_webhook ON webhooks.delivery (webhook_id, created_at, id);
CREATE INDEX delivery_completed ON webhooks.delivery USING brin (completed_at) WITH (pages_per_range = 32);
COMMENT ON TABLE  webhooks.delivery IS 'Deliveries that have ended, each with its last attempt; append-only until retention';
COMMENT ON COLUMN webhooks.delivery.id IS 'UUID version 8, derived from event and webhook; shown as delivery_ and 32 hex digits';
COMMENT ON COLUMN webhooks.delivery.event_id IS 'webhooks.event.id';
COMMENT ON COLUMN webhooks.delivery.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.delivery.state IS 'How it ended';
COMMENT ON COLUMN webhooks.delivery.attempts IS 'Requests made';
COMMENT ON COLUMN webhooks.delivery.created_at IS 'When the delivery was made';
COMMENT ON COLUMN webhooks.delivery.completed_at IS 'When it ended';
COMMENT ON COLUMN webhooks.delivery.started_at IS 'When the last attempt started; NULL: there was none';
COMMENT ON COLUMN webhooks.delivery.duration_ms IS 'How long the last attempt took, in milliseconds';
COMMENT ON COLUMN webhooks.delivery.status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.delivery.error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks.delivery.response_excerpt IS 'The first KiB of the last answer';

CREATE TABLE webhooks.attempt (
    delivery_id      uuid        NOT NULL,
    attempt          integer     NOT NULL,
    started_at       timestamptz NOT NULL,
    duration_ms      integer     NOT NULL,
    status           integer,
    error            text,
    response_excerpt text,
    PRIMARY KEY (delivery_id, attempt)
) USING heap;
CREATE INDEX attempt_started ON webhooks.attempt USING brin (started_at) WITH (pages_per_range = 32);
COMMENT ON TABLE  webhooks.attempt IS 'Attempts that another followed; the last one is in webhooks.delivery';
COMMENT ON COLUMN webhooks.attempt.delivery_id IS 'webhooks.queue.id, later webhooks.delivery.id';
COMMENT ON COLUMN webhooks.attempt.attempt IS 'Counts from 1';
COMMENT ON COLUMN webhooks.attempt.started_at IS 'When it started';
COMMENT ON COLUMN webhooks.attempt.duration_ms IS 'How long it took, in milliseconds';
COMMENT ON COLUMN webhooks.attempt.status IS 'HTTP status';
COMMENT ON COLUMN webhooks.attempt.error IS 'Why it failed';
COMMENT ON COLUMN webhooks.attempt.response_excerpt IS 'The first KiB of the answer';

CREATE TABLE webhooks.set_aside (
    id       uuid        PRIMARY KEY,
    stage    text        NOT NULL,
    error    text        NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
) USING heap;
COMMENT ON TABLE  webhooks.set_aside IS 'Rows that the worker could not deal with: each stays where it is and is passed over until it is removed from here and the worker has started again';
COMMENT ON COLUMN webhooks.set_aside.id IS 'Id in webhooks.outbox or webhooks.queue';
COMMENT ON COLUMN webhooks.set_aside.stage IS 'dispatch, fetch (its event cannot be read) or settle (its outcome cannot be written)';
COMMENT ON COLUMN webhooks.set_aside.error IS 'What went wrong';
COMMENT ON COLUMN webhooks.set_aside.at IS 'When';

CREATE TABLE webhooks.worker_state (
    singleton       boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    delivered_total bigint      NOT NULL DEFAULT 0,
    failed_total    bigint      NOT NULL DEFAULT 0,
    attempts_total  bigint      NOT NULL DEFAULT 0,
    last_error      text,
    last_error_at   timestamptz,
    health_at       timestamptz,
    analytics_at    timestamptz
) USING heap WITH (fillfactor = 50);
INSERT INTO webhooks.worker_state DEFAULT VALUES;
COMMENT ON TABLE  webhooks.worker_state IS 'What the worker remembers over restarts; one row';
COMMENT ON COLUMN webhooks.worker_state.singleton IS 'There is one row';
COMMENT ON COLUMN webhooks.worker_state.delivered_total IS 'Deliveries that ended delivered, since the extension was created';
COMMENT ON COLUMN webhooks.worker_state.failed_total IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks.worker_state.attempts_total IS 'Requests made';
COMMENT ON COLUMN webhooks.worker_state.last_error IS 'The last thing that went wrong in the worker itself';
COMMENT ON COLUMN webhooks.worker_state.last_error_at IS 'When';
COMMENT ON COLUMN webhooks.worker_state.health_at IS 'When system.health was last emitted';
COMMENT ON COLUMN webhooks.worker_state.analytics_at IS 'Until when analytics.update has been emitted';

CREATE TABLE webhooks.api_key (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL,
    owner        text        NOT NULL,
    hash         bytea       NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE  webhooks.api_key IS 'API keys: what is known of each, but not the key';
COMMENT ON COLUMN webhooks.api_key.id IS 'UUID version 7; shown as key_ and 32 hex digits, which is the token''s jti';
COMMENT ON COLUMN webhooks.api_key.name IS 'For people: what it is for';
COMMENT ON COLUMN webhooks.api_key.owner IS 'Whose webhooks it is for';
COMMENT ON COLUMN webhooks.api_key.hash IS 'SHA-256 of the whole token';
COMMENT ON COLUMN webhooks.api_key.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks.api_key.expires_at IS 'From when on it is not accepted; NULL: it does not expire';
COMMENT ON COLUMN webhooks.api_key.last_used_at IS 'When it was last seen, written down by the worker some time later';
COMMENT ON COLUMN webhooks.api_key.revoked_at IS 'When it was revoked; NULL: it is not';

CREATE TABLE webhooks.home (
    database oid PRIMARY KEY
) USING heap;
COMMENT ON TABLE  webhooks.home IS 'The database these tables were made in: in a clone (CREATE DATABASE … TEMPLATE) it names another one, and delivery waits for start_worker(). Not dumped: a restored dump delivers';
COMMENT ON COLUMN webhooks.home.database IS 'pg_database.oid';

INSERT INTO webhooks.event_type (name, description, builtin) VALUES
    ('memory.created',   'a memory was inserted, or came back from its soft delete', true),
    ('memory.updated',   'a memory was changed', true),
    ('memory.deleted',   'a memory was deleted, softly too', true),
    ('search.performed', 'somebody searched memories: search_performed()', true),
    ('user.activity',    'a user did something: user_activity()', true),
    ('system.health',    'figures of the worker, every webhooks.health_interval; only for webhooks without an owner', true),
    ('analytics.update', 'figures of an owner, every webhooks.analytics_interval', true),
    ('webhook.disabled', 'an endpoint was switched off automatically', true),
    ('delivery.failed',  'a delivery has used its last attempt', true);

-- What pg_dump takes along: what is configured, what waits, and the events that what waits needs.
SELECT pg_catalog.pg_extension_config_dump('webhooks.event_type', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('webhooks.webhook', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.disabled', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.webhook_stats', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.creation', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.api_key', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.outbox', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.queue', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.set_aside', '');
SELECT pg_catalog.pg_extension_config_dump('webhooks.event',
    'WHERE id IN (SELECT o.id FROM webhooks.outbox o) OR id IN (SELECT q.event_id FROM webhooks.queue q)');
SELECT pg_catalog.pg_extension_config_dump('webhooks.attempt',
    'WHERE delivery_id IN (SELECT q.id FROM webhooks.queue q)');

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
COMMENT ON FUNCTION webhooks.retry_delivery IS 'Queues a delivery that has ended again, with a fresh max_attempts';

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
    exclude_columns text[] = '{}', soft_delete_column name = NULL
) RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_wrapper';
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
COMMENT ON FUNCTION webhooks.emit_changes IS 'Trigger function of attached tables; attach() makes the triggers';

CREATE FUNCTION webhooks.webhook_changed()
    RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'webhook_changed';
COMMENT ON FUNCTION webhooks.webhook_changed IS 'Trigger function of webhooks.webhook: tells the worker and every backend';

-- Fires for COPY and restore too, and in sessions that play a replica: the worker must know every change.
CREATE TRIGGER webhook_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON webhooks.webhook
    FOR EACH STATEMENT EXECUTE FUNCTION webhooks.webhook_changed();
ALTER TABLE webhooks.webhook ENABLE ALWAYS TRIGGER webhook_changed;

CREATE FUNCTION webhooks.install()
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'install_wrapper';
COMMENT ON FUNCTION webhooks.install IS 'What CREATE EXTENSION does last: notes which database this is and calls the launcher at commit';

-- Rights, API keys, and the schema of the REST functions. What a right is for stands in src/functions/access.rs.

-- A right is USAGE on one of these types, which exist for nothing else: so Postgres keeps it with all that it does
-- for privileges, and no GRANT … ON ALL … IN SCHEMA hands one out.
CREATE DOMAIN webhooks.api_access     AS boolean;
CREATE DOMAIN webhooks.emit_access    AS boolean;
CREATE DOMAIN webhooks.read_access    AS boolean;
CREATE DOMAIN webhooks.admin_access   AS boolean;
CREATE DOMAIN webhooks.gateway_access AS boolean;
COMMENT ON DOMAIN webhooks.api_access     IS 'USAGE: the right api, to what has the owner that a verified token names';
COMMENT ON DOMAIN webhooks.emit_access    IS 'USAGE: the right emit, to the emit functions for any owner';
COMMENT ON DOMAIN webhooks.read_access    IS 'USAGE: the right read, to the log of all owners, without bodies';
COMMENT ON DOMAIN webhooks.admin_access   IS 'USAGE: the right admin, to everything';
COMMENT ON DOMAIN webhooks.gateway_access IS 'USAGE: the right gateway; the claims of sessions that such a role opens are believed';

CREATE FUNCTION webhooks.grant_access(role name, what text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'grant_access_wrapper';
COMMENT ON FUNCTION webhooks.grant_access IS 'Gives a role a right: api, emit, read, admin or gateway, with the privileges that it needs';

CREATE FUNCTION webhooks.revoke_access(role name, what text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'revoke_access_wrapper';
COMMENT ON FUNCTION webhooks.revoke_access IS 'Takes a right away, with the privileges that no other right of the role needs';

CREATE FUNCTION webhooks.may_read()
    RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'may_read_wrapper';
COMMENT ON FUNCTION webhooks.may_read IS 'Whether the caller may read the log of all owners; the views ask it';

CREATE FUNCTION webhooks.may_administer()
    RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'may_administer_wrapper';
COMMENT ON FUNCTION webhooks.may_administer IS 'Whether the caller is an administrator; the view of API keys asks it';

CREATE FUNCTION webhooks.create_api_key(name text, owner text, expires_at timestamptz = NULL)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'create_api_key_wrapper';
COMMENT ON FUNCTION webhooks.create_api_key IS 'Makes an API key for an owner and returns it: the only time it is shown';

CREATE FUNCTION webhooks.revoke_api_key(key_id text)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'revoke_api_key_wrapper';
COMMENT ON FUNCTION webhooks.revoke_api_key IS 'Ends an API key, at once and for good';

CREATE SCHEMA webhooks_api;
COMMENT ON SCHEMA webhooks_api IS 'What PostgREST exposes of webhooks';

CREATE FUNCTION webhooks_api.check_request()
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'check_request';
COMMENT ON FUNCTION webhooks_api.check_request IS 'PostgREST''s db-pre-request: ends requests for schema webhooks_api with 401 unless they carry a good token; passes all others';

-- What people look at, and the JSON that functions return.

CREATE FUNCTION webhooks.format_id(kind text, id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN kind || '_' || pg_catalog.replace(id::text, '-', '');
COMMENT ON FUNCTION webhooks.format_id(text, uuid) IS 'An id as users see it: prefix and 32 hex digits';

CREATE FUNCTION webhooks.format_time(at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
COMMENT ON FUNCTION webhooks.format_time(timestamptz) IS 'A time as JSON holds it: UTC, ISO 8601, milliseconds';

CREATE FUNCTION webhooks.worker()
    RETURNS TABLE (pid integer, state text, in_flight integer, threads integer, truncated_total bigint)
    LANGUAGE c VOLATILE ROWS 1 PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'worker_wrapper';
COMMENT ON FUNCTION webhooks.worker() IS 'The worker of this database, from shared memory';

CREATE FUNCTION webhooks.delivery_id(event_id uuid, webhook_id uuid) RETURNS uuid
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'delivery_id_wrapper';
COMMENT ON FUNCTION webhooks.delivery_id(uuid, uuid) IS 'The id of an event''s delivery to a webhook';

CREATE FUNCTION webhooks.wants(
    events text[], owner text, filters jsonb, event_type text, event_owner text, data text, subject text
) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'wants_wrapper';
COMMENT ON FUNCTION webhooks.wants(text[], text, jsonb, text, text, text, text) IS
    'Whether a webhook with these events, owner and filters gets an event with this type, owner and content';

CREATE FUNCTION webhooks.visible_owner()
    RETURNS text LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'visible_owner_wrapper';
COMMENT ON FUNCTION webhooks.visible_owner IS 'The owner whose rows the caller sees; NULL: those of all, for an administrator. Everybody else is refused';

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
    'Deliveries that events in the outbox stand for, by what the worker would decide: all for a reader of the log, an owner''s for the owner';

-- A delivery that succeeds at once never has a queue row: until it is settled, its event's outbox row stands for it.
CREATE VIEW webhooks.waiting WITH (security_barrier) AS
SELECT p.*
  FROM (
        SELECT q.id, q.event_id, q.webhook_id, q.attempts, q.due, q.last_status, q.last_error, q.created_at
          FROM webhooks.queue q
        UNION ALL
        SELECT u.id, u.event_id, u.webhook_id, 0, NULL, NULL, NULL, u.created_at
          FROM webhooks.undispatched() u
       ) p
 WHERE (SELECT webhooks.may_read())
    OR p.webhook_id IN (SELECT m.id FROM webhooks.webhook m WHERE m.owner = (SELECT webhooks.visible_owner()));
COMMENT ON VIEW   webhooks.waiting IS 'Deliveries that have not ended, which the caller may see: as a reader of the log, or as their owner';
COMMENT ON COLUMN webhooks.waiting.id IS 'The delivery';
COMMENT ON COLUMN webhooks.waiting.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.waiting.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.waiting.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.waiting.due IS 'When the next attempt may start; NULL: at once';
COMMENT ON COLUMN webhooks.waiting.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.waiting.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks.waiting.created_at IS 'When the delivery was made';

CREATE VIEW webhooks.pending WITH (security_barrier) AS
SELECT q.id, q.event_id, q.webhook_id, q.attempts, q.due, q.last_status, q.last_error, q.created_at
  FROM webhooks.waiting q
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.pending IS 'Deliveries that have not ended';
COMMENT ON COLUMN webhooks.pending.id IS 'The delivery';
COMMENT ON COLUMN webhooks.pending.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.pending.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.pending.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.pending.due IS 'When the next attempt may start; NULL: at once';
COMMENT ON COLUMN webhooks.pending.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.pending.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks.pending.created_at IS 'When the delivery was made';

-- A branch for each state, so that whoever asks for one does not work out the others.
CREATE VIEW webhooks.deliveries WITH (security_barrier) AS
SELECT dl.*
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
COMMENT ON VIEW   webhooks.deliveries IS 'Every delivery: what waits and, until retention removes it, what has ended';
COMMENT ON COLUMN webhooks.deliveries.id IS 'delivery_ and 32 hex digits, the X-Lanonasis-Delivery header';
COMMENT ON COLUMN webhooks.deliveries.event_id IS 'event_ and 32 hex digits, the webhook-id header';
COMMENT ON COLUMN webhooks.deliveries.webhook_id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks.deliveries.event_type IS 'Type of the event, as memory.created';
COMMENT ON COLUMN webhooks.deliveries.state IS 'pending, delivered, failed or cancelled';
COMMENT ON COLUMN webhooks.deliveries.attempts IS 'Requests made so far';
COMMENT ON COLUMN webhooks.deliveries.next_attempt_at IS 'When the next attempt may start, while pending';
COMMENT ON COLUMN webhooks.deliveries.last_status IS 'HTTP status of the last attempt';
COMMENT ON COLUMN webhooks.deliveries.last_error IS 'Why the last attempt failed';
COMMENT ON COLUMN webhooks.deliveries.created_at IS 'When the delivery was made';
COMMENT ON COLUMN webhooks.deliveries.completed_at IS 'When it ended';

CREATE VIEW webhooks.attempts WITH (security_barrier) AS
SELECT al.*
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
COMMENT ON COLUMN webhooks.attempts.error IS 'Why it failed, or a remark';
COMMENT ON COLUMN webhooks.attempts.response_excerpt IS 'The first KiB of the answer';

CREATE VIEW webhooks.status WITH (security_barrier) AS
SELECT k.pid,
       k.state,
       (SELECT count(*) FROM webhooks.queue) + (SELECT count(*) FROM webhooks.outbox o WHERE o.command IS NULL) AS backlog,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - least(
           (SELECT q.created_at FROM webhooks.queue q ORDER BY q.id LIMIT 1),
           (SELECT e.created_at FROM webhooks.outbox o JOIN webhooks.event e ON e.id = o.id
             WHERE o.command IS NULL ORDER BY o.xid, o.id LIMIT 1)))), 0)::float8 AS oldest_pending_seconds,
       k.in_flight,
       s.delivered_total,
       s.failed_total,
       s.last_error,
       s.last_error_at,
       k.truncated_total,
       (SELECT count(*) FROM webhooks.set_aside) AS set_aside
  FROM webhooks.worker() k, webhooks.worker_state s
 WHERE webhooks.may_read();
COMMENT ON VIEW   webhooks.status IS 'The worker of this database and what waits; one row';
COMMENT ON COLUMN webhooks.status.pid IS 'Process id of the worker, or NULL';
COMMENT ON COLUMN webhooks.status.state IS 'running, or why not';
COMMENT ON COLUMN webhooks.status.backlog IS 'Deliveries that wait, and events that were not dispatched yet';
COMMENT ON COLUMN webhooks.status.oldest_pending_seconds IS 'Age of the oldest of them, in seconds';
COMMENT ON COLUMN webhooks.status.in_flight IS 'Requests under way';
COMMENT ON COLUMN webhooks.status.delivered_total IS 'Deliveries that ended delivered, since the extension was created';
COMMENT ON COLUMN webhooks.status.failed_total IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks.status.last_error IS 'The last thing that went wrong in the worker itself';
COMMENT ON COLUMN webhooks.status.last_error_at IS 'When';
COMMENT ON COLUMN webhooks.status.truncated_total IS 'Rows that could not be rendered whole, since the server started';
COMMENT ON COLUMN webhooks.status.set_aside IS 'Rows that the worker passes over: see webhooks.set_aside';

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
           'disabled_reason', d.reason,
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
COMMENT ON VIEW   webhooks.webhook_object IS 'The webhook object of the API, without its secret';
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
           'next_attempt_at', webhooks.format_time(coalesce(q.due, q.created_at)),
           'last_status', q.last_status,
           'last_error', q.last_error,
           'created_at', webhooks.format_time(q.created_at),
           'completed_at', NULL) AS object
  FROM webhooks.pending q
  JOIN webhooks.webhook w ON w.id = q.webhook_id
  LEFT JOIN webhooks.event e ON e.id = q.event_id
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
COMMENT ON VIEW   webhooks.delivery_object IS 'The delivery object of the API';
COMMENT ON COLUMN webhooks.delivery_object.id IS 'The delivery''s id';
COMMENT ON COLUMN webhooks.delivery_object.event_id IS 'Its event';
COMMENT ON COLUMN webhooks.delivery_object.webhook_id IS 'Its webhook';
COMMENT ON COLUMN webhooks.delivery_object.created_at IS 'When it was made';
COMMENT ON COLUMN webhooks.delivery_object.state IS 'pending, delivered, failed or cancelled';
COMMENT ON COLUMN webhooks.delivery_object.object IS 'The object';

CREATE VIEW webhooks.attached WITH (security_barrier) AS
SELECT t.tgrelid::regclass AS table_name,
       split_part(encode(t.tgargs, 'escape'), '\000', 1) AS object,
       split_part(encode(t.tgargs, 'escape'), '\000', 2) AS id_column,
       nullif(split_part(encode(t.tgargs, 'escape'), '\000', 3), '') AS owner_column,
       nullif(split_part(encode(t.tgargs, 'escape'), '\000', 4), '') AS soft_delete_column,
       (SELECT coalesce(array_agg(x ORDER BY o), '{}')
          FROM unnest(string_to_array(rtrim(encode(t.tgargs, 'escape'), '\000'), '\000')) WITH ORDINALITY AS a(x, o)
         WHERE o > 4 AND t.tgnargs > 4) AS exclude_columns
  FROM pg_catalog.pg_trigger t
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

-- What PostgREST exposes: functions that answer with an envelope and set the status, and views of own rows. What they
-- do stands in src/api; here is only how they are called. All of them judge their caller.

CREATE FUNCTION webhooks.answer_body(operation text, body text)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_body_wrapper';
COMMENT ON FUNCTION webhooks.answer_body IS 'Answers a request with a JSON body, whose path the gateway tells of in a header';

CREATE FUNCTION webhooks.answer_call(operation text, arguments text)
    RETURNS json LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_call_wrapper';
COMMENT ON FUNCTION webhooks.answer_call IS 'Answers a call whose arguments are in one JSON object';

CREATE FUNCTION webhooks.answer_query(operation text, parameters text)
    RETURNS json LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'answer_query_wrapper';
COMMENT ON FUNCTION webhooks.answer_query IS 'Answers a request that only reads';

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
COMMENT ON FUNCTION webhooks_api.activity IS 'GET /api/v1/activity: deliveries of own webhooks that ended, minute by minute';

CREATE FUNCTION webhooks_api.event_types() RETURNS json LANGUAGE sql STABLE PARALLEL UNSAFE
    RETURN webhooks.answer_query('event_types', NULL);
COMMENT ON FUNCTION webhooks_api.event_types IS 'GET /api/v1/event-types: what own webhooks may subscribe to';

-- Writing: by POST. PostgREST takes the overload that the Content-Type is for: text/plain comes from the gateway, so that
-- nobody looks into a body before it is here; application/json from rpc() of client libraries.

CREATE FUNCTION webhooks_api.create_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('create_webhook', $1);
CREATE FUNCTION webhooks_api.create_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('create_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.create_webhook(text) IS 'POST /api/v1/webhooks';
COMMENT ON FUNCTION webhooks_api.create_webhook(json) IS 'POST /api/v1/webhooks, by rpc() with url, events, secret, active, retry_policy, filters';

CREATE FUNCTION webhooks_api.update_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('update_webhook', $1);
CREATE FUNCTION webhooks_api.update_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('update_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.update_webhook(text) IS 'PUT /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.update_webhook(json) IS 'PUT /api/v1/webhooks/{id}, by rpc() with webhook_id, changes';

CREATE FUNCTION webhooks_api.delete_webhook(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('delete_webhook', $1);
CREATE FUNCTION webhooks_api.delete_webhook(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('delete_webhook', $1::text);
COMMENT ON FUNCTION webhooks_api.delete_webhook(text) IS 'DELETE /api/v1/webhooks/{id}';
COMMENT ON FUNCTION webhooks_api.delete_webhook(json) IS 'DELETE /api/v1/webhooks/{id}, by rpc() with webhook_id';

CREATE FUNCTION webhooks_api.rotate_secret(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('rotate_secret', $1);
CREATE FUNCTION webhooks_api.rotate_secret(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('rotate_secret', $1::text);
COMMENT ON FUNCTION webhooks_api.rotate_secret(text) IS 'POST /api/v1/webhooks/{id}/rotate-secret';
COMMENT ON FUNCTION webhooks_api.rotate_secret(json) IS 'POST /api/v1/webhooks/{id}/rotate-secret, by rpc() with webhook_id, overlap_seconds';

CREATE FUNCTION webhooks_api.send_test(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('send_test', $1);
CREATE FUNCTION webhooks_api.send_test(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('send_test', $1::text);
COMMENT ON FUNCTION webhooks_api.send_test(text) IS 'POST /api/v1/webhooks/{id}/test';
COMMENT ON FUNCTION webhooks_api.send_test(json) IS 'POST /api/v1/webhooks/{id}/test, by rpc() with webhook_id';

CREATE FUNCTION webhooks_api.replay(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('replay', $1);
CREATE FUNCTION webhooks_api.replay(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('replay', $1::text);
COMMENT ON FUNCTION webhooks_api.replay(text) IS 'POST /api/v1/webhooks/{id}/replay';
COMMENT ON FUNCTION webhooks_api.replay(json) IS 'POST /api/v1/webhooks/{id}/replay, by rpc() with webhook_id, since, until, only_failed';

CREATE FUNCTION webhooks_api.retry_delivery(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('retry_delivery', $1);
CREATE FUNCTION webhooks_api.retry_delivery(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('retry_delivery', $1::text);
COMMENT ON FUNCTION webhooks_api.retry_delivery(text) IS 'POST /api/v1/deliveries/{id}/retry';
COMMENT ON FUNCTION webhooks_api.retry_delivery(json) IS 'POST /api/v1/deliveries/{id}/retry, by rpc() with delivery_id';

CREATE FUNCTION webhooks_api.emit(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('emit', $1);
CREATE FUNCTION webhooks_api.emit(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('emit', $1::text);
COMMENT ON FUNCTION webhooks_api.emit(text) IS 'Emits an event of the token''s owner';
COMMENT ON FUNCTION webhooks_api.emit(json) IS 'Emits an event of the token''s owner, by rpc() with event_type, data, owner';

CREATE FUNCTION webhooks_api.search_performed(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('search_performed', $1);
CREATE FUNCTION webhooks_api.search_performed(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('search_performed', $1::text);
COMMENT ON FUNCTION webhooks_api.search_performed(text) IS 'Emits search.performed';
COMMENT ON FUNCTION webhooks_api.search_performed(json) IS 'Emits search.performed, by rpc() with query, results, user_id, owner';

CREATE FUNCTION webhooks_api.user_activity(text) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_body('user_activity', $1);
CREATE FUNCTION webhooks_api.user_activity(json) RETURNS json LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN webhooks.answer_call('user_activity', $1::text);
COMMENT ON FUNCTION webhooks_api.user_activity(text) IS 'Emits user.activity';
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
       d.reason AS disabled_reason,
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
COMMENT ON VIEW   webhooks_api.webhooks IS 'Own webhooks, without secrets';
COMMENT ON COLUMN webhooks_api.webhooks.id IS 'webhook_ and 32 hex digits';
COMMENT ON COLUMN webhooks_api.webhooks.url IS 'Where to POST';
COMMENT ON COLUMN webhooks_api.webhooks.events IS 'Types, prefix.* or *';
COMMENT ON COLUMN webhooks_api.webhooks.active IS 'Switched on, and not switched off by the worker since';
COMMENT ON COLUMN webhooks_api.webhooks.retry_policy IS 'max_attempts, backoff_multiplier, max_delay';
COMMENT ON COLUMN webhooks_api.webhooks.filters IS 'Keys and values an event must have';
COMMENT ON COLUMN webhooks_api.webhooks.owner IS 'Its owner';
COMMENT ON COLUMN webhooks_api.webhooks.disabled_reason IS 'Why the worker has switched it off';
COMMENT ON COLUMN webhooks_api.webhooks.created_at IS 'When it was created';
COMMENT ON COLUMN webhooks_api.webhooks.updated_at IS 'When it was last changed';
COMMENT ON COLUMN webhooks_api.webhooks.last_delivery IS 'When the last delivery succeeded';
COMMENT ON COLUMN webhooks_api.webhooks.total_attempts IS 'Requests made';
COMMENT ON COLUMN webhooks_api.webhooks.successful_deliveries IS 'Deliveries that ended delivered';
COMMENT ON COLUMN webhooks_api.webhooks.failed_deliveries IS 'Deliveries that ended failed';

CREATE VIEW webhooks_api.deliveries WITH (security_barrier) AS
SELECT dl.*
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
SELECT at.*
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

-- PUBLIC gets nothing. Runs last, so that it covers everything above.
REVOKE ALL ON SCHEMA webhooks, webhooks_api FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA webhooks, webhooks_api FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA webhooks, webhooks_api FROM PUBLIC;
REVOKE ALL ON TYPE webhooks.api_access, webhooks.emit_access, webhooks.read_access, webhooks.admin_access,
    webhooks.gateway_access FROM PUBLIC;

-- And nobody but the tables' owner sees a row of them, whatever is granted by mistake. No policies: that denies
-- everything, and pg_dump would dump them beside the extension that makes them.
ALTER TABLE webhooks.event_type    ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.webhook       ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.deleted_webhook ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.disabled      ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.webhook_stats ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.creation      ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.event         ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.outbox        ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.queue         ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.delivery      ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.attempt       ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.set_aside     ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.worker_state  ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.api_key       ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks.home          ENABLE ROW LEVEL SECURITY;

-- With the rest of it: what default privileges of whoever makes the extension gave to roles is taken away.
SELECT webhooks.install();
