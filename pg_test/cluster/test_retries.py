"""When an attempt succeeds, fails, comes again: what counts as success, the schedule, Retry-After, 410, time limits."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from receiver import Answer, hang, reset

TWO_ATTEMPTS = {"max_attempts": 2, "backoff_multiplier": 1}
PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}
# A retry may be late on a busy machine, never early; the clocks of sender and receiver are the same.
EARLY_SECONDS = 0.005
LATE_SECONDS = 1.0


def gaps(requests):
    """Seconds from each answer to the next arrival."""
    return [after.at - before.answered for before, after in zip(requests, requests[1:], strict=False)]


def is_about(gap, seconds):
    return seconds - EARLY_SECONDS <= gap <= seconds + LATE_SECONDS


def together(db, receiver, cases, **arguments):
    """One webhook for each case {path: (answers, arguments)}, one event for all of them."""
    webhooks = {}
    for path, (answers, own) in cases.items():
        receiver.answer(path, *answers)
        webhooks[path] = db.create_webhook(receiver.url(path), **{**arguments, **own})
    db.emit()
    return webhooks


# The schedule


def test_attempt_n_starts_the_multiplier_to_the_n_minus_2_seconds_after_the_one_before_ended(db, receiver):
    expected = {
        "/default": ({}, [1, 2]),
        "/twice": ({"max_attempts": 4}, [1, 2, 4]),
        "/thrice": ({"max_attempts": 3, "backoff_multiplier": 3}, [1, 3]),
        "/once": ({"max_attempts": 5, "backoff_multiplier": 1}, [1, 1, 1, 1]),
        "/fraction": ({"max_attempts": 4, "backoff_multiplier": 1.5}, [1, 1.5, 2.25]),
        "/capped": ({"max_attempts": 4, "backoff_multiplier": 10, "max_delay": 2}, [1, 2, 2]),
        "/shortest": ({"max_attempts": 3, "backoff_multiplier": 10, "max_delay": 1}, [1, 1]),
    }
    webhooks = together(
        db, receiver, {path: ([500], {"retry_policy": policy}) for path, (policy, _) in expected.items()}
    )
    for path, (_, delays) in expected.items():
        delivery = db.the_delivery(webhooks[path], "failed", timeout=20)
        requests = receiver.to(path)
        assert delivery["attempts"] == len(requests) == len(delays) + 1
        assert all(map(is_about, gaps(requests), delays)), (path, gaps(requests))


def test_the_delay_counts_from_the_end_of_an_attempt(db, receiver):
    receiver.answer("/hook", Answer(status=500, delay=0.8), 200)
    db.create_webhook(receiver.url())
    db.emit()
    first, second = receiver.wait(2)
    assert first.answered - first.at >= 0.8 and is_about(second.at - first.answered, 1)


def test_the_first_attempt_starts_at_once(db, receiver):
    db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)
    began = time.monotonic()
    db.emit()
    assert receiver.wait(2)[1].at - began < LATE_SECONDS


@pytest.mark.parametrize("attempts", [1, 3])
def test_max_attempts_are_attempts_in_all(db, receiver, attempts):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": attempts, "backoff_multiplier": 1})
    db.emit()
    assert db.the_delivery(webhook, "failed")["attempts"] == attempts
    db.settle()
    assert len(receiver.to("/hook")) == attempts
    assert len(db.attempts(db.the_delivery(webhook)["id"])) == attempts


def test_a_retry_is_shown_with_its_time(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 10})
    db.emit()
    receiver.wait(2)
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 2)
    delivery = db.the_delivery(webhook)
    ended = db.attempts(delivery["id"])[-1]["started_at"]
    delay = (delivery["next_attempt_at"] - ended).total_seconds()
    assert 10 <= delay <= 11 + LATE_SECONDS, "ten seconds, and jitter of up to a tenth"


@pytest.mark.settings({"webhooks.retry_jitter": "off"})
def test_without_jitter_a_long_delay_is_exact(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 10})
    db.emit()
    receiver.wait(2)
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 2)
    delivery = db.the_delivery(webhook)
    last = db.attempts(delivery["id"])[-1]
    ended = last["started_at"] + timedelta(milliseconds=last["duration_ms"])
    assert abs((delivery["next_attempt_at"] - ended).total_seconds() - 10) < 0.1


# Success and failure

SUCCESSES = {
    "200": Answer(),
    "201": Answer(status=201),
    "204": Answer(status=204, headers=(("X-No-Body", "1"), ("Content-Length", "0"))),
    "299": Answer(status=299),
    "a body that hangs": Answer(headers=(("Content-Length", "100"),), body=b"half", then="hang"),
    "a body that breaks off": Answer(headers=(("Content-Length", "100"),), body=b"half", then="close"),
    "a body that is reset": Answer(headers=(("Content-Length", "100"),), body=b"half", then="reset"),
    "a body that never ends": Answer(endless=True),
    "a body in broken chunks": Answer(
        headers=(("Transfer-Encoding", "chunked"),), body=b"zz\r\nnonsense", then="close"
    ),
    "a body that is said to be gzip": Answer(headers=(("Content-Encoding", "gzip"),), body=b"it is not"),
    "a body that is no text": Answer(body=bytes(range(256)) * 8),
    "a large body": Answer(body=b"x" * 500_000),
}


@pytest.mark.settings({"webhooks.request_timeout": "1s"})
def test_success_is_a_2xx_status_line_whatever_the_body_does(db, receiver):
    cases = {f"/{n}": ([answer], {}) for n, answer in enumerate(SUCCESSES.values())}
    webhooks = together(db, receiver, cases, retry_policy=PATIENT)
    for (path, webhook), name in zip(webhooks.items(), SUCCESSES, strict=True):
        delivery = db.the_delivery(webhook, "delivered")
        assert delivery["attempts"] == len(receiver.to(path)) == 1, name
        assert 200 <= delivery["last_status"] <= 299, name


FAILURES = {
    "400": (Answer(status=400), 400),
    "401": (Answer(status=401), 401),
    "404": (Answer(status=404), 404),
    "418": (Answer(status=418), 418),
    "500": (Answer(status=500), 500),
    "599": (Answer(status=599), 599),
    "300": (Answer(status=300), 300),
    "a hang": (hang(), None),
    "a reset": (reset(), None),
    "a close": (Answer(raw=b"", then="close"), None),
    "nonsense": (Answer(raw=b"nonsense nonsense\r\n\r\n", then="close"), None),
    "half a status line": (Answer(raw=b"HTTP/1.1 20", then="close"), None),
    "half the headers": (Answer(raw=b"HTTP/1.1 200 OK\r\nX-A: b\r\n", then="close"), None),
    "headers that hang": (Answer(raw=b"HTTP/1.1 200 OK\r\nX-A: b\r\n", then="hang"), None),
    "headers that drip": (Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000, drip=0.05, then="close"), None),
    "headers without end": (Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000 + b"\r\n", then="close"), None),
    "a status out of range": (Answer(raw=b"HTTP/1.1 999999 OK\r\n\r\n", then="close"), None),
    "a status of 1xx alone": (Answer(raw=b"HTTP/1.1 102 Processing\r\n\r\n", then="close"), None),
}


@pytest.mark.settings({"webhooks.request_timeout": "1s"})
def test_all_else_is_a_failure_and_retries(db, receiver):
    cases = {f"/{n}": ([answer], {}) for n, (answer, _) in enumerate(FAILURES.values())}
    webhooks = together(db, receiver, cases, retry_policy=TWO_ATTEMPTS)
    for (path, webhook), (name, (_, status)) in zip(webhooks.items(), FAILURES.items(), strict=True):
        delivery = db.the_delivery(webhook, "failed", timeout=20)
        requests = receiver.to(path)
        assert delivery["attempts"] == 2 and {it.json["attempt"] for it in requests} == {1, 2}, name
        # On a kept connection, a request that ends without a byte of an answer is made again at once, as the same attempt.
        assert len(requests) == 2 or name in ("a reset", "a close"), name
        assert delivery["last_error"], name
        if status is not None:
            assert delivery["last_status"] == status, name
        for attempt in db.attempts(delivery["id"]):
            assert attempt["error"] and attempt["duration_ms"] >= 0, name


# Limits of one request


@pytest.mark.settings({"webhooks.request_timeout": "1s"})
def test_the_whole_request_is_limited_in_time(db, receiver):
    cases = {
        "/hang": ([hang(), 200], {}),
        "/drip": ([Answer(body=b"x" * 100, drip=0.03), 200], {"retry_policy": {"max_attempts": 1}}),
        "/slow": ([Answer(delay=1.5), 200], {}),
    }
    webhooks = together(db, receiver, cases, retry_policy=PATIENT)
    for path in ("/hang", "/slow"):
        delivery = db.the_delivery(webhooks[path], "delivered", timeout=15)
        first, second = db.attempts(delivery["id"])
        assert first["status"] is None and first["error"]
        assert 1000 - EARLY_SECONDS <= first["duration_ms"] <= 1000 + 1000 * LATE_SECONDS, path
        assert second["status"] == 200
        # The limit, and the schedule's first delay: both count from the start, which a busy receiver sees later.
        assert is_about((second["started_at"] - first["started_at"]).total_seconds(), 2)


@pytest.mark.slow
def test_the_limit_is_5_seconds_unless_it_is_set(db, receiver):
    receiver.answer("/hook", hang())
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 1})
    db.emit()
    delivery = db.the_delivery(webhook, "failed", timeout=15)
    (attempt,) = db.attempts(delivery["id"])
    assert 5000 - 100 <= attempt["duration_ms"] <= 5000 + 1000 * LATE_SECONDS


def test_of_the_answer_at_most_64_kib_are_read_and_1_kib_is_kept(db, receiver):
    cases = {
        "/endless": ([Answer(endless=True)], {}),
        "/kept": ([Answer(body=b"a" * 1024 + b"b" * 1000)], {}),
        "/short": ([Answer(body="é short".encode())], {}),
        "/split": ([Answer(body=b"a" + "é".encode() * 1000)], {}),
        "/null": ([Answer(body=b"a\0b\xff")], {}),
        "/empty": ([Answer()], {}),
    }
    webhooks = together(db, receiver, cases)
    kept = {}
    for path, webhook in webhooks.items():
        delivery = db.the_delivery(webhook, "delivered")
        (attempt,) = db.attempts(delivery["id"])
        kept[path] = attempt["response_excerpt"]
        assert kept[path] is None or len(kept[path].encode()) <= 1024
        assert attempt["duration_ms"] < 5000
    assert kept["/kept"] == "a" * 1024
    assert kept["/short"] == "é short"
    assert kept["/split"].startswith("aé") and len(kept["/split"].encode()) >= 1020
    assert kept["/null"].startswith("a")
    assert not kept["/empty"]
    # What the kernel buffers on both sides is not read by anybody.
    assert receiver.to("/endless")[0].sent < 20_000_000


# 410


def test_410_disables_the_webhook_with_a_reason(db, receiver):
    receiver.answer("/hook", 410)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT webhooks.get_webhook(%s) -> 'active'", False, params=[webhook["id"]])
    shown = db.get_webhook(webhook)
    assert "410" in shown["disabled_reason"]
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    assert db.the_delivery(webhook)["attempts"] == 1
    assert db.emit() is None, "it is nobody's subscription now"


def test_switching_on_again_clears_the_reason(db, receiver):
    receiver.answer("/hook", 410, 200)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT webhooks.get_webhook(%s) -> 'active'", False, params=[webhook["id"]])
    shown = db.update_webhook(webhook, active=True)
    assert (shown["active"], shown["disabled_reason"]) == (True, None)
    event = db.emit()
    receiver.wait(1, where=lambda it: it.json["id"] == event)
    db.settle()
    assert db.get_webhook(webhook)["active"] is True


# Retry-After


def http_date(seconds):
    """A date that is so far away; in whole seconds, rounded up."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds + 1)
    return format_datetime(at, usegmt=True)


def retry_after(status, value):
    return Answer(status=status, headers=(("Retry-After", value),))


def dated(status, seconds):
    """An answer whose date is worked out when it is given."""
    return lambda _request: retry_after(status, http_date(seconds))


def test_429_and_503_honour_retry_after_in_seconds_or_as_a_date(db, receiver):
    expected = {
        "/429_seconds": (retry_after(429, "3"), 3, 3),
        "/503_seconds": (retry_after(503, "3"), 3, 3),
        "/429_date": (dated(429, 2), 2, 3),
        "/503_date": (dated(503, 2), 2, 3),
        "/spaces": (retry_after(429, "  3  "), 3, 3),
        # Never sooner than the schedule.
        "/zero": (retry_after(429, "0"), 1, 1),
        "/past": (dated(503, -3600), 1, 1),
        # Only of 429 and 503.
        "/500": (retry_after(500, "30"), 1, 1),
        "/404": (retry_after(404, "30"), 1, 1),
        # What cannot be read is not there.
        "/nonsense": (retry_after(429, "soon"), 1, 1),
        "/negative": (retry_after(429, "-5"), 1, 1),
        "/exponent": (retry_after(503, "1e300"), 1, 1),
        "/fraction": (retry_after(503, "1.5"), 1, 2),
        "/not_ascii": (retry_after(503, "\xe9\xff"), 1, 1),
        "/empty": (retry_after(503, ""), 1, 1),
    }
    together(db, receiver, {path: ([answer, 200], {}) for path, (answer, _, _) in expected.items()})
    for path, (_, least, most) in expected.items():
        requests = receiver.wait(2, path, timeout=20)
        (gap,) = gaps(requests)
        assert least - EARLY_SECONDS <= gap <= most + LATE_SECONDS, (path, gap)


@pytest.mark.parametrize("value", ["100000", "999999999999999999999999", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_retry_after_is_never_later_than_a_day(db, receiver, value):
    receiver.answer("/hook", retry_after(503, value))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    delivery = db.the_delivery(webhook)
    delay = delivery["next_attempt_at"] - delivery["created_at"]
    assert delay <= timedelta(days=1, minutes=1)
    # What is too large to be a number may be ignored, but not what is one.
    assert delay >= timedelta(hours=23) or value.startswith("9999")


def test_retry_after_may_be_longer_than_max_delay(db, receiver):
    receiver.answer("/hook", retry_after(429, "3600"))
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_delay": 1})
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    delivery = db.the_delivery(webhook)
    assert delivery["next_attempt_at"] - delivery["created_at"] >= timedelta(minutes=59)


# Switched off when it fails for long


@pytest.mark.settings({"webhooks.disable_after": "2s"})
def test_a_webhook_without_a_success_and_with_20_failed_deliveries_is_switched_off_in_time(db, receiver):
    receiver.answer("/bad", 500)
    receiver.answer("/lucky", *[500] * 10, 200, 500)
    one_attempt = {"max_attempts": 1}
    watcher = db.create_webhook(receiver.url("/watcher"), ["webhook.disabled"])
    bad = db.create_webhook(receiver.url("/bad"), retry_policy=one_attempt)
    lucky = db.create_webhook(receiver.url("/lucky"), retry_policy=one_attempt)
    first = db.one("SELECT clock_timestamp()")
    for _ in range(19):
        db.emit()
        db.settle()
    db.wait_until("SELECT clock_timestamp()", lambda now: now > first + timedelta(seconds=2.5))
    assert db.get_webhook(bad)["active"] is True, "19 are not 20"
    db.emit()
    db.wait_until("SELECT webhooks.get_webhook(%s) -> 'active'", False, params=[bad["id"]])
    assert db.get_webhook(bad)["disabled_reason"]
    (request,) = receiver.wait(1, "/watcher")
    assert bad["id"] in request.data.values()
    db.wait_for_states(watcher, delivered=1)
    db.settle()
    assert db.get_webhook(lucky)["active"] is True, "it had a success between"
    assert db.update_webhook(bad, active=True)["disabled_reason"] is None
    db.emit()
    db.wait_for_states(bad, failed=21)
    db.settle()
    assert db.get_webhook(bad)["active"] is True, "switched on again, it has its time again"


def test_twenty_failures_at_once_switch_nothing_off(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 1})
    db.emit_many(30)
    db.wait_for_states(webhook, failed=30)
    db.settle()
    assert db.get_webhook(webhook)["active"] is True


# Many at once


def test_an_endpoint_that_hangs_does_not_slow_another(db, receiver):
    receiver.answer("/hang", hang())
    db.create_webhook(receiver.url("/hang"), retry_policy={"max_attempts": 1})
    db.create_webhook(receiver.url("/good"))
    db.emit_many(20)
    receiver.wait(20, "/good", timeout=4)


@pytest.mark.settings({"webhooks.request_timeout": "1s"})
def test_a_hundred_endpoints_that_hang_do_not_slow_another(db, receiver):
    receiver.answer("/hang", hang())
    db.execute(
        """SELECT count(webhooks.create_webhook(%s, '{search.performed}', retry_policy => '{"max_attempts": 1}'))
             FROM generate_series(1, 100)""",
        receiver.url("/hang"),
    )
    good = db.create_webhook(receiver.url("/good"), ["user.activity"])
    db.emit_many(1, "search.performed")
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE state = 'failed'", 100, timeout=30)
    db.emit_many(5, "search.performed")
    receiver.wait(120, "/hang")
    for n in range(20):
        began = time.monotonic()
        db.emit()
        assert receiver.wait(n + 1, "/good")[-1].at - began < 0.5
    db.wait_for_states(good, delivered=20)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(302, headers=(("Location", "https://elsewhere.test/hook"),)),
            "redirects are not followed; this one leads to elsewhere.test",
        ),
        (Answer(308, headers=(("Location", "/there"),)), "redirects are not followed"),
        (Answer(413), "the endpoint takes no body of this size: a lower webhooks.max_payload makes bodies shorter"),
    ],
    ids=["a redirect to another host", "a redirect to another path", "a body that is too large"],
)
def test_the_log_says_what_to_do_about(db, receiver, answer, words):
    receiver.answer("/hook", answer)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 1})
    db.emit()
    delivery = db.the_delivery(webhook, "failed")
    (attempt,) = db.attempts(delivery["id"])
    assert attempt["error"] == f"the endpoint answered {answer.status}; {words}"
