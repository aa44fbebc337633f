-- What an application does all day.

INSERT INTO memories (content, tags) VALUES ('Prefers tea to coffee', '{drinks}');

INSERT INTO memories (content, tags) VALUES
    ('Works from Lisbon', '{places}'),
    ('Allergic to nuts', '{health}');

UPDATE memories SET metadata = '{"confirmed": true}' WHERE content = 'Allergic to nuts';

DELETE FROM memories WHERE content = 'Works from Lisbon';

-- The receiver will answer the flaky endpoint's first two attempts with 500: the next come one and two seconds later.
