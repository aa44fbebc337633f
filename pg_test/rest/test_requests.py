"""Every request of the API, over HTTP, as somebody with an API key makes it."""

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import signatures
from api import NO_KEY
from forms import LISTED_WEBHOOK_KEYS, WEBHOOK_KEYS, is_id, is_now
from receiver import Answer
from requests_as import SECRET

URL = "http://127.0.0.1:9/hook"
WEBHOOKS = "/api/v1/webhooks"


def path(webhook, rest=""):
    return f"{WEBHOOKS}/{webhook['id']}{rest}"


def without_secret(webhook):
    return {key: value for key, value in webhook.items() if key != "secret"}


# Webhooks


def test_create_answers_201_with_the_webhook_and_its_secret(api):
    policy = {"max_attempts": 5, "backoff_multiplier": 1.5, "max_delay": 60}
    webhook = api.create(URL, ["memory.created"], active=False, retry_policy=policy, filters={"tags": ["food"]})
    assert set(webhook) >= WEBHOOK_KEYS
    assert is_id("webhook", webhook["id"], version=7)
    assert is_now(webhook["created_at"])
    assert webhook["secret"].startswith("whsec_")
    assert (webhook["url"], webhook["events"], webhook["active"]) == (URL, ["memory.created"], False)
    assert (webhook["retry_policy"], webhook["filters"]) == (policy, {"tags": ["food"]})
    assert webhook["owner"] == api.owner


def test_a_secret_that_is_given_is_kept(api):
    assert api.create(URL, secret="my own secret")["secret"] == "my own secret"


def test_null_is_the_default_of_what_is_not_needed(api):
    webhook = api.create(URL, secret=None, active=None, retry_policy=None, filters=None)
    assert webhook["active"] is True
    assert webhook["retry_policy"] == {"max_attempts": 3, "backoff_multiplier": 2, "max_delay": 300}


def test_list_answers_own_webhooks_newest_first(api, other):
    first, second = api.create(URL), api.create(URL, active=False)
    other.create(URL)
    listed = api.done(200, "GET", WEBHOOKS)
    assert [it["id"] for it in listed["webhooks"]] == [second["id"], first["id"]]
    assert listed["pagination"] == {"total": 2, "limit": 20, "offset": 0, "has_more": False}
    assert all(set(it) >= LISTED_WEBHOOK_KEYS and "secret" not in it for it in listed["webhooks"])


def test_list_takes_limit_and_offset(api):
    made = [api.create(URL)["id"] for _ in range(3)]
    page = api.done(200, "GET", f"{WEBHOOKS}?limit=1&offset=1")
    assert [it["id"] for it in page["webhooks"]] == [made[1]]
    assert page["pagination"] == {"total": 3, "limit": 1, "offset": 1, "has_more": True}


def test_list_takes_active_and_event(api):
    off = api.create(URL, ["memory.*"], active=False)
    on = api.create(URL, ["user.activity"])
    for query, expected in {
        "active=true": [on],
        "active=false": [off],
        "event=memory.created": [off],
        "event=memory.%2A": [off],
        "event=user.activity&active=false": [],
        "event=&active=": [on, off],
        "utm_source=elsewhere": [on, off],
    }.items():
        listed = api.done(200, "GET", f"{WEBHOOKS}?{query}")["webhooks"]
        assert [it["id"] for it in listed] == [it["id"] for it in expected], query


def test_get_answers_the_webhook_without_its_secret(api):
    webhook = api.create(URL)
    assert api.done(200, "GET", path(webhook)) == without_secret(webhook)


def test_put_changes_what_it_names(api):
    webhook = api.create(URL, filters={"a": 1})
    changed = api.done(200, "PUT", path(webhook), {"active": False, "retry_policy": {"max_attempts": 7}})
    assert changed["active"] is False
    assert changed["retry_policy"] == {**webhook["retry_policy"], "max_attempts": 7}
    assert (changed["url"], changed["events"], changed["filters"]) == (URL, webhook["events"], {"a": 1})
    assert "secret" not in changed
    assert api.done(200, "PUT", path(webhook), {"filters": None})["filters"] is None


def test_what_get_answers_can_be_put_back(api):
    webhook = api.create(URL)
    got = api.done(200, "GET", path(webhook))
    put = api.done(200, "PUT", path(webhook), {**got, "url": URL + "/2"})
    assert put == {**got, "url": URL + "/2", "updated_at": put["updated_at"]}


def test_delete_answers_that_it_did(api):
    webhook = api.create(URL)
    assert api.done(200, "DELETE", path(webhook)) == {"id": webhook["id"], "deleted": True}
    api.refused(404, "GET", path(webhook))
    api.refused(404, "DELETE", path(webhook))


def test_head_is_answered_as_get_without_a_body(api):
    webhook = api.create(URL)
    assert api.send("HEAD", path(webhook)).status == 200
    assert api.send("HEAD", WEBHOOKS + "?limit=0").status == 400


# Deliveries


def test_deliveries_are_listed_newest_first_by_state_and_page(api, receiver):
    webhook = api.create(receiver.url())
    api.remember(3)
    deliveries = api.deliveries(webhook, 3)
    assert [it["created_at"] for it in deliveries] == sorted((it["created_at"] for it in deliveries), reverse=True)
    page = api.done(200, "GET", path(webhook, "/deliveries?limit=1&offset=1"))
    assert page["deliveries"] == deliveries[1:2]
    assert page["pagination"] == {"total": 3, "limit": 1, "offset": 1, "has_more": True}
    assert api.done(200, "GET", path(webhook, "/deliveries?state=failed"))["deliveries"] == []


def test_a_delivery_is_shown_with_its_attempts_and_its_request(api, receiver):
    webhook = api.create(receiver.url())
    api.remember()
    (listed,) = api.deliveries(webhook, 1)
    delivery = api.done(200, "GET", f"/api/v1/deliveries/{listed['id']}")
    (attempt,) = delivery["attempts"]
    assert (attempt["attempt"], attempt["status"]) == (1, 200)
    (request,) = receiver.requests
    assert delivery["request"]["body"].encode() == request.body
    assert "signature" not in str(delivery["request"]["headers"]).lower()


def test_retry_answers_202_with_the_delivery_which_goes_again(api, receiver):
    webhook = api.create(receiver.url())
    api.remember()
    (listed,) = api.deliveries(webhook, 1)
    before = len(receiver.requests)
    delivery = api.done(202, "POST", f"/api/v1/deliveries/{listed['id']}/retry")
    assert (delivery["id"], delivery["state"]) == (listed["id"], "pending")
    receiver.wait(before + 1)
    assert receiver.requests[-1].json["attempt"] == before + 1


def test_a_delivery_that_waits_is_attempted_now(api, receiver):
    receiver.answer("/hook", 500, 500, 200)
    webhook = api.create(receiver.url(), retry_policy={"backoff_multiplier": 10, "max_attempts": 9})
    api.remember()
    receiver.wait(2)
    (pending,) = api.deliveries(webhook, 1, "pending")
    delivery = api.done(202, "POST", f"/api/v1/deliveries/{pending['id']}/retry")
    assert (delivery["id"], delivery["state"]) == (pending["id"], "pending")
    assert receiver.wait(3, timeout=5)[-1].json["attempt"] == 3


def test_test_answers_202_with_the_event_which_arrives(api, receiver):
    webhook = api.create(receiver.url(), active=False)
    event = api.done(202, "POST", path(webhook, "/test"))
    assert set(event) == {"event_id"}
    (request,) = receiver.wait(1)
    assert (request.json["id"], request.json["type"]) == (event["event_id"], "webhook.test")
    signatures.verify(request, webhook["secret"])


@pytest.mark.parametrize("body", [None, {}, {"overlap_seconds": 86_400}, {"overlap_seconds": None}])
def test_rotate_answers_the_new_secret_and_until_when_the_old_one_counts(api, body):
    webhook = api.create(URL)
    rotated = api.done(200, "POST", path(webhook, "/rotate-secret"), body)
    assert set(rotated) == {"id", "secret", "previous_secret_expires_at"}
    assert rotated["id"] == webhook["id"]
    assert rotated["secret"] != webhook["secret"]
    expires = datetime.fromisoformat(rotated["previous_secret_expires_at"])
    assert timedelta(hours=23) < expires - datetime.now(UTC) <= timedelta(hours=24)


def test_rotate_without_overlap_ends_the_old_secret_at_once(api, receiver):
    webhook = api.create(receiver.url())
    rotated = api.done(200, "POST", path(webhook, "/rotate-secret"), {"overlap_seconds": 0})
    assert rotated["previous_secret_expires_at"] is None
    api.done(202, "POST", path(webhook, "/test"))
    signatures.verify(receiver.wait(1)[0], rotated["secret"])


def test_replay_answers_202_with_how_many_are_queued(api, receiver):
    webhook = api.create(receiver.url())
    since = datetime.now(UTC) - timedelta(minutes=1)
    api.remember(2)
    api.deliveries(webhook, 2)
    replay = path(webhook, "/replay")
    assert api.done(202, "POST", replay, {"since": since.isoformat()}) == {"queued": 2}
    receiver.wait(4)
    assert len({it.json["id"] for it in receiver.requests}) == 2
    times = {"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00+01:00"}
    assert api.done(202, "POST", replay, {**times, "only_failed": True}) == {"queued": 0}


# Around them


def test_status_tells_of_the_worker_and_of_own_webhooks(api, other):
    api.create(URL)
    api.create(URL, active=False)
    api.create("http://127.0.0.1:9/nobody", ["user.activity"], retry_policy={"backoff_multiplier": 10, "max_attempts": 9})
    other.create(URL)
    api.gateway.db.emit(owner=api.owner)
    status = api.done(200, "GET", "/api/v1/status")
    assert set(status) == {"state", "pending", "oldest_pending_seconds", "active_webhooks", "disabled_webhooks"}
    assert status["state"] == "running"
    assert (status["pending"], status["active_webhooks"], status["disabled_webhooks"]) == (1, 2, 0)
    assert status["oldest_pending_seconds"] >= 0
    assert other.done(200, "GET", "/api/v1/status")["pending"] == 0


def test_a_webhook_that_was_switched_off_is_counted(api, receiver):
    webhook = api.create(receiver.url("/gone"))
    receiver.answer("/gone", Answer(410))
    api.remember()
    api.deliveries(webhook, 1, "failed")
    api.gateway.db.wait_until("SELECT count(*) FROM webhooks.disabled d JOIN webhooks.webhook w ON w.id = d.webhook_id"
                              " WHERE w.owner = %s", 1, params=[api.owner])  # fmt: skip
    status = api.done(200, "GET", "/api/v1/status")
    assert (status["active_webhooks"], status["disabled_webhooks"]) == (0, 1)


def test_activity_counts_what_ended_minute_by_minute(api, other, receiver):
    webhook = api.create(receiver.url())
    quiet = api.create(URL, ["user.activity"])
    api.remember(3)
    api.deliveries(webhook, 3)
    minutes = api.done(200, "GET", "/api/v1/activity")["minutes"]
    assert len(minutes) == 60
    keys = {"minute", "delivered", "failed", "attempts_succeeded", "attempts_failed"}
    assert all(set(it) == keys for it in minutes)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\.000Z", it["minute"]) for it in minutes)
    assert [it["minute"] for it in minutes] == sorted(it["minute"] for it in minutes)

    def counted(caller, query):
        found = caller.done(200, "GET", f"/api/v1/activity?{query}")["minutes"]
        return len(found), sum(it["delivered"] for it in found), sum(it["failed"] for it in found)

    assert counted(api, "minutes=1440") == (1_440, 3, 0)
    assert counted(api, f"minutes=5&webhook_id={webhook['id']}") == (5, 3, 0)
    assert counted(api, f"minutes=5&webhook_id={quiet['id']}") == (5, 0, 0)
    assert counted(other, "minutes=5") == (5, 0, 0)
    other.refused(404, "GET", f"/api/v1/activity?webhook_id={webhook['id']}")


def test_activity_counts_attempts_also_of_deliveries_that_wait_and_were_retried(api, other, receiver):
    receiver.answer("/hook", 500, 500, 204)
    webhook = api.create(receiver.url(), retry_policy={"backoff_multiplier": 10, "max_attempts": 9})
    api.remember()
    (delivery,) = api.deliveries(webhook, 1, "pending")
    receiver.wait(2)
    url = f"/api/v1/activity?minutes=5&webhook_id={webhook['id']}"

    def counted(url, caller=api):
        found = caller.done(200, "GET", url)["minutes"]
        return tuple(sum(it[key] for it in found) for key in ("attempts_succeeded", "attempts_failed", "delivered", "failed"))

    state = "SELECT attempts FROM webhooks.deliveries WHERE id = %s"
    api.gateway.db.wait_until(state, 2, params=[delivery["id"]])
    assert counted(url) == (0, 2, 0, 0)
    api.done(202, "POST", f"/api/v1/deliveries/{delivery['id']}/retry")
    api.deliveries(webhook, 1)
    assert counted(url) == (1, 2, 1, 0)
    api.done(202, "POST", f"/api/v1/deliveries/{delivery['id']}/retry")
    api.gateway.db.wait_until(state, 4, params=[delivery["id"]])
    assert counted(url) == (2, 2, 1, 0)
    assert counted("/api/v1/activity", other) == (0, 0, 0, 0)


def test_the_root_leads_to_the_page_wherever_it_stands(gateway):
    answer = gateway.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (302, "portal")
    assert "WEBHOOKS" in gateway.client.get("/", follow_redirects=True).text.upper()


def test_event_types_are_those_that_owners_may_subscribe_to(api):
    types = api.done(200, "GET", "/api/v1/event-types")["event_types"]
    assert all(set(it) == {"type", "description"} and it["description"] for it in types)
    names = [it["type"] for it in types]
    assert "memory.created" in names and "webhook.disabled" in names
    assert "system.health" not in names
    api.create(URL, names)


def test_the_page_needs_no_key_and_may_load_nothing(gateway):
    page = httpx.get(f"{gateway.url}/portal")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        for content in re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page.text, re.DOTALL):
            assert hash_source(content) in policy[f"{tag}-src"]
    assert " src=" not in page.text and " onclick=" not in page.text


@pytest.mark.parametrize("query", ["utm_source=mail", "select=x&order=y&limit=0", "page_limit=1"])
def test_the_page_is_the_same_whatever_query_string_comes_with_it(gateway, gateway_by_source, query):
    for each in (gateway, gateway_by_source):
        page, plain = (httpx.get(f"{each.url}/portal{rest}") for rest in (f"?{query}", ""))
        assert (page.status_code, page.content) == (200, plain.content), page.text


def test_the_page_says_in_which_characters_it_is(gateway_by_source, postgrest_by_its_source):
    """PostgREST sends a media type of our own without a charset."""
    postgrest_by_its_source.canned = (200, {"Content-Type": "text/html"}, "<!doctype html>ü".encode())
    try:
        page = httpx.get(f"{gateway_by_source.url}/portal")
    finally:
        postgrest_by_its_source.canned = None
    assert (page.headers["content-type"], page.text) == ("text/html; charset=utf-8", "<!doctype html>ü")


def hash_source(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Limits, and keys


def test_the_eleventh_creation_of_an_hour_is_429_with_the_seconds_to_wait(api):
    for _ in range(10):
        api.create(URL)
    answer = api.refused(429, "POST", WEBHOOKS, {"url": URL, "events": ["*"]})
    assert 3_500 < int(answer.headers["retry-after"]) <= 3_600


def test_a_key_that_reads_is_noted_though_it_cannot_write(gateway, api):
    key = gateway.key(api.owner)
    used = "SELECT last_used_at IS NOT NULL FROM webhooks.api_keys WHERE id = %s"
    assert gateway.db.one(used, key["id"]) is False
    reader = type(api)(gateway, api.owner, key["key"])
    reader.done(200, "GET", WEBHOOKS)
    gateway.db.wait_until(used, True, params=[key["id"]], timeout=30)


def test_a_key_may_come_in_a_header_of_its_own_and_a_bearer_token_wins(gateway, api, other):
    mine = api.create(URL)["id"]
    nobody = type(api)(gateway, api.owner, NO_KEY)

    def listed(**headers):
        answer = nobody.send("GET", WEBHOOKS, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return [it["id"] for it in answer.data["webhooks"]] if answer.status == 200 else answer.status

    bearer = f"Bearer {api.key}"
    assert listed(X_API_Key=api.key) == [mine]
    assert listed(x_api_key=api.key, Authorization="") == [mine]
    # What is no bearer token says nothing.
    assert listed(X_API_Key=api.key, Authorization="Basic YTpi") == [mine]
    assert listed(X_API_Key=api.key, Authorization="Bearer") == [mine]
    assert listed(X_API_Key=other.key, Authorization=bearer) == [mine]
    assert listed(X_API_Key="nonsense", Authorization=bearer) == [mine]
    assert listed(X_API_Key=api.key, Authorization=f"Bearer {other.key}") == []
    assert listed(X_API_Key=api.key, Authorization="Bearer nonsense") == 401
    assert listed(X_API_Key="nonsense") == 401
    assert listed(X_API_Key="") == 401
    # In every request, also one that writes.
    headers = {"X-API-Key": api.key}
    nobody.done(200, "PUT", f"{WEBHOOKS}/{mine}", {"active": False}, headers=headers)
    nobody.done(200, "DELETE", f"{WEBHOOKS}/{mine}", headers=headers)


def test_a_jwk_set_with_our_secret_among_its_keys_takes_api_keys_too(make_gateway, api):
    ours = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    others = base64.urlsafe_b64encode(b"the secret of another service, as long").rstrip(b"=").decode()
    keys = [{"kty": "oct", "alg": "HS256", "k": others, "kid": "other"}, {"kty": "oct", "alg": "HS256", "k": ours}]
    gateway = make_gateway(jwt_secret=json.dumps({"keys": keys}))
    webhook = api.create(URL)
    (listed,) = type(api)(gateway, api.owner, api.key).done(200, "GET", WEBHOOKS)["webhooks"]
    assert listed["id"] == webhook["id"]
    without = make_gateway(jwt_secret=json.dumps({"keys": keys[:1]}))
    type(api)(without, api.owner, api.key).refused(401, "GET", WEBHOOKS)


def test_nothing_is_kept_by_caches_or_open_to_other_sites(api):
    webhook = api.create(URL)
    for answer in (
        api.send("GET", path(webhook), headers={"Origin": "https://elsewhere.example"}),
        api.send("GET", path({"id": "webhook_x"})),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "text/csv"},
        {"Accept": "application/vnd.pgrst.object+json"},
        {"Prefer": "return=minimal, tx=rollback, count=exact, params=single-object"},
        {"Range": "0-0", "Range-Unit": "items"},
        {"Accept-Profile": "webhooks", "Content-Profile": "webhooks"},
        {"X-Webhooks-Id": "webhook_" + "0" * 32, "X-Webhooks-Query": "limit=0"},
        {"Content-Type": "text/xml"},
    ],
)
def test_headers_that_are_for_postgrest_change_nothing(api, headers):
    webhook = api.create(URL)
    answer = api.send("PUT", path(webhook), {"active": False}, headers=headers)
    assert (answer.status, answer.data["active"]) == (200, False)
    answer = api.send("GET", f"{WEBHOOKS}?limit=5", headers=headers)
    assert (answer.status, answer.data["pagination"]["limit"]) == (200, 5)
