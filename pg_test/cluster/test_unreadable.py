"""A webhook whose row cannot be read sends nothing, says why, and loses nothing."""

import json

import pytest
from requests_as import Gateway

PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}
FILTER = {"tags": "food"}
FOOD, DRINK = ({"object": "activity", "tags": [tag]} for tag in ("food", "drink"))
NESTED = '{"a": ' + "[" * 120 + "]" * 120 + "}"

# What is stored, as a superuser can; what the webhook then says; and the call that repairs it.
BROKEN = {
    "filters that are a number": ("filters = '7'", "filters cannot be read: filters must be an object", {"filters": FILTER}),
    "filters that are null": ("filters = 'null'", "filters cannot be read", {"filters": FILTER}),
    "filters that hold an object": ("""filters = '{"a": {"b": 1}}'""", 'filters cannot be read: filter "a"', {"filters": FILTER}),
    "filters too deep to parse": (f"filters = '{NESTED}'", "filters cannot be read", {"filters": FILTER}),
    "no secret": ("secret = ''", "secret cannot be read: secret must not be empty", {"secret": "new"}),
    "a secret of 300 bytes": ("secret = repeat('s', 300)", "secret cannot be read", {"secret": "new"}),
    "no previous secret": (
        "previous_secret = '', previous_secret_expires_at = now() + interval '1 day'",
        "previous secret cannot be read",
        {"secret": "new"},
    ),
    "no attempts": ("max_attempts = 0", "retry_policy cannot be read: retry_policy.max_attempts", {"retry_policy": PATIENT}),
    "a negative delay": ("max_delay = -1", "retry_policy cannot be read: retry_policy.max_delay", {"retry_policy": PATIENT}),
    "a delay without a number": ("backoff_multiplier = 'NaN'", "retry_policy cannot be read", {"retry_policy": PATIENT}),
    "an entry that is no type": (
        "events = '{user.activity,Not One}'",
        'events cannot be read: "Not One"',
        {"events": ["user.activity"]},
    ),
    "a URL that is none": ("url = 'nonsense'", "url cannot be read", {}),
}
broken = pytest.mark.parametrize(
    ("change", "reason", "repair"), [pytest.param(*it, id=name) for name, it in BROKEN.items()]
)


@pytest.fixture
def webhook(db, receiver):
    """A webhook that will break, beside one that gets the same events at once."""
    db.create_webhook(receiver.url("/healthy"), ["user.activity"], retry_policy=PATIENT)
    return db.create_webhook(receiver.url("/broken"), ["user.activity"], filters=FILTER, retry_policy=PATIENT)


def store(db, webhook, change):
    db.execute(f"UPDATE webhooks.webhook SET {change} WHERE webhooks.format_id('webhook', id) = %s", webhook["id"])


def waits(db, webhook, count):
    """Waits until so many deliveries of a webhook have a row to wait in."""
    db.wait_until(
        "SELECT count(*) FROM webhooks.queue WHERE webhooks.format_id('webhook', webhook_id) = %s",
        count,
        params=[webhook["id"]],
    )


def warnings(db, webhook, since):
    said = f"WARNING:  {webhook['id']} sends nothing: "
    return [line for line in db.server.log(since).splitlines() if said in line]


def ids(requests):
    return [it.json["id"] for it in requests]


@broken
def test_it_sends_nothing_says_why_and_goes_on_when_it_is_repaired(db, webhook, receiver, change, reason, repair):
    since = db.server.log_size()
    store(db, webhook, change)
    shown = db.get_webhook(webhook)
    assert reason in shown["disabled_reason"] and shown["active"]
    (listed,) = (it for it in db.one("SELECT webhooks.list_webhooks()")["webhooks"] if it["id"] == webhook["id"])
    assert listed["disabled_reason"] == shown["disabled_reason"]
    first = db.emit(data=FOOD)
    receiver.wait(1, "/healthy")
    waits(db, webhook, 1)
    assert [it["event_id"] for it in db.deliveries(webhook, "pending")] == [first]
    # A worker that starts does the same as one that saw the change.
    db.stop_worker()
    db.start_worker()
    second = db.emit(data=FOOD)
    receiver.wait(2, "/healthy")
    waits(db, webhook, 2)
    assert receiver.to("/broken") == [] and db.attempts(db.deliveries(webhook)[0]["id"]) == []
    # Once for each worker, and not once for each look at the table.
    assert len(warnings(db, webhook, since)) == 2
    after = db.update_webhook(webhook, **(repair or {"url": receiver.url("/broken")}))
    assert after["disabled_reason"] is None
    assert sorted(ids(receiver.wait(2, "/broken"))) == [first, second]
    db.wait_for_states(webhook, delivered=2, pending=0)


def test_a_reload_does_not_repeat_the_warning_and_another_reason_is_told(db, webhook, receiver):
    since = db.server.log_size()
    store(db, webhook, "secret = ''")
    db.emit(data=FOOD)
    waits(db, webhook, 1)
    with db.server.configured({"webhooks.user_agent": "Another/1.0"}):
        db.emit(data=FOOD)
        (request, *_) = receiver.wait(2, "/healthy")[1:]
        assert request.header("user-agent") == "Another/1.0"
        waits(db, webhook, 2)
    assert len(warnings(db, webhook, since)) == 1
    assert "HINT:" in db.server.log(since)
    store(db, webhook, "filters = '7'")
    db.wait_until("SELECT 1", lambda _: len(warnings(db, webhook, since)) == 2)
    store(db, webhook, "filters = NULL, secret = 'mended'")
    receiver.wait(2, "/broken")


def test_what_came_while_the_filters_could_not_be_read_is_judged_when_they_can_be(db, webhook, receiver):
    store(db, webhook, "filters = '7'")
    wanted = db.emit(data=FOOD)
    db.emit(data=DRINK)
    waits(db, webhook, 2)
    assert len(db.deliveries(webhook, "pending")) == 2
    db.update_webhook(webhook, filters=FILTER)
    assert ids(receiver.wait(1, "/broken")) == [wanted]
    db.settle()
    # An event that the filters do not let through has no delivery, as ever.
    assert [(it["event_id"], it["state"]) for it in db.deliveries(webhook)] == [(wanted, "delivered")]
    assert ids(receiver.to("/broken")) == [wanted]


def test_events_that_the_worker_has_not_seen_yet_count_as_waiting(db, webhook):
    db.stop_worker()
    store(db, webhook, "filters = '7'")
    event = db.emit(data=DRINK)
    assert [it["event_id"] for it in db.deliveries(webhook, "pending")] == [event]
    store(db, webhook, f"filters = '{json.dumps(FILTER)}'")
    assert db.deliveries(webhook) == []


def test_a_test_waits_too(db, webhook, receiver):
    store(db, webhook, "secret = ''")
    event = db.send_test(webhook)
    waits(db, webhook, 1)
    assert receiver.to("/broken") == []
    db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"])
    assert ids(receiver.wait(1, "/broken")) == [event]


def test_a_test_of_an_inactive_webhook_waits_too(db, webhook, receiver):
    db.update_webhook(webhook, active=False)
    store(db, webhook, "secret = ''")
    event = db.send_test(webhook)
    waits(db, webhook, 1)
    db.stop_worker()
    db.start_worker()
    assert receiver.to("/broken") == []
    store(db, webhook, "secret = 'mended'")
    assert ids(receiver.wait(1, "/broken")) == [event]


def test_replay_refuses_to_guess_what_the_filters_were(db, webhook):
    db.emit(data=FOOD)
    db.wait_for_states(webhook, delivered=1)
    store(db, webhook, "filters = '7'")
    error = db.fails(
        "SELECT webhooks.replay(%s, now() - interval '1 hour')",
        webhook["id"],
        state="55000",
        says=["filters", "cannot be read", "update_webhook"],
    )
    # The hint is a statement that repairs it.
    db.execute(error.diag.message_hint.split(": ", 1)[1])
    assert db.get_webhook(webhook)["filters"] is None
    assert db.one("SELECT webhooks.replay(%s, now() - interval '1 hour')", webhook["id"]) == 1


def test_a_secret_that_cannot_be_read_does_not_become_the_previous_one(db, webhook, receiver):
    first = db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"])
    store(db, webhook, "secret = ''")
    second = db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"])
    # Receivers that know the one before the broken one still can verify: it keeps its time.
    assert second["previous_secret_expires_at"] == first["previous_secret_expires_at"]
    assert db.get_webhook(webhook)["disabled_reason"] is None
    db.emit(data=FOOD)
    (request,) = receiver.wait(1, "/broken")
    body = request.body.decode()
    for header, secret in (("X-Lanonasis-Signature", second["secret"]), ("X-Lanonasis-Signature-Previous", webhook["secret"])):
        assert request.header(header) == db.one("SELECT webhooks.sign(%s, %s)", body, secret)


@pytest.mark.slow
def test_a_previous_secret_that_cannot_be_read_holds_no_longer_than_it_would_have_signed(db, webhook, receiver):
    store(db, webhook, "previous_secret = '', previous_secret_expires_at = now() + interval '4 seconds'")
    event = db.emit(data=FOOD)
    waits(db, webhook, 1)
    assert receiver.to("/broken") == []
    (request,) = receiver.wait(1, "/broken", timeout=30)
    assert request.json["id"] == event and request.all("X-Lanonasis-Signature-Previous") == []
    assert db.get_webhook(webhook)["disabled_reason"] is None


def test_a_change_of_something_else_leaves_what_cannot_be_read_as_it_is(db, webhook):
    store(db, webhook, "secret = '', max_attempts = 0")
    shown = db.get_webhook(webhook)
    after = db.update_webhook(webhook, active=True)
    assert after["disabled_reason"] == shown["disabled_reason"]
    assert "secret cannot be read" in after["disabled_reason"] and "max_attempts" in after["disabled_reason"]
    # Each repair takes away its own part.
    after = db.update_webhook(webhook, retry_policy={"max_attempts": 5})
    assert after["retry_policy"] == {"max_attempts": 5, "backoff_multiplier": 2, "max_delay": 300}
    assert "max_attempts" not in after["disabled_reason"]
    assert db.update_webhook(webhook, secret="new")["disabled_reason"] is None


def test_an_owner_sees_the_reason_too_and_no_secret(db, receiver):
    role = db.role()
    db.grant(role, "api")
    session = Gateway(db, role).request(role, claims={"sub": "alice"})
    webhook = db.create_webhook(receiver.url(), ["user.activity"], session=session)
    store(db, webhook, "previous_secret = repeat('hush', 80), previous_secret_expires_at = 'infinity'")
    row = db.row("SELECT * FROM webhooks_api.webhooks", session=session)
    assert "previous secret cannot be read" in row["disabled_reason"]
    assert "hush" not in str(row) + str(db.get_webhook(webhook, session=session))


def test_deleting_it_cancels_what_waits(db, webhook, receiver):
    store(db, webhook, "filters = '7'")
    db.emit(data=FOOD)
    waits(db, webhook, 1)
    db.delete_webhook(webhook)
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE state = 'cancelled'", 1)
    db.settle()
    assert receiver.to("/broken") == []
