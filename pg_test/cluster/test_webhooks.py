"""create_webhook, list_webhooks, get_webhook, update_webhook, delete_webhook: what they return, and what they change."""

import base64
import json

import pytest
import signatures
from database import hint_of
from forms import LISTED_WEBHOOK_KEYS, WEBHOOK_KEYS, is_id, is_now, time_of

URL = "http://127.0.0.1:9/hook"
POLICY = {"max_attempts": 3, "backoff_multiplier": 2, "max_delay": 300}


# create_webhook


def test_create_webhook_returns_the_object_with_its_secret(db):
    webhook = db.create_webhook(URL, ["memory.created", "memory.deleted"])
    assert set(webhook) >= WEBHOOK_KEYS | {"secret"}
    assert is_id("webhook", webhook["id"], version=7)
    assert webhook["url"] == URL
    assert webhook["events"] == ["memory.created", "memory.deleted"]
    assert is_now(webhook["created_at"]) and is_now(webhook["updated_at"])


def test_create_webhook_has_the_defaults_of_the_contract(db):
    webhook = db.create_webhook(URL)
    assert webhook["active"] is True
    assert webhook["retry_policy"] == POLICY
    assert webhook["filters"] is None
    assert webhook["last_delivery"] is None
    assert webhook["delivery_stats"] == {"total_attempts": 0, "successful_deliveries": 0, "failed_deliveries": 0}


def test_create_webhook_takes_every_argument(db):
    policy = {"max_attempts": 7, "backoff_multiplier": 1.5, "max_delay": 60}
    webhook = db.create_webhook(
        URL, ["*"], secret="mine", active=False, retry_policy=policy, filters={"tags": ["a"]}, owner="alice"
    )
    assert webhook["secret"] == "mine"
    assert webhook["active"] is False
    assert webhook["retry_policy"] == policy
    assert webhook["filters"] == {"tags": ["a"]}


def test_create_webhook_takes_part_of_a_retry_policy_and_fills_in_the_rest(db):
    assert db.create_webhook(URL, retry_policy={"max_attempts": 5})["retry_policy"] == {**POLICY, "max_attempts": 5}


@pytest.mark.parametrize(
    "policy",
    [
        {"max_attempts": 1, "backoff_multiplier": 1, "max_delay": 1},
        {"max_attempts": 100, "backoff_multiplier": 10, "max_delay": 86400},
    ],
)
def test_the_ends_of_a_retry_policys_ranges_are_in_it(shared_db, policy):
    assert shared_db.create_webhook(URL, retry_policy=policy)["retry_policy"] == policy


def test_a_secret_that_is_not_given_is_whsec_and_32_random_bytes(db):
    first, second = (db.create_webhook(URL)["secret"] for _ in range(2))
    assert first.startswith("whsec_") and len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) == 32
    assert first != second


@pytest.mark.parametrize("secret", ["x", "x" * 256, "é" * 128])
def test_a_secret_may_have_1_to_256_bytes(shared_db, secret):
    assert shared_db.create_webhook(URL, secret=secret)["secret"] == secret


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "https://127.0.0.1:8443/a/b?c=d&e=%20",
        "http://[::1]:8080/hook",
        "https://hooks.example.com",
        "http://127.0.0.1/" + "a" * (2048 - len("http://127.0.0.1/")),
    ],
)
def test_a_url_is_kept_as_it_was_given(shared_db, url):
    assert shared_db.create_webhook(url)["url"] == url


@pytest.mark.parametrize("events", [["*"], ["memory.*"], ["memory.*", "search.performed"], ["system.health"]])
def test_events_may_hold_types_prefixes_and_everything(shared_db, events):
    assert shared_db.create_webhook(URL, events)["events"] == events


def test_there_may_be_50_events_and_no_more(db):
    types = [f"of{n}.made" for n in range(51)]
    for name in types:
        db.execute("SELECT webhooks.register_event_type(%s, 'one of many')", name)
    assert len(db.create_webhook(URL, types[:50])["events"]) == 50
    db.fails("SELECT webhooks.create_webhook(%s, %s)", URL, types, state="22", says="50")


def test_only_an_administrator_may_give_an_owner_others_is_their_own(db):
    alice = db.as_owner("alice")
    db.fails("SELECT webhooks.create_webhook(%s, '{*}', owner => 'bob')", URL, state="42501", session=alice)
    webhook = db.create_webhook(URL, session=alice)
    assert db.get_webhook(webhook, session=alice)["id"] == webhook["id"]
    db.fails("SELECT webhooks.get_webhook(%s)", webhook["id"], state="P0002", session=db.as_owner("bob"))


def test_a_caller_sees_and_touches_only_its_owners_webhooks(db):
    alices, bobs = (db.create_webhook(URL, owner=owner) for owner in ("alice", "bob"))
    everybodys = db.create_webhook(URL)
    alice = db.as_owner("alice")
    listed = db.one("SELECT webhooks.list_webhooks()", session=alice)
    assert [it["id"] for it in listed["webhooks"]] == [alices["id"]] and listed["pagination"]["total"] == 1
    for other in (bobs, everybodys):
        for call in (
            "get_webhook(%s)",
            "update_webhook(%s, '{}')",
            "delete_webhook(%s)",
            "list_deliveries(%s)",
            "send_test(%s)",
            "replay(%s, now())",
        ):
            db.fails(f"SELECT webhooks.{call}", other["id"], state="P0002", session=alice)


# The secret


def test_the_secret_is_shown_by_create_and_nowhere_else(db, receiver):
    secret = "a secret that nobody may see"
    webhook = db.create_webhook(receiver.url(), secret=secret)
    db.send_test(webhook)
    receiver.wait(1)
    db.wait_for_states(webhook, delivered=1)
    delivery = db.the_delivery(webhook)
    shown = [
        db.get_webhook(webhook),
        db.one("SELECT webhooks.list_webhooks()"),
        db.update_webhook(webhook, active=True),
        db.one("SELECT webhooks.list_deliveries(%s)", webhook["id"]),
        db.one("SELECT webhooks.get_delivery(%s)", delivery["id"]),
        db.one("SELECT webhooks.metrics()"),
        db.rows("SELECT * FROM webhooks.deliveries"),
        db.rows("SELECT * FROM webhooks.attempts"),
        db.rows("SELECT * FROM webhooks.status"),
    ]
    assert secret not in json.dumps(shown, default=str)
    assert "secret" not in shown[0] and "secret" not in shown[2]
    assert all("secret" not in it for it in shown[1]["webhooks"])


# list_webhooks


def test_list_webhooks_shows_the_newest_first_with_pagination(db):
    made = [db.create_webhook(f"{URL}/{n}")["id"] for n in range(5)]
    newest_first = made[::-1]
    first = db.one("SELECT webhooks.list_webhooks(page_limit => 2)")
    assert set(first) == {"webhooks", "pagination"}
    assert [it["id"] for it in first["webhooks"]] == newest_first[:2]
    assert first["pagination"] == {"total": 5, "limit": 2, "offset": 0, "has_more": True}
    last = db.one("SELECT webhooks.list_webhooks(page_limit => 2, page_offset => 4)")
    assert [it["id"] for it in last["webhooks"]] == newest_first[4:]
    assert last["pagination"] == {"total": 5, "limit": 2, "offset": 4, "has_more": False}
    exactly = db.one("SELECT webhooks.list_webhooks(page_limit => 5)")
    assert exactly["pagination"]["has_more"] is False
    beyond = db.one("SELECT webhooks.list_webhooks(page_offset => 9)")
    assert beyond == {"webhooks": [], "pagination": {"total": 5, "limit": 20, "offset": 9, "has_more": False}}


def test_list_webhooks_shows_20_unless_told_otherwise_and_up_to_1000(db):
    for n in range(21):
        db.create_webhook(f"{URL}/{n}")
    usual = db.one("SELECT webhooks.list_webhooks()")
    assert len(usual["webhooks"]) == 20 and usual["pagination"]["has_more"] is True
    assert all(set(it) >= LISTED_WEBHOOK_KEYS for it in usual["webhooks"])
    for limit, shown in ((1, 1), (1000, 21)):
        assert len(db.one("SELECT webhooks.list_webhooks(page_limit => %s)", limit)["webhooks"]) == shown


def test_list_webhooks_shows_nothing_where_nothing_is(db):
    assert db.one("SELECT webhooks.list_webhooks()") == {
        "webhooks": [],
        "pagination": {"total": 0, "limit": 20, "offset": 0, "has_more": False},
    }


def test_list_webhooks_filters_by_activity_and_event(db):
    created = db.create_webhook(URL, ["memory.created"])["id"]
    deleted = db.create_webhook(URL, ["memory.deleted"], active=False)["id"]

    def listed(arguments):
        return [it["id"] for it in db.one(f"SELECT webhooks.list_webhooks({arguments})")["webhooks"]]

    assert listed("active => true") == [created]
    assert listed("active => false") == [deleted]
    assert listed("event => 'memory.deleted'") == [deleted]
    assert listed("active => true, event => 'memory.deleted'") == []
    prefix = db.create_webhook(URL, ["memory.*"])["id"]
    everything = db.create_webhook(URL, ["*"])["id"]
    assert listed("event => 'memory.deleted'") == [everything, prefix, deleted], "whoever would get it"
    assert listed("event => 'user.activity'") == [everything]


# get_webhook


def test_get_webhook_returns_the_object_without_its_secret(db):
    webhook = db.create_webhook(URL, filters={"a": 1})
    shown = db.get_webhook(webhook)
    assert set(shown) >= WEBHOOK_KEYS and "secret" not in shown
    assert shown == {key: value for key, value in webhook.items() if key != "secret"}


# update_webhook


def test_update_webhook_changes_what_is_given_and_leaves_the_rest(db):
    webhook = db.create_webhook(URL, ["memory.created"], filters={"a": 1}, retry_policy={"max_attempts": 9})
    before = db.get_webhook(webhook)
    for changes in (
        {"url": f"{URL}/other"},
        {"events": ["search.performed"]},
        {"active": False},
        {"filters": {"b": 2}},
        {"retry_policy": {"max_attempts": 4, "backoff_multiplier": 3, "max_delay": 30}},
    ):
        after = db.update_webhook(webhook, **changes)
        assert after == db.get_webhook(webhook)
        assert "secret" not in after
        assert time_of(after["updated_at"]) >= time_of(before["updated_at"])
        assert {**before, **changes, "updated_at": None} == {**after, "updated_at": None}
        before = after


def test_update_webhook_of_nothing_changes_nothing(db):
    webhook = db.create_webhook(URL)
    before = db.get_webhook(webhook)
    assert {**db.update_webhook(webhook), "updated_at": None} == {**before, "updated_at": None}


def test_update_webhook_merges_a_retry_policy_key_by_key_and_null_is_the_defaults(db):
    webhook = db.create_webhook(URL, retry_policy={"max_attempts": 9, "max_delay": 60})
    assert db.update_webhook(webhook, retry_policy={"max_delay": 30})["retry_policy"] == {
        "max_attempts": 9,
        "backoff_multiplier": 2,
        "max_delay": 30,
    }
    assert db.update_webhook(webhook, retry_policy=None)["retry_policy"] == POLICY


def test_update_webhook_clears_filters_with_null(db):
    webhook = db.create_webhook(URL, filters={"a": 1})
    assert db.update_webhook(webhook, filters=None)["filters"] is None


def test_update_webhook_replaces_the_secret_at_once(db, receiver):
    webhook = db.create_webhook(receiver.url(), secret="old")
    assert "secret" not in db.update_webhook(webhook, secret="new")
    db.send_test(webhook)
    (request,) = receiver.wait(1)
    signatures.verify(request, "new")


def test_get_edit_put_back_works(db):
    webhook = db.create_webhook(URL, filters={"a": 1})
    shown = db.get_webhook(webhook)
    after = db.update_webhook(webhook, **{**shown, "active": False})
    assert {**after, "updated_at": None} == {**shown, "active": False, "updated_at": None}


def test_a_url_that_is_put_back_as_it_was_is_not_judged_by_settings_that_are_stricter_now(db, cluster):
    webhook = db.create_webhook(URL.replace("https:", "http:"))
    with cluster.configured({"webhooks.require_https": "on"}):
        shown = db.get_webhook(webhook, session=(session := db.connect()))
        assert not db.update_webhook(webhook, session=session, **{**shown, "active": False})["active"]
        change = json.dumps({"url": shown["url"] + "/other"})
        db.fails("SELECT webhooks.update_webhook(%s, %s)", webhook["id"], change, state="22", says="https", session=session)


def test_update_webhook_ignores_the_objects_read_only_keys(db):
    webhook = db.create_webhook(URL)
    read_only = {
        "id": "webhook_" + "0" * 32,
        "created_at": "1999-01-01T00:00:00.000Z",
        "last_delivery": "1999-01-01T00:00:00.000Z",
        "delivery_stats": {"total_attempts": 99},
    }
    after = db.update_webhook(webhook, **read_only, updated_at="1999-01-01T00:00:00.000Z")
    assert is_now(after.pop("updated_at"))
    assert after == {key: value for key, value in db.get_webhook(webhook).items() if key != "updated_at"}
    assert after["id"] == webhook["id"] and is_now(after["created_at"])


def test_update_webhook_calls_an_unknown_key_an_error_and_changes_nothing(db):
    webhook = db.create_webhook(URL)
    before = db.get_webhook(webhook)
    changes = json.dumps({"active": False, "colour": "red"})
    db.fails("SELECT webhooks.update_webhook(%s, %s)", webhook["id"], changes, state="22", says="colour")
    assert db.get_webhook(webhook) == before


# delete_webhook


def test_delete_webhook_removes_it_and_says_so(db):
    webhook, other = db.create_webhook(URL), db.create_webhook(URL)
    assert db.delete_webhook(webhook) == {"id": webhook["id"], "deleted": True}
    assert [it["id"] for it in db.one("SELECT webhooks.list_webhooks()")["webhooks"]] == [other["id"]]
    for call in ("get_webhook(%s)", "delete_webhook(%s)", "update_webhook(%s, '{}')", "send_test(%s)"):
        assert hint_of(db.fails(f"SELECT webhooks.{call}", webhook["id"], state="P0002", says=webhook["id"]))


def test_delete_webhook_cancels_what_waits_and_the_log_stays(db, receiver):
    receiver.answer("/hook", 200, 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 10})
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    db.emit()
    receiver.wait(2)
    db.delete_webhook(webhook)
    db.wait_for_states(webhook, delivered=1, cancelled=1)
    cancelled = db.the_delivery(webhook, "cancelled")
    assert cancelled["next_attempt_at"] is None
    db.wait_until("SELECT count(*) FROM webhooks.attempts WHERE delivery_id = %s", 1, params=[cancelled["id"]])
