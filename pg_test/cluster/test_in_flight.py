"""Requests under way, as the view in_flight shows them."""

import socket
import time
from contextlib import closing

import pytest
from receiver import Answer

# In the whole server.
PLACES = 10_000
MANY = {
    "webhooks.max_in_flight": str(PLACES),
    "webhooks.concurrent_deliveries": "1000",
    "webhooks.deliveries_per_minute": "0",
    "webhooks.request_timeout": "60s",
}


def test_requests_under_way_are_shown_with_webhook_time_and_phase(db, receiver):
    gate = receiver.gate()
    receiver.answer("/slow", Answer(hold=gate))
    receiver.answer("/endless", Answer(body=b"x" * 1000, drip=0.5))
    slow = db.create_webhook(receiver.url("/slow"), ["user.activity"])
    endless = db.create_webhook(receiver.url("/endless"), ["search.performed"])
    began = db.one("SELECT clock_timestamp()")
    db.emit_many(3)
    db.emit("search.performed")
    shown = "SELECT webhook_id, phase, count(*) FROM webhooks.in_flight GROUP BY 1, 2 ORDER BY 3 DESC"
    db.wait_until("SELECT count(*) FROM webhooks.in_flight WHERE phase = 'waiting for the answer'", 4)
    assert [tuple(it.values()) for it in db.rows(shown)] == [
        (slow["id"], "waiting for the answer", 3),
        (endless["id"], "waiting for the answer", 1),
    ]
    deliveries = {it["id"] for it in db.rows("SELECT id FROM webhooks.deliveries WHERE state = 'pending'")}
    in_flight = db.rows("SELECT * FROM webhooks.in_flight")
    assert {it["delivery_id"] for it in in_flight} == deliveries
    now = db.one("SELECT clock_timestamp()")
    assert all(began.timestamp() - 0.01 <= it["since"].timestamp() <= now.timestamp() for it in in_flight)
    gate.open()
    db.wait_until("SELECT count(*) FROM webhooks.in_flight WHERE webhook_id = %s", 0, params=[slow["id"]])
    db.settle(20)
    assert db.rows("SELECT * FROM webhooks.in_flight") == []


def test_the_body_of_an_answer_and_a_connection_that_is_not_made_are_phases(db, receiver):
    receiver.answer("/body", Answer(headers=(("Content-Length", "100"),), body=b"x", then="hang"))
    db.create_webhook(receiver.url("/body"), ["user.activity"])
    db.emit()
    db.wait_until("SELECT phase FROM webhooks.in_flight", "reading the answer")
    db.settle(20)


def test_a_worker_that_ends_leaves_no_request_behind(db, receiver):
    receiver.answer("/hook", Answer(hold=receiver.gate()))
    db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT count(*) FROM webhooks.in_flight", 1)
    db.stop_worker()
    assert db.rows("SELECT * FROM webhooks.in_flight") == []


def test_no_tenant_sees_requests_and_no_database_those_of_another(db, make_database, receiver):
    receiver.answer("/hook", Answer(hold=receiver.gate()))
    db.create_webhook(receiver.url(), owner="alice")
    db.emit(owner="alice")
    db.wait_until("SELECT count(*) FROM webhooks.in_flight", 1)
    assert make_database().rows("SELECT * FROM webhooks.in_flight") == []
    tenant = db.as_owner("alice")
    db.fails("SELECT * FROM webhooks.in_flight", state="42501", hint=False, session=tenant)
    reader = db.role()
    db.grant(reader, "read")
    assert len(db.rows("SELECT * FROM webhooks.in_flight", session=db.connect(user=reader))) == 1


@pytest.mark.slow
@pytest.mark.settings(MANY)
def test_requests_are_shown_again_once_the_server_has_free_places(make_database, receiver):
    receiver.answer("/hook", Answer(hold=receiver.gate()))
    other, *crowds = [make_database() for _ in range(4)]
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as deaf:
        for crowd in crowds:
            # Endpoints that do not answer may have half of max_in_flight.
            for _ in range(4):
                crowd.create_webhook(f"http://127.0.0.1:{deaf.getsockname()[1]}/")
            crowd.emit_many(1_000)
            crowd.wait_until("SELECT in_flight FROM webhooks.status", 4_000, timeout=30)
        assert sum(crowd.one("SELECT count(*) FROM webhooks.in_flight") for crowd in crowds) == PLACES
        other.create_webhook(receiver.url())
        other.emit()
        receiver.wait_under_way(1, "/hook")
        assert other.rows("SELECT * FROM webhooks.in_flight") == []
        for crowd in crowds:
            crowd.stop_worker()
    # A request is shown from its beginning or not at all.
    deadline = time.monotonic() + 10
    while not other.rows("SELECT * FROM webhooks.in_flight"):
        assert time.monotonic() < deadline
        other.emit()
