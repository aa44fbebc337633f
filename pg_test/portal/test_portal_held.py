"""What is held: the page offers nothing that would do nothing, and says until when, instead of promising an attempt."""

import re

import pytest
from playwright.sync_api import expect

ACTIVE_AGAIN = "It is held until the webhook is active again."
WORKER_RUNS = "It is held until the worker runs."
# Attempts after 0 s, 1 s, 10 s, 100 s: what failed twice waits a while.
PATIENT = {"max_attempts": 9, "backoff_multiplier": 10, "max_delay": 3600}
ONE_ATTEMPT = {"max_attempts": 1}
places = pytest.mark.parametrize("where", ["list", "page"])


def waiting(api, webhook):
    """Its delivery, once it has failed twice and waits for its next attempt."""
    query = "SELECT webhooks.get_webhook(%s) -> 'failing' -> 'attempts'"
    api.gateway.db.wait_until(query, 2, params=[webhook["id"]])
    (delivery,) = api.deliveries(webhook, 1, "pending")
    return delivery


def pause(api, webhook):
    api.done(200, "PUT", f"/api/v1/webhooks/{webhook['id']}", {"active": False})


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
