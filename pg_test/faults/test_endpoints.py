"""Endpoints that misbehave in every way there is, beside others that must not notice."""

import contextlib
import datetime
import gzip
import re
import socket
import ssl
import time
from pathlib import Path

import pytest
from receiver import Answer, hang, reset

TIMEOUT_SECONDS = 1
LATE_SECONDS = 2.0
ATTEMPTS = 2
EVENTS = 3
GROWTH_MOST = 64 << 20
# What the worker may take of an answer (64 KiB), and what lies in the sockets of both sides meanwhile.
TAKEN_MOST = 16 << 20
TEN_GB = 10 << 30

LARGE = ("Content-Length", str(TEN_GB))
BOMB = gzip.compress(b"\0" * (64 << 20))

# What it does; the status and the error that its attempts must show. What only concerns the body of an answer changes nothing:
# its status decides.
PLAIN = {
    "/reset": (reset(), None, "connection reset"),
    "/never": (hang(), None, "timed out"),
    "/drip": (Answer(drip=1), None, "timed out"),
    "/drip-a-body": (Answer(500, body=b"slow", drip=0.2), None, "timed out"),
    "/10-gb": (Answer(500, headers=(LARGE,), endless=True, then="close"), 500, "the endpoint answered 500"),
    "/endless": (Answer(500, endless=True, then="close"), 500, "the endpoint answered 500"),
    "/bomb": (Answer(500, headers=(("Content-Encoding", "gzip"),), body=BOMB), 500, "the endpoint answered 500"),
    "/invalid-utf-8": (Answer(500, body=b"\xff\xfe\xc3("), 500, "the endpoint answered 500"),
    "/invalid-utf-8-in-headers": (Answer(500, headers=(("X-Name", "\xff\xfe"),)), 500, "the endpoint answered 500"),
    "/broken-headers": (Answer(raw=b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n", then="close"), None, "broken response"),
    "/no-http": (Answer(raw=b"220 smtp.example.com ESMTP\r\n", then="close"), None, "broken response"),
    "/large-headers": (Answer(headers=(("X-Large", "x" * (1 << 20)),), then="close"), None, "broken response"),
    "/closes": (Answer(raw=b"", then="close"), None, "connection closed"),
    "/lies": (
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", then="close"),
        None,
        "broken response",
    ),
}


@pytest.fixture
def certificates(authority):
    """Contexts of receivers whose certificates are not to be trusted."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.authority.issue_cert("expired.test", not_after=past).configure_cert(expired)
    return {"expired.test": expired, "wrong.test": authority.context("other.test")}


def memory(pid):
    """Bytes of a process's own: what it shares with the server is not its."""
    fields = re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {name: int(kilobytes) << 10 for name, kilobytes in fields}["RssAnon"]


@contextlib.contextmanager
def nobody_listens():
    """A port that stays ours, and refuses."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_each_bad_endpoint_gets_its_attempt_record_and_the_others_do_not_notice(
    make_flowing, make_receiver, authority, names, certificates, record
):
    here = [["127.0.0.1"]]
    names.answer(vanishing_test=here, **{name.replace(".", "_"): here for name in certificates})
    # Five at once would queue behind a receiver that this machine keeps from running; that is no endpoint's doing.
    flow = make_flowing(
        {
            "webhooks.request_timeout": f"{TIMEOUT_SECONDS}s",
            "webhooks.ca_file": authority.file,
            "webhooks.concurrent_deliveries": 100,
        },
        environment=names.environment(),
    )
    db, receiver = flow.db, make_receiver()
    receiver.round_trip = False
    expected = {}

    def endpoint(name, url, status, error):
        webhook = db.create_webhook(
            url, ["user.activity"], retry_policy={"max_attempts": ATTEMPTS, "backoff_multiplier": 1}
        )
        expected[webhook["id"]] = (name, status, error)
        return webhook

    for path, (answer, status, error) in PLAIN.items():
        receiver.answer(path, answer)
        endpoint(path, receiver.url(path), status, error)
    itself = receiver.url("/redirects")
    receiver.answer("/redirects", Answer(302, headers=(("Location", itself),)))
    endpoint("/redirects", itself, 302, "the endpoint answered 302")
    for name, context in certificates.items():
        tls = make_receiver(tls=context)
        endpoint(name, tls.url(host=name), None, "tls: ")
    # It is there at first, and then its name is not.
    receiver.answer("/vanishing", Answer(then="close"))
    vanishing = db.create_webhook(
        receiver.url("/vanishing", host="vanishing.test"),
        ["search.performed"],
        retry_policy={"max_attempts": ATTEMPTS, "backoff_multiplier": 1},
    )
    db.emit("search.performed")
    receiver.wait(1, "/vanishing")
    names.answer(vanishing_test=[["-"]], **{name.replace(".", "_"): here for name in certificates})

    with nobody_listens() as port:
        endpoint("refuses", f"http://127.0.0.1:{port}/", None, "connection refused")
        worker = flow.worker()
        before = most = memory(worker)
        began = time.monotonic()
        db.emit_many(EVENTS)
        failing = "SELECT count(*) FROM webhooks.deliveries WHERE event_type = 'user.activity' AND state = 'failed'"
        deadline = time.monotonic() + 60
        while db.one(failing) < EVENTS * len(expected):
            assert time.monotonic() < deadline, db.rows("SELECT * FROM webhooks.deliveries WHERE state = 'pending' LIMIT 20")
            most = max(most, memory(worker))
            time.sleep(0.01)
        # Its address is remembered for a moment.
        while db.one("SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND state = 'failed'", vanishing["id"]) == 0:
            assert time.monotonic() < deadline, "the name is still known"
            db.emit("search.performed")
            time.sleep(0.2)
        until = time.monotonic()

    attempts = db.rows(
        """SELECT d.webhook_id, a.attempt, a.status, a.error, octet_length(a.response_excerpt) AS kept
             FROM webhooks.attempts a JOIN webhooks.deliveries d ON d.id = a.delivery_id WHERE d.event_type = 'user.activity'"""
    )
    wrong = []
    for webhook, (name, status, error) in expected.items():
        its = [row for row in attempts if row["webhook_id"] == webhook]
        assert len(its) == EVENTS * ATTEMPTS, f"{name}: {its}"
        wrong += [
            (name, row)
            for row in its
            if row["status"] != status or not row["error"].startswith(error) or (row["kept"] or 0) > 1024
        ]
    assert not wrong, wrong
    gone = db.rows("SELECT * FROM webhooks.deliveries WHERE webhook_id = %s AND state = 'failed'", vanishing["id"])
    assert {row["last_error"] for row in gone} == {"name not found"}
    # One request for each attempt: no redirect was followed, nothing was asked again.
    assert len(receiver.to("/redirects")) == EVENTS * ATTEMPTS
    for path in ("/10-gb", "/endless", "/bomb"):
        assert max(request.sent for request in receiver.to(path)) < TAKEN_MOST, path
    assert most - before < GROWTH_MOST, f"{(most - before) >> 20} MB"
    flow.stopping.wait(0.5)
    longest = flow.delays(began, until)[-1]
    assert longest < LATE_SECONDS + flow.stalled(began, until), longest
    assert flow.worker() == worker
    assert db.server.alarms() == []
    growth = (most - before) / (1 << 20)
    what = f"{len(expected) + 1} bad endpoints (others late by {longest * 1000:.0f} ms at most, {growth:.0f} MB more memory)"
    record(what, flow.finish(), rounds=1)
