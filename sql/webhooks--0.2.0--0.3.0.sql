\echo Use "ALTER EXTENSION webhooks UPDATE TO '0.3.0'" to load this file. \quit

-- From 0.2.0 to 0.3.0. CREATE EXTENSION at 0.3.0 makes the same from sql/*.sql: a test compares the two.
