"""The server's log: what begins and ends, whom it is about, and what to do; never a delivery, never a secret."""

import re

ONE_ATTEMPT = {"max_attempts": 1}


def lines(db, since, words):
    return [line for line in db.server.log(since).splitlines() if words in line]


def test_the_log_says_when_the_worker_starts_and_why_it_stops(db):
    since = db.server.log_size()
    db.stop_worker()
    db.start_worker()
    db.execute("DROP EXTENSION webhooks")
    named = f'the worker of database "{db.name}" has'
    db.server.wait_for_log(f"{named} stopped: the extension was dropped", since)
    told = [line.split("LOG:  ")[1] for line in lines(db, since, named)]
    assert told[0] == f"webhooks: {named} stopped: stop_worker() was called"
    assert re.fullmatch(rf"webhooks: {named} started, version [0-9.]+, 0 webhooks", told[1])
    assert len(told) == 3


def test_the_log_names_a_webhook_that_begins_to_fail_and_recovers_and_no_delivery(db, receiver):
    since = db.server.log_size()
    receiver.answer("/hook", *[500] * 6, 200)
    webhook = db.create_webhook(receiver.url("/hook?token=very-secret"), secret="very-secret-too", retry_policy=ONE_ATTEMPT)
    for count in range(1, 7):
        db.emit()
        db.wait_for_states(webhook, failed=count)
    for count in range(1, 7):
        db.emit()
        db.wait_for_states(webhook, delivered=count)
    db.server.wait_for_log(f"{webhook['id']} has recovered", since)
    (began,) = lines(db, since, f"{webhook['id']} began to fail")
    assert "WARNING:" in began and "the endpoint answered 500" in began
    (hint,) = [line for line in lines(db, since, webhook["id"]) if "HINT:" in line]
    query = re.search(r"SELECT .*;", hint).group(0)
    assert len(db.rows(query)) == 10
    assert len(lines(db, since, webhook["id"])) == 3
    assert "very-secret" not in db.server.log(since)


def test_a_worker_that_is_started_again_repeats_nothing_and_tells_of_the_recovery(db, receiver):
    since = db.server.log_size()
    receiver.answer("/hook", 500, 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    for count in (1, 2):
        db.emit()
        db.wait_for_states(webhook, failed=count)
        db.stop_worker()
        db.start_worker()
    db.emit()
    db.server.wait_for_log(f"{webhook['id']} has recovered", since)
    assert len(lines(db, since, f"{webhook['id']} began to fail")) == 1


def test_the_log_says_that_a_webhook_was_switched_off_and_how_to_switch_it_on(db, receiver):
    since = db.server.log_size()
    receiver.answer("/hook", 410)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.server.wait_for_log(f"{webhook['id']} was switched off: the endpoint answered 410 Gone", since)
    (hint,) = lines(db, since, "HINT:  When its endpoint works again")
    receiver.answer("/hook", 200)
    db.execute(re.search(r"SELECT .*;", hint).group(0))
    assert db.get_webhook(webhook)["active"] is True


def test_a_ca_file_that_cannot_be_read_is_told_of_by_log_and_status(db):
    since = db.server.log_size()
    with db.server.configured({"webhooks.ca_file": "/nonexistent/ca.pem"}):
        error = db.wait_until("SELECT last_error FROM webhooks.status", lambda error: error is not None)
        assert error.startswith("webhooks.ca_file: ") and "/nonexistent/ca.pem" in error
        (line,) = lines(db, since, "webhooks does without webhooks.ca_file")
        assert "/nonexistent/ca.pem" in line
        # A worker that starts says so, too.
        db.execute("UPDATE webhooks.worker_state SET last_error = NULL")
        db.stop_worker()
        db.start_worker()
        db.wait_until("SELECT last_error FROM webhooks.status", error)
