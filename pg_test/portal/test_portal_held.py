"""What is held: the page offers nothing that would do nothing, and says until when, instead of promising an attempt."""

import re

import pytest
from playwright.sync_api import expect
from receiver import Answer

ACTIVE_AGAIN = "It is held until the webhook is active again."
WORKER_RUNS = "It is held until the worker runs."
# Attempts after 0 s, 1 s, 10 s, 100 s: what failed twice waits a while.
PATIENT = {"max_attempts": 9, "backoff_multiplier": 10, "max_delay": 3600}
ONE_ATTEMPT = {"max_attempts": 1}
places = pytest.mark.parametrize("where", ["list", "page"])


def show(portal, where, webhook, delivery):
    """Goes to where a delivery is shown; its button."""
    portal.go(webhook["id"] if where == "list" else delivery["id"])
    if where == "list":
        return portal.rows("Deliveries").get_by_role("button")
    portal.shows(delivery["event_type"])
    return portal.page.locator("#delivery-view").get_by_role("button")


def failed_once(api, receiver, answer=500):
    """A webhook and its delivery, which has failed."""
    receiver.answer("/hook", answer, 200)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=ONE_ATTEMPT)
    api.remember()
    (delivery,) = api.deliveries(webhook, 1, "failed")
    return webhook, delivery


def waiting(api, webhook):
    """Its delivery, once it has failed twice and waits for its next attempt."""
    query = "SELECT webhooks.get_webhook(%s) -> 'failing' -> 'attempts'"
    api.gateway.db.wait_until(query, 2, params=[webhook["id"]])
    (delivery,) = api.deliveries(webhook, 1, "pending")
    return delivery


def pause(api, webhook):
    api.done(200, "PUT", f"/api/v1/webhooks/{webhook['id']}", {"active": False})


@places
def test_a_retry_for_a_webhook_that_was_switched_off_is_held_and_says_so(signed_in, api, receiver, where):
    webhook, delivery = failed_once(api, receiver, answer=410)
    button = show(signed_in, where, webhook, delivery)
    button.click()
    signed_in.says(ACTIVE_AGAIN)
    expect(button).to_have_count(0)
    signed_in.go(webhook["id"])
    signed_in.press("Resume")
    expect(signed_in.rows("Deliveries")).to_contain_text("delivered")


def test_a_retry_for_a_paused_webhook_is_held_and_says_so(signed_in, api, receiver):
    webhook, delivery = failed_once(api, receiver)
    pause(api, webhook)
    show(signed_in, "list", webhook, delivery).click()
    signed_in.says(ACTIVE_AGAIN)


@places
def test_what_a_paused_webhook_holds_cannot_be_tried_now(signed_in, api, receiver, where):
    receiver.answer("/hook", 500)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=PATIENT)
    api.remember()
    button = show(signed_in, where, webhook, waiting(api, webhook))
    expect(button).to_have_text("Try now")
    pause(api, webhook)
    expect(button).to_have_count(0)


@places
def test_a_test_of_a_paused_webhook_can_be_tried_now(signed_in, api, receiver, where):
    receiver.answer("/hook", 500)
    webhook = api.create(receiver.url(), ["memory.*"], active=False, retry_policy=PATIENT)
    api.done(202, "POST", f"/api/v1/webhooks/{webhook['id']}/test")
    delivery = waiting(api, webhook)
    receiver.answer("/hook", 200)
    show(signed_in, where, webhook, delivery).click()
    signed_in.says("It is attempted as soon as the limits allow.")
    api.deliveries(webhook, 1)


@places
def test_without_the_worker_nothing_is_promised(signed_in, api, receiver, where):
    webhook, delivery = failed_once(api, receiver)
    db = api.gateway.db
    button = show(signed_in, where, webhook, delivery)
    db.stop_worker()
    try:
        expect(signed_in.page.get_by_role("group", name="Health")).to_contain_text("stopped")
        button.click()
        signed_in.says(WORKER_RUNS)
        signed_in.go(webhook["id"])
        signed_in.press("Send a test")
        signed_in.says(re.compile(r"^Test event event_\w+ is held until the worker runs\.$"))
        signed_in.press("Replay")
        signed_in.press_there("Replay")
        signed_in.says("1 event queued again, and held until the worker runs.")
        signed_in.press("Pause")
        signed_in.press("Resume")
        signed_in.says("Active again: what waited is held until the worker runs.")
    finally:
        db.start_worker()
    api.deliveries(webhook, 3)


def test_a_webhook_that_cannot_be_read_holds_its_tests_too(signed_in, api, receiver):
    webhook = api.create(receiver.url(), ["memory.*"])
    api.gateway.db.execute("UPDATE webhooks.webhook SET filters = '[]' WHERE url = %s", webhook["url"])
    signed_in.go(webhook["id"])
    expect(signed_in.fact("State")).to_contain_text("sends nothing")
    signed_in.press("Send a test")
    signed_in.says(re.compile(r"^Test event event_\w+ is held until the webhook is repaired\.$"))
    row = signed_in.rows("Deliveries")
    expect(row).to_contain_text("pending")
    expect(row.get_by_role("button")).to_have_count(0)
    signed_in.page.evaluate("id => { location.hash = id }", api.deliveries(webhook, 1, "pending")[0]["id"])
    signed_in.shows("webhook.test")
    expect(signed_in.button("Try now")).to_have_count(0)


def test_a_delivery_whose_webhook_was_deleted_cannot_be_retried(signed_in, api, receiver):
    webhook, delivery = failed_once(api, receiver)
    button = show(signed_in, "page", webhook, delivery)
    expect(button).to_have_text("Retry")
    api.done(200, "DELETE", f"/api/v1/webhooks/{webhook['id']}")
    expect(button).to_have_count(0)
    expect(signed_in.fact("State")).to_contain_text("failed")


def test_what_is_held_is_pending_and_not_due(signed_in, api, receiver):
    receiver.answer("/hook", 500)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=PATIENT)
    api.remember()
    waiting(api, webhook)
    pause(api, webhook)
    health = signed_in.page.get_by_role("group", name="Health")
    expect(health).to_contain_text(re.compile(r"Pending\s*1\s*Due for\s*–"))


def test_what_is_due_says_for_how_long(signed_in, api, receiver):
    api.create(receiver.url(), ["memory.*"])
    db = api.gateway.db
    db.stop_worker()
    try:
        api.remember()
        health = signed_in.page.get_by_role("group", name="Health")
        expect(health).to_contain_text(re.compile(r"Pending\s*1\s*Due for\s*[1-9]\d* s"))
    finally:
        db.start_worker()

# The endpoint has asked for a pause


def test_a_pause_that_the_endpoint_has_asked_for_is_shown_and_holds_no_test(signed_in, api, receiver):
    receiver.answer("/hook", Answer(status=429, headers=(("Retry-After", "3600"),)), 200)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=PATIENT)
    api.remember()
    query = "SELECT webhooks.get_webhook(%s) ->> 'paused_until'"
    api.gateway.db.wait_until(query, lambda until: until is not None, params=[webhook["id"]])
    signed_in.go("webhooks")
    row = signed_in.rows("All webhooks")
    expect(row).to_contain_text("asked to wait")
    expect(row).to_contain_text(re.compile("It ends in (60 min|1 h)"))
    signed_in.go(webhook["id"])
    expect(signed_in.fact("State")).to_contain_text("asked to wait")
    expect(signed_in.fact("Pause")).to_contain_text("The endpoint has asked for a pause.")
    signed_in.press("Send a test")
    signed_in.says(re.compile("Test event .* is on its way"))
    receiver.wait(2)
    (delivery,) = api.deliveries(webhook, 1, "pending")
    show(signed_in, "page", webhook, delivery).click()
    signed_in.says("It is attempted as soon as the limits allow.")
    receiver.wait(3)
