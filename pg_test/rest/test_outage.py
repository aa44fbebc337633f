"""What is nobody's mistake is 503, whatever PostgREST makes of it: a standby, no extension, functions that PostgREST has not
heard of, backends that die, no server. With the PostgREST that there is, and with what answers as it does by its source."""

import os
import re
import signal
import threading
import time

import pytest
from api import PASSWORD, Api, Gateway
from postgrest_by_its_source import Postgrest
from requests_as import SECRET
from server import PRELOADED
from signatures import jwt
from standby import Standby
from test_bad_input import REQUESTS, filled

URL = "http://127.0.0.1:9/hook"
ANSWERS_ANYBODY = "/portal"
PATIENCE_SECONDS = 60  # a server that was down is asked again after up to 32 s
# Errors that PostgREST's Error.hs knows and no client of the gateway has made.
OWN_ERRORS = [
    (300, "PGRST203"), (400, "0A000"), (400, "3F000"), (400, "22021"), (400, "26000"), (400, "PGRST102"), (404, "PGRST202"),
    (404, "PGRST205"), (404, "42883"), (404, "42P01"), (405, "25006"), (405, "PGRST101"), (406, "PGRST107"), (409, "23505"),
    (415, "PGRST107"), (416, "PGRST103"), (500, "40001"), (500, "57014"), (500, "57P03"), (500, "PGRST300"), (503, "57P01"),
    (503, "PGRST000"), (503, "PGRST001"), (503, "PGRST002"), (504, "PGRST003"),
]  # fmt: skip
WRITING = [(method, path, body) for method, path, body in REQUESTS if method != "GET"]
READING = [(method, path, body) for method, path, body in REQUESTS if method == "GET"]


def is_an_outage(caller, method, path, body=None):
    answer = caller.refused(503, method, path, body)
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["cache-control"] == "no-store"


# What PostgREST itself says


@pytest.fixture
def canned(postgrest_by_its_source):
    yield postgrest_by_its_source.answers
    postgrest_by_its_source.canned = None


@pytest.mark.parametrize(("status", "code"), OWN_ERRORS)
def test_an_error_of_postgrests_own_is_503(api_by_source, canned, status, code):
    canned(status, code)
    for method, path, body in REQUESTS:
        is_an_outage(api_by_source, method, filled(path), body)
    is_an_outage(api_by_source, "GET", ANSWERS_ANYBODY)


def test_postgrest_judges_tokens_and_roles(api_by_source, canned):
    for status, code in ((401, "PGRST301"), (401, "42501"), (403, "42501"), (403, "28000")):
        canned(status, code)
        for method, path, body in REQUESTS:
            api_by_source.refused(status, method, filled(path), body)


def test_a_role_that_does_not_exist_is_503_where_postgrest_says_400(api_by_source):
    """As 12.2 and 13.0.0 do, which the gateway cannot tell from an outage. Later versions say 401."""
    token = jwt({"role": "dropped", "sub": api_by_source.owner}, SECRET)
    is_an_outage(Api(api_by_source.gateway, api_by_source.owner, token), "GET", "/api/v1/webhooks")


def test_a_body_that_http_cannot_tell_is_400(gateway, api):
    head = f"POST /api/v1/webhooks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, envelope = gateway.raw(head.encode() + b"nonsense\r\n")
    assert (status, envelope["error"]["code"]) == (400, "VALIDATION_ERROR")


# What happens to the database


@pytest.fixture
def own(make_server, make_database):
    """A database as serve/setup.sql makes it, in a server of the test's own."""
    server = make_server({**PRELOADED, "webhooks.jwt_secret": SECRET, "webhooks.api_role": "web"})
    db = make_database(extension=False, server=server)
    Gateway.set_up(db)
    db.reconnect()
    db.wait_for_worker()
    return db


@pytest.fixture(params=["postgrest", "by its source"])
def front(request):
    """Puts a gateway in front of a server, and makes a caller of alice's of it."""
    made = []

    def make(db, server=None):
        upstream = None
        if request.param == "by its source":
            where = {"host": "127.0.0.1", "port": (server or db.server).port, "dbname": db.name}
            made.append(Postgrest(SECRET, user="authenticator", password=PASSWORD, **where))
            upstream = made[-1].address
        made.append(Gateway(db, server, upstream))
        return Api(made[-1], "alice", db.one("SELECT webhooks.create_api_key('a test', 'alice') ->> 'key'"))

    yield make
    for each in reversed(made):
        each.stop()


def recovers(caller):
    """Waits until requests are answered again."""

    def answers():
        status = caller.send("GET", "/api/v1/webhooks").status
        assert status in (200, 503)
        return status == 200

    wait_for(answers)


def test_a_standby_reads_and_says_that_it_is_one(own, front):
    own.create_webhook(URL, owner="alice")
    key = own.one("SELECT webhooks.create_api_key('a test', 'alice') ->> 'key'")
    standby = Standby(own.server)
    try:
        standby.start()
        standby.follows()
        caller = Api(front(own, standby).gateway, "alice", key)
        (webhook,) = caller.done(200, "GET", "/api/v1/webhooks")["webhooks"]
        assert caller.done(200, "GET", "/api/v1/status")["state"] == "standby"
        for method, path, _ in READING:
            if "delivery" not in path:
                caller.done(200, method, filled(path, webhook["id"]))
        for method, path, body in WRITING:
            is_an_outage(caller, method, filled(path, webhook["id"]), body)
        assert own.one("SELECT active FROM webhooks.webhook") is True
    finally:
        standby.remove()


def test_without_the_extension_it_is_503_for_all_that_was_there(own, front):
    caller = front(own)
    caller.done(200, "GET", "/api/v1/webhooks")
    own.execute("DROP EXTENSION webhooks CASCADE")
    for method, path, body in REQUESTS:
        is_an_outage(caller, method, filled(path), body)


def when_it_waits(db):
    """The pid of a backend that waits for the lock that the test holds."""
    query = "SELECT max(pid) FROM pg_stat_activity WHERE usename = 'authenticator' AND wait_event_type = 'Lock'"
    return db.wait_until(query, lambda pid: pid is not None)


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_when_the_backend_dies_it_is_503_and_the_next_one_serves(own, front, how):
    caller = front(own)
    webhook = caller.create(URL)
    holder = own.connect()
    holder.execute("BEGIN; SELECT FROM webhooks.webhook FOR UPDATE")
    answers = []

    def change():
        answers.append(caller.send("PUT", f"/api/v1/webhooks/{webhook['id']}", {"active": False}))

    request = threading.Thread(target=change)
    request.start()
    pid = when_it_waits(own)
    if how == "terminated":
        own.execute("SELECT pg_terminate_backend(%s)", pid)
    else:
        os.kill(pid, signal.SIGKILL)
    request.join()
    assert (answers[0].status, answers[0].error["code"]) == (503, "UNAVAILABLE"), answers
    holder.close()
    own.server.recover()
    recovers(caller)
    assert caller.done(200, "GET", f"/api/v1/webhooks/{webhook['id']}")["active"] is True


def test_without_a_server_it_is_503_until_it_is_back(own, front):
    caller = front(own)
    caller.done(200, "GET", "/api/v1/webhooks")
    own.server.stop()
    for method, path, body in REQUESTS:
        is_an_outage(caller, method, filled(path), body)
    own.server.start()
    recovers(caller)


@pytest.fixture
def own_gateway(own):
    """PostgREST, or what stands in for it, and nginx."""
    made = Gateway(own)
    yield made
    made.stop()


def test_functions_that_postgrest_has_not_heard_of_are_503_until_the_worker_tells_it(own, own_gateway):
    log = own_gateway.dir / "postgrest.log"
    Api(own_gateway, "alice").done(200, "GET", "/api/v1/webhooks")
    # PostgREST reads a schema in which there is nothing, and is not told when the extension comes back.
    own.execute("DROP EXTENSION webhooks CASCADE")
    own.execute("CREATE SCHEMA webhooks_api")
    began = log.stat().st_size
    own.execute("NOTIFY pgrst, 'reload schema'")
    wait_for(lambda: re.search("chema cache (re)?loaded", log.read_text()[began:]))
    with own.session.transaction():
        for statement in (
            "DROP SCHEMA webhooks_api",
            "CREATE EXTENSION webhooks",
            "UPDATE webhooks.home SET served_version = (SELECT extversion FROM pg_extension WHERE extname = 'webhooks')",
            "SELECT webhooks.grant_access('web', 'api')",
            "SELECT webhooks.grant_access('authenticator', 'gateway')",
            "GRANT USAGE ON SCHEMA webhooks_api TO anon",
            "GRANT EXECUTE ON FUNCTION webhooks_api.check_request(), webhooks_api.portal() TO anon",
        ):
            own.execute(statement)
    own.wait_for_worker()
    caller = Api(own_gateway, "alice")
    for method, path, body in REQUESTS:
        is_an_outage(caller, method, filled(path), body)
    is_an_outage(caller, "GET", ANSWERS_ANYBODY)
    own.stop_worker()
    own.execute("UPDATE webhooks.home SET served_version = '0.0.1'")
    own.start_worker()
    recovers(caller)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
