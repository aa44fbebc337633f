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
