"""A service that is slow, or fails in part: the rest of the page goes on, and what may have been done is not called undone."""

import re

import pytest
from playwright.sync_api import expect

NOT_AVAILABLE = "The chart is not available at the moment."
# Ends the wait for an answer to a replay after a moment, as the page does after half a minute.
IMPATIENT = """() => {
  const before = window.fetch;
  window.fetch = (url, options) => before(url, url.endsWith("/replay") ? { ...options, signal: AbortSignal.timeout(200) } : options);
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
