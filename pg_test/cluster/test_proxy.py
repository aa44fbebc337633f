"""Requests through a real proxy: what it is asked, what is judged before, what it is to blame for, and that its password
is not seen."""

import json

import psycopg
import pytest
from proxy import TinyProxy
from server import PRELOADED, free_port

USER = "me:p%2Dss.word"  # as in a URL
PASSWORD = "p-ss.word"  # tinyproxy takes letters, digits, and few others
STATUS = "SELECT last_error FROM webhooks.status"
PATIENT = {"max_attempts": 3, "backoff_multiplier": 1}
ONE_ATTEMPT = {"max_attempts": 1}


@pytest.fixture
def make_proxy():
    made = []

    def make(user=None):
        proxy = TinyProxy(user)
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        proxy.stop()


@pytest.fixture
def proxy(make_proxy):
    return make_proxy()


@pytest.fixture
def proxied_db(make_server, make_database, names, authority):
    """Makes a database of a server that may reach 127.0.0.1 alone, and goes through a proxy."""

    def make(url, no_proxy=""):
        settings = {
            **PRELOADED,
            "webhooks.allowed_networks": "127.0.0.1/32",
            "webhooks.ca_file": authority.file,
            "webhooks.proxy": url,
            "webhooks.no_proxy": no_proxy,
        }
        return make_database(server=make_server(settings, names.environment()))

    return make


def deliver(db, url, **options):
    """A webhook that has delivered an event."""
    webhook = db.create_webhook(url, **options)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    return webhook


# Ways


def test_https_goes_through_a_tunnel_to_a_name_that_only_the_proxy_knows(
    proxied_db, proxy, names, make_receiver, authority
):
    receiver = make_receiver(tls=authority.context("hook.test"))
    names.answer(hook_test=[["-"]])
    proxy.names.answer(hook_test=[["127.0.0.1"]])
    db = proxied_db(proxy.url())
    webhook = deliver(db, receiver.url("/hook?a=b", host="hook.test"))
    db.emit()
    db.wait_for_states(webhook, delivered=2)
    assert [request.target for request in receiver.to("/hook")] == ["/hook?a=b"] * 2
    # One tunnel, which is kept: of the requests in it the proxy sees nothing.
    assert proxy.asked() == [f"CONNECT hook.test:{receiver.port} HTTP/1.1"]


def test_http_is_sent_to_the_proxy_with_the_whole_url(proxied_db, proxy, names, receiver):
    names.answer(hook_test=[["-"]])
    proxy.names.answer(hook_test=[["127.0.0.1"]])
    url = receiver.url("/hook?a=b", host="hook.test")
    deliver(proxied_db(proxy.url()), url)
    (request,) = receiver.to("/hook")
    assert request.target == "/hook?a=b"
    assert request.header("Host") == f"hook.test:{receiver.port}"
    assert proxy.asked() == [f"POST {url} HTTP/1.1"]


def test_hosts_of_no_proxy_are_reached_without_it(proxied_db, proxy, names, receiver):
    names.answer(a_corp_test=[["127.0.0.1"]], corp_test=[["127.0.0.1"]], a_test=[["127.0.0.1"]])
    proxy.names.answer(a_test=[["127.0.0.1"]])
    db = proxied_db(proxy.url(), no_proxy=".corp.test, 127.0.0.0/8")
    for host in ("a.corp.test", "corp.test", "127.0.0.1"):
        deliver(db, receiver.url(host=host))
    assert proxy.asked() == []
    deliver(db, receiver.url("/other", host="a.test"))
    assert proxy.asked() == [f"POST {receiver.url('/other', host='a.test')} HTTP/1.1"]


def test_what_resolves_here_to_an_inner_address_never_reaches_the_proxy(
    proxied_db, proxy, names, receiver, make_receiver
):
    inner = make_receiver(host="127.0.0.9", port=receiver.port)
    names.answer(inner_test=[["127.0.0.9"]], both_test=[["127.0.0.1", "127.0.0.9"]])
    proxy.names.answer(inner_test=[["127.0.0.9"]], both_test=[["127.0.0.1"]])
    db = proxied_db(proxy.url())
    for scheme in ("http", "https"):
        for host in ("inner.test", "both.test"):
            webhook = db.create_webhook(f"{scheme}://{host}:{receiver.port}/hook", retry_policy=ONE_ATTEMPT)
            db.send_test(webhook)
            assert db.the_delivery(webhook, "failed")["last_error"] == "address refused: 127.0.0.9"
    db.fails("SELECT webhooks.create_webhook('http://127.0.0.9/', '{*}')", state="22023", says="address refused")
    assert proxy.asked() == [] and inner.connections == 0


# Whose fault it is


# To a wrong password this proxy answers 401, where RFC 9110 has 407: to an http request, as an endpoint could.
@pytest.mark.parametrize("scheme,user,status", [("http", None, 407), ("https", None, 407), ("https", "me:wrong", 401)])
def test_without_the_right_password_deliveries_wait_and_no_attempt_is_counted(
    proxied_db, make_proxy, names, make_receiver, authority, scheme, user, status
):
    proxy = make_proxy(f"me:{PASSWORD}")
    receiver = make_receiver(tls=authority.context("hook.test") if scheme == "https" else None)
    names.answer(hook_test=[["-"]])
    proxy.names.answer(hook_test=[["127.0.0.1"]])
    db = proxied_db(proxy.url(user))
    webhook = db.create_webhook(receiver.url(host="hook.test"), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_until(STATUS, f"proxy refused: {status}: 1 delivery waits, and no attempt is counted")
    assert [it["attempts"] for it in db.deliveries(webhook, "pending")] == [0]
    assert receiver.connections == 0
    db.server.alter_system({"webhooks.proxy": proxy.url(USER)})
    db.wait_for_states(webhook, delivered=1, timeout=20)
    assert [it["attempts"] for it in db.deliveries(webhook)] == [1]
    (request,) = receiver.to("/hook")
    assert request.all("Proxy-Authorization") == []


def test_a_proxy_out_of_reach_delays_no_webhook_that_does_without_it(proxied_db, names, receiver, proxy):
    names.answer(hook_test=[["-"]])
    proxy.names.answer(hook_test=[["127.0.0.1"]])
    db = proxied_db(f"http://127.0.0.1:{free_port()}", no_proxy="127.0.0.1")
    waiting = db.create_webhook(receiver.url("/waiting", host="hook.test"), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_until(STATUS, lambda said: said and said.startswith("proxy out of reach"))
    deliver(db, receiver.url("/direct"))
    db.wait_for_states(waiting, pending=2)
    db.server.alter_system({"webhooks.proxy": proxy.url()})
    db.wait_for_states(waiting, delivered=2, timeout=20)
    assert {it["attempts"] for it in db.deliveries(waiting)} == {1}


def test_an_endpoint_that_the_proxy_cannot_reach_has_failed(proxied_db, proxy, names):
    names.answer(hook_test=[["-"]])
    proxy.names.answer(hook_test=[["127.0.0.1"]])
    db = proxied_db(proxy.url())
    port = free_port()
    for scheme, said in (("https", "host unreachable"), ("http", "the endpoint answered 500")):
        webhook = db.create_webhook(f"{scheme}://hook.test:{port}/", retry_policy=PATIENT)
        db.send_test(webhook)
        delivery = db.the_delivery(webhook, "failed")
        assert said in delivery["last_error"] and delivery["attempts"] == 3


# The setting


def test_the_proxy_is_masked_for_everybody(cluster, shared_db):
    db = shared_db
    reader = db.role()
    db.execute(f"GRANT pg_read_all_settings TO {reader}")
    shown = "SELECT name, setting, reset_val, boot_val FROM pg_settings WHERE name = 'webhooks.proxy'"
    assert db.one("SHOW webhooks.proxy") == ""
    url = f"http://{USER}@127.0.0.1:9"
    with cluster.configured({"webhooks.proxy": url}):
        for session in (db.session, db.connect(user=reader)):
            db.wait_until("SHOW webhooks.proxy", "********", session=session)
            rows = db.rows(shown, session=session)
            assert len(rows) == 1 and "127.0.0.1" not in json.dumps(rows)
            assert "127.0.0.1:9" not in json.dumps(db.rows("SHOW ALL", session=session))
        plain = db.connect(user=db.role())
        db.fails("SHOW webhooks.proxy", state="42501", hint=False, session=plain)
        assert db.rows(shown, session=plain) == []
    db.wait_until("SHOW webhooks.proxy", "")


def test_the_log_tells_of_no_password_whether_it_is_taken_or_refused(make_server, make_database):
    server = make_server({**PRELOADED, "log_min_messages": "debug1", "log_statement": "none"})
    db = make_database(server=server)
    db.wait_for_worker()
    auto = server.data / "postgresql.auto.conf"

    def write(value):
        auto.write_text(f"webhooks.proxy = '{value}'\n")
        server.execute("SELECT pg_reload_conf()")

    write(f"http://{USER}@127.0.0.1:9")
    db.wait_until("SHOW webhooks.proxy", "********")
    db.create_webhook("http://127.0.0.1:9/")
    db.emit()
    db.wait_until(STATUS, lambda it: it and it.startswith("proxy out of reach"))
    began = server.log_size()
    write(f"https://{USER}@127.0.0.1:9")
    server.wait_for_log("contains errors", began)
    assert 'invalid value for parameter "webhooks.proxy"' in server.log(began)
    server.stop()
    for secret in (USER, PASSWORD, "p%2Dss"):
        assert secret not in server.log()


BAD_PROXIES = {
    "proxy.test:3128": ("must begin with http://", "http://proxy.example.com:3128"),
    "https://u:hush@proxy.test:3128": ("itself reached by https", "by CONNECT"),
    "socks5://u:hush@proxy.test:1080": ("SOCKS", "by CONNECT"),
    "http://u:hush@proxy.test": ("must name its port", "host:port"),
    "http://u:hush@proxy.test:3128/x": ("Nothing may follow the port", "host:port"),
    "http://u:hu/sh@proxy.test:3128": ("cannot be read", "%2F for /"),
    "http://u%3Ax:hush@proxy.test:3128": ("cannot be sent", "colon"),
}


@pytest.mark.parametrize("value", BAD_PROXIES)
def test_a_bad_proxy_is_refused_with_a_hint_and_not_repeated(shared_db, value):
    detail, hint = BAD_PROXIES[value]
    with pytest.raises(psycopg.Error) as raised:
        shared_db.execute(f"ALTER SYSTEM SET webhooks.proxy = '{value}'")
    said = raised.value.diag
    assert raised.value.sqlstate == "22023"
    assert said.message_primary == 'invalid value for parameter "webhooks.proxy"'
    assert detail in said.message_detail and hint in said.message_hint
    assert "hush" not in str(raised.value) and "proxy.test" not in str(raised.value)


def test_a_bad_list_of_hosts_is_refused_with_a_hint(shared_db):
    with pytest.raises(psycopg.Error) as raised:
        shared_db.execute("ALTER SYSTEM SET webhooks.no_proxy = 'corp.example, 10.0.0.0/33'")
    assert raised.value.sqlstate == "22023"
    assert raised.value.diag.message_detail == 'invalid host "10.0.0.0/33"'
    assert "10.0.0.0/8" in raised.value.diag.message_hint
