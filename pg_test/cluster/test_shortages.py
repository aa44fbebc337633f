"""What the server lacks is not the endpoint's fault: no descriptor, no thread. Deliveries wait, no attempt is counted, and status
and the log say why."""

import time

import pytest
from receiver import Answer

ERROR = "SELECT last_error FROM webhooks.status"
# Longer than three attempts take.
HARD_SECONDS = 4
# Each request needs a connection of its own.
CLOSES = Answer(headers=(("Connection", "close"),), then="close")


def warnings(db, server, words):
    """Lines of the server's log about this database's worker that hold these words."""
    pid = str(db.one("SELECT pid FROM webhooks.status"))
    return [it for it in server.log().splitlines() if f"[{pid}]" in it and words in it and "HINT" not in it]


def warm(db, receiver):
    """A webhook that has delivered one event, so that all files are open that a delivery needs."""
    receiver.answer("/hook", CLOSES)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.settle()
    return webhook


@pytest.mark.settings({"webhooks.request_timeout": "1min"})
def test_without_descriptors_deliveries_wait_and_none_fails(db, cluster, receiver):
    webhook = warm(db, receiver)
    # Whoever gets one holds it.
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate, headers=CLOSES.headers, then="close"))
    with cluster.without_descriptors(db.wait_for_worker()):
        db.emit_many(20)
        said = db.wait_until(ERROR, lambda it: it is not None)
        assert "no file descriptor" in said and "wait" in said
        time.sleep(HARD_SECONDS)
        assert db.one("SELECT last_error_at > now() - interval '1 minute' FROM webhooks.status")
        assert [it["attempts"] for it in db.deliveries(webhook, "pending")] == [0] * 20
        shown = db.get_webhook(webhook)
        assert shown["delivery_stats"]["total_attempts"] == 1 and shown["failing"] is None
        assert db.one("SELECT count(*) FROM webhooks.attempts") == 1
        assert len(warnings(db, cluster, "no file descriptor")) == 1
    gate.open()
    db.wait_for_states(webhook, delivered=21, failed=0, timeout=20)
    assert {it["attempts"] for it in db.deliveries(webhook)} == {1}
    assert len(receiver.to("/hook")) == 21


def test_what_waited_is_in_its_place_when_there_are_descriptors_again(db, cluster, receiver):
    webhook = warm(db, receiver)
    with cluster.without_descriptors(db.wait_for_worker()):
        db.emit_many(10)
        db.wait_until(ERROR, lambda it: it is not None)
        db.emit_many(10)
        time.sleep(1)
    db.wait_for_states(webhook, delivered=21, timeout=20)
    sent = [it.json["id"] for it in receiver.to("/hook")]
    # Five at once may overtake each other.
    assert all(abs(sorted(sent).index(it) - place) <= 5 for place, it in enumerate(sent)), sent


def test_what_waits_for_descriptors_is_not_lost_by_a_restart(db, cluster, receiver):
    webhook = warm(db, receiver)
    with cluster.without_descriptors(db.wait_for_worker()):
        db.emit_many(10)
        db.wait_until(ERROR, lambda it: it is not None)
        db.stop_worker()
    db.start_worker()
    db.wait_for_states(webhook, delivered=11, timeout=20)
    assert {it["attempts"] for it in db.deliveries(webhook)} == {1}


def test_as_many_requests_are_made_at_once_as_there_are_descriptors_for(db, cluster, receiver):
    webhook = warm(db, receiver)
    gate = receiver.gate()
    slow = []
    for n in range(4):
        receiver.answer(f"/slow/{n}", Answer(hold=gate, headers=CLOSES.headers, then="close"))
        slow.append(db.create_webhook(receiver.url(f"/slow/{n}"), ["search.performed"]))
    with cluster.without_descriptors(db.wait_for_worker(), spare=8):
        db.emit_many(5, "search.performed")
        db.wait_until(ERROR, lambda it: it is not None)
        db.emit_many(10)
        gate.open()
        for each in slow:
            db.wait_for_states(each, delivered=5, timeout=20)
        db.wait_for_states(webhook, delivered=16, timeout=20)
    assert db.one("SELECT max(attempts) FROM webhooks.deliveries") == 1


def test_without_threads_deliveries_wait_and_none_fails(db, cluster, receiver):
    """The first delivery of a worker starts its threads."""
    webhook = db.create_webhook(receiver.url())
    pid = db.wait_for_worker()
    assert db.one("SELECT threads FROM webhooks.worker()") == 0
    with cluster.limited(pid, "nproc", 1):
        db.emit_many(5)
        assert "no thread" in db.wait_until(ERROR, lambda it: it is not None)
        time.sleep(HARD_SECONDS)
        assert [it["attempts"] for it in db.deliveries(webhook, "pending")] == [0] * 5
        assert len(warnings(db, cluster, "no thread")) == 1
    db.wait_for_states(webhook, delivered=5, failed=0, timeout=20)
    assert {it["attempts"] for it in db.deliveries(webhook)} == {1}
