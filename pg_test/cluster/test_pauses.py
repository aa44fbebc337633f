"""429 and 503 with Retry-After pause the whole webhook: until then nothing starts, and what was refused goes first afterwards."""

import math
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from forms import time_of
from receiver import Answer

# Long enough for a busy machine to do something else in.
LONG = 3600
PAUSED = "SELECT webhooks.get_webhook(%s) ->> 'paused_until'"


def refusal(seconds, status=429):
    return Answer(status=status, headers=(("Retry-After", str(seconds)),))


class Limiter:
    """Lets so many requests pass in some seconds and answers the others with 429 and the time until the next may pass.

    `sliding`: no span of that length holds more; else the time is cut into spans that begin with the first request of each.
    """

    def __init__(self, most, seconds, sliding):
        self.most, self.seconds, self.sliding = most, seconds, sliding
        self.passed = []
        self.refused = 0
        self.lock = threading.Lock()

    def __call__(self, request):
        with self.lock:
            began = request.at - self.seconds if self.sliding else self.began(request.at)
            within = [at for at in self.passed if at > began or (at == began and not self.sliding)]
            if len(within) < self.most:
                self.passed.append(request.at)
                return Answer()
            self.refused += 1
            return refusal(max(1, math.ceil(within[0] + self.seconds - request.at)))

    def began(self, now):
        """When the span began that holds this moment."""
        began = None
        for at in self.passed:
            if began is None or at >= began + self.seconds:
                began = at
        return began if began is not None and now < began + self.seconds else now


def paused_until(db, webhook):
    return db.get_webhook(webhook)["paused_until"]


def wait_until_paused(db, webhook):
    return time_of(db.wait_until(PAUSED, lambda it: it is not None, params=[webhook["id"]]))


def pause(db, receiver, seconds=LONG, path="/hook", **arguments):
    """A webhook whose first event was refused, so that it is paused."""
    receiver.answer(path, refusal(seconds), 200)
    webhook = db.create_webhook(receiver.url(path), **arguments)
    db.emit()
    receiver.wait(1, path)
    wait_until_paused(db, webhook)
    return webhook


# What it is for


@pytest.mark.parametrize("sliding", [False, True], ids=["fixed", "sliding"])
def test_a_receiver_that_allows_20_requests_in_2_seconds_gets_200_events_without_a_failure(db, receiver, sliding):
    limiter = Limiter(20, 2, sliding)
    receiver.answer("/hook", limiter)
    webhook = db.create_webhook(receiver.url())
    db.emit_many(200)
    db.wait_for_states(webhook, delivered=200, failed=0, timeout=60)
    # The last of three attempts is rarely needed: when the machine runs us late, a window may begin between two requests.
    assert db.one("SELECT count(*) FROM webhooks.deliveries WHERE attempts = 3") <= 4
    # A pause costs a few refusals, not one for each event that waits.
    assert limiter.refused < 100
    assert paused_until(db, webhook) is None or time_of(paused_until(db, webhook)) > datetime.now(UTC)


def test_nothing_else_starts_while_a_webhook_is_paused_and_others_are_not_held_up(db, receiver):
    other = db.create_webhook(receiver.url("/other"))
    webhook = pause(db, receiver)
    made = len(receiver.to("/hook"))
    db.emit_many(50)
    db.wait_for_states(other, delivered=51)
    assert len(receiver.to("/hook")) == made == 1
    assert paused_until(db, other) is None
    assert len(db.deliveries(webhook, "pending")) == 51


@pytest.mark.parametrize("status", [429, 503])
def test_the_pause_lasts_as_long_as_retry_after_says(db, receiver, status):
    receiver.answer("/hook", refusal(2, status), 200)
    webhook = db.create_webhook(receiver.url())
    db.emit()
    (refused,) = receiver.wait(1)
    until = wait_until_paused(db, webhook)
    assert abs(until.timestamp() - (refused.wall + 2)) < 1
    db.emit()
    requests = receiver.wait(3)
    assert all(it.at - refused.answered >= 2 - 0.005 for it in requests[1:])
    assert requests[1].json["id"] == refused.json["id"]
    assert paused_until(db, webhook) is None


def test_other_answers_and_answers_without_the_header_pause_nothing(db, receiver):
    receiver.answer("/500", Answer(status=500, headers=(("Retry-After", "3600"),)))
    receiver.answer("/429", 429)
    receiver.answer("/bad", Answer(status=503, headers=(("Retry-After", "soon"),)))
    webhooks = [db.create_webhook(receiver.url(path)) for path in ("/500", "/429", "/bad")]
    db.emit()
    for webhook in webhooks:
        db.wait_for_states(webhook, failed=1)
        assert paused_until(db, webhook) is None


def test_what_was_refused_goes_first_when_the_pause_ends(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", *[Answer(status=429, headers=(("Retry-After", "2"),), hold=gate)] * 5, 200)
    webhook = db.create_webhook(receiver.url())
    db.emit_many(30)
    receiver.wait_under_way(5, "/hook")
    gate.open()
    db.wait_for_states(webhook, delivered=30, timeout=20)
    assert len(receiver.to("/hook")) == 35
    refused = {it.header("X-Lanonasis-Delivery") for it in receiver.to("/hook")[:5]}
    # By when they were started: on their way some may overtake others.
    began = db.rows("SELECT delivery_id, attempt, started_at FROM webhooks.attempts")
    again = [it["started_at"] for it in began if it["attempt"] == 2]
    others = [it["started_at"] for it in began if it["delivery_id"] not in refused]
    assert {it["delivery_id"] for it in began if it["attempt"] == 2} == refused
    assert max(again) <= min(others)


def test_after_a_pause_one_request_at_a_time_finds_out_whether_it_is_over(db, receiver):
    """Each delivery has three attempts: what is refused again must not be all that was."""
    gate = receiver.gate()
    first = Answer(status=429, headers=(("Retry-After", "1"),), hold=gate)
    receiver.answer("/hook", *[first] * 5, refusal(1), 200)
    webhook = db.create_webhook(receiver.url())
    db.emit_many(10)
    receiver.wait_under_way(5, "/hook")
    gate.open()
    db.wait_for_states(webhook, delivered=10, timeout=20)
    # Of the five one was refused twice.
    assert sorted(it["attempts"] for it in db.deliveries(webhook)) == [1] * 5 + [2] * 4 + [3]


# How long it lasts


def test_a_pause_outlasts_a_restart_of_the_worker_and_of_the_server(make_server, make_database, receiver):
    server = make_server()
    db = make_database(server=server)
    webhook = pause(db, receiver, retry_policy={"max_attempts": 5})
    until = paused_until(db, webhook)
    db.emit()
    db.stop_worker()
    assert paused_until(db, webhook) == until
    db.start_worker()
    db.emit()
    server.restart()
    db.reconnect()
    db.wait_for_worker()
    db.emit()
    other = db.create_webhook(receiver.url("/other"))
    db.emit()
    db.wait_for_states(other, delivered=1)
    assert paused_until(db, webhook) == until
    assert len(receiver.to("/hook")) == 1
    db.update_webhook(webhook, active=False)
    db.update_webhook(webhook, active=True)
    receiver.wait(4, "/hook")


def test_a_pause_ends_by_itself_after_a_restart(db, receiver):
    webhook = pause(db, receiver, seconds=4)
    db.emit()
    db.stop_worker()
    db.start_worker()
    db.wait_for_states(webhook, delivered=2, timeout=20)
    first, *others = receiver.to("/hook")
    assert all(it.at - first.answered >= 4 - 0.005 for it in others)
    assert others[0].json["id"] == first.json["id"]


def test_a_pause_is_never_longer_than_a_day(db, receiver):
    webhook = pause(db, receiver, seconds=10_000_000)
    until = time_of(paused_until(db, webhook))
    assert timedelta(hours=23, minutes=59) < until - datetime.now(UTC) <= timedelta(days=1)


def test_a_pause_from_under_a_clock_that_was_a_year_ahead_is_none(db, receiver):
    webhook = pause(db, receiver)
    db.stop_worker()
    db.execute("UPDATE webhooks.webhook_stats SET paused_until = paused_until + interval '1 year'")
    assert paused_until(db, webhook) is None
    db.start_worker()
    db.emit()
    db.wait_for_states(webhook, delivered=2, timeout=20)


def test_another_url_ends_the_pause(db, receiver):
    webhook = pause(db, receiver)
    db.emit()
    assert db.update_webhook(webhook, events=["user.activity"])["paused_until"] is not None, "another change does not"
    assert db.update_webhook(webhook, url=receiver.url("/hook"))["paused_until"] is not None, "nor the same URL"
    assert db.update_webhook(webhook, url=receiver.url("/moved"))["paused_until"] is None
    receiver.wait(1, "/moved")
    # Nor does it come back with the URL.
    shown = db.update_webhook(webhook, url=receiver.url("/hook"))
    receiver.answer("/hook", 200)
    db.emit()
    receiver.wait(2, "/hook")
    assert shown["paused_until"] is None and paused_until(db, webhook) is None


@pytest.mark.parametrize("ends", ["url", "activation", "url while no worker runs"])
def test_what_was_refused_is_sent_when_the_pause_is_ended_early(db, receiver, ends):
    webhook = pause(db, receiver)
    refused = db.the_delivery(webhook)
    assert abs(refused["next_attempt_at"] - time_of(paused_until(db, webhook))) < timedelta(milliseconds=1)
    path = "/hook" if ends == "activation" else "/moved"
    if ends == "activation":
        db.update_webhook(webhook, active=False)
        db.update_webhook(webhook, active=True)
    elif ends == "url":
        db.update_webhook(webhook, url=receiver.url(path))
    else:
        db.stop_worker()
        db.update_webhook(webhook, url=receiver.url(path))
        db.start_worker()
    again = receiver.wait(2 if path == "/hook" else 1, path, timeout=20)[-1]
    assert (again.header("X-Lanonasis-Delivery"), again.json["attempt"]) == (refused["id"], 2)
    db.wait_for_states(webhook, delivered=1)


def test_what_the_old_url_answers_afterwards_does_not_pause_the_new_one(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(status=429, headers=(("Retry-After", "3600"),), hold=gate))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    receiver.wait_under_way(1, "/hook")
    db.update_webhook(webhook, url=receiver.url("/moved"))
    db.emit()
    receiver.wait(1, "/moved")
    gate.open()
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    db.emit()
    receiver.wait(2, "/moved")
    assert paused_until(db, webhook) is None


def test_switching_off_and_on_ends_the_pause(db, receiver):
    webhook = pause(db, receiver)
    db.emit()
    assert db.update_webhook(webhook, active=True)["paused_until"] is not None, "it was active"
    assert db.update_webhook(webhook, active=False)["paused_until"] is not None
    assert db.update_webhook(webhook, active=True)["paused_until"] is None
    receiver.wait(2, "/hook")
    db.wait_for_states(webhook, delivered=1)
    assert paused_until(db, webhook) is None


# What does not wait


def test_a_test_does_not_wait(db, receiver):
    webhook = pause(db, receiver)
    db.emit_many(100)
    event = db.send_test(webhook)
    receiver.wait(1, "/hook", timeout=3, where=lambda it: it.json["id"] == event)
    assert len(receiver.to("/hook")) == 2
    assert paused_until(db, webhook) is not None, "it is still paused for the rest"


def test_retry_delivery_does_not_wait(db, receiver):
    webhook = pause(db, receiver)
    refused = db.the_delivery(webhook)
    db.one("SELECT webhooks.retry_delivery(%s)", refused["id"])
    receiver.wait(2, "/hook", timeout=3)
    # One that has had no attempt yet: the last of many, which wait.
    db.emit_many(200)
    last = db.deliveries(webhook, "pending")[-1]["id"]
    db.one("SELECT webhooks.retry_delivery(%s)", last)
    assert receiver.wait(3, "/hook", timeout=3)[2].header("X-Lanonasis-Delivery") == last
    # And one that has ended, behind those.
    db.one("SELECT webhooks.retry_delivery(%s)", refused["id"])
    again = receiver.wait(4, "/hook", timeout=3)[3]
    assert (again.header("X-Lanonasis-Delivery"), again.json["attempt"]) == (refused["id"], 3)
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    assert len(receiver.to("/hook")) == 4


def test_what_has_just_been_emitted_can_be_sent_at_once_too(db, receiver):
    webhook = pause(db, receiver)
    event = db.emit()
    delivery = db.wait_until(
        "SELECT id FROM webhooks.deliveries WHERE event_id = %s", lambda it: it is not None, params=[event]
    )
    db.one("SELECT webhooks.retry_delivery(%s)", delivery)
    receiver.wait(1, "/hook", timeout=3, where=lambda it: it.json["id"] == event)
    db.wait_for_states(webhook, delivered=1)


# Where it is shown


def test_the_pause_is_shown_wherever_the_webhook_is(db, receiver):
    webhook = db.create_webhook(receiver.url("/calm"), ["search.performed"])
    assert webhook["paused_until"] is None
    webhook = pause(db, receiver)
    until = paused_until(db, webhook)
    listed = {it["id"]: it["paused_until"] for it in db.one("SELECT webhooks.list_webhooks()")["webhooks"]}
    assert listed[webhook["id"]] == until and list(listed.values()).count(None) == 1
    assert db.update_webhook(webhook, **db.get_webhook(webhook))["paused_until"] == until, "it can be put back"
    for view in ("webhooks.webhooks", "webhooks_api.webhooks"):
        shown = db.one(f"SELECT paused_until FROM {view} WHERE id = %s", webhook["id"])
        assert abs(shown - time_of(until)) < timedelta(milliseconds=1)


def test_what_waits_for_the_end_of_a_pause_is_not_pending_for_long(db, receiver):
    webhook = pause(db, receiver)
    db.emit_many(10)
    db.wait_until("SELECT count(*) FROM webhooks.queue", 11)
    db.execute("UPDATE webhooks.queue SET seq = seq - 100000000, due = due - interval '1 day'")
    told = "SELECT (webhooks_api.status() -> 'data' ->> 'oldest_pending_seconds')::float8"
    assert db.one("SELECT oldest_pending_seconds FROM webhooks.status") == 0
    assert db.one(told) == 0
    # A pause that is over is none.
    db.execute("UPDATE webhooks.webhook_stats SET paused_until = now() - interval '1 s'")
    assert db.one("SELECT oldest_pending_seconds FROM webhooks.status") > 90
    assert paused_until(db, webhook) is None


@pytest.mark.slow
def test_many_that_are_paused_take_no_room_from_others(db, receiver):
    """What waits for them stays in the queue, however much that is."""
    gone = [pause(db, receiver, path=f"/paused/{n}") for n in range(5)]
    good = db.create_webhook(receiver.url("/good"))
    db.emit_many(900)
    began = time.monotonic()
    db.wait_for_states(good, delivered=900, timeout=60)
    assert time.monotonic() - began < 15
    for webhook in gone:
        assert len(receiver.to(f"/paused/{gone.index(webhook)}")) == 1
