"""A row that cannot be dispatched or settled is set aside and shown; the others go on."""

import secrets
import time

from receiver import Answer

PAGE = 8192
INCOMPRESSIBLE = 100_000


def forget(db):
    """As somebody does who has looked: what was set aside is not to be sent any more."""
    for table in ("outbox", "queue"):
        db.execute(f"DELETE FROM webhooks.{table} t USING webhooks.set_aside s WHERE s.id = t.id")
    db.execute("DELETE FROM webhooks.set_aside")


def test_an_outcome_that_cannot_be_written_is_set_aside_and_shown_and_the_others_go_on(flow, record):
    db, receiver = flow.db, flow.receiver
    gate = receiver.gate()
    receiver.answer("/aside", Answer(hold=gate))
    webhook = db.create_webhook(receiver.url("/aside"), ["user.activity"])
    event = db.emit()
    receiver.wait(1, "/aside")
    # Its place in the log is taken.
    db.execute(
        """INSERT INTO webhooks.delivery (id, event_id, webhook_id, state, attempts, created_at, completed_at)
           SELECT webhooks.delivery_id(e, w), e, w, 'cancelled', 0, now(), now()
             FROM (SELECT split_part(%s, '_', 2)::uuid AS e, split_part(%s, '_', 2)::uuid AS w) t""",
        event,
        webhook["id"],
    )
    worker = flow.worker()
    began = time.monotonic()
    gate.open()
    db.wait_until("SELECT set_aside FROM webhooks.status", 1)
    row = db.row("SELECT stage, error FROM webhooks.set_aside")
    assert row["stage"] == "settle"
    assert "delivery_pkey" in row["error"]
    db.wait_until("SELECT last_error FROM webhooks.status", lambda error: error is not None and "delivery_pkey" in error)
    flow.wait_for_fresh(time.monotonic())
    until = time.monotonic()
    flow.stopping.wait(0.5)
    assert flow.delays(began, until)[-1] < 2 + flow.stalled(began, until)
    assert flow.worker() == worker
    forget(db)
    record("an outcome that cannot be written", flow.finish(), rounds=1)


def test_an_event_that_cannot_be_read_is_set_aside_and_shown_and_the_others_go_on(flow, record):
    """Two events lie on pages that a bad disk has emptied: one is new, one waits for its retry."""
    db, receiver, server = flow.db, flow.receiver, flow.db.server
    receiver.answer("/later", 500)
    later = db.create_webhook(receiver.url("/later"), ["user.activity"], retry_policy={"max_attempts": 100, "max_delay": 2})
    db.emit(data={"object": "activity", "noise": secrets.token_hex(INCOMPRESSIBLE)})
    db.wait_until("SELECT count(*) FROM webhooks.queue WHERE webhook_id = %s", 1, params=[later["id"].split("_")[1]])
    file = server.data / db.one("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'webhooks.event'::regclass")

    def damage():
        db.stop_worker()
        db.execute("INSERT INTO memories (content) VALUES (%s)", secrets.token_hex(INCOMPRESSIBLE))
        server.stop()
        pages = file.stat().st_size // PAGE
        assert pages >= 2 * INCOMPRESSIBLE // PAGE, "both are out of line"
        file.write_bytes(bytes(pages * PAGE))

    flow.strike(damage)
    db.reconnect()
    db.wait_until("SELECT set_aside FROM webhooks.status", 2, timeout=20)
    rows = db.rows("SELECT stage, error FROM webhooks.set_aside ORDER BY stage")
    assert [row["stage"] for row in rows] == ["dispatch", "fetch"]
    assert all("missing chunk" in row["error"] for row in rows)
    assert "missing chunk" in db.one("SELECT last_error FROM webhooks.status")
    # What can be shown of the others is shown.
    assert db.one("SELECT count(*) FROM webhooks.deliveries WHERE state = 'delivered'") > 0
    # And that is remembered.
    worker = flow.worker()
    began = server.log_size()
    flow.strike(lambda: db.execute("SELECT pg_terminate_backend(%s)", worker), worker)
    assert "rolled back" not in server.log(began)
    forget(db)
    record("events on damaged pages", flow.finish(), rounds=1)
