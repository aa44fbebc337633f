"""Each event type of the contract: when it is sent and what it holds."""

import itertools
import json

import pytest
from database import Sink
from forms import is_id, is_now, time_of
from load import Writers
from receiver import Answer

ID = "11111111-1111-4111-8111-111111111111"
AT = "2024-01-15T10:30:00.000Z"
ONE_ATTEMPT = {"max_attempts": 1}


@pytest.fixture
def memory(db, memories):
    """One row in memories, and its event: (sink, data)."""
    db.execute(
        """INSERT INTO memories (id, owner_id, content, tags, metadata, created_at, embedding)
           VALUES (%s, 'alice', 'a', '{x,y}', '{"project": "p"}', %s, '{0.5}')""",
        ID,
        AT,
    )
    return memories, memories.take_one("memory.created")["data"]


# memory.*


def test_memory_created_holds_the_row(memory):
    _, data = memory
    assert data == {
        "object": "memory",
        "id": ID,
        "owner_id": "alice",
        "content": "a",
        "tags": ["x", "y"],
        "metadata": {"project": "p"},
        "created_at": AT,
        "updated_at": None,
        "deleted_at": None,
    }


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ("content = 'b'", {"content": {"from": "a", "to": "b"}}),
        ("content = NULL", {"content": {"from": "a", "to": None}}),
        ("tags = '{y}'", {"tags": {"from": ["x", "y"], "to": ["y"]}}),
        ("metadata = '{\"n\": 1}'", {"metadata": {"from": {"project": "p"}, "to": {"n": 1}}}),
        (
            "content = 'b', updated_at = created_at",
            {"content": {"from": "a", "to": "b"}, "updated_at": {"from": None, "to": AT}},
        ),
    ],
)
def test_memory_updated_holds_the_row_as_it_is_and_each_changed_column(db, memory, change, changes):
    sink, before = memory
    db.execute(f"UPDATE memories SET {change}")
    data = sink.take_one("memory.updated")["data"]
    assert data.pop("changes") == changes
    assert data == {**before, **{name: change["to"] for name, change in changes.items()}}


def test_memory_deleted_holds_id_metadata_and_time(db, memory):
    sink, _ = memory
    db.execute("DELETE FROM memories")
    data = sink.take_one("memory.deleted")["data"]
    assert list(data) == ["object", "id", "metadata", "deleted_at"]
    assert (data["object"], data["id"], data["metadata"]) == ("memory", ID, {"project": "p"})
    assert is_now(data["deleted_at"])


# search.performed


def test_search_performed_holds_a_summary_never_the_results_whole(db, sink):
    results = [
        {"id": "1", "score": 0.9, "content": "a secret of somebody"},
        {"id": 2, "score": 0.5, "content": "another"},
    ]
    event = db.one("SELECT webhooks.search_performed('what', %s, 'me')", json.dumps(results))
    body = sink.take_one("search.performed")
    assert body["id"] == event and is_id("event", event, version=7)
    assert body["data"] == {
        "object": "search",
        "query": "what",
        "user_id": "me",
        "results": {"count": 2, "ids": ["1", "2"], "scores": [0.9, 0.5]},
    }
    assert list(body["data"]) == ["object", "query", "user_id", "results"]
    assert b"secret" not in sink.receiver.to(sink.path)[0].body


def test_search_performed_without_a_user_and_without_results(db, sink):
    db.one("SELECT webhooks.search_performed('what', '[]')")
    data = sink.take_one()["data"]
    assert (data["user_id"], data["results"]) == (None, {"count": 0, "ids": [], "scores": []})


def test_search_performed_takes_a_summary_as_it_is(db, sink):
    summary = {"count": 2, "ids": ["1", "2"], "scores": [0.9, 0.5]}
    db.one("SELECT webhooks.search_performed('what', %s)", json.dumps(summary))
    assert sink.take_one()["data"]["results"] == summary


# user.activity


def test_user_activity_holds_who_did_what(db, sink):
    event = db.one("""SELECT webhooks.user_activity('me', 'login', '{"from": "here"}')""")
    body = sink.take_one("user.activity")
    assert body["id"] == event
    assert body["data"] == {"object": "activity", "user_id": "me", "activity": "login", "details": {"from": "here"}}
    assert list(body["data"]) == ["object", "user_id", "activity", "details"]


def test_search_performed_and_user_activity_are_of_their_owner(db, receiver):
    db.create_webhook(receiver.url("/alice"), ["search.performed", "user.activity"], owner="alice")
    db.create_webhook(receiver.url("/bob"), ["search.performed", "user.activity"], owner="bob")
    db.one("SELECT webhooks.search_performed('tea', '[]', owner => 'alice')")
    db.one("SELECT webhooks.user_activity('me', 'login', owner => 'bob')")
    receiver.wait(2)
    db.settle()
    assert [it.json["type"] for it in receiver.to("/alice")] == ["search.performed"]
    assert [it.json["type"] for it in receiver.to("/bob")] == ["user.activity"]


def test_user_activity_has_no_details_unless_given(db, sink):
    db.one("SELECT webhooks.user_activity('me', 'login')")
    assert sink.take_one()["data"]["details"] == {}


# emit


def test_emit_returns_the_event_id_and_sends_the_data_as_it_is(db, sink):
    data = {"object": "activity", "id": "7", "nested": {"n": [1, None]}}
    event = db.emit("user.activity", data)
    body = sink.take_one("user.activity")
    assert (body["id"], body["data"]) == (event, data) and is_id("event", event, version=7)


def test_emit_returns_null_and_stores_nothing_when_nobody_subscribes_to_the_type(db, receiver):
    db.create_webhook(receiver.url("/inactive"), active=False)
    db.create_webhook(receiver.url("/other"), ["memory.created"])
    assert db.emit("user.activity") is None
    assert db.one("SELECT webhooks.user_activity('me', 'login')") is None
    assert db.one("SELECT webhooks.search_performed('what', '[]')") is None
    late = db.create_webhook(receiver.url("/late"))
    assert db.one("SELECT webhooks.replay(%s, 'epoch')", late["id"]) == 0


def test_emit_returns_null_again_when_the_last_subscriber_has_gone(db, receiver):
    for leave in ("update_webhook(%s, '{\"active\": false}')", "delete_webhook(%s)"):
        webhook = db.create_webhook(receiver.url())
        assert db.emit() is not None
        db.wait_for_states(webhook, delivered=1)
        db.execute(f"SELECT webhooks.{leave}", webhook["id"])
        assert db.emit() is None


def test_an_emit_that_is_rolled_back_sends_nothing(db, sink):
    with pytest.raises(ZeroDivisionError), db.session.transaction():
        assert db.emit()
        raise ZeroDivisionError
    sink.take(0)


# Reports of the worker


@pytest.mark.settings({"webhooks.health_interval": "1s"})
def test_system_health_comes_every_health_interval_while_somebody_subscribes(db, receiver):
    webhook = db.create_webhook(receiver.url(), ["system.health"])
    requests = receiver.wait(3, timeout=15)
    data = requests[0].json["data"]
    assert requests[0].json["type"] == "system.health"
    assert list(data) == [
        "object",
        "status",
        "backlog",
        "oldest_pending_seconds",
        "deliveries_per_minute",
        "failures_per_minute",
        "connections",
        "database_bytes",
    ]
    assert (data["object"], data["status"]) == ("health", "ok")
    assert data["database_bytes"] > 1_000_000 and data["connections"] >= 1
    assert all(isinstance(data[key], (int, float)) for key in list(data)[2:])
    for before, after in zip(requests, requests[1:], strict=False):
        between = (time_of(after.json["created"]) - time_of(before.json["created"])).total_seconds()
        assert between >= 0.9
    assert requests[-1].json["data"]["deliveries_per_minute"] >= 1
    db.update_webhook(webhook, active=False)
    db.settle()
    emitted = "SELECT count(*) FROM webhooks.event WHERE type = 'system.health'"
    before, now = db.one(emitted), db.one("SELECT clock_timestamp()")
    db.wait_until("SELECT clock_timestamp() > %s::timestamptz + interval '2.5 seconds'", params=[now])
    assert db.one(emitted) == before, "nobody subscribes any more"


@pytest.mark.settings({"webhooks.health_interval": "1s", "webhooks.analytics_interval": "1s"})
def test_everything_of_an_owner_is_all_that_owners_may_get(db, receiver):
    Sink(db, receiver, "/all", ["*"])
    Sink(db, receiver, "/alice", ["*"], owner="alice")
    receiver.wait(2, "/all", where=lambda it: it.json["type"] == "system.health", timeout=15)
    receiver.wait(2, "/alice", where=lambda it: it.json["type"] == "analytics.update", timeout=15)
    assert "system.health" not in {it.json["type"] for it in receiver.to("/alice")}


@pytest.mark.settings({"webhooks.analytics_interval": "1s"})
def test_analytics_update_gives_each_owner_its_own_figures(db, receiver):
    """Of the events that others emitted an owner learns nothing; and none is counted twice."""
    db.memories(owner_column="owner_id")
    for owner in ("alice", "bob"):
        db.create_webhook(receiver.url(f"/{owner}"), ["analytics.update", "memory.created"], owner=owner)
    db.execute("INSERT INTO memories (owner_id) VALUES ('alice'), ('alice'), ('alice'), ('bob')")

    def updates(owner):
        return [it.json["data"] for it in receiver.to(f"/{owner}") if it.json["type"] == "analytics.update"]

    def created(owner):
        return sum(data["events"].get("memory.created", 0) for data in updates(owner))

    for owner, count in (("alice", 3), ("bob", 1)):
        receiver.wait(count, f"/{owner}", where=lambda it: it.json["type"] == "memory.created")
        until = db.one("SELECT clock_timestamp() + interval '1 second'")
        while not any(time_of(data["to"]) >= until for data in updates(owner)):
            receiver.wait(len(receiver.to(f"/{owner}")) + 1, f"/{owner}")
        assert created(owner) == count
        data = updates(owner)[-1]
        assert list(data) == [
            "object",
            "from",
            "to",
            "events",
            "deliveries",
            "failures",
            "active_webhooks",
            "latency_ms",
        ]
        assert data["object"] == "analytics" and time_of(data["from"]) < time_of(data["to"])
        assert data["active_webhooks"] == 1
        assert list(data["latency_ms"]) == ["p50", "p95", "p99"]
        assert sum(data["deliveries"] for data in updates(owner)) >= count
        assert sum(data["failures"] for data in updates(owner)) == 0


class Updates:
    """The data of the analytics.update that arrive, after the first."""

    def __init__(self, db, receiver):
        self.db, self.receiver = db, receiver
        db.create_webhook(receiver.url("/updates"), ["analytics.update"])
        self.first = len(receiver.wait(1, "/updates"))

    def wait(self, n):
        return [it.json["data"] for it in self.receiver.wait(self.first + n, "/updates")[self.first :]]

    def wait_for_now(self):
        """All until one whose period ends after this."""
        now, n = self.db.one("SELECT clock_timestamp()"), 1
        while time_of(self.wait(n)[-1]["to"]) <= now:
            n += 1
        return self.wait(n)


@pytest.mark.settings({"webhooks.analytics_interval": "2s"})
def test_analytics_update_tells_also_of_what_was_not_committed_yet_when_the_period_ended(db, receiver):
    db.memories()
    db.create_webhook(receiver.url("/memories"), ["memory.created"])
    updates = Updates(db, receiver)
    with db.connect() as session, session.transaction():
        session.execute("INSERT INTO memories DEFAULT VALUES")
        updates.wait(1)
    assert sum(it["events"].get("memory.created", 0) for it in updates.wait_for_now()) == 1


@pytest.mark.settings({"webhooks.analytics_interval": "1s", "webhooks.deliveries_per_minute": 0})
def test_analytics_updates_tell_of_each_event_and_each_delivery_once(db, receiver):
    db.memories()
    receiver.answer("/slower", Answer(delay=0.01))
    for path in ("/fast", "/slower"):
        db.create_webhook(receiver.url(path), ["memory.created"])
    updates = Updates(db, receiver)
    with Writers(db, lambda _: [("INSERT INTO memories DEFAULT VALUES",), ("SELECT pg_sleep(0.01)",)]):
        updates.wait(4)
    db.settle()
    told = updates.wait_for_now()
    assert sum(it["events"].get("memory.created", 0) for it in told) == db.one("SELECT count(*) FROM memories")
    logged = "SELECT count(*) FROM webhooks.delivery WHERE state = 'delivered' AND completed_at >= %s AND completed_at < %s"
    assert sum(it["deliveries"] for it in told) == db.one(logged, told[0]["from"], told[-1]["to"])
    for before, after in itertools.pairwise(told):
        assert after["from"] == before["to"]
        assert (time_of(after["to"]) - time_of(before["to"])).total_seconds() > 0.5, "more than one in an interval"


# webhook.disabled and delivery.failed


def test_webhook_disabled_says_which_webhook_why_and_the_last_status(db, receiver):
    receiver.answer("/gone", 410)
    watcher = db.create_webhook(receiver.url("/watcher"), ["webhook.disabled"])
    gone = db.create_webhook(receiver.url("/gone"), ["*"])
    db.emit()
    (request,) = receiver.wait(1, "/watcher")
    assert request.json["type"] == "webhook.disabled" and request.json["webhook_id"] == watcher["id"]
    data = request.json["data"]
    assert gone["id"] in data.values() and 410 in data.values()
    assert any("reason" in key and data[key] for key in data)
    db.wait_for_states(watcher, delivered=1)
    db.update_webhook(gone, active=True)
    receiver.answer("/gone", 200)
    db.emit()
    receiver.wait(1, "/gone", where=lambda it: it.json["type"] == "user.activity" and it.answered)
    assert "webhook.disabled" not in {it.json["type"] for it in receiver.to("/gone")}, (
        "never sent to the webhook it is about"
    )


def test_delivery_failed_says_which_webhook_why_and_the_last_status(db, receiver):
    receiver.answer("/bad", 418)
    watcher = db.create_webhook(receiver.url("/watcher"), ["delivery.failed"])
    bad = db.create_webhook(
        receiver.url("/bad"),
        ["user.activity", "delivery.failed"],
        retry_policy={"max_attempts": 2, "backoff_multiplier": 1},
    )
    db.emit()
    (request,) = receiver.wait(1, "/watcher")
    assert len(receiver.to("/bad")) == 2, "it is sent when the last attempt has been used"
    assert request.json["type"] == "delivery.failed"
    data = request.json["data"]
    delivery = db.the_delivery(bad)
    assert bad["id"] in data.values() and delivery["id"] in data.values() and 418 in data.values()
    db.wait_for_states(watcher, delivered=1)
    db.settle()
    assert {it.json["type"] for it in receiver.to("/bad")} == {"user.activity"}, "never sent to the webhook it is about"


def test_the_failure_of_a_failure_report_emits_nothing(db, receiver):
    receiver.answer("/bad", 500)
    receiver.answer("/bad_watcher", 500)
    watcher = db.create_webhook(receiver.url("/watcher"), ["delivery.failed"])
    bad_watcher = db.create_webhook(receiver.url("/bad_watcher"), ["delivery.failed"], retry_policy=ONE_ATTEMPT)
    db.create_webhook(receiver.url("/bad"), ["user.activity"], retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(watcher, delivered=1)
    db.wait_for_states(bad_watcher, failed=1)
    db.settle()
    assert len(receiver.to("/watcher")) == 1


def test_who_is_switched_off_by_the_failure_of_a_report_is_not_reported(db, receiver):
    receiver.answer("/bad", 500)
    receiver.answer("/gone_watcher", 410)
    watcher = db.create_webhook(receiver.url("/watcher"), ["webhook.disabled", "delivery.failed"])
    gone = db.create_webhook(receiver.url("/gone_watcher"), ["delivery.failed"])
    db.create_webhook(receiver.url("/bad"), ["user.activity"], retry_policy=ONE_ATTEMPT)
    db.emit()
    db.wait_for_states(gone, failed=1)
    assert db.get_webhook(gone)["active"] is False
    db.wait_for_states(watcher, delivered=1)
    db.settle()
    assert [it.json["type"] for it in receiver.to("/watcher")] == ["delivery.failed"]


def test_the_failure_to_tell_that_a_webhook_is_disabled_emits_nothing(db, receiver):
    receiver.answer("/gone", 410)
    receiver.answer("/watcher", 500)
    db.create_webhook(receiver.url("/gone"), ["user.activity"])
    watcher = db.create_webhook(receiver.url("/watcher"), ["webhook.disabled"], retry_policy={"max_attempts": 1})
    reports = db.create_webhook(receiver.url("/reports"), ["delivery.failed"])
    db.emit()
    db.wait_for_states(watcher, failed=1)
    db.settle()
    assert [it["event_type"] for it in db.deliveries(watcher)] == ["webhook.disabled"]
    told = [it.data["event_type"] for it in receiver.to("/reports")]
    assert "webhook.disabled" not in told and len(db.deliveries(reports)) == len(told)


def test_a_failure_is_told_to_its_owner_and_to_webhooks_without_one(db, receiver):
    receiver.answer("/bad", 500)
    for owner in ("alice", "bob", None):
        db.create_webhook(receiver.url(f"/{owner}"), ["delivery.failed"], owner=owner)
    db.create_webhook(receiver.url("/bad"), ["user.activity"], owner="alice", retry_policy=ONE_ATTEMPT)
    db.emit(owner="alice")
    receiver.wait(1, "/alice")
    receiver.wait(1, "/None")
    db.settle()
    assert receiver.to("/bob") == []


def test_a_failed_test_does_not_harm_anybody(db, receiver):
    receiver.answer("/bad", 500)
    bad = db.create_webhook(receiver.url("/bad"), retry_policy=ONE_ATTEMPT)
    db.send_test(bad)
    db.wait_for_states(bad, failed=1)
    db.settle()
    assert db.get_webhook(bad)["active"] is True
