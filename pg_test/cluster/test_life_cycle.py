"""Pausing, changing and deleting a webhook while it is at work; what the writer feels of all this; the order of things."""

import json
import time
from datetime import timedelta

import pytest
import signatures
from receiver import Answer, hang

# After a pause or delete has committed, no request starts later than this.
QUIET_AFTER_SECONDS = 0.1
ARRIVAL_SECONDS = 0.05
PATIENT = {"max_attempts": 100, "backoff_multiplier": 1}
EVENTS = 200


# Inactive


def test_an_inactive_webhook_gets_no_new_deliveries_and_not_later_either(db, receiver):
    webhook = db.create_webhook(receiver.url(), active=False)
    other = db.create_webhook(receiver.url("/other"))
    db.emit(data={"object": "activity", "n": 1})
    db.wait_for_states(other, delivered=1)
    db.update_webhook(webhook, active=True)
    db.emit(data={"object": "activity", "n": 2})
    receiver.wait(1, "/hook")
    db.settle()
    assert [it.data["n"] for it in receiver.to("/hook")] == [2]
    assert len(db.deliveries(webhook)) == 1


def test_what_waits_is_held_while_inactive_and_goes_on_after(db, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    db.update_webhook(webhook, active=False)
    due = db.the_delivery(webhook)["next_attempt_at"]
    db.wait_until("SELECT clock_timestamp() > %s::timestamptz + interval '1 second'", params=[due])
    delivery = db.the_delivery(webhook)
    assert (delivery["state"], delivery["attempts"], len(receiver.to("/hook"))) == ("pending", 1, 1)
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=1, timeout=3)


def test_what_committed_before_a_pause_is_held_though_the_worker_had_not_looked(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.stop_worker()
    db.emit(data={"object": "activity", "n": 1})
    db.update_webhook(webhook, active=False)
    assert db.the_delivery(webhook)["state"] == "pending"
    db.start_worker()
    db.wait_until("SELECT count(*) FROM webhooks.outbox", 0)
    assert db.the_delivery(webhook)["state"] == "pending"
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=1)
    assert [it.data["n"] for it in receiver.to("/hook")] == [1]


def test_what_committed_in_a_pause_is_left_out_though_the_worker_looked_only_after_it(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.create_webhook(receiver.url("/other"))
    db.stop_worker()
    db.update_webhook(webhook, active=False)
    db.emit(data={"object": "activity", "n": 1})
    db.update_webhook(webhook, active=True)
    db.emit(data={"object": "activity", "n": 2})
    assert len(db.deliveries(webhook)) == 1, "as the view sees it while they wait"
    db.start_worker()
    receiver.wait(2, "/other")
    db.settle()
    assert [it.data["n"] for it in receiver.to("/hook")] == [2]
    assert len(db.deliveries(webhook)) == 1


@pytest.mark.settings({"webhooks.deliveries_per_minute": "0"})
def test_what_an_endpoint_that_is_gone_had_waiting_is_held_to_the_last_event(db, receiver):
    """More than the worker takes into memory at once."""
    webhook = db.create_webhook(receiver.url())
    receiver.answer("/hook", 410)
    db.emit_many(3000)
    db.wait_until("SELECT count(*) FROM webhooks.outbox", 0)
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    receiver.answer("/hook", 200)
    assert db.get_webhook(webhook)["active"] is False
    failed = len(db.deliveries(webhook, "failed"))
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=3000 - failed, timeout=20)


def a_busy_webhook(db, receiver):
    """A webhook with a queue of events, of which some have been answered."""
    receiver.answer("/hook", Answer(delay=0.03))
    webhook = db.create_webhook(receiver.url())
    db.emit_many(EVENTS)
    receiver.wait(20)
    return webhook


def test_what_a_pause_holds_outlasts_the_worker(db, receiver):
    webhook = a_busy_webhook(db, receiver)
    db.update_webhook(webhook, active=False)
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    db.stop_worker()
    db.start_worker()
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=EVENTS, timeout=20)
    assert len({it.json["id"] for it in receiver.to("/hook")}) == EVENTS


def starts_after(receiver, moment):
    return [it.at - moment for it in receiver.to("/hook") if it.at > moment + QUIET_AFTER_SECONDS + ARRIVAL_SECONDS]


def test_100_ms_after_a_pause_has_committed_no_request_starts_and_all_goes_on_after(db, receiver):
    webhook = a_busy_webhook(db, receiver)
    db.update_webhook(webhook, active=False)
    paused = time.monotonic()
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    held = len(receiver.to("/hook"))
    assert 20 <= held < EVENTS
    other = db.create_webhook(receiver.url("/other"), ["search.performed"])
    db.emit("search.performed")
    db.wait_for_states(other, delivered=1)
    assert starts_after(receiver, paused) == []
    assert len(receiver.to("/hook")) == held
    db.wait_for_states(webhook, delivered=held, pending=EVENTS - held)
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=EVENTS, timeout=20)
    assert len(receiver.to("/hook")) == EVENTS, "each once"


@pytest.mark.settings(
    {"webhooks.deliveries_per_minute": "0", "webhooks.max_in_flight": "1000", "webhooks.max_payload": "8MB"}
)
def test_100_ms_after_many_webhooks_with_large_bodies_are_paused_no_request_starts(db, receiver):
    """A thread that has many to sign and to send takes long: by the log, since to receive them takes longer still."""
    webhooks = [db.create_webhook(receiver.url(f"/{number}"))["id"] for number in range(60)]
    data = {"object": "activity", "content": "a" * 3_000_000}
    db.execute("SELECT count(webhooks.emit('user.activity', %s::jsonb)) FROM generate_series(1, 12)", json.dumps(data))
    receiver.wait(5)
    db.execute("SELECT count(webhooks.update_webhook(id, '{\"active\": false}')) FROM unnest(%s::text[]) id", webhooks)
    paused = db.one("SELECT clock_timestamp()")
    db.wait_until("SELECT in_flight FROM webhooks.status", 0, timeout=60)
    db.wait_until("SELECT count(*) FROM webhooks.attempts", len(receiver.to()))
    latest = db.one("SELECT max(started_at) FROM webhooks.attempts")
    assert latest < paused + timedelta(seconds=QUIET_AFTER_SECONDS)


def test_100_ms_after_a_delete_has_committed_no_request_starts_and_the_rest_is_cancelled(db, receiver):
    webhook = a_busy_webhook(db, receiver)
    db.delete_webhook(webhook)
    deleted = time.monotonic()
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    db.wait_for_states(webhook, pending=0)
    db.wait_until(
        "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND state <> 'pending'",
        EVENTS,
        params=[webhook["id"]],
    )
    assert starts_after(receiver, deleted) == []
    states = [it["state"] for it in db.deliveries(webhook)]
    assert states.count("cancelled") >= EVENTS - len(receiver.to("/hook"))
    assert set(states) == {"delivered", "cancelled"}


def test_an_open_transaction_that_pauses_pauses_nothing_until_it_commits(db, receiver):
    webhook = db.create_webhook(receiver.url())
    other = db.connect()
    other.execute("BEGIN")
    db.update_webhook(webhook, session=other, active=False)
    db.emit()
    receiver.wait(1)
    other.execute("COMMIT")
    assert db.emit() is None


@pytest.mark.parametrize("status", [200, 500])
def test_an_outcome_that_comes_in_after_a_cancel_is_logged_and_the_state_stays_cancelled(db, receiver, status):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(status=status, hold=gate, body=b"late"))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)
    db.the_delivery(webhook)
    db.delete_webhook(webhook)
    db.wait_for_states(webhook, cancelled=1)
    gate.open()
    delivery = db.the_delivery(webhook)
    db.wait_until("SELECT count(*) FROM webhooks.attempts WHERE delivery_id = %s", 1, params=[delivery["id"]])
    (attempt,) = db.attempts(delivery["id"])
    assert (attempt["attempt"], attempt["status"], attempt["response_excerpt"]) == (1, status, "late")
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    assert db.the_delivery(webhook)["state"] == "cancelled"
    assert len(receiver.to("/hook")) == 1


def test_an_outcome_that_comes_in_after_a_pause_counts(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)
    db.update_webhook(webhook, active=False)
    gate.open()
    db.wait_for_states(webhook, delivered=1)


def test_an_attempt_uses_the_webhook_as_it_is_then(db, receiver):
    receiver.answer("/old", 500)
    webhook = db.create_webhook(receiver.url("/old"), secret="old")
    db.emit()
    (first,) = receiver.wait(1, "/old")
    db.update_webhook(webhook, url=receiver.url("/new"), secret="new")
    (second,) = receiver.wait(1, "/new")
    signatures.verify(first, "old")
    signatures.verify(second, "new")
    assert first.header("X-Lanonasis-Delivery") == second.header("X-Lanonasis-Delivery")
    assert len(receiver.to("/old")) == 1


def test_a_changed_retry_policy_holds_for_what_waits(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    receiver.wait(1)
    db.update_webhook(webhook, retry_policy={"max_attempts": 2})
    assert db.the_delivery(webhook, "failed")["attempts"] == 2


def test_a_retry_for_a_deleted_webhook_does_not_come(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries", 1)
    due = db.the_delivery(webhook)["next_attempt_at"]
    db.delete_webhook(webhook)
    db.wait_until("SELECT clock_timestamp() > %s::timestamptz + interval '1 second'", params=[due])
    assert len(receiver.to("/hook")) == 1


# The writer


def test_the_writer_does_not_wait_for_receivers(db, receiver):
    receiver.answer("/hook", Answer(hold=receiver.gate()))
    db.memories()
    db.create_webhook(receiver.url())
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    receiver.wait_under_way(1, "/hook")
    db.execute("SET statement_timeout = '1s'")
    for _ in range(20):
        db.execute("INSERT INTO memories (content) VALUES ('b')")


def test_the_writer_needs_no_worker_and_no_receiver(db):
    db.memories()
    webhook = db.create_webhook("http://127.0.0.1:9/nobody", retry_policy=PATIENT)
    db.stop_worker()
    db.execute("INSERT INTO memories (content) SELECT 'a' FROM generate_series(1, 100)")
    db.start_worker()
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE attempts >= 1", lambda n: n >= 5, timeout=20)
    assert db.get_webhook(webhook)["active"] is True


@pytest.mark.parametrize("call", ["update_webhook(%s, '{\"active\": false}')", "delete_webhook(%s)", "send_test(%s)"])
def test_an_open_transaction_of_somebody_stalls_nobody_else(db, receiver, call):
    db.memories()
    held, other = (db.create_webhook(receiver.url(path)) for path in ("/held", "/other"))
    session = db.connect()
    session.execute("BEGIN")
    session.execute(f"SELECT webhooks.{call}", [held["id"]])
    db.execute("SET statement_timeout = '2s'")
    for n in range(3):
        db.execute("INSERT INTO memories (content) VALUES ('a')")
        receiver.wait(n + 1, "/other", timeout=2)
    db.wait_for_states(other, delivered=3)
    session.execute("ROLLBACK")
    db.wait_for_states(held, delivered=3)


@pytest.mark.settings({"webhooks.request_timeout": "2s"})
def test_endpoints_that_do_not_answer_and_have_much_waiting_leave_room_for_others(db, receiver):
    receiver.answer("/dead", hang())
    for _ in range(8):
        db.create_webhook(receiver.url("/dead"), ["search.performed"], retry_policy=PATIENT)
    alive = db.create_webhook(receiver.url("/alive"), ["user.activity"])
    db.emit()
    db.wait_for_states(alive, delivered=1)
    large = "jsonb_build_object('object', 'a', 'large', repeat('a', 600000), 'n', n)"
    db.execute(f"SELECT count(webhooks.emit('search.performed', {large})) FROM generate_series(1, 25) n")
    db.wait_until("SELECT count(*) FROM webhooks.queue", 200, timeout=20)
    # By now all of them have timed out, and hold what they may.
    receiver.wait(24, "/dead", timeout=30)
    for n in range(3):
        began = time.monotonic()
        db.emit_many(20)
        receiver.wait(1 + 20 * (n + 1), "/alive", timeout=20)
        assert time.monotonic() - began < 1


def test_a_writers_open_transaction_stalls_nobody_else(db, memories):
    writer = db.connect()
    writer.execute("BEGIN")
    writer.execute("INSERT INTO memories (content) VALUES ('open')")
    for _ in range(3):
        db.execute("INSERT INTO memories (content) VALUES ('a')")
        memories.receiver.wait(memories.taken + 1, memories.path, timeout=2)
        memories.taken += 1
    writer.execute("COMMIT")
    memories.take(1)


def test_a_writer_that_is_cancelled_or_terminated_leaves_nothing_behind(db, memories):
    writer = db.connect()
    writer.execute("SET statement_timeout = '200ms'")
    db.fails(
        "INSERT INTO memories (content) SELECT 'a' FROM generate_series(1, 5) WHERE pg_sleep(0.1) IS NOT NULL",
        state="57014",
        hint=False,
        session=writer,
    )
    writer.execute("BEGIN")
    writer.execute("INSERT INTO memories (content) VALUES ('b')")
    db.execute("SELECT pg_terminate_backend(%s)", writer.info.backend_pid)
    db.wait_until("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", 0, params=[writer.info.backend_pid])
    memories.take(0)


# Order


@pytest.mark.settings({"webhooks.concurrent_deliveries": "1"})
def test_events_come_in_the_order_of_their_commits(db, receiver):
    db.create_webhook(receiver.url())
    sessions = [db.connect() for _ in range(3)]
    for n in range(60):
        db.emit(data={"object": "activity", "n": n}, session=sessions[n % 3])
    db.settle()
    assert [it.data["n"] for it in receiver.to()] == list(range(60))


@pytest.mark.settings({"webhooks.concurrent_deliveries": "1"})
def test_what_waited_for_the_worker_comes_in_order_too(db, receiver):
    db.create_webhook(receiver.url())
    db.stop_worker()
    for n in range(60):
        db.emit(data={"object": "activity", "n": n})
    db.start_worker()
    db.settle(20)
    assert [it.data["n"] for it in receiver.to()] == list(range(60))


def test_what_one_transaction_does_first_holds_for_what_it_emits_after(db, receiver):
    """In its own snapshot the transaction looks as if it had ended, as soon as a later one has."""
    watcher = db.create_webhook(receiver.url("/all"), events=["*"])
    count = 20
    for number in range(count):
        db.execute("SELECT webhooks.register_event_type(%s, '')", f"test.n{number}")
        db.create_webhook(receiver.url(f"/paused/{number}"), events=[f"test.n{number}"])
    paused = [row["id"] for row in db.rows("SELECT 'webhook_' || replace(id::text, '-', '') AS id FROM webhooks.webhook ORDER BY id")]
    db.execute("BEGIN")
    db.execute("SELECT pg_current_xact_id()")
    other = db.connect()
    other.execute("SELECT pg_current_xact_id()")
    # Without a way to the server and back between them, some of each pair are of the same millisecond.
    db.execute(
        """DO $$ BEGIN
               FOR number IN 0 .. %s LOOP
                   PERFORM webhooks.create_webhook('%s' || number, array['test.n' || number]);
                   PERFORM webhooks.update_webhook((ARRAY['%s'])[number + 1], '{"active": false}');
                   PERFORM webhooks.emit('test.n' || number, '{"object": "test"}');
               END LOOP;
           END $$"""
        % (count - 1, receiver.url("/new/"), "','".join(paused[1:]))
    )
    db.execute("COMMIT")
    db.wait_for_states(watcher, delivered=count)
    db.settle()
    assert [len(receiver.to(f"/new/{number}")) for number in range(count)] == [1] * count
    assert [len(receiver.to(f"/paused/{number}")) for number in range(count)] == [0] * count
