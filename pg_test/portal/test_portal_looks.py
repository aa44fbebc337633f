"""For everybody: by keyboard, in light and in dark, on a phone; judged by axe. Screenshots are kept in target/portal."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from receiver import Answer

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", **PHONE},
    "phone-dark": {"color_scheme": "dark", **PHONE},
}


@pytest.fixture
def busy(api, receiver):
    """Webhooks and deliveries of every kind; the one to look at, a delivery of it, and one that is failing."""
    receiver.answer("/memories", *[Answer(503, body=b'{"error":"try again"}')] * 2, Answer(200, body=b'{"ok":true}'))
    receiver.answer("/gone", 410)
    shown = api.create(
        receiver.url("/memories"),
        ["memory.*", "search.performed"],
        retry_policy={"backoff_multiplier": 1},
        filters={"tags": ["food"]},
    )
    api.create(
        receiver.url("/a/path/that/goes/on/and/on/" + "x" * 300), ["memory.created", "memory.updated", "user.activity"]
    )
    api.create(receiver.url("/paused"), ["*"], active=False)
    gone = api.create(receiver.url("/gone"), ["memory.deleted"])
    receiver.answer("/refusing", Answer(403, body=b"no such hook"))
    patient = {"max_attempts": 9, "backoff_multiplier": 10}
    refusing = api.create(receiver.url("/refusing"), ["memory.deleted"], retry_policy=patient)
    api.gateway.db.execute(
        "INSERT INTO memories (owner_id, content, tags) SELECT %s, 'likes tea', '{food}' FROM generate_series(1, 5)",
        api.owner,
    )
    api.deliveries(shown, 5)
    api.gateway.db.execute(
        "DELETE FROM memories WHERE owner_id = %s AND ctid IN (SELECT ctid FROM memories WHERE owner_id = %s LIMIT 1)",
        api.owner,
        api.owner,
    )
    api.deliveries(gone, 1, "failed")
    deliveries = api.deliveries(shown, 6)
    api.gateway.db.wait_until("SELECT webhooks.get_webhook(%s) -> 'failing' -> 'attempts'", 2, params=[refusing["id"]])
    return shown, max(deliveries, key=lambda it: it["attempt_count"]), refusing


def judged(portal):
    """No horizontal scrolling, and nothing that axe finds serious."""
    wide = portal.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], wide
    portal.page.evaluate(AXE.read_text())
    found = portal.page.evaluate("axe.run().then((it) => it.violations)")
    assert not found, "\n".join(
        f"{it['id']} ({it['impact']}): {[node['html'][:300] for node in it['nodes']]}" for it in found
    )


@pytest.mark.parametrize("look", LOOKS)
def test_every_view_looks_right_to_axe_and_to_every_screen(open_portal, api, busy, look):
    webhook, delivery, refusing = busy
    portal = open_portal(**LOOKS[look])
    chart = portal.page.get_by_role("img", name=re.compile("^Minute by minute"))

    def view(name):
        judged(portal)
        portal.screenshot(f"{look}-{name}")

    view("sign-in")
    portal.sign_in(api)
    expect(portal.rows("All webhooks")).to_have_count(5)
    expect(chart).to_be_visible()
    view("webhooks")
    portal.go(webhook["id"])
    portal.shows(webhook["url"])
    expect(chart).to_be_visible()
    view("webhook")
    for button, name in (("Edit", "edit"), ("Rotate the secret", "rotate"), ("Replay", "replay"), ("Delete", "delete")):
        portal.press(button)
        view(name)
        portal.press_there("Cancel")
        expect(portal.button(button)).to_be_focused()
    portal.press("Rotate the secret")
    portal.press_there("Rotate")
    expect(portal.field("Secret")).to_have_value(re.compile("whsec_"))
    view("secret")
    portal.press_there("Done")
    portal.go(delivery["id"])
    portal.shows("memory.created")
    expect(portal.page.get_by_role("group", name="Body")).to_be_visible()
    view("delivery")
    portal.go(refusing["id"])
    expect(portal.rows("Deliveries").get_by_role("button")).to_be_visible()
    expect(chart).to_be_visible()
    view("failing")
    portal.press("Retry all failed")
    view("retry-failed")
    portal.press_there("Cancel")
    portal.go("webhook_" + "0" * 32)
    portal.shows("This cannot be shown")
    view("absent")


def test_targets_are_large_enough_for_fingers(open_portal, api, busy):
    portal = open_portal(**PHONE)
    portal.sign_in(api)
    for where in ("webhooks", *(it["id"] for it in busy)):
        portal.go(where)
        portal.page.wait_for_function(
            "where => document.querySelector('main > section:not([hidden])').id.startsWith(where)",
            arg=where.split("_")[0],
        )
        small = portal.page.evaluate(
            """[...document.querySelectorAll("a, button, select, summary")].filter((it) => it.checkVisibility())
               .map((it) => [it.textContent.slice(0, 40), it.getBoundingClientRect().height])
               .filter(([, height]) => height < 44)"""
        )
        assert not small


def tab_to(portal, locator, most=60):
    for _ in range(most):
        if locator.evaluate("it => it === document.activeElement"):
            return
        portal.page.keyboard.press("Tab")
    raise AssertionError(f"{locator} was not reached by Tab")


def test_all_of_it_works_by_keyboard(portal, api, receiver):
    press = portal.page.keyboard.press
    expect(portal.field("Your API key")).to_be_focused()
    portal.page.keyboard.insert_text(api.key)
    press("Enter")
    portal.shows("Webhooks")
    expect(portal.page.get_by_role("heading", level=1, name="Webhooks")).to_be_focused()

    tab_to(portal, portal.button("New webhook"))
    press("Enter")
    tab_to(portal, portal.field("URL"))
    portal.page.keyboard.type(receiver.url())
    tab_to(portal, portal.page.get_by_label(re.compile(r"^memory\.created")))
    press("Space")
    # Enter in a field sends the form.
    tab_to(portal, portal.field("Attempts"))
    press("Enter")
    expect(portal.field("Secret")).to_be_focused()
    press("Escape")
    portal.shows(receiver.url())

    tab_to(portal, portal.button("Send a test"))
    press("Enter")
    receiver.wait(1)
    tab_to(portal, portal.link("webhook.test"))
    press("Enter")
    portal.shows("webhook.test")
    expect(portal.page.get_by_role("group", name="Body")).to_be_visible()
    tab_to(portal, portal.page.locator("summary").filter(has_text="Request"))
    press("Enter")
    expect(portal.page.get_by_role("group", name="Body")).to_be_hidden()
    tab_to(portal, portal.button("Retry"))
    press("Space")
    portal.says("It is attempted")
    receiver.wait(2)


def test_focus_is_seen(signed_in):
    button = signed_in.button("New webhook")
    tab_to(signed_in, button)
    assert button.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
