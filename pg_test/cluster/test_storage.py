"""What goes below the executor into our tables is there for every plan, and what goes wrong on the way hurts nobody else."""

from collections import Counter

import psycopg
import pytest
from receiver import Answer

LARGE = (1_800, 1_900, 2_000, 2_100, 3_000, 64_000, 900_000)


def test_rows_of_any_size_are_found_through_the_index(db, sink):
    db.execute("CREATE TABLE memories (id int PRIMARY KEY, content text)")
    db.execute("SELECT webhooks.attach('memories')")
    db.execute("INSERT INTO memories SELECT g, 'small' FROM generate_series(1, 300) g")
    for number, size in enumerate(LARGE, 1_000):
        db.execute(
            "INSERT INTO memories SELECT %s, string_agg(md5(random()::text), '') FROM generate_series(1, %s)", number, size // 32
        )
    db.execute("INSERT INTO memories SELECT g, repeat(md5(g::text), 80) FROM generate_series(2000, 2549) g")
    expected = 300 + len(LARGE) + 550
    bodies = sink.take(expected, timeout=60)
    assert len({body["data"]["id"] for body in bodies}) == expected
    ids = [row["id"] for row in db.rows("SELECT id FROM webhooks.event")]
    db.execute("SET enable_seqscan = off")
    found = db.one("SELECT count(*) FROM webhooks.event WHERE id = ANY (%s)", ids)
    assert found == len(ids) == expected


def test_answers_of_any_size_are_found_through_the_index(db, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1, "max_delay": 1})
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.execute("SET enable_seqscan = off")
    delivery = db.the_delivery(webhook)["id"].removeprefix("delivery_")
    assert db.one("SELECT count(*) FROM webhooks.delivery WHERE id = %s", delivery) == 1
    assert db.one("SELECT count(*) FROM webhooks.attempt WHERE delivery_id = %s AND attempt = 1", delivery) == 1


def test_a_writer_that_is_cancelled_inside_its_types_code_is_cancelled_and_nothing_else(db):
    db.create_webhook("http://127.0.0.1:9/", ["memory.*"])
    db.execute("CREATE TYPE mood AS ENUM ('calm')")
    db.execute(
        "CREATE FUNCTION slowly(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN '1'; END $$"
    )
    db.execute("CREATE CAST (mood AS json) WITH FUNCTION slowly(mood)")
    db.execute("CREATE TABLE memories (id int PRIMARY KEY, mood mood)")
    db.execute("SELECT webhooks.attach('memories')")
    began = db.one("SELECT pg_postmaster_start_time()")
    backend = db.one("SELECT pg_backend_pid()")
    db.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.execute("INSERT INTO memories VALUES (1, 'calm')")
    db.execute("RESET statement_timeout")
    assert db.one("SELECT pg_backend_pid()") == backend
    assert db.one("SELECT pg_postmaster_start_time()") == began
    assert db.one("SELECT count(*) FROM memories") == 0


def test_a_trigger_that_attach_did_not_make_is_an_error_not_a_crash(db):
    db.create_webhook("http://127.0.0.1:9/", ["memory.*"])
    db.execute("CREATE TABLE memories (id int PRIMARY KEY)")
    for trigger in ("AFTER INSERT ON memories FOR EACH STATEMENT", "BEFORE INSERT ON memories FOR EACH ROW"):
        db.execute(f"CREATE TRIGGER mine {trigger} EXECUTE FUNCTION webhooks.emit_changes()")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="attach"):
            db.execute("INSERT INTO memories VALUES (1)")
        db.execute("DROP TRIGGER mine ON memories")
    db.execute("INSERT INTO memories VALUES (1)")


@pytest.mark.parametrize("table", ["event", "outbox", "delivery", "attempt"])
def test_an_index_that_needs_expressions_is_refused_on_tables_that_are_written_without(db, receiver, table):
    column = "xid" if table == "outbox" else "data" if table == "event" else "duration_ms"
    for index in (f"((({column}::text)))", f"({column}) WHERE {column} IS NOT NULL"):
        db.fails(f"CREATE INDEX ON webhooks.{table} {index}", state="42809", says=(f"webhooks.{table}", "index"))
        db.fails(f"CREATE INDEX CONCURRENTLY ON webhooks.{table} {index}", state="42809")
    if column != "data":
        db.execute(f"CREATE INDEX ON webhooks.{table} ({column})")
    db.execute("CREATE TABLE own (t text)")
    db.execute("CREATE INDEX ON own (lower(t)) WHERE t <> ''")
    db.execute("CREATE INDEX ON webhooks.queue (seq) WHERE attempts > 0")
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)


def test_a_table_of_the_same_name_in_a_database_without_the_extension_takes_any_index(empty_db):
    empty_db.execute("CREATE SCHEMA webhooks")
    empty_db.execute("CREATE TABLE webhooks.event (data text)")
    empty_db.execute("CREATE INDEX ON webhooks.event (lower(data)) WHERE data <> ''")


@pytest.mark.settings({"webhooks.deliveries_per_minute": "0", "webhooks.concurrent_deliveries": "200"})
def test_what_a_lock_has_held_up_is_written_in_order(db, receiver):
    """Else what ended a delivery could be written before what began it, and it would be sent again."""
    receiver.answer("/hook", Answer(delay=0.2))
    webhook = db.create_webhook(receiver.url())
    pid = db.wait_for_worker()
    waiting = "SELECT waitstart FROM pg_locks WHERE pid = %s AND NOT granted"

    locker = db.connect()
    rounds, each = 2, 3_000
    for number in range(rounds):
        before = number * each
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE webhooks.queue IN EXCLUSIVE MODE")
        db.emit_many(each)
        receiver.wait(before + 150, "/hook", timeout=30)
        db.wait_until("SELECT in_flight FROM webhooks.status", 0, timeout=30)
        # More than goes into one transaction waits to be written by now: what began deliveries in the first, what ended
        # some of them in the second. The first has just given up, and the second need not.
        since = db.wait_until(waiting, lambda since: since is not None, params=[pid])
        db.wait_until(waiting, lambda now: now != since, params=[pid])
        locker.execute("COMMIT")
        db.wait_for_states(webhook, delivered=before + each, timeout=30)
    db.settle()
    attempts = Counter(request.header("X-Lanonasis-Delivery") for request in receiver.to("/hook"))
    assert Counter(attempts.values()) == {1: rounds * each}
    assert db.one("SELECT set_aside FROM webhooks.status") == 0
