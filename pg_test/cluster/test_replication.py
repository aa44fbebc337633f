"""A publication FOR ALL TABLES takes our tables along: a subscriber whose webhooks.enabled is off sends nothing again."""

from server import PRELOADED


def test_a_subscriber_that_is_not_enabled_sends_nothing_of_what_is_replicated(make_server, make_database, receiver):
    publisher = make_server({**PRELOADED, "wal_level": "logical"})
    subscriber = make_server({**PRELOADED, "webhooks.enabled": "off"})
    source, copy = make_database(server=publisher), make_database(server=subscriber)
    for db in (source, copy):
        db.execute("CREATE TABLE memories (id int PRIMARY KEY, content text)")
        db.attach("memories")
    source.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    copy.execute(
        f"CREATE SUBSCRIPTION everything CONNECTION 'host={publisher.dir} port={publisher.port} user=postgres"
        f" dbname={source.name}' PUBLICATION everything WITH (copy_data = false)"
    )
    try:
        webhook = source.create_webhook(receiver.url())
        # Held in the outbox while it is replicated, and deleted from it later.
        source.stop_worker()
        source.execute("INSERT INTO memories VALUES (1, 'a'), (2, 'b')")
        copy.wait_until("SELECT count(*) FROM webhooks.outbox", 2)
        assert copy.one("SELECT count(*) FROM memories") == 2
        assert copy.one("SELECT count(*) FROM webhooks.webhook") == 1
        copy.wait_until("SELECT state FROM webhooks.status", "disabled")
        source.start_worker()
        source.wait_for_states(webhook, delivered=2)
        # Our own deletions are replicated too: every table has a primary key.
        copy.wait_until("SELECT count(*) FROM webhooks.outbox", 0)
        copy.wait_until("SELECT count(*) FROM webhooks.delivery", 2)
        assert len(receiver.to()) == 2
    finally:
        copy.execute("DROP SUBSCRIPTION everything")
