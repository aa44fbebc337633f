"""What the worker leaves to vacuum, and does not keep from it, while events flow."""

import time

from receiver import Answer

HANG_SECONDS = 5


def test_no_snapshot_is_held_while_a_request_hangs_for_5_seconds(make_flowing, record):
    """With events flowing the worker has one short transaction after the other; none of them lives as long as a request."""
    flow = make_flowing({"webhooks.request_timeout": "1min"})
    gate = flow.receiver.gate()
    flow.receiver.answer("/hang", Answer(hold=gate))
    flow.db.create_webhook(flow.receiver.url("/hang"), ["user.activity"])
    flow.db.emit()
    flow.receiver.wait_under_way(1, "/hang")
    worker = flow.worker()
    watching = """
        SELECT coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8, age(backend_xmin), xact_start::text
          FROM pg_stat_activity WHERE pid = %s"""
    until = time.monotonic() + HANG_SECONDS
    seen, free = set(), 0
    while time.monotonic() < until:
        seconds, held, begun = flow.db.execute(watching, worker).fetchone()
        assert seconds < 1, "a transaction that is as long as a request"
        free += held is None
        seen.add(begun)
        time.sleep(0.002)
    assert free, "it always held a snapshot"
    assert len(seen) > HANG_SECONDS, "it did nothing"
    assert flow.receiver.under_way("/hang") == 1
    # With no snapshot held, what died while it hung can go.
    flow.db.execute("CREATE TABLE doomed AS SELECT n FROM generate_series(1, 100) n")
    flow.db.execute("DELETE FROM doomed")
    flow.db.wait_until("SELECT pg_relation_size('doomed')", lambda size: vacuumed(flow.db, size), timeout=5)
    gate.open()
    record("a request hangs for 5 s", flow.finish(), rounds=1)


def vacuumed(db, size):
    db.execute("VACUUM doomed")
    return size == 0


def test_what_the_worker_does_reaches_autovacuum(make_flowing, record):
    """The worker deletes what has been delivered: autovacuum must hear of it, from the worker, and clean up."""
    flow = make_flowing(
        {
            "autovacuum_naptime": "1s",
            "autovacuum_vacuum_threshold": 100,
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_insert_threshold": -1,
        }
    )
    flow.db.wait_until(
        "SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = 'webhooks.outbox'::regclass", lambda n: n >= 100, timeout=20
    )
    flow.db.wait_until(
        "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relid = 'webhooks.outbox'::regclass",
        lambda n: n >= 1,
        timeout=60,
    )
    record("autovacuum hears of what the worker deletes", flow.finish(), rounds=1)
