-- The log, and the worker.

SELECT event_type, state, attempts, last_status
FROM webhooks.deliveries
ORDER BY created_at, id;

SELECT state AS worker, backlog, in_flight, delivered_total, failed_total
FROM webhooks.status;
