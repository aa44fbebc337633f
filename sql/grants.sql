-- PUBLIC gets nothing. Runs last, so that it covers everything above.
REVOKE ALL ON SCHEMA webhooks FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA webhooks FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA webhooks FROM PUBLIC;

SELECT webhooks.install();
