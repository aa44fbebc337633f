"""What is refused, and how: one envelope, the right status and code each time, and nothing of what is behind it."""

import json

import pytest
from api import NO_KEY, Api
from requests_as import SECRET
from signatures import jwt

URL = "http://127.0.0.1:9/hook"
SOME = "0123456789abcdef" * 2
# Every request, with a body that would do.
REQUESTS = [
    ("POST", "/api/v1/webhooks", {"url": URL, "events": ["*"]}),
    ("GET", "/api/v1/webhooks", None),
    ("GET", "/api/v1/webhooks/{webhook}", None),
    ("PUT", "/api/v1/webhooks/{webhook}", {"active": False}),
    ("DELETE", "/api/v1/webhooks/{webhook}", None),
    ("GET", "/api/v1/webhooks/{webhook}/deliveries", None),
    ("GET", "/api/v1/deliveries/{delivery}", None),
    ("POST", "/api/v1/deliveries/{delivery}/retry", None),
    ("POST", "/api/v1/webhooks/{webhook}/test", None),
    ("POST", "/api/v1/webhooks/{webhook}/rotate-secret", None),
    ("POST", "/api/v1/webhooks/{webhook}/replay", {"since": "2020-01-01T00:00:00Z"}),
    ("GET", "/api/v1/status", None),
    ("GET", "/api/v1/activity", None),
    ("GET", "/api/v1/event-types", None),
]
ABOUT_ONE = [it for it in REQUESTS if "{" in it[1]]
WITH_BODY = [it for it in REQUESTS if it[2] is not None]
every = pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
about_one = pytest.mark.parametrize(("method", "path", "body"), ABOUT_ONE)
with_body = pytest.mark.parametrize(("method", "path", "body"), WITH_BODY)


def filled(path, webhook=f"webhook_{SOME}", delivery=f"delivery_{SOME}"):
    return path.format(webhook=webhook, delivery=delivery)


@pytest.fixture
def someones(other, receiver):
    """A webhook and a delivery of somebody else."""
    webhook = other.create(receiver.url())
    other.remember()
    return {"webhook": webhook["id"], "delivery": other.deliveries(webhook, 1)[0]["id"]}


# 401


@pytest.fixture
def no_good(gateway, api):
    """Tokens that are none."""
    revoked = gateway.key(api.owner)
    gateway.db.execute("SELECT webhooks.revoke_api_key(%s)", revoked["id"])
    expired = gateway.key(api.owner)
    gateway.db.execute(
        "UPDATE webhooks.api_key SET expires_at = now() - interval '1 s' WHERE webhooks.format_id('key', id) = %s", expired["id"]
    )
    claims = {"role": "web", "sub": api.owner}
    return {
        "none": NO_KEY,
        "not a token": "secret",
        "broken": api.key[:-4] + "AAAA",
        "revoked": revoked["key"],
        "expired, as we know": expired["key"],
        "expired, as it says": jwt({**claims, "exp": 1}, SECRET),
        "of somebody who is not us": jwt(claims, "x" * 40),
        "unsigned": jwt(claims, SECRET, {"alg": "none"}),
        "of a key that there is not": jwt({**claims, "jti": "key_" + SOME}, SECRET),
    }


@every
def test_without_a_good_key_it_is_401_the_same_for_all(gateway, api, no_good, method, path, body):
    envelopes = set()
    for name, key in no_good.items():
        caller = Api(gateway, api.owner, key)
        answer = caller.refused(401, method, filled(path), body)
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
        envelopes.add(json.dumps(answer.envelope))
    assert len(envelopes) == 1


def test_what_is_wrong_with_a_request_is_told_only_to_who_may_make_it(gateway, api):
    caller = Api(gateway, api.owner, "no key")
    caller.refused(401, "POST", "/api/v1/webhooks", content="{")
    caller.refused(401, "GET", "/api/v1/webhooks?limit=abc")


# 403


@pytest.fixture(scope="module")
def stranger(gateway):
    """A role of the application's own, which may do nothing here."""
    db = gateway.db
    db.execute("CREATE ROLE stranger")
    db.execute("GRANT stranger TO authenticator")
    yield "stranger"
    db.execute("DROP ROLE stranger")


@every
def test_a_role_without_the_right_is_403(gateway, gateway_by_source, api, stranger, method, path, body):
    token = jwt({"role": stranger, "sub": api.owner}, SECRET)
    Api(gateway_by_source, api.owner, token).refused(403, method, filled(path), body)
    # The substitute says 401 of every role that may not call a function, and PostgREST of the anonymous one alone.
    Api(gateway, api.owner, token).refused(401 if gateway.substitute else 403, method, filled(path), body)


@every
def test_a_token_of_the_anonymous_role_is_401(gateway, gateway_by_source, api, method, path, body):
    token = jwt({"role": "anon", "sub": api.owner}, SECRET)
    for each in (gateway, gateway_by_source):
        Api(each, api.owner, token).refused(401, method, filled(path), body)


@pytest.fixture(scope="module")
def half(gateway):
    """A role that may call the functions, but was not given the right."""
    db = gateway.db
    db.execute("CREATE ROLE half")
    db.execute("GRANT USAGE ON SCHEMA webhooks, webhooks_api TO half")
    db.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks, webhooks_api TO half")
    db.execute("GRANT half TO authenticator")
    yield "half"
    db.execute("DROP OWNED BY half")
    db.execute("DROP ROLE half")


@every
def test_execute_alone_is_403_too(gateway, api, half, method, path, body):
    caller = Api(gateway, api.owner, jwt({"role": half, "sub": api.owner}, SECRET))
    caller.refused(403, method, filled(path), body)


# 404


@about_one
def test_what_is_somebody_elses_does_not_exist(api, someones, method, path, body):
    theirs = api.refused(404, method, filled(path, **someones), body)
    nobodys = api.refused(404, method, filled(path), body)
    assert theirs.envelope == nobodys.envelope


@about_one
@pytest.mark.parametrize(
    "bad",
    ["x", "WEBHOOK_" + SOME, f"webhook_{SOME}0", f"event_{SOME}", "webhook_" + "Z" * 32, "%0aX: y", "%ff", "..%2f..", "'",
     "a" * 2_000],
)  # fmt: skip
def test_what_no_id_looks_like_does_not_exist_either(api, method, path, body, bad):
    answer = api.refused(404, method, filled(path, bad, bad), body)
    assert answer.envelope == api.refused(404, method, filled(path), body).envelope


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/v1", "/api/v1/", "/api/v2/webhooks", "/api/v1/webhooks/", f"/api/v1/webhooks/webhook_{SOME}/",
     "/api/v1/Webhooks", f"/api/v1/webhooks/webhook_{SOME}/secret", "/rpc/list_webhooks", "/webhooks", "/-/read/list_webhooks",
     "/-/act/delete_webhook", "/-/write/create_webhook", "/../etc/passwd", "/api/v1/webhook%73/.."],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_there_is_not_is_404(api, method, path):
    api.refused(404, method, path)


# 405

ALLOWED = {}
for _method, _path, _ in REQUESTS:
    ALLOWED.setdefault(_path, set()).add(_method)


@pytest.mark.parametrize(("path", "allowed"), [*ALLOWED.items(), ("/", {"GET"}), ("/portal", {"GET"}), ("/api/v1/openapi.json", {"GET"})])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_another_method_is_405_and_says_which_there_are(api, path, allowed, method):
    if method in allowed:
        return
    answer = api.refused(405, method, filled(path))
    assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == allowed


def test_trace_is_405_everywhere(api):
    assert api.refused(405, "TRACE", "/api/v1/webhooks").headers["allow"]


# 400: bodies


@with_body
@pytest.mark.parametrize(
    "content",
    ["{", "nonsense", "{'url': 1}", '{"url": 1} 2', "[]", "null", '"x"', "7", '{"url": "\\u0000"}', '{"\\ud800": 1}', "[" * 5_000,
     '{"a":' * 5_000],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_400(api, method, path, body, content):
    answer = api.refused(400, method, filled(path), content=content)
    assert answer.fields == {"body"}


@pytest.fixture
def apis_that_hand_bytes_on(gateway, api, api_by_source):
    """The substitute takes bytes for text."""
    return [api_by_source] if gateway.substitute else [api_by_source, api]


# With what would do before or behind a NUL, or around bytes that are no UTF-8.
NO_TEXT = [b"\x00", b"\x00x", b"{}\x00", b"\xff\xfe", b'{"url":"a\x00b"}', b"\xc0\x80", b"{} \xed\xa0\x80"]


@with_body
def test_a_body_that_is_no_text_is_400_and_does_nothing(apis_that_hand_bytes_on, method, path, body):
    good = json.dumps(body).encode()
    for api in apis_that_hand_bytes_on:
        webhook = api.create(URL)
        stored = api.gateway.db.rows("SELECT * FROM webhooks.webhook WHERE owner = %s", api.owner)
        for content in [*NO_TEXT, good + b"\x00", good + b"\x00" + good, good[:-1] + b',"\xe9":1}', b"\xef\xbb\xbf" + good]:
            answer = api.refused(400, method, filled(path, webhook["id"]), content=content)
            assert answer.fields == {"body"}, content
        assert api.gateway.db.rows("SELECT * FROM webhooks.webhook WHERE owner = %s", api.owner) == stored
        # And the same without what was wrong is done.
        assert api.send(method, filled(path, webhook["id"]), content=good).status < 300


@with_body
def test_a_body_that_is_no_text_is_400_also_where_it_is_taken_for_text(api, method, path, body):
    good = json.dumps(body).encode()
    webhook = api.create(URL)
    for content in (b"\x00", b"{}\x00", good + b"\x00x", b"\xff\xfe", good[:-1] + b',"\xe9":1}'):
        answer = api.refused(400, method, filled(path, webhook["id"]), content=content)
        assert answer.fields == {"body"}, content
    (listed,) = api.done(200, "GET", "/api/v1/webhooks")["webhooks"]
    assert (listed["id"], listed["active"]) == (webhook["id"], True)


def test_characters_outside_ascii_arrive_as_they_were_sent(api, api_by_source):
    for each in (api, api_by_source):
        filters = {"größe": "\U0001f600 \\ \" é"}
        assert each.create(URL, filters=filters)["filters"] == filters
        content = json.dumps({"url": URL, "events": ["*"], "filters": filters}, ensure_ascii=False).encode()
        assert each.done(201, "POST", "/api/v1/webhooks", content=content)["filters"] == filters


def test_headers_that_are_no_utf_8_are_not_handed_on(api, api_by_source):
    odd = {"User-Agent": b"caf\xe9", "X-Anything": b"\xff\xfe", "Cookie": b"a=\xe9"}
    for each in (api, api_by_source):
        each.create(URL)
        assert each.send("GET", "/api/v1/webhooks", headers=odd).status == 200
        for name in ("Authorization", "X-API-Key"):
            each.refused(401, "GET", "/api/v1/webhooks", headers={"Authorization": "", name: b"Bearer caf\xe9"})


def test_what_is_said_of_long_input_is_short(api):
    answer = api.refused(400, "POST", "/api/v1/webhooks", {f"{n}" + "\U0001f600" * 50: 1 for n in range(1_000)})
    assert answer.error["message"]
    answer = api.refused(400, "POST", "/api/v1/webhooks", {"url": URL, "events": ["größe \U0001f600"]})
    assert "größe \U0001f600" in answer.error["message"]


@with_body
def test_keys_that_there_are_not_are_400_and_named(api, method, path, body):
    answer = api.refused(400, method, filled(path), {**body, "colour": "red", "nu\nmber": 7})
    assert answer.fields == {"colour", "nu\\nmber"}


WRONG = {
    "url": [1, True, [], {}, "", "ftp://example.com", "http://", "http://10.0.0.1/", "http://user:pass@example.com/", "x" * 9],
    "events": ["memory.*", 7, {}, [], [7], [None], ["no.such"], ["*"] * 2, ["*"] * 51, ["system.health"], ["webhook.test"]],
    "secret": [7, "", [], "x" * 5_000],
    "active": ["yes", 1, [], {}],
    "retry_policy": [7, [], "x", {"max_attempts": 0}, {"max_attempts": 1.5}, {"max_delay": "x"}, {"nope": 1}],
    "filters": [7, [], "x", {"a": {"b": 1}}, {"a": [[1]]}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_value_that_cannot_be_is_400_and_names_its_field(api, field, value):
    good = {"url": URL, "events": ["*"]}
    answer = api.refused(400, "POST", "/api/v1/webhooks", {**good, field: value})
    assert answer.fields == {field}
    assert api.done(200, "GET", "/api/v1/webhooks")["webhooks"] == []
    webhook = api.create(URL)
    changes = {"active": False, field: value}
    answer = api.refused(400, "PUT", f"/api/v1/webhooks/{webhook['id']}", changes)
    assert answer.fields == {field}
    assert api.done(200, "GET", f"/api/v1/webhooks/{webhook['id']}")["active"] is True


def test_all_that_is_wrong_is_named_at_once(api):
    answer = api.refused(400, "POST", "/api/v1/webhooks", {"url": 7, "active": "no", "x": 1})
    assert answer.fields == {"url", "active", "x", "events"}


@pytest.mark.parametrize("field", ["url", "events", "secret", "active"])
def test_what_must_be_cannot_be_put_to_null(api, field):
    webhook = api.create(URL)
    assert api.refused(400, "PUT", f"/api/v1/webhooks/{webhook['id']}", {field: None}).fields == {field}


@pytest.mark.parametrize(
    ("rest", "body", "field"),
    [
        ("rotate-secret", {"overlap_seconds": -1}, "overlap_seconds"),
        ("rotate-secret", {"overlap_seconds": 2_592_001}, "overlap_seconds"),
        ("rotate-secret", {"overlap_seconds": "1 day"}, "overlap_seconds"),
        ("rotate-secret", {"overlap": 5}, "overlap"),
        ("replay", {}, "since"),
        ("replay", None, "since"),
        ("replay", {"since": None}, "since"),
        ("replay", {"since": "yesterday"}, "since"),
        ("replay", {"since": "2024-02-30T00:00:00Z"}, "since"),
        ("replay", {"since": "2024-01-01T00:00:00"}, "since"),
        ("replay", {"since": 1_704_067_200}, "since"),
        ("replay", {"since": "2024-01-02T00:00:00Z", "until": "2024-01-01T00:00:00Z"}, "since"),
        ("replay", {"since": "2024-01-02T00:00:00Z", "until": ""}, "until"),
        ("replay", {"since": "2024-01-02T00:00:00Z", "only_failed": "yes"}, "only_failed"),
    ],
)
def test_values_of_the_other_requests_are_judged_too(api, rest, body, field):
    webhook = api.create(URL)
    assert api.refused(400, "POST", f"/api/v1/webhooks/{webhook['id']}/{rest}", body).fields == {field}


# 400: query strings


@pytest.mark.parametrize(
    ("query", "field"),
    [(f"limit={value}", "limit") for value in ("abc", "0", "1001", "-1", "1.5", "1e2", "%20", "9" * 30, "5&limit=6")]
    + [(f"offset={value}", "offset") for value in ("abc", "-1", "2147483648")],
)
def test_a_page_that_cannot_be_is_400(api, query, field):
    webhook = api.create(URL)
    assert api.refused(400, "GET", f"/api/v1/webhooks?{query}").fields == {field}
    assert api.refused(400, "GET", f"/api/v1/webhooks/{webhook['id']}/deliveries?{query}").fields == {field}


def test_other_parameters_that_cannot_be_are_400(api):
    webhook = api.create(URL)
    for path, field in {
        "webhooks?active=maybe": "active",
        "webhooks?event=%00": "event",
        f"webhooks/{webhook['id']}/deliveries?state=done": "state",
        "activity?minutes=0": "minutes",
        "activity?minutes=1441": "minutes",
        "activity?webhook_id=7": "webhook_id",
    }.items():
        assert api.refused(400, "GET", f"/api/v1/{path}").fields == {field}, path


@pytest.mark.parametrize(
    "line",
    [b"GET /api/v1/webhooks?event=\xff HTTP/1.1", b"GET /api/v1/webhooks?event=\x7f HTTP/1.1",
     b"GET /api/v1/webhooks/%00 HTTP/1.1", b"GET /api/v1/%zz HTTP/1.1", b"get /api/v1/webhooks HTTP/1.1",
     b"GET /api/v1/webhooks HTTP/9", b"nonsense", b"\x16\x03\x01"],
)  # fmt: skip
def test_what_is_no_request_is_400(gateway, api, line):
    headers = f"\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {api.key}\r\n\r\n"
    status, envelope = gateway.raw(line + headers.encode())
    assert (status, envelope["success"], envelope["error"]["code"]) == (400, False, "VALIDATION_ERROR")


def test_a_request_that_is_too_long_is_400(api):
    api.refused(400, "GET", "/api/v1/webhooks?event=" + "x" * 50_000)
    api.refused(400, "GET", "/api/v1/webhooks", headers={"X-Long": "x" * 50_000})


# 413


@with_body
def test_a_body_over_1_mb_is_413(api, method, path, body):
    api.refused(413, method, filled(path), content=b" " * 1_100_000)


def test_a_body_over_1_mb_in_chunks_is_413(api):
    def chunks():
        for _ in range(20):
            yield b" " * 100_000

    api.refused(413, "POST", "/api/v1/webhooks", content=chunks())


def test_a_body_up_to_1_mb_is_taken(api):
    body = json.dumps({"url": URL, "events": ["*"]}).encode().ljust(1_000_000)
    api.done(201, "POST", "/api/v1/webhooks", content=body)


# 500


def test_an_error_of_ours_is_500_and_is_told_in_the_log(gateway, api):
    db = gateway.db
    began = db.server.log_size()
    db.execute("ALTER TABLE webhooks.creation ADD CONSTRAINT never CHECK (false) NOT VALID")
    try:
        answer = api.refused(500, "POST", "/api/v1/webhooks", {"url": URL, "events": ["*"]})
    finally:
        db.execute("ALTER TABLE webhooks.creation DROP CONSTRAINT never")
    assert "retry-after" not in answer.headers and "x-webhooks-error" not in answer.headers
    db.server.wait_for_log("webhooks_api.create_webhook() failed: ", began)
    assert api.done(200, "GET", "/api/v1/webhooks")["webhooks"] == []


# 503


def test_without_postgrest_it_is_503(make_gateway, api):
    gateway = make_gateway()
    caller = Api(gateway, api.owner)
    caller.done(200, "GET", "/api/v1/webhooks")
    gateway.stop_postgrest()
    answer = caller.refused(503, "GET", "/api/v1/webhooks")
    assert int(answer.headers["retry-after"]) > 0


def test_while_the_database_lets_nobody_in_it_is_503(gateway, api):
    db = gateway.db
    db.execute("ALTER ROLE authenticator NOLOGIN")
    try:
        db.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'authenticator'")
        api.refused(503, "GET", "/api/v1/webhooks")
    finally:
        db.execute("ALTER ROLE authenticator LOGIN")
    answer = api.send("GET", "/api/v1/webhooks")
    while answer.status == 503:
        answer = api.send("GET", "/api/v1/webhooks")
    assert answer.status == 200


# Always


def test_a_request_that_failed_has_done_nothing(api):
    webhook = api.create(URL)
    path = f"/api/v1/webhooks/{webhook['id']}"
    api.refused(400, "PUT", path, {"active": False, "retry_policy": {"max_attempts": 0}})
    assert api.done(200, "GET", path)["active"] is True
