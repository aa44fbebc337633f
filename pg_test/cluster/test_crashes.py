"""What a crash does to one delivery: it comes again with the same ids, its retry is still due, and nothing is sent of what a
crash can still undo. Crashes while events flow are in faults/."""

import threading

import pytest
from receiver import Answer


@pytest.fixture
def crashing(make_server, make_database):
    server = make_server()
    return make_database(server=server)


def test_what_is_sent_again_after_a_crash_has_the_same_ids(crashing, receiver):
    db = crashing
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate), 200)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    (first,) = receiver.wait(1)
    db.server.crash()
    gate.open()
    db.server.start()
    second = receiver.wait(2, timeout=30)[1]
    for name in ("X-Lanonasis-Delivery", "webhook-id"):
        assert first.header(name) == second.header(name)
    assert (first.json["id"], first.json["created"], first.json["data"]) == (
        second.json["id"],
        second.json["created"],
        second.json["data"],
    )
    db.reconnect()
    db.wait_for_states(webhook, delivered=1)


def test_nothing_is_sent_of_a_transaction_that_a_crash_can_still_undo(make_server, make_database, receiver):
    """A writer with synchronous_commit = off is seen before it is safe; the server dies the moment a request arrives."""
    server = make_server(
        {
            "shared_preload_libraries": "webhooks",
            "webhooks.allowed_networks": "127.0.0.0/8",
            "wal_writer_delay": "10s",
            "wal_writer_flush_after": "1GB",
        }
    )
    db = make_database(server=server)
    db.memories()
    db.create_webhook(receiver.url())
    arrived = threading.Event()
    receiver.answer("/hook", lambda _request: arrived.set() or Answer())
    for _ in range(3):
        arrived.clear()
        before = len(receiver.to())
        db.execute("SET synchronous_commit = off")
        for n in range(20):
            db.execute("INSERT INTO memories (content) VALUES (%s)", str(n))
        assert arrived.wait(20)
        server.crash()
        sent = {it.data["id"] for it in receiver.to()[before:]}
        server.start()
        db.reconnect()
        kept = {row["id"] for row in db.rows("SELECT id::text FROM memories")}
        assert sent and sent <= kept


def test_a_retry_that_waited_is_still_due_after_a_crash(crashing, receiver):
    db = crashing
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1})
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    # The outcome is safe a moment after it is seen; what is not safe is sent again, and counts once.
    db.execute("SELECT txid_current()")
    db.execute("CHECKPOINT")
    db.server.crash()
    db.server.start()
    db.reconnect()
    db.wait_for_states(webhook, delivered=1, timeout=30)
    assert [it.json["attempt"] for it in receiver.to()] == [1, 2]
