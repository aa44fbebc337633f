"""What goes over the wire: headers, signatures, connections, TLS, the address guard, redirects."""

import base64
import re
import time

import psycopg
import pytest
import signatures
from forms import is_id
from receiver import Answer
from server import free_port

ONE_ATTEMPT = {"max_attempts": 1}
# Spelled as they are sent: what HTTP needs, what the contract names, and what begins with `webhooks.header_prefix`.
OF_HTTP = {"Host", "Content-Length"}
OURS = {
    "Content-Type",
    "Accept",
    "User-Agent",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
}
PREFIXED = ("Signature", "Event", "Delivery")

SECRETS = {
    "plain": "a plain secret",
    "not ASCII": "schlüssel 🔑",
    "whsec_": "whsec_" + base64.b64encode(bytes(range(24))).decode(),
    "whsec_ that is not base64": "whsec_not base64!",
    "base64 without its prefix": base64.b64encode(bytes(range(24))).decode(),
    "one byte": "x",
}


# Headers


def test_a_delivery_is_a_post_with_the_headers_of_the_contract(db, receiver):
    webhook = db.create_webhook(receiver.url("/hook?a=b&c=%20d"))
    event = db.emit()
    (request,) = receiver.wait(1)
    assert (request.method, request.target) == ("POST", "/hook?a=b&c=%20d")
    names = [name for name, _ in request.headers]
    assert len(names) == len(set(names)), "each header comes once"
    assert set(names) == OF_HTTP | OURS | {f"X-Lanonasis-{it}" for it in PREFIXED}
    assert request.header("Content-Type") == "application/json"
    assert request.header("Accept") == "*/*"
    assert request.header("User-Agent") == "Lanonasis-Webhooks/1.0"
    assert request.header("X-Lanonasis-Event") == "user.activity"
    assert is_id("delivery", request.header("X-Lanonasis-Delivery"))
    assert request.header("webhook-id") == event
    assert request.header("Host") == f"127.0.0.1:{receiver.port}"
    assert db.the_delivery(webhook)["id"] == request.header("X-Lanonasis-Delivery")


def test_header_names_are_spelled_as_they_are_set(db, receiver):
    """To HTTP their spelling says nothing, to some receivers it does: PHP's getallheaders() gives names as they came."""
    db.create_webhook(receiver.url())
    for prefix in ("X-ACME", "x-aCmE"):
        with db.server.configured({"webhooks.header_prefix": prefix}):
            names = names_sent_with(db, receiver, prefix)
        assert names == OF_HTTP | OURS | {f"{prefix}-{it}" for it in PREFIXED}


def names_sent_with(db, receiver, prefix):
    """The header names of the first request under a new prefix."""
    deadline = time.monotonic() + 10
    while True:
        before = len(receiver.to())
        db.emit()
        names = {name for name, _ in receiver.wait(before + 1)[before].headers}
        if any(it.startswith(prefix) for it in names):
            return names
        assert time.monotonic() < deadline, f"no request with {prefix}: {names}"


@pytest.mark.parametrize("kind", SECRETS)
def test_both_signatures_are_right_for_a_secret_of_any_form(db, receiver, kind):
    db.create_webhook(receiver.url(), secret=SECRETS[kind])
    db.emit(data={"object": "activity", "text": 'é " \u2028 🎉'})
    (request,) = receiver.wait(1)
    signatures.verify(request, SECRETS[kind])


def test_both_signatures_are_right_for_a_generated_secret(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    (request,) = receiver.wait(1)
    signatures.verify(request, webhook["secret"])


def test_a_retry_has_the_same_ids_its_own_timestamp_and_signatures(db, receiver):
    receiver.answer("/hook", 500, 500, 200)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    requests = receiver.wait(3, timeout=15)
    for name in ("X-Lanonasis-Delivery", "webhook-id", "X-Lanonasis-Event"):
        assert len({it.header(name) for it in requests}) == 1
    first, last = (int(it.header("webhook-timestamp")) for it in (requests[0], requests[-1]))
    assert 2 <= last - first <= 6
    for request in requests:
        signatures.verify(request, webhook["secret"])


def test_without_a_rotation_there_is_no_previous_signature(db, receiver):
    webhook = db.create_webhook(receiver.url(), secret="old")
    db.update_webhook(webhook, secret="new")
    db.emit()
    (request,) = receiver.wait(1)
    assert request.all("X-Lanonasis-Signature-Previous") == []
    signatures.verify(request, "new")


def test_one_events_deliveries_to_two_webhooks_differ_in_delivery_and_webhook(db, receiver):
    for path in ("/a", "/b"):
        db.create_webhook(receiver.url(path))
    event = db.emit()
    (a,), (b,) = receiver.wait(1, "/a"), receiver.wait(1, "/b")
    assert a.header("webhook-id") == b.header("webhook-id") == event
    assert a.header("X-Lanonasis-Delivery") != b.header("X-Lanonasis-Delivery")
    assert a.json["webhook_id"] != b.json["webhook_id"]


# Connections


def test_connections_are_kept(db, receiver):
    db.create_webhook(receiver.url())
    for n in range(20):
        db.emit()
        receiver.wait(n + 1)
    db.settle()
    assert receiver.connections <= 2


def test_a_kept_connection_that_the_receiver_has_closed_costs_no_attempt(db, receiver):
    receiver.answer("/hook", Answer(then="close"))
    webhook = db.create_webhook(receiver.url())
    for n in range(10):
        db.emit()
        db.wait_for_states(webhook, delivered=n + 1)
    assert {it["attempts"] for it in db.deliveries(webhook)} == {1}


def test_connection_close_is_heeded(db, receiver):
    receiver.answer("/hook", Answer(headers=(("Connection", "close"),), then="close"))
    webhook = db.create_webhook(receiver.url())
    for n in range(3):
        db.emit()
        db.wait_for_states(webhook, delivered=n + 1)
    assert receiver.connections == 3


def test_ipv6_is_spoken(db, make_receiver):
    receiver = make_receiver(host="::1")
    db.create_webhook(receiver.url())
    db.emit()
    (request,) = receiver.wait(1)
    assert request.header("Host") == f"[::1]:{receiver.port}"


def test_a_host_is_looked_up_by_its_name(db, receiver):
    db.create_webhook(receiver.url(host="localhost"))
    db.emit()
    (request,) = receiver.wait(1)
    assert request.header("Host") == f"localhost:{receiver.port}"


def test_a_proxy_in_the_environment_is_not_used(make_server, make_database, receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, receiver.url("/proxy"))
    db = make_database(server=make_server())
    db.create_webhook(receiver.url())
    db.emit()
    (request,) = receiver.wait(1)
    assert request.target == "/hook"


# TLS


def test_tls_is_spoken_with_an_authority_from_ca_file(db, make_receiver, authority):
    receiver = make_receiver(tls=authority.context("localhost", "127.0.0.1"))
    with db.server.configured({"webhooks.ca_file": authority.file}):
        db.stop_worker()
        db.start_worker()
        webhook = db.create_webhook(receiver.url(host="localhost"))
        by_address = db.create_webhook(receiver.url())
        db.emit()
        db.wait_for_states(webhook, delivered=1)
        db.wait_for_states(by_address, delivered=1)
    secrets = {it["id"]: it["secret"] for it in (webhook, by_address)}
    for request in receiver.to():
        signatures.verify(request, secrets[request.json["webhook_id"]])


def test_ca_file_holds_after_a_reload(db, make_receiver, authority):
    receiver = make_receiver(tls=authority.context("localhost"))
    webhook = db.create_webhook(
        receiver.url(host="localhost"), retry_policy={"max_attempts": 100, "backoff_multiplier": 1}
    )
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    with db.server.configured({"webhooks.ca_file": authority.file}):
        db.wait_for_states(webhook, delivered=1)


def failure(db, url):
    """The last error of a test that must fail."""
    webhook = db.create_webhook(url, retry_policy=ONE_ATTEMPT)
    db.send_test(webhook)
    return db.the_delivery(webhook, "failed", timeout=15)["last_error"]


def test_a_certificate_of_an_unknown_authority_is_refused(db, make_receiver, authority):
    receiver = make_receiver(tls=authority.context("localhost"))
    assert re.search("tls|certificate", failure(db, receiver.url(host="localhost")), re.IGNORECASE)
    assert receiver.to() == []


def test_a_certificate_of_another_name_is_refused(db, make_receiver, authority):
    receiver = make_receiver(tls=authority.context("elsewhere.example.com"))
    with db.server.configured({"webhooks.ca_file": authority.file}):
        db.stop_worker()
        db.start_worker()
        assert re.search("tls|certificate", failure(db, receiver.url(host="localhost")), re.IGNORECASE)
    assert receiver.to() == []


def test_https_to_a_receiver_without_tls_fails_and_http_to_one_with_tls_too(db, make_receiver, authority):
    plain, tls = make_receiver(), make_receiver(tls=authority.context("localhost"))
    assert failure(db, plain.url().replace("http:", "https:"))
    assert failure(db, tls.url().replace("https:", "http:"))
    assert plain.to() == tls.to() == []


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_and_are_failures(db, receiver, status):
    receiver.answer("/hook", Answer(status=status, headers=(("Location", receiver.url("/elsewhere")),)))
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1})
    db.emit()
    delivery = db.the_delivery(webhook, "failed")
    assert (delivery["attempts"], delivery["last_status"]) == (2, status)
    assert receiver.to("/elsewhere") == []


# The address guard


def must_refuse(db, receiver, host):
    """When the webhook is made, or at the latest when something is sent."""
    try:
        webhook = db.create_webhook(receiver.url(host=host), retry_policy=ONE_ATTEMPT)
    except psycopg.Error as error:
        assert error.sqlstate.startswith("22") and "address refused" in str(error)
    else:
        db.send_test(webhook)
        assert "address refused" in db.the_delivery(webhook, "failed")["last_error"]
    assert receiver.connections == 0


def test_the_address_guard_is_on_from_the_first_delivery(db, receiver):
    by_name = db.create_webhook(
        receiver.url("/name", host="localhost"), retry_policy={"max_attempts": 100, "backoff_multiplier": 1}
    )
    by_address = db.create_webhook(
        receiver.url("/address"), retry_policy={"max_attempts": 100, "backoff_multiplier": 1}
    )
    db.stop_worker()
    with db.server.configured({"webhooks.allowed_networks": ""}):
        db.start_worker()
        for webhook in (by_name, by_address):
            db.send_test(webhook)
            db.wait_until(
                "SELECT last_error FROM webhooks.deliveries WHERE webhook_id = %s",
                lambda error: error and "address refused" in error,
                params=[webhook["id"]],
            )
        assert receiver.to() == [] and receiver.connections == 0
    for webhook in (by_name, by_address):  # allowed again, by a reload
        db.wait_for_states(webhook, delivered=1)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.255.255.254",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fe80::1]",
        "[fc00::1]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
@pytest.mark.settings({"webhooks.allowed_networks": ""})
def test_an_inner_address_is_refused(db, receiver, host):
    must_refuse(db, receiver, host)


@pytest.mark.settings({"webhooks.allowed_networks": "10.0.0.0/8"})
def test_allowed_networks_allow_only_what_they_cover(db, receiver):
    must_refuse(db, receiver, "localhost")


def test_a_reload_that_tightens_the_guard_ends_kept_connections(db, receiver):
    webhook = db.create_webhook(receiver.url(host="localhost"), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    with db.server.configured({"webhooks.allowed_networks": ""}):
        deadline = time.monotonic() + 10
        while not db.deliveries(webhook, "failed"):
            db.emit()
            db.settle()
            assert time.monotonic() < deadline, "the reload does not hold"
    assert "address refused" in db.deliveries(webhook, "failed")[0]["last_error"]


# What cannot be reached


def test_a_port_where_nobody_listens_is_a_failure(db):
    assert failure(db, f"http://127.0.0.1:{free_port()}/")


def test_a_name_that_does_not_exist_is_a_failure(db):
    assert failure(db, "http://nowhere.invalid/")
