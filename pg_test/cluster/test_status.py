"""The state of the worker, in all words there are for it; how much waits, and for how long."""

import re

from releases import TOP

PATIENT = {"max_attempts": 100, "backoff_multiplier": 10, "max_delay": 86_400}
# That many rows wait for a webhook that is paused.
MANY = 30_000
QUEUE = """
    INSERT INTO webhooks.queue (id, event_id, webhook_id, seq, due, created_at)
    SELECT gen_random_uuid(), gen_random_uuid(), %s::uuid, n, %s, '2020-01-01' FROM generate_series(1, %s) n"""


def uuid_of(thing):
    return thing["id"].split("_")[1]


def oldest(db):
    return db.one("SELECT oldest_pending_seconds FROM webhooks.status")


# The state


def test_a_library_that_is_not_preloaded_says_so(make_server, make_database):
    server = make_server()
    db = make_database(server=server)
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write("shared_preload_libraries = ''\n")
    server.restart()
    db.reconnect()
    assert db.row("SELECT pid, state FROM webhooks.status") == {"pid": None, "state": "not preloaded"}
    assert db.rows("SELECT * FROM webhooks.in_flight") == []
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write("shared_preload_libraries = 'webhooks'\n")
    server.restart()
    db.reconnect()
    db.wait_for_worker()
    assert db.one("SELECT state FROM webhooks.status") == "running"


def test_the_readme_says_what_to_do_in_each_state(db):
    contract = ["running", "starting", "not running", "not preloaded", "stopped", "disabled", "standby"]
    contract += ["waiting for a worker slot", "version mismatch", "cloned", "no extension"]
    readme = (TOP / "README.md").read_text()
    table = readme[readme.index("| state | what to do |") :].split("\n\n")[0]
    states = " ".join(line.split("|")[1] for line in table.splitlines())
    assert sorted(re.findall(r"`([a-z ]+)`", states)) == sorted(contract)


# What waits


def test_what_no_worker_is_to_send_now_is_not_pending_for_long(db, receiver):
    receiver.answer("/retried", 500)
    retried = db.create_webhook(receiver.url("/retried"), retry_policy=PATIENT)
    paused = db.create_webhook(receiver.url("/paused"), ["search.performed"])
    gone = db.create_webhook(receiver.url("/gone"), ["search.performed"])
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 2, timeout=20)
    db.stop_worker()
    for webhook in (paused, gone):
        db.execute(QUEUE, uuid_of(webhook), None, 3)
        db.execute(QUEUE, uuid_of(webhook), "2020-01-01", 3)
    db.update_webhook(paused, active=False)
    db.execute("INSERT INTO webhooks.disabled (webhook_id, activation, reason) VALUES (%s, 0, 'a test')", uuid_of(gone))
    assert db.one("SELECT backlog FROM webhooks.status") == 13
    assert oldest(db) == 0
    # Due since the retry's time, not since its event.
    db.execute("UPDATE webhooks.queue SET due = now() - interval '100 s' WHERE webhook_id = %s", uuid_of(retried))
    assert 100 <= oldest(db) < 110
    # A delivery that waits for its first attempt, since it was queued.
    queued = "due = NULL, seq = (extract(epoch FROM now() - interval '200 s') * 1e6)::bigint"
    db.execute(f"UPDATE webhooks.queue SET {queued} WHERE webhook_id = %s", uuid_of(retried))
    assert 200 <= oldest(db) < 210
    # An administrator was told of it already.
    set_aside = "INSERT INTO webhooks.set_aside SELECT id, 'fetch', 'a test' FROM webhooks.queue WHERE webhook_id = %s"
    db.execute(set_aside, uuid_of(retried))
    assert oldest(db) == 0
    # What nobody has looked at counts, too.
    db.execute("DELETE FROM webhooks.queue")
    db.emit()
    db.wait_until("SELECT oldest_pending_seconds FROM webhooks.status", lambda seconds: seconds > 0.1)


def test_an_owner_is_told_the_same_of_its_own(db, receiver):
    tenant = db.as_owner("alice")
    told = "SELECT (webhooks_api.status() -> 'data' ->> 'oldest_pending_seconds')::float8"
    db.stop_worker()
    webhook = db.create_webhook(receiver.url(), session=tenant)
    db.execute(QUEUE, uuid_of(webhook), db.one("SELECT now() + interval '1 day'"), 1)
    assert db.one(told, session=tenant) == 0
    db.execute("UPDATE webhooks.queue SET due = now() - interval '100 s'")
    assert 100 <= db.one(told, session=tenant) < 110
    db.update_webhook(webhook, active=False)
    assert db.one(told, session=tenant) == 0


def test_a_backlog_is_counted_in_bounded_time(db, receiver):
    webhook = db.create_webhook(receiver.url(), active=False)
    db.stop_worker()
    db.execute(QUEUE, uuid_of(webhook), None, 9_999)
    assert db.one("SELECT backlog FROM webhooks.status") == 9_999
    db.execute(QUEUE.replace("1, %s", "10000, %s"), uuid_of(webhook), None, MANY)
    db.wait_until("SELECT backlog FROM webhooks.status", lambda backlog: 0.9 * MANY < backlog < 1.1 * MANY)
    plan = db.one("EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM webhooks.status")
    assert rows_read(plan[0]["Plan"], "queue") < 25_000 < MANY
    db.execute("DELETE FROM webhooks.queue")
    assert db.one("SELECT backlog FROM webhooks.status") == 0


def rows_read(node, table):
    """Rows that a plan has read of a table."""
    read = node["Actual Rows"] * node["Actual Loops"] if node.get("Relation Name") == table else 0
    return read + sum(rows_read(it, table) for it in node.get("Plans", []))
