"""A streaming standby waits; promoted, it delivers what its primary had not."""

import time

import pytest
from server import PRELOADED
from standby import Standby


@pytest.fixture
def make_standby():
    made = []

    def make(db):
        standby = Standby(db.server)
        made.append((standby, db, db.server))
        return standby.start()

    yield make
    for standby, db, primary in made:
        db.server = primary  # which the database is dropped from
        primary.recover()
        primary.alter_system({"synchronous_standby_names": None})  # or writers would wait for ever
        standby.remove()


def test_a_standby_does_nothing_in_recovery_and_delivers_what_waits_when_it_is_promoted(flow, make_standby, record):
    db, receiver, primary = flow.db, flow.receiver, flow.db.server
    receiver.answer("/waiting", 500)
    waiting = db.create_webhook(receiver.url("/waiting"), ["user.activity"], retry_policy={"max_attempts": 100, "max_delay": 1})
    standby = make_standby(db)
    # A commit is seen, and confirmed, when the standby has it.
    primary.alter_system({"synchronous_standby_names": "*"})
    db.emit()
    receiver.wait(2, "/waiting")
    flow.for_a_while()
    standby.follows()
    assert standby.in_recovery()
    assert not [title for title in standby.processes() if "webhooks" in title]
    # Had it sent anything, it would have come twice.
    seen = [(it.path, it.header("X-Lanonasis-Delivery"), it.json["attempt"]) for it in receiver.to()]
    assert len(set(seen)) == len(seen)

    died = {}

    def fail_over():
        died["at"] = time.time()
        primary.crash()
        died["behind"] = standby.behind_seconds(died["at"])
        receiver.answer("/waiting", 200)
        db.server = standby
        standby.promote()

    children = primary.children()
    # What the standby had not heard of when its primary died is done again, beside what was in flight.
    strike = flow.strike(fail_over, *children)
    strike.settled -= died["behind"]
    assert not standby.in_recovery()
    account = flow.finish()
    db.wait_for_states(waiting, delivered=1)
    record("a standby is promoted", account)
    assert standby.alarms() == []


def test_a_stop_on_a_standby_outlasts_its_promotion(make_server, make_database, make_standby, receiver):
    db = make_database(server=make_server(dict(PRELOADED)))
    primary = db.server
    webhook = db.create_webhook(receiver.url())
    standby = make_standby(db)
    standby.follows()
    db.server = standby
    db.reconnect()
    assert db.row("SELECT pid, state FROM webhooks.status") == {"pid": None, "state": "standby"}
    assert db.one("SELECT webhooks.start_worker()") is False
    assert db.one("SELECT webhooks.stop_worker()") is True
    assert db.one("SELECT state FROM webhooks.status") == "standby"
    primary.crash()
    standby.promote()
    db.wait_until("SELECT pg_is_in_recovery()", False)
    launched = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'webhooks launcher'"
    db.wait_until(launched, 1)
    assert db.one("SELECT state FROM webhooks.status") == "stopped"
    db.emit()
    # Work that waits, and what makes the launcher look again, start nothing.
    db.execute("CREATE DATABASE another")
    db.wait_until("SELECT count(*) FROM pg_stat_activity WHERE datname = 'another'", 0)
    assert db.row("SELECT pid, state, backlog FROM webhooks.status") == {"pid": None, "state": "stopped", "backlog": 1}
    assert receiver.to() == []
    db.start_worker()
    db.wait_for_states(webhook, delivered=1)
    assert standby.alarms() == []
