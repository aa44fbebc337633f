"""Webhooks on the page: signing in, creating, editing, switching off and on, secrets, tests, deleting."""

import re

import pytest
import signatures
from api import Api
from playwright.sync_api import expect


@pytest.fixture
def webhook(api, receiver):
    return api.create(receiver.url(), ["memory.*"])


@pytest.fixture
def shown(signed_in, webhook):
    """The page of one webhook."""
    signed_in.go(webhook["id"])
    signed_in.shows(webhook["url"])
    return signed_in


def now(api, webhook):
    return api.done(200, "GET", f"/api/v1/webhooks/{webhook['id']}")


# The key


@pytest.mark.parametrize(
    ("key", "complaint"), [("", "Enter"), ("a key with spaces", "not an API key"), ("secret", "not valid")]
)
def test_a_wrong_key_is_refused_beside_its_field(portal, key, complaint):
    portal.field("Your API key").fill(key)
    portal.press("Show webhooks")
    portal.complains_beside("Your API key", complaint)
    expect(portal.field("Your API key")).to_be_focused()


def test_the_key_is_kept_in_memory_only_and_a_reload_asks_again(signed_in, api):
    everywhere = """JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, window.key,
                                    document.documentElement.outerHTML])"""
    signed_in.page.wait_for_function("document.activeElement.tagName === 'H1'")
    assert api.key not in signed_in.page.evaluate(everywhere)
    assert signed_in.page.locator("#key").input_value() == ""
    assert not [it for it in signed_in.addresses if api.key in it]
    signed_in.page.reload()
    signed_in.shows("API key")
    expect(signed_in.button("New webhook")).to_be_hidden()


def test_a_key_that_was_revoked_meanwhile_is_asked_for_again_and_nothing_stays(gateway, portal, api, webhook):
    key = gateway.key(api.owner)
    portal.sign_in(Api(gateway, api.owner, key["key"]))
    expect(portal.link(webhook["url"])).to_be_visible()
    gateway.db.execute("SELECT webhooks.revoke_api_key(%s)", key["id"])
    portal.shows("API key")
    portal.complains("not valid any more")
    assert webhook["id"] not in portal.page.content()
    portal.sign_in(api)
    expect(portal.link(webhook["url"])).to_be_visible()
    expect(portal.page.get_by_text("not valid any more")).to_have_count(0)


def test_forgetting_the_key_asks_again(webhook, signed_in):
    expect(signed_in.link(webhook["url"])).to_be_visible()
    signed_in.press("Forget the key")
    signed_in.shows("API key")
    assert webhook["url"] not in signed_in.page.content()


# The list


def test_own_webhooks_are_listed_with_their_state_and_figures(signed_in, api, other, receiver, webhook):
    paused = api.create(receiver.url("/paused"), ["user.activity", "search.performed"], active=False)
    theirs = other.create(receiver.url("/theirs"))
    api.remember(2)
    api.deliveries(webhook, 2)
    rows = signed_in.rows("All webhooks")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(paused["url"])
    expect(rows.nth(0)).to_contain_text("user.activity, search.performed")
    expect(rows.nth(0)).to_contain_text("paused")
    expect(rows.nth(1)).to_contain_text("active")
    expect(rows.nth(1).get_by_role("cell").nth(2)).to_have_text("2")
    assert theirs["url"] not in signed_in.page.content()
    signed_in.field("Show").select_option("active")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(webhook["url"])


def test_more_webhooks_than_fit_are_on_further_pages(gateway, portal, api):
    for number in range(22):
        gateway.db.create_webhook(f"https://example.com/{number}", owner=api.owner)
    portal.sign_in(api)
    rows = portal.rows("All webhooks")
    expect(rows).to_have_count(20)
    portal.press("Older")
    expect(rows).to_have_count(2)
    expect(rows.last).to_contain_text("https://example.com/0")
    expect(portal.page.locator("#webhook-pages")).to_contain_text("21 to 22 of 22")


def test_a_service_that_is_gone_for_a_while_is_told_and_what_was_shown_stays(make_gateway, open_portal, api, webhook):
    gateway = make_gateway()
    portal = open_portal(gateway)
    portal.sign_in(api)
    expect(portal.link(webhook["url"])).to_be_visible()
    gateway.stop_postgrest()
    portal.complains("not available")
    expect(portal.link(webhook["url"])).to_be_visible()
    portal.link(webhook["url"]).click()
    portal.shows("This cannot be shown")


def test_the_worker_and_the_last_hour_are_shown(portal, api, receiver, webhook):
    receiver.answer("/broken", 500)
    broken = api.create(receiver.url("/broken"), ["memory.*"], retry_policy={"max_attempts": 1})
    api.remember(3)
    api.deliveries(webhook, 3)
    api.deliveries(broken, 3, "failed")
    portal.sign_in(api)
    health = portal.page.get_by_role("group", name="Health")
    expect(health).to_contain_text("running")
    expect(health).to_contain_text("2 active")
    chart = portal.page.get_by_role("img", name=re.compile("3 succeeded.*3 failed.*3 delivered, 3 failed for good"))
    expect(chart).to_be_visible()
    succeeded = sum(int(it.split()[-2]) for it in chart.locator("rect.succeeded title").all_text_contents())
    failed = sum(int(it.split()[-2]) for it in chart.locator("rect.failed title").all_text_contents())
    assert (succeeded, failed) == (3, 3)
    portal.page.get_by_text("As numbers").click()
    numbers = re.compile(r"\d attempts succeeded, \d failed; \d deliveries delivered, \d failed for good")
    expect(portal.page.get_by_role("listitem").first).to_contain_text(numbers)


def test_a_worker_that_is_stopped_is_seen(gateway, signed_in):
    health = signed_in.page.get_by_role("group", name="Health")
    expect(health).to_contain_text("running")
    gateway.db.stop_worker()
    try:
        expect(health).to_contain_text("stopped")
    finally:
        gateway.db.start_worker()
    expect(health).to_contain_text("running")


# Creating and editing


def test_a_webhook_is_created_after_its_mistakes_were_named_beside_their_fields(signed_in, api, receiver):
    signed_in.press("New webhook")
    signed_in.field("URL").fill("ftp://example.com")
    signed_in.page.get_by_label(re.compile(r"^memory\.created")).check()
    signed_in.field("Filters, as JSON").fill("{")
    signed_in.press_there("Create")
    signed_in.complains_beside("Filters, as JSON", "not valid JSON")
    signed_in.field("Filters, as JSON").fill('{"tags": ["food"]}')
    signed_in.press_there("Create")
    signed_in.complains_beside("URL", "http")
    expect(signed_in.field("URL")).to_be_focused()
    signed_in.field("URL").fill(receiver.url())
    signed_in.field("Attempts").fill("many")
    signed_in.press_there("Create")
    signed_in.complains_beside("Attempts", "max_attempts")
    signed_in.field("Attempts").fill("7")
    signed_in.press_there("Create")
    expect(signed_in.dialog).to_contain_text("shown this once")
    secret = signed_in.field("Secret").input_value()
    assert secret.startswith("whsec_")
    signed_in.press_there("Done")
    signed_in.shows(receiver.url())
    expect(signed_in.page.locator("#secret")).to_have_value("")
    assert secret not in signed_in.page.content()

    (made,) = api.done(200, "GET", "/api/v1/webhooks")["webhooks"]
    assert (made["url"], made["events"], made["active"]) == (receiver.url(), ["memory.created"], True)
    assert made["retry_policy"] == {"max_attempts": 7, "backoff_multiplier": 2, "max_delay": 300}
    assert made["filters"] == {"tags": ["food"]}
    api.done(202, "POST", f"/api/v1/webhooks/{made['id']}/test")
    signatures.verify(receiver.wait(1)[0], secret)


def test_what_the_api_says_of_several_fields_stands_beside_each(signed_in):
    signed_in.press("New webhook")
    signed_in.press_there("Create")
    signed_in.complains_beside("URL", ".")
    signed_in.field("URL").fill("https://example.com/hook")
    signed_in.press_there("Create")
    expect(signed_in.page.get_by_role("group", name="Events")).to_have_accessible_description(re.compile("."))


def test_a_limit_is_told_with_the_time_to_wait(signed_in, api, receiver):
    for _ in range(10):
        api.create(receiver.url())
    signed_in.press("New webhook")
    signed_in.field("URL").fill(receiver.url())
    signed_in.page.get_by_label(re.compile(r"^\* everything")).check()
    signed_in.press_there("Create")
    expect(signed_in.dialog.get_by_role("alert")).to_contain_text("again in 60 min")


def test_editing_changes_what_was_changed_and_nothing_else(shown, api, receiver, webhook):
    shown.press("Edit")
    expect(shown.field("URL")).to_have_value(webhook["url"])
    # Somebody else does something meanwhile.
    api.done(200, "PUT", f"/api/v1/webhooks/{webhook['id']}", {"filters": {"a": 1}, "retry_policy": {"max_delay": 60}})
    shown.field("URL").fill(receiver.url("/new"))
    shown.page.get_by_label(re.compile(r"^user\.activity")).check()
    shown.press_there("Save")
    shown.says("Saved")
    shown.shows(receiver.url("/new"))
    after = now(api, webhook)
    assert after["url"] == receiver.url("/new")
    assert sorted(after["events"]) == ["memory.*", "user.activity"]
    assert (after["filters"], after["retry_policy"]["max_delay"], after["active"]) == ({"a": 1}, 60, True)
    expect(shown.fact("Filters")).to_have_text('{"a":1}')


def test_pausing_holds_and_resuming_goes_on(shown, api, webhook):
    shown.press("Pause")
    shown.says("Paused")
    expect(shown.fact("State")).to_contain_text("paused")
    assert now(api, webhook)["active"] is False
    shown.press("Resume")
    shown.says("Active again")
    expect(shown.button("Pause")).to_be_visible()
    assert now(api, webhook)["active"] is True


def test_why_a_webhook_was_switched_off_is_shown(shown, api, receiver, webhook):
    receiver.answer("/hook", 410)
    api.remember()
    expect(shown.fact("State")).to_contain_text("switched off")
    expect(shown.fact("State")).to_contain_text("410")
    expect(shown.button("Resume")).to_be_visible()


def test_a_test_is_sent(shown, receiver):
    shown.press("Send a test")
    shown.says("is on its way")
    (request,) = receiver.wait(1)
    assert request.json["type"] == "webhook.test"
    expect(shown.rows("Deliveries").first).to_contain_text("webhook.test")
    expect(shown.rows("Deliveries").first).to_contain_text("delivered")


def test_rotating_shows_the_new_secret_once_and_it_can_be_copied(open_portal, api, receiver, webhook):
    portal = open_portal(permissions=["clipboard-read", "clipboard-write"])
    portal.sign_in(api)
    portal.go(webhook["id"])
    portal.press("Rotate the secret")
    portal.field("Hours for which the present secret goes on signing too").fill("1000")
    portal.press_there("Rotate")
    portal.complains_beside("Hours for which the present secret goes on signing too", "2592000")
    portal.field("Hours for which the present secret goes on signing too").fill("0")
    portal.press_there("Rotate")
    expect(portal.dialog).to_contain_text("The one before has ended.")
    secret = portal.field("Secret").input_value()
    portal.press_there("Copy")
    expect(portal.dialog.get_by_role("status")).to_have_text("Copied.")
    assert portal.page.evaluate("navigator.clipboard.readText()") == secret
    portal.page.keyboard.press("Escape")
    expect(portal.button("Rotate the secret")).to_be_focused()
    expect(portal.page.locator("#secret")).to_have_value("")
    portal.press("Send a test")
    signatures.verify(receiver.wait(1)[0], secret)


def test_deleting_asks_first(shown, api, webhook):
    shown.press("Delete")
    expect(shown.dialog).to_contain_text(webhook["url"])
    shown.press_there("Cancel")
    expect(shown.button("Delete")).to_be_focused()
    shown.press("Delete")
    shown.press_there("Delete")
    shown.says("Deleted")
    shown.shows("Webhooks")
    expect(shown.rows("All webhooks")).to_have_count(0)
    api.refused(404, "GET", f"/api/v1/webhooks/{webhook['id']}")
    shown.page.go_back()
    shown.shows("This cannot be shown")


def test_what_is_typed_and_where_focus_is_survive_the_refresh(shown, api, receiver, webhook):
    shown.press("Edit")
    shown.field("URL").fill("https://example.com/half-typ")
    api.remember()
    api.deliveries(webhook, 1)
    for _ in range(2):
        shown.page.wait_for_event("response", lambda it: it.url.endswith("/status"))
    expect(shown.field("URL")).to_have_value("https://example.com/half-typ")
    expect(shown.field("URL")).to_be_focused()
    shown.press_there("Cancel")
    rows = shown.rows("Deliveries")
    expect(rows).to_have_count(1)
    link = rows.first.get_by_role("link")
    link.focus()
    api.remember()
    expect(rows).to_have_count(2)
    expect(rows.nth(1).get_by_role("link")).to_be_focused()
