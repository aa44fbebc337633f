-- The roles of PostgREST, and a table of memories.

CREATE EXTENSION webhooks;

CREATE ROLE web NOLOGIN;
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticator NOINHERIT LOGIN PASSWORD :'password';
GRANT web, anon TO authenticator;
SELECT webhooks.grant_access('web', 'api');
SELECT webhooks.grant_access('authenticator', 'gateway');
GRANT USAGE ON SCHEMA webhooks_api TO anon;
GRANT EXECUTE ON FUNCTION webhooks_api.check_request(), webhooks_api.portal() TO anon;

CREATE TABLE memories (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id   text NOT NULL,
    content    text NOT NULL,
    tags       text[] NOT NULL DEFAULT '{}',
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
SELECT webhooks.attach('memories', owner_column => 'owner_id');
