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
