"""The log and what can be done with it: list_deliveries, get_delivery, retry_delivery, replay, send_test, the views."""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from database import some_uuid
from forms import DELIVERY_COLUMNS, is_id, is_now, time_of
from load import Writers
from receiver import Answer, hang

ONE_ATTEMPT = {"max_attempts": 1}
# Attempts after 0 s, 1 s, 10 s, 100 s: what failed once waits a while.
PATIENT = {"max_attempts": 100, "backoff_multiplier": 10}
NOT_SHOWN = ("x-lanonasis-signature", "x-lanonasis-signature-previous", "webhook-signature")


def replay(db, webhook, since="1 hour", until="0", only_failed=False):
    """since and until as intervals before now."""
    return db.one(
        "SELECT webhooks.replay(%s, clock_timestamp() - %s::interval, clock_timestamp() - %s::interval, %s)",
        webhook["id"],
        since,
        until,
        only_failed,
    )


def get_delivery(db, delivery_id, session=None):
    return db.one("SELECT webhooks.get_delivery(%s)", delivery_id, session=session)


# list_deliveries


def test_list_deliveries_shows_the_newest_first_with_pagination(db, receiver):
    webhook = db.create_webhook(receiver.url())
    for n in range(5):
        db.emit()
        db.wait_for_states(webhook, delivered=n + 1)
    newest_first = [it["id"] for it in db.deliveries(webhook)][::-1]
    first = db.one("SELECT webhooks.list_deliveries(%s, page_limit => 2)", webhook["id"])
    assert set(first) == {"deliveries", "pagination"}
    assert [it["id"] for it in first["deliveries"]] == newest_first[:2]
    assert first["pagination"] == {"total": 5, "limit": 2, "offset": 0, "has_more": True}
    last = db.one("SELECT webhooks.list_deliveries(%s, page_limit => 2, page_offset => 4)", webhook["id"])
    assert [it["id"] for it in last["deliveries"]] == newest_first[4:]
    assert last["pagination"] == {"total": 5, "limit": 2, "offset": 4, "has_more": False}
    usual = db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"])
    assert usual["pagination"] == {"total": 5, "limit": 20, "offset": 0, "has_more": False}


def test_a_listed_delivery_says_what_the_view_says(db, receiver):
    receiver.answer("/hook", 503)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    event = db.emit()
    db.wait_for_states(webhook, failed=1)
    (listed,) = db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"])["deliveries"]
    row = db.the_delivery(webhook)
    assert set(listed) >= set(DELIVERY_COLUMNS)
    for key in ("id", "event_id", "webhook_id", "event_type", "state", "last_status"):
        assert listed[key] == row[key]
    assert (listed["event_id"], listed["event_type"], listed["last_status"]) == (event, "user.activity", 503)
    assert is_now(listed["created_at"]) and is_now(listed["completed_at"])


def test_list_deliveries_filters_by_state(db, receiver):
    receiver.answer("/hook", 200, 500, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.emit()
    db.wait_for_states(webhook, failed=1)
    db.update_webhook(webhook, retry_policy=PATIENT)
    db.emit()
    receiver.wait(3)
    for state, count in {"delivered": 1, "failed": 1, "pending": 1, "cancelled": 0}.items():
        listed = db.one("SELECT webhooks.list_deliveries(%s, %s)", webhook["id"], state)
        assert [it["state"] for it in listed["deliveries"]] == [state] * count
        assert listed["pagination"]["total"] == count


def test_list_deliveries_shows_only_this_webhooks(db, receiver):
    first, second = (db.create_webhook(receiver.url(f"/{n}")) for n in range(2))
    db.emit()
    db.wait_for_states(first, delivered=1)
    db.wait_for_states(second, delivered=1)
    listed = db.one("SELECT webhooks.list_deliveries(%s)", second["id"])["deliveries"]
    assert [it["webhook_id"] for it in listed] == [second["id"]]


# get_delivery


def test_get_delivery_shows_the_attempts_and_the_request_as_it_was_sent(db, receiver):
    receiver.answer("/hook", Answer(status=500, body=b"out of order"), 200)
    webhook = db.create_webhook(receiver.url())
    db.emit(data={"object": "activity", "text": 'é"\u2028'})
    db.wait_for_states(webhook, delivered=1)
    last = receiver.to("/hook")[-1]
    shown = get_delivery(db, last.header("X-Lanonasis-Delivery"))
    assert (shown["state"], shown["webhook_id"]) == ("delivered", webhook["id"])
    first, second = shown["attempts"]
    assert (first["attempt"], first["status"], first["response_excerpt"]) == (1, 500, "out of order")
    assert (second["attempt"], second["status"]) == (2, 200)
    assert is_now(first["started_at"]) and second["duration_ms"] >= 0
    assert shown["request"]["body"] == last.body.decode()
    headers = {name.lower(): value for name, value in shown["request"]["headers"].items()}
    sent = {name.lower(): value for name, value in last.headers}
    for name in (
        "content-type",
        "accept",
        "user-agent",
        "x-lanonasis-event",
        "x-lanonasis-delivery",
        "webhook-id",
        "webhook-timestamp",
    ):
        assert headers[name] == sent[name]


def test_get_delivery_shows_no_signature(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    (request,) = receiver.to("/hook")
    shown = get_delivery(db, request.header("X-Lanonasis-Delivery"))
    assert not {name.lower() for name in shown["request"]["headers"]} & set(NOT_SHOWN)
    for name in NOT_SHOWN[0], NOT_SHOWN[2]:
        assert request.header(name) not in json.dumps(shown)


def test_get_delivery_shows_the_request_that_is_to_be_sent(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=PATIENT)
    event = db.emit(data={"object": "activity", "n": 2})
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE state = 'pending'", 1)
    pending = db.the_delivery(webhook, "pending")
    shown = get_delivery(db, pending["id"])
    assert (shown["state"], len(shown["attempts"])) == ("pending", 1)
    body = json.loads(shown["request"]["body"])
    assert (body["id"], body["data"]["n"], body["webhook_id"]) == (event, 2, webhook["id"])
    assert time_of(shown["next_attempt_at"])


def test_a_delivery_whose_first_request_is_under_way_is_shown_everywhere(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate))
    webhook = db.create_webhook(receiver.url())
    event = db.emit()
    (request,) = receiver.wait(1)
    delivery = db.the_delivery(webhook, "pending")
    assert delivery["id"] == request.header("X-Lanonasis-Delivery")
    shown = get_delivery(db, delivery["id"])
    assert (shown["state"], shown["event_id"], shown["attempts"]) == ("pending", event, [])
    assert shown["request"]["body"] == request.body.decode()
    (listed,) = db.one("SELECT webhooks.list_deliveries(%s, 'pending')", webhook["id"])["deliveries"]
    assert listed["id"] == delivery["id"]
    gate.open()
    db.wait_for_states(webhook, delivered=1, pending=0)
    assert len(db.deliveries(webhook)) == 1


def test_get_delivery_of_another_owner_does_not_exist(db, receiver):
    webhook = db.create_webhook(receiver.url(), owner="alice")
    db.send_test(webhook)
    db.wait_for_states(webhook, delivered=1)
    delivery = db.the_delivery(webhook)
    assert get_delivery(db, delivery["id"], session=db.as_owner("alice"))["id"] == delivery["id"]
    for call in ("get_delivery", "retry_delivery"):
        db.fails(f"SELECT webhooks.{call}(%s)", delivery["id"], state="P0002", session=db.as_owner("bob"))


# retry_delivery


def test_retry_delivery_gives_a_fresh_max_attempts_and_numbers_go_on(db, receiver):
    receiver.answer("/hook", 500, 500, 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1})
    db.emit()
    db.wait_for_states(webhook, failed=1)
    failed = db.the_delivery(webhook)
    returned = db.one("SELECT webhooks.retry_delivery(%s)", failed["id"])
    assert (returned["id"], returned["state"]) == (failed["id"], "pending")
    db.wait_for_states(webhook, delivered=1)
    requests = receiver.to("/hook")
    assert [it.json["attempt"] for it in requests] == [1, 2, 3, 4]
    assert {it.header("X-Lanonasis-Delivery") for it in requests} == {failed["id"]}
    assert [it["status"] for it in db.attempts(failed["id"])] == [500, 500, 500, 200]
    assert db.deliveries(webhook)[0]["attempts"] == 4


def test_retry_delivery_sends_what_was_delivered_once_more(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    delivered = db.the_delivery(webhook)
    db.one("SELECT webhooks.retry_delivery(%s)", delivered["id"])
    first, second = receiver.wait(2)
    assert first.header("X-Lanonasis-Delivery") == second.header("X-Lanonasis-Delivery")
    assert (first.json["id"], second.json["attempt"]) == (second.json["id"], 2)


def test_the_log_of_a_deleted_webhook_stays_for_its_owner_and_nobody_else(db, receiver):
    alice, bob = db.as_owner("alice"), db.as_owner("bob")
    webhook = db.create_webhook(receiver.url(), session=alice)
    db.emit(owner="alice")
    db.wait_for_states(webhook, delivered=1)
    delivery = db.the_delivery(webhook)["id"]
    db.delete_webhook(webhook, session=alice)
    for session in (alice, None):
        listed = db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"], session=session)
        assert [it["id"] for it in listed["deliveries"]] == [delivery]
        assert db.one("SELECT webhooks.get_delivery(%s)", delivery, session=session)["state"] == "delivered"
    db.fails("SELECT webhooks.list_deliveries(%s)", webhook["id"], state="P0002", session=bob)
    db.fails("SELECT webhooks.get_delivery(%s)", delivery, state="P0002", session=bob)
    db.fails("SELECT webhooks.get_webhook(%s)", webhook["id"], state="P0002", session=alice)


def test_retry_delivery_of_one_that_is_under_way_makes_no_further_request(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate))
    webhook = db.create_webhook(receiver.url())
    db.emit()
    receiver.wait_under_way(1, "/hook")
    pending = db.the_delivery(webhook, "pending")["id"]
    assert db.one("SELECT webhooks.retry_delivery(%s)", pending)["state"] == "pending"
    db.wait_until("SELECT count(*) FROM webhooks.outbox WHERE command IS NOT NULL", 0)
    gate.set()
    db.wait_for_states(webhook, delivered=1)
    assert len(receiver.requests) == 1


def test_retry_delivery_whose_event_is_gone_is_an_error(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.execute("DELETE FROM webhooks.event")
    delivered = db.the_delivery(webhook)["id"]
    db.fails("SELECT webhooks.retry_delivery(%s)", delivered, state="55000", says="not stored any more")


def test_retry_delivery_of_a_deleted_webhook_is_an_error(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    delivered = db.the_delivery(webhook)
    db.delete_webhook(webhook)
    db.fails("SELECT webhooks.retry_delivery(%s)", delivered["id"], state="")


# replay


def test_replay_sends_stored_events_again_with_a_new_delivery(db, receiver):
    webhook = db.create_webhook(receiver.url())
    events = {db.emit(data={"object": "activity", "n": n}) for n in range(3)}
    db.wait_for_states(webhook, delivered=3)
    assert replay(db, webhook) == 3
    db.wait_for_states(webhook, delivered=6)
    assert replay(db, webhook) == 3
    db.wait_for_states(webhook, delivered=9)
    requests = receiver.to("/hook")
    assert {it.json["id"] for it in requests} == events
    assert len({it.header("X-Lanonasis-Delivery") for it in requests}) == 9
    for event in events:
        again = [it for it in requests if it.json["id"] == event]
        assert {it.body for it in again} == {again[0].body} and again[0].json["attempt"] == 1


def test_replay_takes_the_events_of_its_period(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    before = db.one("SELECT clock_timestamp()")
    # Events have milliseconds.
    between = db.wait_until("SELECT clock_timestamp()", lambda now: now > before + timedelta(milliseconds=5))
    db.wait_until("SELECT clock_timestamp()", lambda now: now > between + timedelta(milliseconds=5))
    db.emit()
    db.wait_for_states(webhook, delivered=2)
    query = "SELECT webhooks.replay(%s, %s::timestamptz, %s::timestamptz)"
    assert db.one(query, webhook["id"], between, db.one("SELECT clock_timestamp()")) == 1
    assert db.one(query, webhook["id"], "epoch", between) == 1
    assert db.one("SELECT webhooks.replay(%s, %s::timestamptz)", webhook["id"], between) == 1, "until is now"
    assert db.one(query, webhook["id"], "epoch", "epoch") == 0


def test_replay_of_only_failed_takes_what_failed(db, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    failed = db.emit()
    db.wait_for_states(webhook, failed=1)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    assert replay(db, webhook, only_failed=True) == 1
    db.wait_for_states(webhook, delivered=2)
    assert receiver.to("/hook")[-1].json["id"] == failed


def test_replay_of_only_failed_leaves_what_a_later_replay_has_delivered_or_will(db, receiver):
    receiver.answer("/hook", 500, 500, Answer(hold=(gate := receiver.gate())))
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 1})
    db.emit_many(2)
    db.wait_for_states(webhook, failed=2)
    again = "SELECT webhooks.replay(%s, now() - interval '1 hour', only_failed => true)"
    assert db.one(again, webhook["id"]) == 2
    receiver.wait_under_way(2, "/hook")
    assert db.one(again, webhook["id"]) == 0, "under way already"
    gate.open()
    db.wait_for_states(webhook, delivered=2)
    assert db.one(again, webhook["id"]) == 0, "delivered since"


def test_two_replays_at_once_of_what_failed_send_it_once(db, receiver):
    receiver.answer("/hook", 500, 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    db.emit_many(2)
    db.wait_for_states(webhook, failed=2)
    again = "SELECT webhooks.replay(%s, now() - interval '1 hour', only_failed => true)"
    first, second = db.connect(), db.connect()
    first.execute("BEGIN")
    assert db.one(again, webhook["id"], session=first) == 2
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(db.one, again, webhook["id"], session=second)
        db.wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND pid = %s", 1, params=[second.info.backend_pid])
        # Whoever pauses the webhook does not wait.
        db.execute("SET statement_timeout = '5s'")
        db.update_webhook(webhook, active=False)
        first.execute("COMMIT")
        assert waits.result() == 0
    db.update_webhook(webhook, active=True)
    db.wait_for_states(webhook, delivered=2)


def test_a_replay_of_what_failed_touches_no_event_of_others(db, receiver):
    receiver.answer("/hook", 500, 200)
    others = db.create_webhook(receiver.url("/others"), owner="bob")
    for _ in range(20):
        db.emit(owner="bob")
    webhook = db.create_webhook(receiver.url(), owner="alice", retry_policy=ONE_ATTEMPT)
    db.emit(owner="alice")
    db.wait_for_states(webhook, failed=1)
    db.wait_for_states(others, delivered=20)
    assert db.one("SELECT webhooks.replay(%s, 'epoch', only_failed => true)", webhook["id"]) == 1
    assert db.one("SELECT count(*) FROM webhooks.event WHERE owner = 'bob' AND xmax <> '0'") == 0
    db.wait_for_states(webhook, delivered=1)


def test_replay_takes_what_matches_now(db, receiver):
    other = db.create_webhook(receiver.url("/other"))
    for kind in ("a", "b"):
        db.emit("user.activity", {"object": "activity", "kind": kind})
    db.emit("search.performed", {"object": "search", "kind": "a"})
    late = db.create_webhook(receiver.url("/late"), ["user.activity"])
    assert replay(db, late) == 2
    db.update_webhook(late, filters={"kind": "b"})
    assert replay(db, late) == 1
    db.update_webhook(late, filters=None, events=["memory.created"])
    assert replay(db, late) == 0
    db.wait_for_states(late, delivered=3)
    db.wait_for_states(other, delivered=3)


def test_replay_gives_an_owner_only_its_own_events(db, receiver):
    db.create_webhook(receiver.url("/all"))
    for owner in ("alice", "bob", None):
        db.emit(owner=owner)
    alices = db.create_webhook(receiver.url("/alice"), owner="alice")
    assert replay(db, alices) == 1


@pytest.mark.settings({"webhooks.deliveries_per_minute": "0"})
def test_replay_takes_thousands_and_each_once(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit_many(2500)
    db.wait_for_states(webhook, delivered=2500, timeout=30)
    assert replay(db, webhook) == 2500
    db.wait_for_states(webhook, delivered=5000, timeout=30)
    assert len({it.json["id"] for it in receiver.to("/hook")[2500:]}) == 2500


def test_replay_leaves_out_what_is_about_the_webhook_itself(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), ["user.activity", "delivery.failed"], retry_policy=ONE_ATTEMPT)
    other = db.create_webhook(receiver.url("/other"), ["delivery.failed"])
    db.emit()
    db.wait_for_states(other, delivered=1)
    assert replay(db, webhook) == 1, "the event, and not the report of its failure"


def test_replay_leaves_tests_of_other_webhooks_alone(db, receiver):
    first, second = (db.create_webhook(receiver.url(f"/{n}")) for n in range(2))
    db.send_test(first)
    receiver.wait(1)
    assert replay(db, second) == 0


# send_test


@pytest.mark.parametrize("active", [True, False])
def test_send_test_reaches_the_webhook_whatever_it_subscribes_to_active_or_not(db, receiver, active):
    webhook = db.create_webhook(
        receiver.url(), ["memory.deleted"], active=active, filters={"never": "matches"}, owner="alice"
    )
    event = db.send_test(webhook)
    assert is_id("event", event, version=7)
    (request,) = receiver.wait(1)
    assert request.json["id"] == request.header("webhook-id") == event
    assert request.json["type"] == request.header("X-Lanonasis-Event") == "webhook.test"
    assert request.json["webhook_id"] == webhook["id"]
    db.wait_for_states(webhook, delivered=1)


def test_a_test_of_an_inactive_webhook_outlasts_the_worker_and_can_be_tried_again(db, receiver):
    webhook = db.create_webhook(receiver.url(), active=False)
    receiver.answer("/hook", hang(), 200)
    db.send_test(webhook)
    receiver.wait_under_way(1, "/hook")
    db.wait_until("SELECT count(*) FROM webhooks.queue", 1)
    db.stop_worker()
    db.start_worker()
    db.wait_for_states(webhook, delivered=1)
    db.one("SELECT webhooks.retry_delivery(%s)", db.the_delivery(webhook)["id"])
    receiver.wait(3, "/hook")
    db.wait_for_states(webhook, delivered=1)


def test_send_test_reaches_that_webhook_alone(db, receiver):
    webhook = db.create_webhook(receiver.url("/tested"))
    db.create_webhook(receiver.url("/other"))
    db.send_test(webhook)
    receiver.wait(1, "/tested")
    db.settle()
    assert receiver.to("/other") == []


def test_send_test_does_not_wake_what_an_inactive_webhook_holds(db, receiver):
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 5, "backoff_multiplier": 1})
    held = db.emit()
    receiver.wait(1)
    db.update_webhook(webhook, active=False)
    db.wait_until("SELECT in_flight FROM webhooks.status", 0)
    test = db.send_test(webhook)
    receiver.wait(1, where=lambda it: it.json["id"] == test)
    db.wait_until(
        "SELECT now() > %s::timestamptz + interval '3 seconds'", params=[db.deliveries(webhook)[0]["created_at"]]
    )
    assert [it.json["id"] for it in receiver.to("/hook")] == [held, test]


# Views


def test_the_view_deliveries_has_the_columns_of_the_contract(db):
    columns = db.execute("SELECT * FROM webhooks.deliveries LIMIT 0").description
    assert [it.name for it in columns] == DELIVERY_COLUMNS


def test_the_view_attempts_has_the_columns_of_the_contract(db):
    columns = db.execute("SELECT * FROM webhooks.attempts LIMIT 0").description
    assert [it.name for it in columns] == [
        "delivery_id",
        "attempt",
        "started_at",
        "duration_ms",
        "status",
        "error",
        "response_excerpt",
    ]


def test_the_views_show_a_delivery_through_its_life(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", 500, Answer(hold=gate, body=b"thanks"))
    webhook = db.create_webhook(receiver.url())
    event = db.emit()
    receiver.wait(2)
    pending = db.the_delivery(webhook)
    assert (
        is_id("delivery", pending["id"]) and pending["event_id"] == event and pending["event_type"] == "user.activity"
    )
    assert (pending["state"], pending["attempts"], pending["last_status"]) == ("pending", 1, 500)
    assert pending["last_error"] and pending["next_attempt_at"] and pending["completed_at"] is None
    gate.open()
    db.wait_for_states(webhook, delivered=1)
    delivered = db.the_delivery(webhook)
    assert (delivered["id"], delivered["attempts"], delivered["last_status"]) == (pending["id"], 2, 200)
    assert delivered["next_attempt_at"] is None and delivered["last_error"] is None
    assert delivered["created_at"] == pending["created_at"] <= delivered["completed_at"]
    first, second = db.attempts(pending["id"])
    assert (first["attempt"], first["status"]) == (1, 500) and first["error"]
    assert (second["attempt"], second["status"], second["error"], second["response_excerpt"]) == (
        2,
        200,
        None,
        "thanks",
    )
    assert first["started_at"] < second["started_at"]


def test_statistics_count_attempts_and_how_deliveries_ended(db, receiver):
    receiver.answer("/hook", 500, 200, 500, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 2, "backoff_multiplier": 1})
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.emit()
    db.wait_for_states(webhook, failed=1)
    db.wait_until(
        "SELECT webhooks.get_webhook(%s) -> 'delivery_stats'",
        {"total_attempts": 4, "successful_deliveries": 1, "failed_deliveries": 1},
        params=[webhook["id"]],
    )


def test_last_delivery_is_the_time_of_the_last_success(db, receiver):
    receiver.answer("/hook", 200, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.wait_until(
        "SELECT webhooks.get_webhook(%s) ->> 'last_delivery'", lambda it: it is not None, params=[webhook["id"]]
    )
    first = db.get_webhook(webhook)["last_delivery"]
    delivered = db.the_delivery(webhook)
    assert abs((time_of(first) - delivered["completed_at"]).total_seconds()) < 1
    db.emit()
    db.wait_for_states(webhook, failed=1)
    db.wait_until(
        "SELECT webhooks.get_webhook(%s) -> 'delivery_stats' ->> 'failed_deliveries'", "1", params=[webhook["id"]]
    )
    assert db.get_webhook(webhook)["last_delivery"] == first


def test_a_delivery_of_nothing_has_no_attempts(db):
    assert db.attempts("delivery_" + some_uuid().replace("-", "")) == []


# Retention


@pytest.mark.slow
@pytest.mark.settings({"webhooks.retention": "1s"})
def test_retention_removes_what_has_ended_and_nothing_that_a_pending_delivery_needs(db, receiver):
    receiver.answer("/pending", 500)
    done = db.create_webhook(receiver.url("/done"))
    pending = db.create_webhook(
        receiver.url("/pending"), retry_policy={"max_attempts": 100, "backoff_multiplier": 2, "max_delay": 4}
    )
    event = db.emit()
    db.the_delivery(pending)
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s", 0, params=[done["id"]], timeout=120)
    waiting = db.the_delivery(pending)
    assert (waiting["state"], waiting["event_id"]) == ("pending", event)
    receiver.answer("/pending", 200)
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE state = 'pending'", 0)
    assert receiver.to("/pending")[-1].json["id"] == event


@pytest.mark.slow
@pytest.mark.settings({"webhooks.retention": "1s", "webhooks.deliveries_per_minute": "0"})
def test_retention_removes_events_while_others_keep_coming(db, receiver):
    db.create_webhook(receiver.url())
    with Writers(db, lambda _: [("SELECT webhooks.emit('user.activity', '{}')",), ("SELECT pg_sleep(0.01)",)]) as writers:
        most = 0
        while len(writers.done) < 6_000:
            most = max(most, db.one("SELECT count(*) FROM webhooks.event"))
            assert not writers.errors
    # It is looked every five seconds, in which some 1,400 are written; one look may be missed.
    assert most < 4_500


def test_all_that_waits_is_shown_and_found_quickly(db):
    """Also before any of it was dispatched, for many webhooks with filters, and without a bound."""
    db.execute("CREATE TABLE numbered (id int PRIMARY KEY, shard int)")
    db.attach("numbered")
    db.execute(
        "SELECT count(webhooks.create_webhook('http://127.0.0.1:9/' || g, '{memory.created}',"
        " filters => jsonb_build_object('shard', g))) FROM generate_series(1, 100) g"
    )
    db.stop_worker()
    db.execute("INSERT INTO numbered SELECT g, g % 100 + 1 FROM generate_series(1, 20000) g")
    # Each event tried with each webhook would take minutes.
    db.execute("SET statement_timeout = '20s'")
    assert db.one("SELECT count(*) FROM webhooks.deliveries WHERE state = 'pending'") == 20_000
    assert db.one("SELECT count(DISTINCT webhook_id) FROM webhooks.deliveries") == 100
    webhook = db.one("SELECT webhook_id FROM webhooks.deliveries LIMIT 1")
    assert db.one("SELECT webhooks.list_deliveries(%s)", webhook)["pagination"]["total"] == 200
    # Whoever asks for what has ended does not work out what waits.
    plan = [row[0] for row in db.session.execute("EXPLAIN SELECT FROM webhooks.deliveries WHERE state = 'delivered'")]
    assert not any("undispatched" in line for line in plan)


def test_an_event_that_cannot_be_read_hides_no_other_delivery(make_server, make_database, receiver):
    """Its page was emptied by a bad disk: it is listed without the id of its object."""
    server = make_server()
    db = make_database(server=server)
    webhook = db.create_webhook(receiver.url())
    db.emit(data={"object": "activity", "id": "damaged", "noise": secrets.token_hex(100_000)})
    db.emit(data={"object": "activity", "id": "whole"})
    db.settle()
    path = db.one("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'webhooks.event'::regclass")
    file = server.data / path
    server.stop()
    file.write_bytes(bytes(file.stat().st_size))
    server.start()
    db.reconnect()
    listed = {it["id"]: it["data_id"] for it in db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"])["deliveries"]}
    assert set(listed) == {it["id"] for it in db.rows("SELECT id FROM webhooks.deliveries")}
    assert sorted(listed.values(), key=str) == [None, "whole"]
