"""What somebody new asks of the page when nothing arrives: what fails, since when, with what, and how to have it tried again."""

import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from api import Api
from database import unique
from playwright.sync_api import expect
from receiver import Answer

# Attempts after 0 s, 1 s, 10 s, 100 s: what failed twice waits a while.
PATIENT = {"max_attempts": 9, "backoff_multiplier": 10, "max_delay": 3600}


@pytest.fixture
def refusing(api, receiver):
    """A webhook whose only delivery has failed twice, and waits for its next attempt; the delivery."""
    receiver.answer("/hook", Answer(403, body=b"no such hook"))
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=PATIENT)
    api.remember()
    wait_for_attempts(api, webhook, 2)
    (delivery,) = api.deliveries(webhook, 1, "pending")
    return webhook, delivery


def wait_for_attempts(api, webhook, attempts):
    """Until so many have failed one after the other."""
    query = "SELECT webhooks.get_webhook(%s) -> 'failing' -> 'attempts'"
    api.gateway.db.wait_until(query, attempts, params=[webhook["id"]])


# What fails


def test_an_endpoint_that_refuses_is_seen_in_the_list_before_any_delivery_has_ended(signed_in, refusing):
    row = signed_in.rows("All webhooks")
    expect(row).to_contain_text("failing")
    expect(row).not_to_contain_text("active")
    expect(row).to_contain_text(
        re.compile(r"2 attempts in a row have failed, the first \d+ s ago\. Last: the endpoint answered 403")
    )


def test_an_endpoint_that_refuses_is_seen_on_its_page_and_no_more_when_it_recovers(signed_in, api, receiver, refusing):
    webhook, delivery = refusing
    signed_in.go(webhook["id"])
    alarm = signed_in.page.get_by_role("region", name="This webhook is failing")
    said = r"2 attempts in a row have failed, the first \d+ s ago · .*\d\d:\d\d.*\. Last: the endpoint answered 403"
    expect(alarm).to_contain_text(re.compile(said))
    expect(signed_in.fact("State")).to_contain_text("failing")
    receiver.answer("/hook", 200)
    api.done(202, "POST", f"/api/v1/deliveries/{delivery['id']}/retry")
    expect(alarm).to_be_hidden()
    expect(signed_in.fact("State")).to_contain_text("active")


def test_an_endpoint_that_was_switched_off_says_so_and_what_it_answered(signed_in, api, receiver):
    receiver.answer("/hook", 410)
    webhook = api.create(receiver.url(), ["memory.*"])
    api.remember()
    api.deliveries(webhook, 1, "failed")
    row = signed_in.rows("All webhooks")
    expect(row).to_contain_text("switched off")
    expect(row).to_contain_text(re.compile("1 attempt has failed, .*410"))


@pytest.mark.parametrize("where", ["webhooks", "page"])
def test_the_chart_has_attempts_that_no_delivery_has_ended_with(portal, api, refusing, where):
    portal.sign_in(api)
    if where == "page":
        portal.go(refusing[0]["id"])
    chart = portal.page.get_by_role("img", name=re.compile("0 succeeded.*2 failed.*0 delivered, 0 failed for good"))
    expect(chart).to_be_visible()
    drawn = chart.locator("rect.failed title")
    assert sum(int(it.split()[-2]) for it in drawn.all_text_contents()) == 2


# Which delivery, and what was sent


def test_rows_and_pages_of_deliveries_name_the_object(signed_in, api, receiver):
    webhook = api.create(receiver.url(), ["memory.*"])
    memory = api.gateway.db.one(
        "INSERT INTO memories (owner_id, content) VALUES (%s, 'tea') RETURNING id::text", api.owner
    )
    (delivery,) = api.deliveries(webhook, 1)
    signed_in.go(webhook["id"])
    expect(signed_in.rows("Deliveries").get_by_role("cell").first).to_have_text(memory)
    signed_in.go(delivery["id"])
    expect(signed_in.fact(r"data\.id")).to_have_text(memory)


def test_request_and_answer_of_the_newest_attempt_are_open(signed_in, refusing):
    signed_in.go(refusing[0]["id"])
    signed_in.rows("Deliveries").get_by_role("link").click()
    newest = signed_in.page.get_by_role("group", name="Attempt 2", exact=True)
    expect(newest.get_by_role("group", name="Beginning of the answer")).to_have_text("no such hook")
    expect(newest.get_by_role("group", name="Headers")).to_contain_text("X-Lanonasis-Event: memory.created")
    expect(newest.get_by_role("group", name="Body")).to_contain_text('"attempt": 2')
    older = signed_in.page.get_by_role("group", name="Attempt 1", exact=True)
    expect(older.get_by_role("group", name="Body")).to_have_count(0)
    older.get_by_text("Request", exact=True).click()
    expect(older.get_by_role("group", name="Body")).to_contain_text('"attempt": 1')


# Trying again


@pytest.mark.parametrize("where", ["list", "page"])
def test_what_waits_is_tried_now(signed_in, api, receiver, refusing, where):
    webhook, delivery = refusing
    receiver.answer("/hook", 200)
    if where == "list":
        signed_in.go(webhook["id"])
        row = signed_in.rows("Deliveries")
        row.get_by_role("button", name=re.compile("^Try now memory.created")).click()
        signed_in.says("It is attempted")
        expect(row).to_contain_text("delivered")
        expect(row.get_by_role("button")).to_have_count(0)
    else:
        signed_in.go(delivery["id"])
        signed_in.press("Try now")
        signed_in.says("It is attempted")
        expect(signed_in.fact("State")).to_contain_text("delivered")
    assert receiver.requests[-1].json["attempt"] == 3


def test_what_has_failed_is_retried_from_its_row(signed_in, api, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy={"max_attempts": 1})
    api.remember()
    api.deliveries(webhook, 1, "failed")
    signed_in.go(webhook["id"])
    row = signed_in.rows("Deliveries")
    row.get_by_role("button", name=re.compile("^Retry memory.created")).click()
    expect(row).to_contain_text("delivered")


def test_all_that_has_failed_is_retried_after_a_question(signed_in, api, receiver):
    receiver.answer("/hook", 500, 500, 500, 200)
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy={"max_attempts": 1})
    api.remember(3)
    api.deliveries(webhook, 3, "failed")
    lost = {it.json["id"] for it in receiver.requests}
    api.remember()
    api.deliveries(webhook, 1)
    signed_in.go(webhook["id"])
    signed_in.press("Retry all failed")
    expect(signed_in.dialog).to_contain_text("unless it has arrived since")
    signed_in.press_there("Cancel")
    expect(signed_in.button("Retry all failed")).to_be_focused()
    signed_in.press("Retry all failed")
    signed_in.press_there("Retry them")
    signed_in.says("3 events queued again")
    assert {it.json["id"] for it in receiver.wait(7)[4:]} == lost
    api.deliveries(webhook, 4)
    signed_in.press("Retry all failed")
    signed_in.press_there("Retry them")
    signed_in.says("0 events queued again")


# Times


def test_times_are_relative_and_name_the_moment_with_its_zone(open_portal, api, receiver):
    portal = open_portal(timezone_id="Asia/Kolkata", locale="en-GB")
    webhook = api.create(receiver.url(), ["memory.*"])
    made = datetime.now(UTC) - timedelta(hours=3)
    api.gateway.db.execute("UPDATE webhooks.webhook SET created_at = %s WHERE url = %s", made, webhook["url"])
    api.remember()
    api.deliveries(webhook, 1)
    portal.sign_in(api)
    last = portal.rows("All webhooks").get_by_role("time")
    expect(last).to_have_text(re.compile(r"^(now|\d+ s ago)$"))
    expect(last).to_have_attribute("title", re.compile(r"\d\d:\d\d:\d\d (GMT\+5:30|IST)$"))
    portal.go(webhook["id"])
    there = made + timedelta(hours=5, minutes=30)
    expect(portal.fact("Created")).to_contain_text(re.compile(rf"^3 h ago · .*{there:%H:%M:%S} (GMT\+5:30|IST)$"))


def test_times_go_on_and_do_not_follow_a_clock_that_is_wrong(open_portal, api, receiver):
    portal = open_portal()
    webhook = api.create(receiver.url(), ["memory.*"])
    portal.page.clock.install(time=datetime.now(UTC) - timedelta(days=2))
    portal.page.reload()
    portal.sign_in(api)
    portal.go(webhook["id"])
    created = portal.fact("Created").get_by_role("time")
    expect(created).to_have_text(re.compile(r"^(now|\d s ago)$"))
    portal.page.clock.fast_forward(60_000)
    expect(created).to_have_text(re.compile(r"^(now|\d\d? s ago)$"))


def test_the_next_attempt_is_in_some_time(signed_in, api, refusing):
    api.done(202, "POST", f"/api/v1/deliveries/{refusing[1]['id']}/retry")
    wait_for_attempts(api, refusing[0], 3)
    signed_in.go(refusing[1]["id"])
    expect(signed_in.fact("Next attempt")).to_contain_text(re.compile(r"^in (\d\d+ s|2 min) · "))


# Words


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({}, "3 attempts: at once, after 1 s, after 2 s; the last 3 s after the first"),
        ({"max_attempts": 1}, "1 attempt, and no other"),
        ({"backoff_multiplier": 1}, "3 attempts: at once, after 1 s, after 1 s; the last 2 s after the first"),
        ({"max_attempts": 7, "backoff_multiplier": 1},
         "7 attempts: at once, after 1 s, and after 1 s each time; the last 6 s after the first"),
        ({"max_attempts": 9, "max_delay": 3},
         "9 attempts: at once, after 1 s, after 2 s, after 3 s, and after 3 s each time; the last 21 s after the first"),
        ({"max_attempts": 14, "max_delay": 3600},
         "14 attempts: at once, after 1 s, after 2 s, after 4 s, after 8 s, and so on, "
         "at last after 60 min; the last 2 h after the first"),
    ],
)  # fmt: skip
def test_the_retry_policy_is_said_in_words(signed_in, api, receiver, policy, words):
    webhook = api.create(receiver.url(), ["memory.*"], retry_policy=policy)
    signed_in.go(webhook["id"])
    expect(signed_in.fact("Retries")).to_have_text(words)


def test_the_retry_policy_is_said_in_words_while_it_is_typed(signed_in):
    signed_in.press("New webhook")
    expect(signed_in.dialog).to_contain_text("3 attempts: at once, after 1 s, after 2 s")
    signed_in.field("Attempts").fill("2")
    expect(signed_in.dialog).to_contain_text("2 attempts: at once, after 1 s;")
    expect(signed_in.field("Attempts")).to_have_accessible_description(re.compile("2 attempts: at once"))
    signed_in.field("Attempts").fill("many")
    expect(signed_in.dialog).not_to_contain_text("attempts: at once")


# Arriving


def test_the_page_says_where_a_key_comes_from_and_the_statement_makes_one(gateway, portal):
    statement = portal.page.get_by_role("group", name="Statement that makes a key").text_content()
    expect(portal.page.get_by_role("heading", name="Where does a key come from?")).to_be_visible()
    owner = unique("owner")
    with psycopg.connect(gateway.db.session.info.dsn, autocommit=True) as session:
        (key,) = session.execute(statement.replace("alice", owner)).fetchone()
    portal.sign_in(Api(gateway, owner, key))


def test_the_root_of_the_gateway_is_the_page(portal, api):
    portal.page.goto("/")
    assert portal.page.url.endswith("/portal")
    portal.sign_in(api)
