"""A webhook whose endpoint refuses: since when, how often and with what; and retries that a user does not want to wait for."""

from database import some_uuid
from forms import is_now, time_of
from receiver import reset

# Attempts after 0 s, 1 s, 10 s, 100 s: what failed twice waits a while.
PATIENT = {"max_attempts": 4, "backoff_multiplier": 10}


def failing(db, webhook, session=None):
    return db.one("SELECT webhooks.get_webhook(%s) -> 'failing'", webhook["id"], session=session)


def wait_for_failing(db, webhook, attempts):
    """What is said of it once so many attempts have failed in a row."""
    db.wait_until("SELECT webhooks.get_webhook(%s) -> 'failing' -> 'attempts'", attempts, params=[webhook["id"]])
    return failing(db, webhook)


def test_attempts_that_fail_are_told_though_no_delivery_has_ended(db, receiver):
    receiver.answer("/hook", 403, 503, 503, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    assert failing(db, webhook) is None
    db.emit()
    told = wait_for_failing(db, webhook, 2)
    (delivery,) = db.deliveries(webhook, "pending")
    attempts = db.attempts(delivery["id"])
    assert abs((time_of(told["since"]) - attempts[0]["started_at"]).total_seconds()) < 0.5
    assert (told["last_status"], told["last_error"]) == (503, "the endpoint answered 503")
    (listed,) = db.one("SELECT webhooks.list_webhooks()")["webhooks"]
    assert listed["failing"] == told
    assert listed["active"] and listed["delivery_stats"]["failed_deliveries"] == 0
    db.emit()
    assert wait_for_failing(db, webhook, 3)["since"] == told["since"]
    db.emit()
    db.wait_until("SELECT webhooks.get_webhook(%s) -> 'failing' IS NOT DISTINCT FROM 'null'", params=[webhook["id"]])


def test_what_never_answers_is_told_with_the_error_and_no_status(db):
    webhook = db.create_webhook("http://127.0.0.1:9/nobody", retry_policy=PATIENT)
    db.emit()
    told = wait_for_failing(db, webhook, 1)
    assert told["last_status"] is None and "refused" in told["last_error"]


def test_what_failed_is_still_known_when_the_worker_has_started_again(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    before = wait_for_failing(db, webhook, 1)
    db.stop_worker()
    assert failing(db, webhook) is not None
    db.start_worker()
    db.wait_for_worker()
    known = failing(db, webhook)["attempts"]
    db.emit()
    after = wait_for_failing(db, webhook, lambda it: it > known)
    assert after["since"] == before["since"]


def test_switching_on_begins_anew(db, receiver):
    receiver.answer("/hook", 500, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1})
    db.emit()
    wait_for_failing(db, webhook, 2)
    db.update_webhook(webhook, active=False)
    assert failing(db, webhook)["attempts"] == 2, "why it was switched off is still to be seen"
    db.update_webhook(webhook, active=True)
    assert failing(db, webhook) is None


def test_what_it_was_can_be_put_back(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    wait_for_failing(db, webhook, 1)
    assert db.update_webhook(webhook, **db.get_webhook(webhook))["failing"]["attempts"] >= 1


# A delivery that waits


def test_retry_delivery_attempts_one_that_waits_now_and_its_attempts_go_on(db, receiver):
    receiver.answer("/hook", 500, 500, 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    receiver.wait(2)
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE webhook_id = %s", 2, params=[webhook["id"]])
    delivery = db.the_delivery(webhook, "pending")["id"]
    told = db.one("SELECT webhooks.retry_delivery(%s)", delivery)
    assert (told["id"], told["state"]) == (delivery, "pending") and is_now(told["next_attempt_at"], 2)
    assert receiver.wait(3, timeout=4)[2].json["attempt"] == 3
    # It waits 100 seconds now, and no less because it was to be tried after 10 before.
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE webhook_id = %s", 3, params=[webhook["id"]])
    wait = "SELECT extract(epoch FROM next_attempt_at - clock_timestamp()) FROM webhooks.deliveries WHERE id = %s"
    assert db.one(wait, delivery) > 60
    db.one("SELECT webhooks.retry_delivery(%s)", delivery)
    db.wait_for_states(webhook, delivered=1)
    assert [it.json["attempt"] for it in receiver.requests] == [1, 2, 3, 4]


def test_a_delivery_that_waits_has_the_attempts_that_are_left_and_no_more(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={**PATIENT, "max_attempts": 3})
    db.emit()
    receiver.wait(2)
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE webhook_id = %s", 2, params=[webhook["id"]])
    db.one("SELECT webhooks.retry_delivery(%s)", db.the_delivery(webhook, "pending")["id"])
    db.wait_for_states(webhook, failed=1)
    assert len(receiver.requests) == 3


def test_a_retry_that_is_rolled_back_attempts_nothing(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    receiver.wait(2)
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE webhook_id = %s", 2, params=[webhook["id"]])
    delivery = db.the_delivery(webhook, "pending")["id"]
    with db.connect() as session, session.transaction(force_rollback=True):
        db.one("SELECT webhooks.retry_delivery(%s)", delivery, session=session)
    db.send_test(webhook)
    receiver.wait(1, where=lambda it: it.json["type"] == "webhook.test")
    assert len(receiver.to(where=lambda it: it.json["type"] != "webhook.test")) == 2


def test_a_delivery_that_nobody_may_see_is_not_attempted(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT, session=db.as_owner("alice"))
    db.emit(owner="alice")
    receiver.wait(1)
    delivery = db.the_delivery(webhook, "pending")["id"]
    db.fails("SELECT webhooks.retry_delivery(%s)", delivery, state="P0002", session=db.as_owner("bob"))


def test_a_delivery_that_waits_after_a_restart_is_attempted_now_too(db, receiver):
    """It is in no memory: what is due in more than a minute is not read."""
    receiver.answer("/hook", reset(), 500, 500, 200)
    policy = {"max_attempts": 5, "backoff_multiplier": 10, "max_delay": 86_400}
    webhook = db.create_webhook(receiver.url(), retry_policy=policy)
    db.emit()
    delivery = db.the_delivery(webhook, "pending")["id"]
    db.wait_until("SELECT attempts >= 1 FROM webhooks.deliveries WHERE id = %s", params=[delivery])
    db.stop_worker()
    db.execute("UPDATE webhooks.queue SET due = clock_timestamp() + '1 hour'")
    db.start_worker()
    db.wait_for_worker()
    made = len(receiver.requests)
    db.one("SELECT webhooks.retry_delivery(%s)", delivery)
    receiver.wait(made + 1)


# What a delivery is about


def test_deliveries_say_which_object_they_are_about(db, receiver):
    db.memories()
    webhook = db.create_webhook(receiver.url(), ["*"])
    (memory,) = db.rows("INSERT INTO memories (content) VALUES ('likes tea') RETURNING id::text")
    db.wait_for_states(webhook, delivered=1)
    db.emit(data={"nothing": "of that name"})
    db.wait_for_states(webhook, delivered=2)
    listed = db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"])["deliveries"]
    assert [it["data_id"] for it in listed] == [None, memory["id"]]
    for each in listed:
        assert db.one("SELECT webhooks.get_delivery(%s)", each["id"])["data_id"] == each["data_id"]


def test_a_delivery_whose_event_is_gone_is_about_nothing(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit(data={"id": some_uuid()})
    db.wait_for_states(webhook, delivered=1)
    db.execute("DELETE FROM webhooks.event")
    (listed,) = db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"])["deliveries"]
    assert listed["data_id"] is None
