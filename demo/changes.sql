-- A row is inserted: row 1.
INSERT INTO memories (content, tags) VALUES ('Prefers tea to coffee', '{drinks}');

-- One statement inserts rows 2 and 3: each has its own event.
INSERT INTO memories (content, tags) VALUES
    ('Works from Lisbon', '{places}'),
    ('Allergic to nuts', '{health}');

-- A row is changed.
UPDATE memories SET metadata = '{"confirmed": true}' WHERE id = 3;

-- A row is deleted. Both webhooks subscribe to this. The receiver answers 500 twice at /flaky, on purpose:
-- the extension retries one second later, then two seconds later.
DELETE FROM memories WHERE id = 2;
