"""What comes from outside stays text, and the policy holds."""

import re

import pytest
from api import Api
from database import unique
from playwright.sync_api import expect
from receiver import Answer

HOSTILE = "<img src=x onerror=window.hacked=1></script><script>window.hacked=1</script><svg onload=window.hacked=1>"


def policy_of(response):
    return dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))


def nothing_was_made_of_it(portal):
    page = portal.page
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed, [onerror], [onload]").count() == 0
    assert page.locator("script").count() == 1
    assert page.locator("svg:not(.chart)").count() == 0


def test_what_comes_from_outside_is_text_wherever_it_is_shown(gateway, portal, receiver):
    api = Api(gateway, f"{HOSTILE}{unique('owner')}")
    url = receiver.url("/hook") + "?" + HOSTILE.replace(" ", "/")  # as good as a space, and allowed there
    receiver.answer("/hook", Answer(500, body=HOSTILE.encode()))
    webhook = api.create(url, ["memory.*"], filters={"content": [HOSTILE]}, retry_policy={"max_attempts": 1})
    api.remember(content=HOSTILE)
    (delivery,) = api.deliveries(webhook, 1, "failed")
    portal.sign_in(api)
    expect(portal.link(url)).to_be_visible()
    nothing_was_made_of_it(portal)
    portal.link(url).click()
    portal.shows(url)
    assert portal.page.title() == f"{url} – Webhooks"
    expect(portal.fact("Owner")).to_have_text(api.owner)
    expect(portal.fact("Filters")).to_contain_text("<img src=x")
    nothing_was_made_of_it(portal)
    portal.press("Edit")
    expect(portal.field("URL")).to_have_value(url)
    nothing_was_made_of_it(portal)
    portal.press_there("Cancel")
    portal.press("Delete")
    expect(portal.dialog).to_contain_text(url)
    nothing_was_made_of_it(portal)
    portal.press_there("Cancel")
    portal.go(delivery["id"])
    expect(portal.page.get_by_role("group", name="Beginning of the answer")).to_have_text(HOSTILE)
    expect(portal.page.get_by_role("group", name="Body")).to_contain_text(HOSTILE)
    nothing_was_made_of_it(portal)


def test_the_id_of_an_object_is_text_wherever_it_is_shown(signed_in, api, receiver):
    receiver.answer("/hook", 500)
    webhook = api.create(receiver.url(), ["user.activity"], retry_policy={"backoff_multiplier": 10, "max_attempts": 9})
    api.gateway.db.emit(data={"id": HOSTILE}, owner=api.owner)
    (delivery,) = api.deliveries(webhook, 1, "pending")
    signed_in.go(webhook["id"])
    row = signed_in.rows("Deliveries")
    expect(row.get_by_role("cell").first).to_have_text(HOSTILE)
    expect(row.get_by_role("button")).to_have_accessible_name(f"Try now user.activity {HOSTILE}")
    nothing_was_made_of_it(signed_in)
    row.get_by_role("button").click()
    signed_in.says("It is attempted")
    signed_in.go(delivery["id"])
    expect(signed_in.fact(r"data\.id")).to_have_text(HOSTILE)
    nothing_was_made_of_it(signed_in)


@pytest.mark.parametrize(
    "where",
    [
        HOSTILE,
        "webhook_<img>",
        "javascript:alert(1)",
        "webhook_" + "0" * 32,
        "delivery_" + "f" * 32 + "?state=" + HOSTILE,
    ],
)
def test_an_address_that_somebody_made_up_does_no_harm(signed_in, where):
    signed_in.go(where)
    signed_in.shows("This cannot be shown" if re.match(r"(webhook_0|delivery_)", where) else "Webhooks")
    nothing_was_made_of_it(signed_in)


def test_a_complaint_that_repeats_what_was_typed_is_text_too(signed_in):
    signed_in.go("webhooks")
    signed_in.press("New webhook")
    signed_in.field("URL").fill(HOSTILE)
    signed_in.press_there("Create")
    expect(signed_in.field("URL")).to_have_attribute("aria-invalid", "true")
    nothing_was_made_of_it(signed_in)


def test_the_policy_allows_this_script_this_style_and_this_origin_and_no_more(portal):
    policy = policy_of(portal.response)
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert re.fullmatch(r"'sha256-[^ ']+'", policy["script-src"])
    assert re.fullmatch(r"'sha256-[^ ']+'", policy["style-src"])
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert portal.response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=1'}))",
            "TypeError",
        ),
        ("document.body.innerHTML = '<b>'", "TypeError"),
        ("document.body.setAttribute('style', 'color: red')", "style-src-attr"),
        ("document.body.append(Object.assign(document.createElement('img'), {src: '/portal'}))", "img-src"),
        ("document.body.append(Object.assign(document.createElement('iframe'), {src: '/portal'}))", "frame-src"),
        ("fetch('http://127.0.0.1:9/').catch(() => 0)", "connect-src"),
    ],
)
def test_the_policy_is_in_force(portal, attempt, outcome):
    """Also that the tests would see it if the page broke its own policy."""
    with portal.page.expect_console_message(lambda message: message.type == "error"):
        refused = portal.page.evaluate(
            f"""() => new Promise((tell) => {{
                document.addEventListener("securitypolicyviolation", (it) => tell(it.effectiveDirective));
                try {{ {attempt}; }} catch (error) {{ tell(error.name); }}
            }})"""
        )
    assert refused == outcome
    assert portal.page.evaluate("window.hacked") is None
    assert portal.complaints
    portal.complaints.clear()
    portal.addresses.clear()
