"""Deliveries on the page: their list by state and page, their attempts and requests, retry and replay."""

import json
import re

import pytest
from playwright.sync_api import expect
from receiver import Answer


@pytest.fixture
def webhook(api, receiver):
    return api.create(receiver.url(), ["memory.*"], retry_policy={"max_attempts": 2, "backoff_multiplier": 1})


def open_webhook(portal, webhook):
    portal.go(webhook["id"])
    portal.shows(webhook["url"])


def test_deliveries_are_listed_by_state_and_by_page(signed_in, api, receiver, webhook):
    receiver.answer("/hook", *[Answer(500)] * 2, Answer(200))
    api.remember()
    api.deliveries(webhook, 1, "failed")
    api.remember(44)
    api.deliveries(webhook, 44)
    open_webhook(signed_in, webhook)
    rows = signed_in.rows("Deliveries")
    pages = signed_in.page.locator("#delivery-pages")
    expect(rows).to_have_count(20)
    expect(pages).to_contain_text("1 to 20 of 45")
    first = rows.first.get_by_role("link").get_attribute("href")
    signed_in.press("Older")
    expect(pages).to_contain_text("21 to 40 of 45")
    expect(signed_in.button("Older")).to_be_focused()
    signed_in.press("Older")
    expect(pages).to_contain_text("41 to 45 of 45")
    expect(rows).to_have_count(5)
    expect(signed_in.button("Older")).to_have_attribute("aria-disabled", "true")
    oldest = rows.last
    expect(oldest).to_contain_text("failed")
    expect(oldest).to_contain_text("500")
    oldest.get_by_role("link").click()
    signed_in.shows("memory.created")
    signed_in.page.go_back()
    expect(pages).to_contain_text("41 to 45 of 45")
    signed_in.press("Newer")
    expect(pages).to_contain_text("21 to 40 of 45")
    signed_in.press("Newer")
    expect(pages).to_contain_text("1 to 20 of 45")
    assert rows.first.get_by_role("link").get_attribute("href") == first
    signed_in.field("Show").select_option("failed")
    expect(rows).to_have_count(1)
    expect(pages).to_contain_text("1 to 1 of 1")
    signed_in.field("Show").select_option("cancelled")
    expect(pages).to_contain_text("None.")


def test_each_attempt_is_shown_with_its_request_and_its_answer(signed_in, api, receiver, webhook):
    receiver.answer("/hook", Answer(503, body=b"come back later"), Answer(200, body=b"thank you"))
    api.remember(content='likes "tea" & 12345678901234567890')
    (delivery,) = api.deliveries(webhook, 1)
    open_webhook(signed_in, webhook)
    signed_in.link("memory.created").click()
    attempts = signed_in.page.get_by_role("group", name=re.compile(r"^Attempt \d$"))
    expect(attempts).to_have_count(2)
    sent = {it.json["attempt"]: it for it in receiver.requests}
    for attempt, number, status, answer in (
        (attempts.nth(0), 2, "200", "thank you"),
        (attempts.nth(1), 1, "503", "come back later"),
    ):
        expect(attempt).to_contain_text(re.compile(rf"Took\d+ ms.*Status{status}"))
        expect(attempt.get_by_role("group", name="Beginning of the answer")).to_have_text(answer)
        # Those of the newest attempt are open; the others open on a click.
        if attempt.get_by_role("group", name="Body").count() == 0:
            attempt.get_by_text("Request", exact=True).click()
        body = attempt.get_by_role("group", name="Body").text_content()
        assert json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode() == sent[number].body
        assert body.count("\n") > 5
        headers = dict(
            line.split(": ", 1) for line in attempt.get_by_role("group", name="Headers").text_content().split("\n")
        )
        for name, value in headers.items():
            assert sent[number].header(name) == value, name
        assert headers["X-Lanonasis-Event"] == "memory.created"
    expect(signed_in.fact("Id")).to_have_text(delivery["id"])


def test_a_failed_delivery_is_retried_and_arrives(signed_in, api, receiver, webhook):
    receiver.answer("/hook", 500, 500, 200)
    api.remember()
    (failed,) = api.deliveries(webhook, 1, "failed")
    signed_in.go(failed["id"])
    expect(signed_in.fact("State")).to_contain_text("failed")
    signed_in.press("Retry")
    signed_in.says("It is attempted")
    request = receiver.wait(3)[-1]
    assert (request.header("X-Lanonasis-Delivery"), request.json["attempt"]) == (failed["id"], 3)
    expect(signed_in.fact("State")).to_contain_text("delivered")
    expect(signed_in.page.get_by_role("group", name=re.compile(r"^Attempt \d$"))).to_have_count(3)


def test_what_is_to_come_is_shown_with_its_time(signed_in, api):
    webhook = api.create(
        "http://127.0.0.1:9/nobody",
        ["memory.*"],
        retry_policy={"backoff_multiplier": 10, "max_delay": 3600, "max_attempts": 9},
    )
    api.remember()
    (pending,) = api.deliveries(webhook, 1, "pending")
    signed_in.go(pending["id"])
    coming = signed_in.page.get_by_role("group", name=re.compile(r"Attempt \d, to come"))
    coming.get_by_text("Request", exact=True).click()
    expect(coming.get_by_role("group", name="Body")).to_contain_text('"attempt": ')
    expect(signed_in.page.get_by_role("group", name="Attempt 1", exact=True)).to_contain_text("no answer")


def test_replay_sends_a_range_again_or_only_what_failed(signed_in, api, receiver, webhook):
    receiver.answer("/hook", 500, 500, 200)
    api.remember()
    api.deliveries(webhook, 1, "failed")
    api.remember(2)
    api.deliveries(webhook, 2)
    lost = receiver.requests[0].json["id"]
    open_webhook(signed_in, webhook)
    signed_in.press("Replay")
    signed_in.field("From").fill("")
    signed_in.press_there("Replay")
    signed_in.complains_beside("From", "required")
    signed_in.field("From").fill("2020-01-01T00:00:00")
    signed_in.field("Only failed").check()
    signed_in.press_there("Replay")
    signed_in.says("1 event queued again")
    assert receiver.wait(5)[-1].json["id"] == lost
    api.deliveries(webhook, 3)
    signed_in.press("Replay")
    signed_in.field("To").fill("2020-01-02T00:00:00")
    signed_in.field("From").fill("2020-01-01T00:00:00")
    signed_in.press_there("Replay")
    signed_in.says("0 events queued again")
    signed_in.press("Replay")
    signed_in.press_there("Replay")
    signed_in.says("3 events queued again")
    receiver.wait(8)
