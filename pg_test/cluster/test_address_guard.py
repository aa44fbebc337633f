"""The address guard in a whole server: spellings, names that change, reloads, ports, proxies, and what a tenant reads of it."""

import json
import socket
import time
from pathlib import Path

import pytest
from database import everything_said
from server import PRELOADED

ONE_ATTEMPT = {"max_attempts": 1}
PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}
CLOSED = {"webhooks.allowed_networks": ""}
SPELLINGS = [
    "0x7f.1",
    "0X7F.0x1",
    "0x7f000001",
    "017700000001",
    "0177.0.0.1",
    "2130706433",
    "127.0.0.1.",
    "127.000.000.001",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "localhost.",
    "LOCALHOST",
    "LocalHost..",
    "a.localhost",
    "ⓛocalhost",
    "ｌocalhost",
    "lo\u00adcalhost",
    "%6cocalhost",
    "localhost%2e",
]


@pytest.fixture
def attempt(db, receiver):
    """What an attempt to a host came to."""

    def attempt(host, path="/hook"):
        webhook = db.create_webhook(receiver.url(path, host=host), retry_policy=ONE_ATTEMPT)
        db.send_test(webhook)
        return db.the_delivery(webhook, "failed")

    return attempt


@pytest.mark.settings(CLOSED)
@pytest.mark.parametrize("host", SPELLINGS)
def test_an_odd_spelling_of_an_inner_host_is_an_error_when_the_webhook_is_made(db, receiver, host):
    url = receiver.url(host=host)
    db.fails("SELECT webhooks.create_webhook(%s, '{*}')", url, state="22023", says="address refused")
    webhook = db.create_webhook("https://example.com/hook", active=False)
    changes = json.dumps({"url": url})
    db.fails("SELECT webhooks.update_webhook(%s, %s)", webhook["id"], changes, state="22023", says="address refused")
    assert receiver.connections == 0


@pytest.mark.settings(CLOSED)
@pytest.mark.parametrize("name", [socket.gethostname()])
def test_a_name_of_this_machine_is_refused_when_something_is_sent(attempt, receiver, name):
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        pytest.skip(f"{name} is no name of this machine")
    assert attempt(name)["last_error"].startswith("address refused: ")
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["lосаlhost", "1оcalhost", "127.0.0.1.example.invalid", "localhost.example.invalid"])
def test_a_look_alike_is_another_name(attempt, receiver, host):
    assert attempt(host)["last_error"] in ("name not found", "timed out")
    assert receiver.connections == 0


REFUSED = "address refused: 127.0.0.9"


def test_an_administrator_reads_which_address_was_refused(named_db, names):
    db = named_db
    names.answer(inner_test=[["127.0.0.9"]])
    admin = db.role()
    db.grant(admin, "admin")
    webhook = db.create_webhook("http://inner.test:9/", retry_policy={"max_attempts": 2})
    db.send_test(webhook)
    db.wait_until("SELECT last_error FROM webhooks.deliveries WHERE attempts = 1", REFUSED)
    delivery = db.the_delivery(webhook, "failed")
    assert delivery["last_error"] == REFUSED
    assert [it["error"] for it in db.attempts(delivery["id"])] == [REFUSED] * 2
    session = db.connect(user=admin)
    assert db.row("SELECT last_error FROM webhooks.deliveries", session=session)["last_error"] == REFUSED
    shown = db.one("SELECT webhooks.get_delivery(%s)", delivery["id"], session=session)
    assert [it["error"] for it in shown["attempts"]] == [REFUSED] * 2


@pytest.mark.settings(CLOSED)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_the_hint_for_a_local_receiver_names_the_networks_of_both_families(db, receiver, host):
    error = db.fails(
        "SELECT webhooks.create_webhook(%s, '{*}')", receiver.url(host=host), state="22023", says="address refused"
    )
    assert "ALTER SYSTEM SET webhooks.allowed_networks = '127.0.0.0/8, ::1/128'" in error.diag.message_hint


def test_a_tenant_reads_that_an_address_was_refused_and_never_which(named_db, names, receiver):
    db = named_db
    names.answer(inner_test=[["127.0.0.9"]])
    session = db.as_owner("alice")
    db.create_webhook(receiver.url("/news"), ["delivery.failed"])
    db.create_webhook(receiver.url("/own-news"), ["delivery.failed"], session=session)
    webhook = db.create_webhook("http://inner.test:9/", retry_policy={"max_attempts": 2}, session=session)
    event = db.one("SELECT webhooks.send_test(%s)", webhook["id"], session=session)
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE event_id = %s", 1, params=[event])
    waiting = db.rows("SELECT last_error FROM webhooks_api.deliveries", session=session)
    delivery = db.the_delivery(webhook, "failed")
    news = [*receiver.wait(1, "/news"), *receiver.wait(1, "/own-news")]
    assert [it.data["reason"] for it in news] == ["address refused"] * 2
    reader = db.role()
    db.grant(reader, "read")
    reading = db.connect(user=reader)
    failing = "SELECT webhooks.get_webhook(%s) -> 'failing' ->> 'last_error'"
    db.wait_until(failing, REFUSED, params=[webhook["id"]])
    told = [
        waiting,
        db.one("SELECT webhooks.get_webhook(%s)", webhook["id"], session=session),
        db.one("SELECT webhooks.list_webhooks() -> 'webhooks' -> 0", session=session),
        db.one("SELECT webhooks_api.get_webhook(%s)", webhook["id"], session=session),
        db.rows("SELECT * FROM webhooks_api.webhooks WHERE failed_attempts > 1", session=session),
        db.one("SELECT webhooks.get_delivery(%s)", delivery["id"], session=session),
        db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"], session=session),
        db.rows("SELECT * FROM webhooks_api.deliveries", session=session),
        db.rows("SELECT * FROM webhooks_api.attempts", session=session),
        db.one("SELECT webhooks_api.get_delivery(%s)", delivery["id"], session=session),
        db.one("SELECT webhooks_api.list_deliveries(%s)", webhook["id"], session=session),
        db.rows("SELECT * FROM webhooks.deliveries", session=reading),
        db.rows("SELECT * FROM webhooks.attempts", session=reading),
        [it.json for it in news],
    ]
    for it in told:
        assert "address refused" in str(it) and "127.0.0" not in str(it), it
    retried = db.one("SELECT webhooks.retry_delivery(%s)", delivery["id"], session=session)
    assert retried["last_error"] == "address refused" and "127.0.0" not in str(retried)
    error = db.fails(
        "SELECT webhooks.create_webhook('http://2130706441/', '{*}')", state="22023", says="address refused"
    )
    assert "127.0.0" not in everything_said(error)


def test_a_reload_that_tightens_the_guard_closes_kept_connections_and_none_is_used_again(db, receiver):
    webhook = db.create_webhook(receiver.url(host="localhost"), retry_policy=PATIENT)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    assert (receiver.connections, receiver.open_connections()) == (1, 1)
    with db.server.configured(CLOSED):
        # Nothing is sent meanwhile: it is the reload that closes it.
        eventually(lambda: receiver.open_connections() == 0)
        db.emit()
        db.wait_until(
            "SELECT last_error LIKE 'address refused: %' FROM webhooks.deliveries WHERE state = 'pending'", timeout=10
        )
        assert (receiver.connections, len(receiver.requests)) == (1, 1)
    db.wait_for_states(webhook, delivered=2)
    assert receiver.connections == 2


def eventually(judge, seconds=10):
    """Waits for something that no condition of the database shows."""
    deadline = time.monotonic() + seconds
    while not judge():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_port_that_is_forbidden_later_is_not_connected_to(db, receiver):
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    with db.server.configured({"webhooks.allowed_ports": "443"}):
        db.wait_until("SELECT current_setting('webhooks.allowed_ports')", "443", session=db.connect())
        db.emit()
        error = db.wait_until("SELECT last_error FROM webhooks.deliveries", lambda error: error is not None)
        assert "port" in error
        assert receiver.connections == 0
    db.wait_for_states(webhook, delivered=1)


def test_only_a_superuser_opens_networks(db):
    session = db.connect(user=db.role())
    opened = ("SET webhooks.allowed_networks = '0.0.0.0/0'", "SET LOCAL webhooks.allowed_networks = '0.0.0.0/0'")
    by_alter = ("ALTER ROLE CURRENT_USER SET webhooks.allowed_networks = '0.0.0.0/0'",)
    for statement in opened + by_alter:
        db.fails(statement, state="42501", hint=False, session=session)
    tenant = db.as_owner("alice")
    db.fails(opened[0], state="42501", hint=False, session=tenant)
    assert db.one("SHOW webhooks.allowed_networks", session=session) == PRELOADED["webhooks.allowed_networks"]


def test_the_proxies_of_the_environment_are_ignored(make_server, make_database, make_receiver, authority):
    proxy, plain, tls = make_receiver(), make_receiver(), make_receiver(tls=authority.context("localhost"))
    address = f"http://127.0.0.1:{proxy.port}"
    names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    settings = {**PRELOADED, "webhooks.ca_file": authority.file}
    server = make_server(settings, dict.fromkeys(names, address) | {"no_proxy": "", "NO_PROXY": ""})
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode()
    assert all(f"{name}={address}" in environment for name in names)
    db = make_database(server=server)
    for url in (plain.url(), tls.url(host="localhost")):
        webhook = db.create_webhook(url)
        db.send_test(webhook)
        db.the_delivery(webhook, "delivered")
    assert proxy.connections == 0


# Names that change.


@pytest.fixture
def named_db(make_server, make_database, names):
    """A database of a server that may reach 127.0.0.1 and no other address of this machine."""
    settings = {**PRELOADED, "webhooks.allowed_networks": "127.0.0.1/32"}
    return make_database(server=make_server(settings, names.environment()))


@pytest.fixture
def inner(receiver, make_receiver):
    """Who listens at the same port of an address that is refused."""
    return make_receiver(host="127.0.0.9", port=receiver.port)


def test_a_name_that_changes_its_answer_between_two_look_ups_gains_nothing(named_db, names, receiver, inner):
    db = named_db
    names.answer(rebind_test=[["127.0.0.1"], ["127.0.0.9"]])
    webhook = db.create_webhook(receiver.url(host="rebind.test"), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    assert names.asked() == ["rebind.test"], "what was checked is what was connected to"
    # Asked again, it leads inside: a failed attempt that says why.
    db.stop_worker()
    db.start_worker()
    db.emit()
    db.wait_for_states(webhook, failed=1)
    assert db.deliveries(webhook, "failed")[0]["last_error"] == REFUSED
    assert names.asked() == ["rebind.test"] * 2
    assert (len(receiver.requests), inner.connections) == (1, 0)


@pytest.mark.parametrize(
    "answer", [["127.0.0.1", "127.0.0.9"], ["127.0.0.9", "127.0.0.1"], ["127.0.0.1"] * 40 + ["127.0.0.9"]]
)
def test_one_refused_address_refuses_the_name(named_db, names, receiver, inner, answer):
    names.answer(mixed_test=[answer])
    webhook = named_db.create_webhook(receiver.url(host="mixed.test"), retry_policy=ONE_ATTEMPT)
    named_db.send_test(webhook)
    assert named_db.the_delivery(webhook, "failed")["last_error"] == REFUSED
    assert names.asked() == ["mixed.test"]
    assert (receiver.connections, inner.connections) == (0, 0)
