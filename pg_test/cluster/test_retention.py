"""Retention removes as fast as events come, and never what somebody needs."""

import contextlib
import time
from pathlib import Path

import pytest
from receiver import Answer, hang
from stalls import Stalls

KEEP = "1s"
AGE_SECONDS = 5
RETENTION = pytest.mark.settings({"webhooks.retention": KEEP, "webhooks.deliveries_per_minute": "0"})
# A database that has no webhook yet may be one that is being restored, and loses nothing.
NOWHERE = "http://127.0.0.1:9/"
EVENTS, EVENTS_A_SECOND = 40_000, 20_000


def fill(db, events):
    """Old events, each with a delivery that has ended: those that come by themselves would take longer to come than to go."""
    with as_our_own(db, "event"):
        insert_old(db, events)


@contextlib.contextmanager
def as_our_own(db, *tables):
    """Rows that a session inserts by itself are taken for those of a dump, for which events are kept."""
    for table in tables:
        db.execute(f"ALTER TABLE webhooks.{table} DISABLE TRIGGER restored")
    yield
    for table in tables:
        db.execute(f"ALTER TABLE webhooks.{table} ENABLE ALWAYS TRIGGER restored")


def insert_old(db, events):
    db.execute(
        """
        WITH made AS (
            INSERT INTO webhooks.event (id, created_at, type, data)
            SELECT (lpad(to_hex(extract(epoch FROM at)::bigint * 1000 + n), 12, '0') || '7'
                    || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
                   at, 'user.activity', '{"object":"activity"}'
              FROM generate_series(1, %s) n, (SELECT now() - interval '1 hour') t(at)
            RETURNING id)
        INSERT INTO webhooks.delivery (id, event_id, webhook_id, state, attempts, created_at, completed_at, started_at, status)
        SELECT overlay(id::text PLACING '8' FROM 15 FOR 1)::uuid, id, gen_random_uuid(), 'delivered', 1,
               now() - interval '1 hour', now() - interval '1 hour', now() - interval '1 hour', 200
          FROM made""",
        events,
    )


def worked(pid):
    """Seconds of CPU that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.quiet
@RETENTION
def test_it_keeps_up_with_20_000_events_a_second_in_a_quarter_of_the_workers_time(db):
    db.create_webhook(NOWHERE)
    db.stop_worker()
    fill(db, EVENTS)
    db.execute("VACUUM (ANALYZE) webhooks.event, webhooks.delivery")
    left = "SELECT (SELECT count(*) FROM webhooks.event) + (SELECT count(*) FROM webhooks.delivery)"
    worker = db.start_worker()
    with Stalls(worker) as stalls:
        cpu, began = worked(worker), time.monotonic()
        db.wait_until(left, 0, timeout=60)
        ended = time.monotonic()
        cpu, took, stalled = worked(worker) - cpu, ended - began, stalls.between(began, ended)
    print(f"{EVENTS / took:,.0f} events a second ({stalled:.1f} of {took:.1f} s stalled), {1e6 * cpu / EVENTS:.1f} µs each")
    assert took < EVENTS / EVENTS_A_SECOND + stalled
    assert cpu < EVENTS / EVENTS_A_SECOND / 4


@pytest.mark.quiet
@RETENTION
def test_it_keeps_up_while_events_wait_to_be_dispatched(db, receiver):
    """Bulk that waits in the outbox, or for its endpoint, does not keep the log from being emptied."""
    receiver.round_trip = False
    receiver.answer("/hook", Answer(delay=0.05))
    db.create_webhook(receiver.url(), ["user.activity"])
    db.stop_worker()
    fill(db, EVENTS // 4)
    db.emit_many(EVENTS)
    db.start_worker()
    old = "SELECT count(*) FROM webhooks.event WHERE created_at < now() - interval '30 minutes'"
    db.wait_until(old, 0, timeout=10)
    assert db.one("SELECT count(*) FROM webhooks.queue") + db.one("SELECT count(*) FROM webhooks.outbox") > EVENTS // 2


@pytest.mark.slow
@RETENTION
def test_it_never_removes_an_event_that_somebody_needs(db, receiver):
    """Of a pending delivery, of a paused webhook, of a transaction that has replayed it, and one that is not dispatched."""
    receiver.answer("/pending", hang())
    receiver.answer("/hook", 200)
    fill(db, 100)
    pending = db.create_webhook(receiver.url("/pending"), ["search.performed"])
    paused = db.create_webhook(receiver.url("/paused"), ["memory.created"])
    waits = db.emit("search.performed")
    receiver.wait_under_way(1, "/pending")
    db.execute("CREATE TABLE memories (id int PRIMARY KEY)")
    db.attach("memories")
    db.stop_worker()
    # Held by a pause, and not dispatched until the worker runs.
    db.execute("INSERT INTO memories VALUES (1)")
    held = db.one("SELECT id FROM webhooks.event WHERE type = 'memory.created'")
    db.update_webhook(paused, active=False)
    replayer = db.connect()
    db.create_webhook(receiver.url("/replayed"), ["user.activity"])
    replayer.execute("BEGIN")
    webhook = db.one("SELECT webhooks.create_webhook(%s, '{user.activity}')", receiver.url("/again"))["id"]
    queued = db.one("SELECT webhooks.replay(%s, now() - interval '2 hours')", webhook, session=replayer)
    assert queued == 100
    db.execute("UPDATE webhooks.delivery SET completed_at = now() - interval '1 hour'")
    time.sleep(AGE_SECONDS)  # until they are old
    db.start_worker()
    events = "SELECT count(*) FROM webhooks.event WHERE type = 'user.activity'"
    db.wait_until("SELECT count(*) FROM webhooks.delivery WHERE state = 'delivered' AND attempts = 1", 0, timeout=30)
    time.sleep(AGE_SECONDS)  # several passes
    assert db.one(events) == 100, "a transaction that is open has queued them"
    replayer.execute("COMMIT")
    receiver.wait(100, "/again", timeout=20)
    db.wait_until(events, 0, timeout=60)
    for event in (waits, "event_" + str(held).replace("-", "")):
        kept = db.one("SELECT count(*) FROM webhooks.event WHERE 'event_' || replace(id::text, '-', '') = %s", event)
        assert kept == 1, event
    db.update_webhook(paused, active=True)
    receiver.wait(1, "/paused")
    assert db.deliveries(pending)[0]["state"] == "pending"


@pytest.mark.slow
@RETENTION
def test_attempts_go_with_their_delivery(db, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"backoff_multiplier": 1})
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    assert db.one("SELECT count(*) FROM webhooks.attempt") == 1
    for table in ("delivery", "event", "attempt"):
        db.wait_until(f"SELECT count(*) FROM webhooks.{table}", 0, timeout=60)


@RETENTION
def test_a_row_that_somebody_locks_stays_and_holds_nobody_up(db):
    db.create_webhook(NOWHERE)
    db.stop_worker()
    fill(db, 2_500)
    locker = db.connect()
    locker.execute("BEGIN")
    locked = db.one("SELECT id FROM webhooks.event ORDER BY id OFFSET 1200 LIMIT 1")
    locker.execute("SELECT FROM webhooks.event WHERE id = %s FOR KEY SHARE", [locked])
    db.start_worker()
    db.wait_until("SELECT count(*) FROM webhooks.event", 1, timeout=30)
    assert db.one("SELECT id FROM webhooks.event") == locked
    locker.execute("COMMIT")
    db.wait_until("SELECT count(*) FROM webhooks.event", 0, timeout=30)


@RETENTION
def test_a_restore_into_a_database_that_is_gone_keeps_nothing_in_the_next(db, make_database, receiver):
    """A place in shared memory is handed on from one database to the next."""
    gone = [make_database(server=db.server) for _ in range(3)]
    for other in gone:
        insert_old(other, 1)
        other.drop()
    fresh = make_database(server=db.server)
    webhook = fresh.create_webhook(receiver.url())
    fresh.emit()
    fresh.wait_for_states(webhook, delivered=1)
    fresh.wait_until("SELECT count(*) FROM webhooks.event", 0, timeout=30)


@pytest.mark.slow
@RETENTION
def test_an_outbox_that_is_rewritten_while_it_is_looked_through_keeps_its_events(db):
    """VACUUM FULL moves a row from the end of the outbox to its beginning, where retention has been."""
    db.create_webhook(NOWHERE)
    db.stop_worker()
    session = db.connect()
    session.execute("BEGIN")
    session.execute("INSERT INTO webhooks.outbox (id) SELECT gen_random_uuid() FROM generate_series(1, 600000)")
    session.execute("ROLLBACK")
    event = "01900000-0000-7000-8000-000000000001"
    with as_our_own(db, "event", "outbox", "set_aside"):
        columns = "(id, created_at, type, data) VALUES (%s, '2024-01-01', 'user.activity', '{}')"
        db.execute(f"INSERT INTO webhooks.event {columns}", event)
        db.execute("INSERT INTO webhooks.outbox (id) VALUES (%s)", event)
        # It stays in the outbox.
        db.execute("INSERT INTO webhooks.set_aside (id, stage, error) VALUES (%s, 'dispatch', 'damaged')", event)
    before = db.one("SELECT pg_relation_size('webhooks.outbox')")
    pid = db.start_worker()
    # It has looked at the first blocks of the outbox.
    with db.stopped_between_transactions(pid, after="retention"):
        db.execute("VACUUM FULL webhooks.outbox")
    assert db.one("SELECT pg_relation_size('webhooks.outbox')") < before
    fill(db, 1)
    # A pass goes through, and finds what may go.
    db.wait_until("SELECT count(*) FROM webhooks.event", 1, timeout=30)
    assert db.one("SELECT id::text FROM webhooks.event") == event
