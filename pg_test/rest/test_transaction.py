"""The REST functions without a server: transactions as PostgREST makes them, for where it cannot be had."""

import contextlib
import json

import psycopg
import pytest
from requests_as import Gateway, bearer

URL = "http://127.0.0.1:9/hook"
CLAIMS = {"role": "web", "sub": "alice"}


class Request:
    """What a request comes to, in one transaction."""

    def __init__(self, session):
        self.session = session

    def call(self, statement, *params):
        return self.session.execute(statement, params or None).fetchone()[0]

    @property
    def status(self):
        return int(self.call("SELECT current_setting('response.status', true)"))

    @property
    def headers(self):
        return json.loads(self.call("SELECT current_setting('response.headers', true)") or "[]")


@pytest.fixture
def rest(keys, db):
    """Makes requests of alice: PostgREST's statements, in its order."""
    gateway = Gateway(db, keys.role)
    session = db.connect(user=gateway.role)

    @contextlib.contextmanager
    def request(method="POST", claims=CLAIMS, headers=None, role=keys.role, check="webhooks_api.check_request()", path="/rpc/anything"):
        read_only = "READ ONLY" if method == "GET" else "READ WRITE"
        with session.transaction():
            session.execute(f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED {read_only}")
            for name, value in {
                "search_path": '"webhooks_api", "public"',
                "role": role,
                "request.jwt.claims": json.dumps(claims),
                "request.method": method,
                "request.path": path,
                "request.headers": json.dumps(headers or {}),
                "response.status": "",
                "response.headers": "",
            }.items():
                session.execute("SELECT set_config(%s, %s, true)", [name, value])
            if check:
                session.execute(f"SELECT {check}")
            yield Request(session)

    return request


def create(request, **more):
    answer = request.call("SELECT webhooks_api.create_webhook(%s::text)", json.dumps({"url": URL, "events": ["*"], **more}))
    assert request.status == 201, answer
    return answer["data"]


def header_of(request, name):
    """The header of this name that the response has."""
    (value,) = [header[name] for header in request.headers if name in header]
    return value


# The overloads


@pytest.mark.parametrize("kind", ["bytea", "text", "json"])
def test_a_body_comes_as_bytes_as_text_or_as_json(rest, kind):
    body = json.dumps({"url": URL + "/\\ü", "events": ["*"]})
    body = body.encode() if kind == "bytea" else body
    with rest() as request:
        answer = request.call(f"SELECT webhooks_api.create_webhook(%s::{kind})", body)
        assert (request.status, answer["success"], answer["data"]["url"]) == (201, True, URL + "/\\ü")


def test_each_request_has_the_overloads_of_the_gateway_and_of_client_libraries(db):
    overloads = db.rows(
        "SELECT proname, array_agg(pg_get_function_arguments(oid) ORDER BY 1) AS arguments FROM pg_proc"
        " WHERE pronamespace = 'webhooks_api'::regnamespace AND provolatile = 'v' AND proname <> 'check_request' GROUP BY 1"
    )
    assert {it["proname"] for it in overloads} == {
        "create_webhook", "update_webhook", "delete_webhook", "rotate_secret", "send_test", "replay", "retry_delivery",
        "emit", "search_performed", "user_activity",
    }  # fmt: skip
    assert all(sorted(it["arguments"]) == ["bytea", "json", "text"] for it in overloads)


def test_bytes_that_are_no_text_are_the_bodys_fault_and_nothing_is_done(rest, db):
    with rest() as request:
        webhook = create(request)["id"]
    stored = db.rows("SELECT * FROM webhooks.webhook")
    functions = ["create_webhook", "update_webhook", "rotate_secret", "replay"]
    for function in functions:
        for body in (b"\x00", b"\x00x", b"{}\x00", b"\xff", b'{"a":"\xe9"}', b'{"active":false}\x00'):
            with rest(headers={"x-webhooks-id": webhook}) as request:
                answer = request.call(f"SELECT webhooks_api.{function}(%s::bytea)", body)
                assert (request.status, answer["code"]) == (400, "VALIDATION_ERROR"), (function, body)
                assert [it["field"] for it in answer["error"]["details"]] == ["body"]
    assert db.rows("SELECT * FROM webhooks.webhook") == stored
    with rest(headers={"x-webhooks-id": webhook}) as request:
        assert request.call("SELECT webhooks_api.update_webhook(%s::bytea)", b'{"active":false}')["data"]["active"] is False
        assert request.call("SELECT webhooks_api.rotate_secret(NULL::bytea)")["success"] is True


def test_a_text_that_is_not_all_that_was_sent_does_nothing(rest, db):
    """PostgREST cuts text at a NUL byte; the length of what was sent is among its headers."""
    with rest() as request:
        webhook = create(request)["id"]
    stored = db.rows("SELECT * FROM webhooks.webhook")
    for function, cut, sent in (
        ("rotate_secret", "", b"\x00x"),
        ("rotate_secret", "{}", b"{}\x00"),
        ("update_webhook", '{"active":false}', b'{"active":false}\x00{}'),
        ("update_webhook", '{"url":"http://a.example/\ufffd"}', b'{"url":"http://a.example/\xff"}'),
    ):
        with rest(headers={"x-webhooks-id": webhook, "content-length": str(len(sent))}) as request:
            answer = request.call(f"SELECT webhooks_api.{function}(%s::text)", cut)
            assert (request.status, [it["field"] for it in answer["error"]["details"]]) == (400, ["body"])
    assert db.rows("SELECT * FROM webhooks.webhook") == stored
    with rest(headers={"x-webhooks-id": webhook, "content-length": "16"}) as request:
        assert request.call("SELECT webhooks_api.update_webhook('{\"active\":false}'::text)")["success"] is True


def test_a_path_comes_in_a_header_and_a_call_in_its_argument(rest):
    with rest() as request:
        webhook = create(request)["id"]
    with rest(headers={"x-webhooks-id": webhook}) as request:
        assert request.call("SELECT webhooks_api.update_webhook(%s::text)", '{"active":false}')["data"]["active"] is False
    with rest() as request:
        changes = json.dumps({"webhook_id": webhook, "changes": {"active": True}})
        assert request.call("SELECT webhooks_api.update_webhook(%s::json)", changes)["data"]["active"] is True
        for wrong in ({"webhook_id": webhook}, {"webhook_id": webhook, "changes": 7}, {"webhook_id": webhook, "active": True}):
            assert request.call("SELECT webhooks_api.update_webhook(%s::json)", json.dumps(wrong))["success"] is False
            assert request.status == 400
        # A path that nobody told of, and the header of another request, which a call has no eyes for.
        assert request.call("SELECT webhooks_api.delete_webhook('{}'::text)")["error"]["code"] == "NOT_FOUND"
    with rest(headers={"x-webhooks-id": webhook}) as request:
        assert request.call("SELECT webhooks_api.delete_webhook('{}'::json)")["error"]["code"] == "NOT_FOUND"


# Reading


def test_what_reads_works_in_a_transaction_that_cannot_write(rest):
    with rest() as request:
        webhook = create(request)["id"]
    with rest("GET") as request:
        assert request.call("SELECT webhooks_api.list_webhooks()")["data"]["pagination"]["total"] == 1
        assert request.call("SELECT webhooks_api.list_webhooks(active => 'false')")["data"]["pagination"]["total"] == 0
        assert request.call("SELECT webhooks_api.get_webhook(%s)", webhook)["data"]["id"] == webhook
        assert request.call("SELECT webhooks_api.list_deliveries(%s)", webhook)["data"]["deliveries"] == []
        assert request.call("SELECT webhooks_api.status()")["data"]["active_webhooks"] == 1
        assert len(request.call("SELECT webhooks_api.activity('7')")["data"]["minutes"]) == 7
        assert request.call("SELECT webhooks_api.event_types()")["success"] is True
        assert request.status == 200
        assert request.call("SELECT webhooks_api.get_delivery(%s)", "delivery_" + "0" * 32)["error"]["code"] == "NOT_FOUND"
        assert request.status == 404
        assert request.call("SELECT webhooks_api.list_webhooks(page_limit => 'abc')")["error"]["details"][0]["field"] == "limit"


def test_a_query_string_comes_in_a_header(rest):
    with rest() as request:
        webhook = create(request)["id"]
        create(request)
    with rest("GET", headers={"x-webhooks-query": "limit=1&offset=1", "x-webhooks-id": webhook}) as request:
        assert request.call("SELECT webhooks_api.list_webhooks()")["data"]["pagination"]["offset"] == 1
        assert request.call("SELECT webhooks_api.list_deliveries()")["data"]["pagination"]["limit"] == 1
        # What a call names itself is what counts.
        assert request.call("SELECT webhooks_api.list_webhooks(page_limit => '2')")["data"]["pagination"]["limit"] == 2


def test_what_writes_is_refused_there_and_says_to_post(rest):
    with rest("GET") as request:
        answer = request.call("SELECT webhooks_api.create_webhook(%s::text)", json.dumps({"url": URL, "events": ["*"]}))
        assert (request.status, answer["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert header_of(request, "Allow") == "POST"


# Emitting


def test_whoever_may_emit_too_emits_events_of_its_own(rest, db, keys, receiver):
    call = "SELECT webhooks_api.{}(%s::json)"
    event = json.dumps({"event_type": "user.activity", "data": {"object": "activity", "id": "7"}})
    with rest() as request:
        answer = request.call("SELECT has_function_privilege('webhooks_api.emit(json)', 'EXECUTE')")
        assert answer is False
    db.grant(keys.role, "emit")
    webhook = db.create_webhook(receiver.url(), ["user.activity", "search.performed"], owner="alice")
    with rest() as request:
        first = request.call(call.format("emit"), event)
        assert request.status == 202
        request.call(call.format("search_performed"), json.dumps({"query": "tea", "results": [{"id": 1, "score": 0.5}]}))
        request.call(call.format("user_activity"), json.dumps({"user_id": "u", "activity": "login", "details": {"a": 1}}))
        assert request.status == 202
        answer = request.call(call.format("emit"), json.dumps({"event_type": "memory.created", "data": {}}))
        assert (request.status, answer["error"]["code"]) == (403, "FORBIDDEN")
        answer = request.call(call.format("emit"), json.dumps({"event_type": "no.such", "data": {}}))
        assert request.status == 400
        answer = request.call(call.format("user_activity"), json.dumps({"user_id": 7, "nope": 1}))
        assert {it["field"] for it in answer["error"]["details"]} == {"user_id", "nope", "activity"}
        answer = request.call(call.format("emit"), json.dumps({"event_type": "user.activity", "data": {}, "owner": "bob"}))
        assert request.status == 403
    bodies = {it.json["id"]: it.json for it in receiver.wait(3)}
    assert first["data"]["event_id"] in bodies
    assert {it["webhook_id"] for it in bodies.values()} == {webhook["id"]}
    with rest("GET") as request:
        answer = request.call(call.format("emit"), event)
        assert (request.status, answer["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")


# Errors


def test_an_error_undoes_what_its_function_did_and_nothing_else(rest, db):
    with rest() as request:
        webhook = create(request)["id"]
        over = json.dumps({"url": URL, "events": ["*"], "filters": {"n": 1}, "secret": "x" * 5_000})
        assert request.call("SELECT webhooks_api.create_webhook(%s::text)", over)["success"] is False
        assert request.status == 400
        assert request.call("SELECT webhooks_api.get_webhook(%s)", webhook)["success"] is True
    assert db.one("SELECT count(*) FROM webhooks.webhook") == 1
    assert db.one("SELECT cardinality(at) FROM webhooks.creation") == 1


def test_the_limit_of_creations_tells_when_to_try_again(rest):
    with rest() as request:
        for _ in range(10):
            create(request)
        answer = request.call("SELECT webhooks_api.create_webhook(%s::text)", json.dumps({"url": URL, "events": ["*"]}))
        assert (request.status, answer["error"]["code"]) == (429, "RATE_LIMITED")
        assert 3_500 < int(header_of(request, "Retry-After")) <= 3_600
        assert answer["hint"] == f"Try again in {header_of(request, 'Retry-After')} s."


@pytest.mark.settings({"webhooks.max_webhooks_per_owner": "1"})
def test_other_limits_are_429_too(rest):
    with rest() as request:
        create(request)
        answer = request.call("SELECT webhooks_api.create_webhook(%s::text)", json.dumps({"url": URL, "events": ["*"]}))
        assert request.status == 429
        assert "at most 1" in answer["error"]["message"]
        assert "webhooks." not in json.dumps(answer)
        assert int(header_of(request, "Retry-After")) > 0


def test_every_error_is_known_by_its_header(rest, db):
    """By which the gateway tells it from one of PostgREST's own."""
    with rest() as request:
        answers = [
            request.call("SELECT webhooks_api.create_webhook('{'::text)"),
            request.call("SELECT webhooks_api.get_webhook('x')"),
        ]
        for answer in answers:
            assert set(answer) == {"success", "error", "code", "message", "details", "hint"}
            assert (answer["code"], answer["message"]) == (answer["error"]["code"], answer["error"]["message"])
        assert json.loads(header_of(request, "X-Webhooks-Error")) == {"success": False, "error": answers[-1]["error"]}
    with rest("GET") as request:
        answer = request.call("SELECT webhooks_api.send_test('{}'::json)")
        assert json.loads(header_of(request, "X-Webhooks-Error"))["error"] == answer["error"]


def test_an_error_of_the_database_is_500_without_its_words(rest, db):
    db.execute("ALTER TABLE webhooks.creation ADD CONSTRAINT never CHECK (false) NOT VALID")
    began = db.server.log_size()
    with rest() as request:
        answer = request.call("SELECT webhooks_api.create_webhook(%s::text)", json.dumps({"url": URL, "events": ["*"]}))
        assert answer["error"] == {"code": "INTERNAL", "message": "internal error", "details": []}
        assert (answer["code"], answer["message"], answer["details"]) == ("INTERNAL", "internal error", None)
        assert request.status == 500
    db.server.wait_for_log("webhooks_api.create_webhook() failed: 23514: ", began)


def test_a_lock_that_is_not_had_in_time_is_503_and_a_cancel_ends_the_request(rest, db):
    with rest() as request:
        webhook = create(request)["id"]
    holder = db.connect()
    with holder.transaction():
        holder.execute("SELECT FROM webhooks.webhook FOR UPDATE")
        with rest(headers={"x-webhooks-id": webhook}) as request:
            request.session.execute("SET LOCAL lock_timeout = '50ms'")
            answer = request.call("SELECT webhooks_api.update_webhook('{\"active\":false}'::text)")
            assert (request.status, answer["error"]["code"]) == (503, "UNAVAILABLE")
            assert header_of(request, "Retry-After") == "1"
        with pytest.raises(psycopg.errors.QueryCanceled), rest(headers={"x-webhooks-id": webhook}) as request:
            request.session.execute("SET LOCAL statement_timeout = '50ms'")
            request.call("SELECT webhooks_api.update_webhook('{\"active\":false}'::text)")
    with rest("GET") as request:
        assert request.call("SELECT webhooks_api.get_webhook(%s)", webhook)["data"]["active"] is True


# Who is asking


def test_the_functions_judge_their_callers_without_the_check(rest, db, keys):
    key = keys.create("alice")
    keys.revoke(key)
    everything = [
        "SELECT webhooks_api.list_webhooks()",
        "SELECT webhooks_api.create_webhook('{'::text)",
        "SELECT webhooks_api.delete_webhook('{}'::json)",
        "SELECT webhooks_api.status()",
    ]
    for claims, status in (({**CLAIMS, "jti": key["id"]}, 401), ({"role": "web"}, 401), ({"role": "web", "sub": 7}, 401)):
        with rest(claims=claims, check=None) as request:
            for call in everything:
                assert request.call(call)["success"] is False
                assert request.status == status, call


def test_a_role_without_the_right_is_403_even_if_it_may_call(rest, db, keys):
    db.execute(f"REVOKE USAGE ON TYPE webhooks.api_access FROM {keys.role}")
    with rest(check=None) as request:
        answer = request.call("SELECT webhooks_api.list_webhooks()")
        assert (request.status, answer["error"]["code"]) == (403, "FORBIDDEN")


def test_the_check_lets_the_page_through_and_composes_with_another(rest, db, keys):
    db.execute("CREATE SCHEMA app")
    body = "BEGIN PERFORM webhooks_api.check_request(); END"
    db.execute(f"CREATE FUNCTION app.check() RETURNS void LANGUAGE plpgsql AS $${body}$$")
    db.execute(f"GRANT USAGE ON SCHEMA app TO {keys.role}")
    with rest(check="app.check()") as request:
        create(request)
    nobody = {"role": "web"}
    with pytest.raises(psycopg.Error) as raised, rest(claims=nobody, check="app.check()"):
        pass
    assert raised.value.sqlstate == "PT401"
    with rest(claims=nobody, check=None) as request:
        request.session.execute("SELECT set_config('request.path', '/rpc/portal', true)")
        request.session.execute("SELECT webhooks_api.check_request()")
        assert request.call("SELECT webhooks_api.portal()").startswith("<!doctype html>")


def test_what_is_refused_is_no_error_in_the_servers_log(rest, db, keys):
    key = keys.create("alice")
    keys.revoke(key)
    began = db.server.log_size()
    for claims in ({"role": "web"}, {**CLAIMS, "jti": key["id"]}):
        with pytest.raises(psycopg.Error) as raised, rest(claims=claims):
            pass
        assert raised.value.sqlstate == "PT401"
    db.fails("SELECT 1 / 0", state="22012", hint=False)
    db.server.wait_for_log("division by zero", began)
    log = db.server.log(began)
    assert log.count("ERROR:") == log.count("STATEMENT:") == 1, log
    # The session of the gateway goes on, and what fails there by itself is told.
    with pytest.raises(psycopg.Error), rest() as request:
        request.call("SELECT 1 / (SELECT 0)")
    assert db.server.log(began).count("ERROR:") == 2


# Views


VIEWS = ["webhooks", "deliveries", "attempts"]


def test_views_show_own_rows_and_no_others(rest, db, receiver):
    db.memories(owner_column="owner_id")
    receiver.answer("/failing", 500)
    for owner in ("alice", "bob"):
        db.create_webhook(receiver.url(), owner=owner)
        db.create_webhook(receiver.url("/failing"), owner=owner, retry_policy={"max_attempts": 9, "backoff_multiplier": 10})
    gone = db.create_webhook(receiver.url(), owner="alice")
    db.execute("INSERT INTO memories (owner_id, content) VALUES ('alice', 'a'), ('bob', 'b')")
    receiver.wait(5)
    db.wait_for_states(gone, delivered=1)
    db.wait_until("SELECT count(*) FROM webhooks.queue WHERE attempts > 0", lambda n: n == 2)
    db.wait_until("SELECT count(*) FROM webhooks.delivery", 3)
    db.delete_webhook(gone)
    with rest("GET") as request:
        webhooks = [it[0] for it in request.session.execute("SELECT id FROM webhooks_api.webhooks").fetchall()]
        assert len(webhooks) == 2
        states = request.session.execute("SELECT state, webhook_id FROM webhooks_api.deliveries ORDER BY state").fetchall()
        assert [state for state, _ in states] == ["delivered", "delivered", "pending"]
        assert {webhook for _, webhook in states} == {*webhooks, gone["id"]}
        attempts = request.session.execute("SELECT webhook_id FROM webhooks_api.attempts").fetchall()
        assert {webhook for (webhook,) in attempts} == {webhook for _, webhook in states}
        columns = [it.name for it in request.session.execute("SELECT * FROM webhooks_api.webhooks").description]
        assert not [name for name in columns if "secret" in name]
    with rest("GET", claims={"role": "web", "sub": "carol"}) as request:
        for view in VIEWS:
            assert request.call(f"SELECT count(*) FROM webhooks_api.{view}") == 0
    assert db.one("SELECT count(*) FROM webhooks_api.webhooks") == 4  # for a superuser


@pytest.mark.parametrize("view", VIEWS)
def test_views_refuse_whoever_has_no_owner_and_take_no_writing(rest, db, keys, receiver, view):
    key = keys.create("alice")
    keys.revoke(key)
    db.memories(owner_column="owner_id")
    webhook = db.create_webhook(receiver.url(), owner="alice")
    db.execute("INSERT INTO memories (owner_id) VALUES ('alice')")
    db.wait_for_states(webhook, delivered=1)
    for claims in ({"role": "web"}, {**CLAIMS, "jti": key["id"]}):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), rest(claims=claims, check=None) as request:
            request.call(f"SELECT count(*) FROM webhooks_api.{view}")
    with pytest.raises(psycopg.Error), rest() as request:
        request.session.execute(f"DELETE FROM webhooks_api.{view}")
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        with pytest.raises(psycopg.Error) as raised, rest(method, path=f"/{view}"):
            pass
        assert raised.value.sqlstate == "PT405"
        assert "/rpc/update_webhook" in raised.value.diag.message_hint
        # Who asks comes first.
        with pytest.raises(psycopg.Error) as raised, rest(method, claims={"role": "web"}, path=f"/{view}"):
            pass
        assert raised.value.sqlstate == "PT401"


def test_what_waits_is_shown_by_mistake_to_nobody(db, rest, keys):
    db.memories(owner_column="owner_id")
    db.stop_worker()
    db.create_webhook(URL, owner="bob")
    db.execute("INSERT INTO memories (owner_id, content) VALUES ('bob', 'b')")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {keys.role}")
    with rest("GET") as request:
        for view in ("waiting", "pending", "deliveries"):
            assert request.call(f"SELECT count(*) FROM webhooks.{view}") == 0
    with rest("GET", claims={"role": "web", "sub": "bob"}) as request:
        assert request.call("SELECT count(*) FROM webhooks_api.deliveries") == 1
        assert request.call("SELECT count(*) FROM webhooks.pending") == 0


def test_conditions_on_views_are_not_tried_on_rows_of_others(rest, db, keys):
    db.create_webhook(URL + "/bobs", owner="bob")
    db.execute("CREATE SCHEMA app")
    db.execute(f"GRANT ALL ON SCHEMA app TO {keys.role}")
    db.execute(
        "CREATE FUNCTION app.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
        " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
    )
    with rest("GET") as request:
        heard = []
        request.session.add_notice_handler(lambda it: heard.append(it.message_primary))
        assert request.session.execute("SELECT id FROM webhooks_api.webhooks WHERE app.peek(url)").fetchall() == []
        assert heard == []


def test_rights_that_were_given_can_be_taken_away(db):
    role = db.role()
    for right in ("api", "emit", "admin"):
        db.grant(role, right)
    for right in ("api", "emit", "admin"):
        db.execute("SELECT webhooks.revoke_access(%s, %s)", role, right)
    for kind, acl in {"proc": "proacl", "class": "relacl", "namespace": "nspacl", "type": "typacl"}.items():
        assert db.one(f"SELECT count(*) FROM pg_{kind} WHERE {acl}::text LIKE %s", f"%{role}=%") == 0, kind


def test_public_may_do_nothing(db):
    functions = db.rows(
        "SELECT p.oid::regprocedure::text AS name FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " WHERE p.pronamespace = 'webhooks_api'::regnamespace AND a.grantee = 0"
    )
    assert functions == []


def test_a_request_is_verified_by_its_own_token_where_claims_are_not_believed(db, keys):
    session = db.connect(user=keys.role_that_logs_in())
    session.execute(f"SET ROLE {keys.role}")
    session.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": "bob"})])
    assert session.execute("SELECT webhooks_api.list_webhooks()").fetchone()[0]["error"]["code"] == "UNAUTHORIZED"
    session.execute("SELECT set_config('request.headers', %s, false)", [json.dumps(bearer(keys.create("alice")["key"]))])
    assert session.execute("SELECT webhooks_api.list_webhooks()").fetchone()[0]["success"] is True
