CREATE EXTENSION webhooks;

CREATE TABLE memories (
    id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    content    text NOT NULL,
    tags       text[] NOT NULL DEFAULT '{}',
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- From now on each committed change of this table is an event.
SELECT webhooks.attach('memories');

-- A webhook for all of them. The receiver accepts what comes to /ok.
SELECT webhooks.create_webhook(:'receiver' || '/ok', '{memory.*}', :'secret');

-- Another one, for deletions alone. The receiver answers /flaky with 500 twice before it accepts.
SELECT webhooks.create_webhook(:'receiver' || '/flaky', '{memory.deleted}', :'secret');
