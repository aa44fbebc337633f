\echo Use "ALTER EXTENSION webhooks UPDATE TO '0.2.0'" to load this file. \quit

-- From 0.1.0 to 0.2.0. CREATE EXTENSION at 0.2.0 makes the same from sql/*.sql: a test compares the two.

-- A pause that came with a dump from a cluster whose transactions were far ahead goes on here.
CREATE OR REPLACE VIEW webhooks.pending WITH (security_barrier) AS
SELECT q.id, q.event_id, q.webhook_id, q.attempts, q.due, q.last_status, q.last_error, q.created_at
  FROM webhooks.queue q
 WHERE webhooks.may_read()
UNION ALL
SELECT webhooks.delivery_id(e.id, w.id), e.id, w.id, 0, NULL, NULL, NULL, e.created_at
  FROM (SELECT o.id, o.xid FROM webhooks.outbox o WHERE o.command IS NULL ORDER BY o.xid, o.id LIMIT 10000) o
  JOIN webhooks.event e ON e.id = o.id
  JOIN webhooks.webhook w
    ON e.target = w.id
    OR (e.target IS NULL AND e.about IS DISTINCT FROM w.id
        AND NOT (e.created_at <= w.created_at AND pg_visible_in_snapshot(o.xid, w.created_under))
        AND NOT EXISTS (
            SELECT FROM (SELECT w.paused_at, w.paused_under, w.active
                           WHERE NOT EXISTS (SELECT FROM webhooks.disabled d WHERE d.webhook_id = w.id AND d.activation = w.activation)
                         UNION ALL
                         SELECT d.disabled_at, d.disabled_under, false
                           FROM webhooks.disabled d WHERE d.webhook_id = w.id AND d.activation = w.activation) p (at, under, over)
             WHERE e.created_at >= p.at
               AND (NOT pg_visible_in_snapshot(o.xid, p.under)
                    OR (pg_snapshot_xmin(p.under) > pg_snapshot_xmax(pg_current_snapshot())
                        AND o.xid < pg_snapshot_xmax(pg_current_snapshot())))
               AND (NOT p.over OR (e.created_at <= w.resumed_at AND pg_visible_in_snapshot(o.xid, w.resumed_under))))
        AND webhooks.wants(w.events, w.owner, w.filters, e.type, e.owner, e.data, e.subject))
 WHERE webhooks.may_read();
