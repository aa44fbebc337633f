-- The log of deliveries, and the worker.

SELECT event_type,
       (webhooks.get_delivery(id) #>> '{request,body}')::jsonb #>> '{data,id}' AS row,
       webhooks.get_webhook(webhook_id) ->> 'url' AS url,
       state, attempts, last_status
FROM webhooks.deliveries
ORDER BY event_id, url DESC;

SELECT state AS worker, backlog, in_flight, delivered_total, failed_total
FROM webhooks.status;
