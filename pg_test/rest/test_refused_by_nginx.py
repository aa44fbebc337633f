"""nginx itself refuses: by a configuration around ours, or for a file. It is told as the API tells it."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from api import Api
from test_bad_input import REQUESTS, filled

PATHS = [*REQUESTS, ("GET", "/portal", None), ("GET", "/api/v1/openapi.json", None)]
PATIENCE_SECONDS = 10


def workers(main):
    """The processes of an nginx that serve."""
    return set(Path(f"/proc/{main}/task/{main}/children").read_text().split())


@pytest.fixture
def configured(make_gateway):
    """Makes a gateway with directives that its operator may add: in its server, and in the http block around it."""

    def make(in_server, in_http=""):
        gateway = make_gateway()
        path = gateway.dir / "nginx.conf"
        head, server, rest = path.read_text().partition("server {\n    listen ")
        assert server
        path.write_text(f"{head}{in_http}\n{server.replace('{', '{ ' + in_server)}{rest}")
        main = int((gateway.dir / "nginx.pid").read_text())
        before = workers(main)
        os.kill(main, signal.SIGHUP)
        # Until they have ended, workers with the configuration of before take connections too.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while before & workers(main):
            assert time.monotonic() < deadline
        return gateway

    return make


def are_refused(api, status):
    for method, path, body in PATHS:
        answer = api.refused(status, method, filled(path), body)
        assert answer.headers["cache-control"] == "no-store"
        yield answer


def test_an_address_that_nginx_denies_is_403(configured, api):
    denied = configured("deny all;")
    assert list(are_refused(Api(denied, api.owner, api.key), 403))


def test_who_nginx_does_not_know_is_401(configured, api):
    asked = configured('auth_basic "a name"; auth_basic_user_file /dev/null;')
    for answer in are_refused(Api(asked, api.owner, api.key), 401):
        assert answer.headers["www-authenticate"]


def test_a_rate_that_nginx_limits_is_429_with_seconds_to_wait(configured, api):
    limited = configured("limit_req zone=few; limit_req_status 429;", "limit_req_zone $server_port zone=few:64k rate=1r/m;")
    limited.client.get("/api/v1/openapi.json").raise_for_status()  # the only one of this minute
    for answer in are_refused(Api(limited, api.owner, api.key), 429):
        assert int(answer.headers["retry-after"]) > 0


def test_the_description_has_no_ranges(gateway):
    whole = httpx.get(f"{gateway.url}/api/v1/openapi.json")
    for range_ in ("bytes=99999999-", "bytes=0-9", "bytes=0-9,20-29"):
        answer = httpx.get(f"{gateway.url}/api/v1/openapi.json", headers={"Range": range_})
        assert (answer.status_code, answer.content) == (200, whole.content), range_


def test_a_description_that_cannot_be_read_is_403(make_gateway, api):
    gateway = make_gateway()
    (gateway.dir / "openapi.json").chmod(0)
    Api(gateway, api.owner, api.key).refused(403, "GET", "/api/v1/openapi.json")
