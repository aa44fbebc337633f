"""A service that is slow, or fails in part: the rest of the page goes on, and what may have been done is not called undone."""

import re

import pytest
from playwright.sync_api import expect

NOT_AVAILABLE = "The chart is not available at the moment."
# Ends the wait for an answer to a replay after a moment, as the page does after half a minute.
IMPATIENT = """() => {
  const before = window.fetch;
  const signal = () => ({ signal: AbortSignal.timeout(200) });
  window.fetch = (url, options) => before(url, { ...options, ...(url.endsWith("/replay") ? signal() : {}) });
}"""


@pytest.fixture
def webhook(api, receiver):
    return api.create(receiver.url(), ["memory.*"], retry_policy={"max_attempts": 1})


def hold(portal, pattern):
    """Lets requests of this kind wait for ever; the list of them."""
    held = []
    portal.page.route(re.compile(pattern), lambda it: held.append(it))
    return held


def refuse(request):
    error = {"code": "UNAVAILABLE", "message": "the service is not available at the moment", "details": []}
    request.fulfill(status=503, json={"success": False, "error": error})


def wait_for_refreshes(portal, n):
    for _ in range(n):
        portal.page.wait_for_event("response", lambda it: it.url.endswith("/status"))


# The chart


@pytest.mark.parametrize("where", ["webhooks", "page"])
def test_a_chart_that_is_slow_or_fails_holds_nothing_else_up(portal, api, webhook, where):
    held = hold(portal, "/activity")
    portal.sign_in(api)
    expect(portal.link(webhook["url"])).to_be_visible()
    if where == "page":
        portal.go(webhook["id"])
        portal.shows(webhook["url"])
        expect(portal.fact("State")).to_contain_text("active")
    wait_for_refreshes(portal, 1)
    expect(portal.page.get_by_role("alert").filter(has_text="cannot be reached")).to_have_count(0)
    panel = portal.page.get_by_role("region", name="Attempts of the last hour")
    expect(panel.get_by_text(NOT_AVAILABLE)).to_have_count(0)
    refuse(held[-1])
    expect(panel.get_by_text(NOT_AVAILABLE)).to_be_visible()
    expect(portal.page.get_by_role("alert").filter(has_text="cannot be reached")).to_have_count(0)


def test_the_chart_is_asked_for_less_often_than_the_rest_and_comes_back(portal, api, webhook):
    portal.page.clock.install()
    asked = hold(portal, "/activity")
    portal.sign_in(api)
    wait_for_refreshes(portal, 1)
    refuse(asked[0])
    portal.page.unroute(re.compile("/activity"))
    expect(portal.page.get_by_text(NOT_AVAILABLE)).to_be_visible()
    charts = []
    portal.page.on("request", lambda it: charts.append(it.url) if "/activity" in it.url else None)
    for _ in range(3):
        with portal.page.expect_response(lambda it: it.url.endswith("/status")):
            portal.page.clock.run_for(5_000)
    assert charts == []
    portal.page.clock.run_for(30_000)
    expect(portal.page.get_by_role("img", name=re.compile("Minute by minute"))).to_be_visible()


# Times


def test_times_go_on_while_the_service_cannot_be_reached_and_in_a_dialog(signed_in, api, webhook):
    signed_in.go(webhook["id"])
    created = signed_in.fact("Created").get_by_role("time")
    expect(created).to_have_text(re.compile("^(now|.* ago)$"))
    hold(signed_in, "/api/v1/")
    for dialog in (False, True):
        if dialog:
            signed_in.press("Replay")
            expect(signed_in.dialog).to_be_visible()
        for _ in range(2):
            expect(created).not_to_have_text(created.text_content())


# What may have been done


@pytest.mark.parametrize(("opener", "sender"), [("Retry all failed", "Retry them"), ("Replay", "Replay")])
def test_a_replay_without_an_answer_in_time_may_have_been_done(signed_in, webhook, opener, sender):
    signed_in.go(webhook["id"])
    signed_in.page.evaluate(IMPATIENT)
    hold(signed_in, "/replay$")
    signed_in.press(opener)
    signed_in.press_there(sender)
    signed_in.complains("It may have been done")
    expect(signed_in.dialog).to_have_count(0)
    expect(signed_in.page.get_by_text("cannot be reached")).to_have_count(0)
    wait_for_refreshes(signed_in, 2)
    signed_in.complains("It may have been done")


def test_a_replay_that_is_refused_says_so_in_its_dialog(signed_in, webhook):
    signed_in.go(webhook["id"])
    held = hold(signed_in, "/replay$")
    signed_in.press("Retry all failed")
    with signed_in.page.expect_request("**/replay"):
        signed_in.press_there("Retry them")
    refuse(held[0])
    expect(signed_in.dialog.get_by_role("alert")).to_have_text("the service is not available at the moment")


def test_all_that_has_failed_is_also_what_is_older_than_the_webhook(signed_in, api, receiver, webhook):
    api.remember()
    api.deliveries(webhook, 1)
    receiver.answer("/younger", 500, 200)
    younger = api.create(receiver.url("/younger"), ["memory.*"], retry_policy={"max_attempts": 1})
    api.done(202, "POST", f"/api/v1/webhooks/{younger['id']}/replay", {"since": "1970-01-01T00:00:00Z"})
    api.deliveries(younger, 1, "failed")
    signed_in.go(younger["id"])
    signed_in.press("Retry all failed")
    signed_in.press_there("Retry them")
    signed_in.says("1 event queued again")
    api.deliveries(younger, 1)
