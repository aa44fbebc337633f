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
    failed_since_success  bigint      NOT NULL DEFAULT 0,
    first_failed_at       timestamptz,
    failed_attempts       bigint      NOT NULL DEFAULT 0,
    last_status           integer,
    last_error            text,
    paused_until          timestamptz,
    paused_url            text
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE  webhooks.webhook_stats IS 'Counters of each webhook, written by the worker alone';
COMMENT ON COLUMN webhooks.webhook_stats.webhook_id IS 'webhooks.webhook.id';
COMMENT ON COLUMN webhooks.webhook_stats.total_attempts IS 'Requests made';
COMMENT ON COLUMN webhooks.webhook_stats.successful_deliveries IS 'Deliveries that ended delivered';
COMMENT ON COLUMN webhooks.webhook_stats.failed_deliveries IS 'Deliveries that ended failed';
COMMENT ON COLUMN webhooks.webhook_stats.last_delivery IS 'When the last delivery succeeded';
COMMENT ON COLUMN webhooks.webhook_stats.activation IS 'The webhook''s activation that what follows belongs to';
COMMENT ON COLUMN webhooks.webhook_stats.failing_since IS 'When the first delivery failed that no success has followed';
COMMENT ON COLUMN webhooks.webhook_stats.failed_since_success IS 'Deliveries that failed since the last success';
COMMENT ON COLUMN webhooks.webhook_stats.first_failed_at IS 'When the first attempt failed that no success has followed';
COMMENT ON COLUMN webhooks.webhook_stats.failed_attempts IS 'Attempts that failed since the last success';
COMMENT ON COLUMN webhooks.webhook_stats.last_status IS 'HTTP status of the last of them';
COMMENT ON COLUMN webhooks.webhook_stats.last_error IS 'Why the last of them failed';
COMMENT ON COLUMN webhooks.webhook_stats.paused_until IS 'Until when its endpoint has asked to be left alone; it holds for this activation and URL';
COMMENT ON COLUMN webhooks.webhook_stats.paused_url IS 'The URL that asked';

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
COMMENT ON COLUMN webhooks.outbox.command IS 'NULL: an event; queued: the queue has new rows of a webhook; hurry and an id: that delivery is to be attempted now';
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
    created_at      timestamptz NOT NULL,
    undecided       boolean     NOT NULL DEFAULT false
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
COMMENT ON COLUMN webhooks.queue.undecided IS 'The webhook''s filters could not be read when the event was dispatched: they judge it once they can be';

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
COMMENT ON COLUMN webhooks.set_aside.stage IS 'dispatch, fetch (its event cannot be read), settle (its outcome cannot be written) or delivery (the worker itself has failed at it three times)';
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
    analytics_at    timestamptz,
    restored_at     timestamptz
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
COMMENT ON COLUMN webhooks.worker_state.restored_at IS 'When rows of a dump last came; for an hour from then on events that nothing refers to stay';

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
    database       oid     PRIMARY KEY,
    made_schema    boolean NOT NULL DEFAULT false,
    served_version text
) USING heap;
COMMENT ON TABLE  webhooks.home IS 'The database these tables were made in: in a clone (CREATE DATABASE … TEMPLATE) it names another one, and delivery waits for start_worker(). Not dumped: a restored dump delivers';
COMMENT ON COLUMN webhooks.home.database IS 'pg_database.oid';
COMMENT ON COLUMN webhooks.home.made_schema IS 'CREATE EXTENSION has made the schema webhooks, so DROP EXTENSION drops it if it is empty';
COMMENT ON COLUMN webhooks.home.served_version IS 'Under which version of the extension a worker has last told PostgREST to read the schema again';

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
