"""rotate_secret: a new secret, and an overlap in which deliveries are signed with the one before, too."""

import base64

import pytest
import signatures
from forms import is_id, time_of
from processes import Application
from receiver import Answer

STANDARD = ("standard_app.js", "standard_app.py")
DAY_SECONDS = 86_400


def rotate(db, webhook, overlap=None, session=None):
    if overlap is None:
        return db.one("SELECT webhooks.rotate_secret(%s)", webhook["id"], session=session)
    return db.one("SELECT webhooks.rotate_secret(%s, %s::interval)", webhook["id"], overlap, session=session)


def delivered(db, receiver, webhook):
    """The request of a new event."""
    before = len(receiver.to())
    db.send_test(webhook)
    return receiver.wait(before + 1)[before]


def signed_by(request, *secrets):
    """Asserts that these secrets have signed, newest first, and no other."""
    newest, *previous = secrets
    assert request.header("X-Lanonasis-Signature") == signatures.body_signature(newest, request.body)
    assert request.all("X-Lanonasis-Signature-Previous") == [
        signatures.body_signature(secret, request.body) for secret in previous
    ]
    stamped = (request.header("webhook-id"), request.header("webhook-timestamp"), request.body)
    assert request.header("webhook-signature").split(" ") == [
        signatures.standard_signature(secret, *stamped) for secret in secrets
    ]


def test_rotate_secret_returns_the_new_secret_and_when_the_previous_one_ends(db, receiver):
    webhook = db.create_webhook(receiver.url())
    rotated = rotate(db, webhook)
    assert set(rotated) == {"id", "secret", "previous_secret_expires_at"}
    assert is_id("webhook", rotated["id"], version=7) and rotated["id"] == webhook["id"]
    assert rotated["secret"] != webhook["secret"]
    assert len(base64.b64decode(rotated["secret"].removeprefix("whsec_"), validate=True)) == 32
    now = db.one("SELECT clock_timestamp()")
    assert abs((time_of(rotated["previous_secret_expires_at"]) - now).total_seconds() - DAY_SECONDS) < 10


def test_in_the_overlap_both_secrets_sign_newest_first_and_after_it_only_the_new_one(db, receiver):
    """The end is judged at each attempt: nothing changes the webhook when the overlap is over."""
    webhook = db.create_webhook(receiver.url())
    signed_by(delivered(db, receiver, webhook), webhook["secret"])
    new = rotate(db, webhook, "2 seconds")["secret"]
    signed_by(delivered(db, receiver, webhook), new, webhook["secret"])
    db.wait_until("SELECT clock_timestamp() > max(previous_secret_expires_at) FROM webhooks.webhook")
    signed_by(delivered(db, receiver, webhook), new)


def test_a_retry_after_the_overlap_is_signed_with_the_new_secret_alone(db, receiver):
    receiver.answer("/hook", Answer(status=500), 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 5, "backoff_multiplier": 10})
    new = rotate(db, webhook, "500 milliseconds")["secret"]
    db.send_test(webhook)
    first, second = receiver.wait(2)
    signed_by(first, new, webhook["secret"])
    assert second.at - first.at > 0.6
    signed_by(second, new)


def test_without_an_overlap_the_previous_secret_ends_at_once(db, receiver):
    webhook = db.create_webhook(receiver.url())
    rotated = rotate(db, webhook, "0")
    assert rotated["previous_secret_expires_at"] is None
    signed_by(delivered(db, receiver, webhook), rotated["secret"])
    assert db.one("SELECT previous_secret FROM webhooks.webhook") is None


def test_a_second_rotation_keeps_the_newest_two(db, receiver):
    webhook = db.create_webhook(receiver.url())
    second, third = (rotate(db, webhook)["secret"] for _ in range(2))
    signed_by(delivered(db, receiver, webhook), third, second)


def test_a_secret_that_is_replaced_in_an_overlap_ends_both(db, receiver):
    webhook = db.create_webhook(receiver.url())
    rotate(db, webhook)
    db.update_webhook(webhook, secret="mine")
    signed_by(delivered(db, receiver, webhook), "mine")


def test_other_changes_in_an_overlap_leave_it_as_it_is(db, receiver):
    webhook = db.create_webhook(receiver.url())
    new = rotate(db, webhook)["secret"]
    db.update_webhook(webhook, filters=None, active=True)
    signed_by(delivered(db, receiver, webhook), new, webhook["secret"])


@pytest.mark.parametrize("overlap", ["0", "1 second", "30 days", "1 month"])
def test_an_overlap_is_0_to_30_days(shared_db, overlap):
    webhook = shared_db.create_webhook("http://127.0.0.1:9/hook")
    assert rotate(shared_db, webhook, overlap)["secret"]


@pytest.mark.parametrize("overlap", ["-1 second", "30 days 1 second", "1 year", "-178000000 years"])
def test_any_other_overlap_is_an_error_and_changes_nothing(shared_db, overlap):
    webhook = shared_db.create_webhook("http://127.0.0.1:9/hook")
    before = shared_db.get_webhook(webhook)
    shared_db.fails(
        "SELECT webhooks.rotate_secret(%s, %s)", webhook["id"], overlap, state="22", says=["overlap", "30 days"]
    )
    shared_db.fails("SELECT webhooks.rotate_secret(%s, NULL)", webhook["id"], state="22", says="overlap")
    assert shared_db.get_webhook(webhook) == before


def test_only_the_owner_may_rotate(db):
    webhook = db.create_webhook("http://127.0.0.1:9/hook", owner="alice")
    call = "SELECT webhooks.rotate_secret(%s)"
    db.fails(call, webhook["id"], state="P0002", says=webhook["id"], session=db.as_owner("bob"))
    assert db.one(call, webhook["id"], session=db.as_owner("alice"))["secret"].startswith("whsec_")


@pytest.mark.xdist_group("receivers")
@pytest.mark.parametrize("program", STANDARD)
def test_during_a_rotation_receivers_with_either_secret_verify_and_then_only_those_with_the_new_one(
    db, receiver, program
):
    """By the official standardwebhooks libraries of npm and PyPI, unmodified: what our receiver got is handed on to them."""
    webhook = db.create_webhook(receiver.url())
    new = rotate(db, webhook, "2 seconds")["secret"]
    receivers = [Application(program, secret) for secret in (webhook["secret"], new)]
    try:
        during = delivered(db, receiver, webhook)
        assert [it.verifies(during) for it in receivers] == [True, True]
        db.wait_until("SELECT clock_timestamp() > max(previous_secret_expires_at) FROM webhooks.webhook")
        after = delivered(db, receiver, webhook)
        assert [it.verifies(after) for it in receivers] == [False, True]
    finally:
        for it in receivers:
            it.stop()
