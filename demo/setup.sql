-- The extension, a table of memories, and two endpoints that hear of its changes.

CREATE EXTENSION webhooks;

CREATE TABLE memories (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    content    text NOT NULL,
    tags       text[] NOT NULL DEFAULT '{}',
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

SELECT webhooks.attach('memories');

-- This endpoint accepts everything.
SELECT webhooks.create_webhook(:'receiver' || '/ok', '{memory.*}', :'secret') ->> 'id' AS webhook;

-- This one answers 500 twice before it accepts.
SELECT webhooks.create_webhook(:'receiver' || '/flaky', '{memory.deleted}', :'secret') ->> 'id' AS webhook;
