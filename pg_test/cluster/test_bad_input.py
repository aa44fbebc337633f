"""Bad input: each is refused with a fitting SQLSTATE, a message that names what is wrong and a hint of what would be right."""

import json
import re

import pytest
from database import everything_said, some_uuid
from requests_as import tell

URL = "http://127.0.0.1:9/hook"
INVALID = "22"
ABSENT = "P0002"

BAD_URLS = {
    "empty": "",
    "not a URL": "not a url",
    "relative": "/hook",
    "no scheme": "//127.0.0.1/hook",
    "no host": "http://",
    "not http": "ftp://127.0.0.1/hook",
    "javascript": "javascript:alert(1)",
    "file": "file:///etc/passwd",
    "user and password": "http://user:password@127.0.0.1/hook",
    "user": "http://user@127.0.0.1/hook",
    "fragment": "http://127.0.0.1/hook#part",
    "port too high": "http://127.0.0.1:99999/hook",
    "blank in the host": "http://127.0. 0.1/hook",
    "line break": "http://127.0.0.1/hook\r\nX-Injected: 1",
    "over 2048 characters": "http://127.0.0.1/" + "a" * (2049 - len("http://127.0.0.1/")),
    "absent": None,
}
BAD_EVENTS = {
    "none": [],
    "unknown": ["memory.exploded"],
    "unknown among known": ["memory.created", "nobody.knows"],
    "unknown prefix": ["nobody.*"],
    "duplicate": ["memory.created", "memory.created"],
    "empty": [""],
    "null entry": [None],
    "absent": None,
}
BAD_POLICIES = {
    "array": [],
    "number": 3,
    "text": "often",
    "unknown key": {"tries": 3},
    "no attempts": {"max_attempts": 0},
    "too many attempts": {"max_attempts": 101},
    "negative attempts": {"max_attempts": -1},
    "fractional attempts": {"max_attempts": 1.5},
    "attempts as text": {"max_attempts": "3"},
    "multiplier too small": {"backoff_multiplier": 0.5},
    "multiplier too large": {"backoff_multiplier": 10.5},
    "multiplier as text": {"backoff_multiplier": "2"},
    "no delay": {"max_delay": 0},
    "delay too long": {"max_delay": 86401},
    "fractional delay": {"max_delay": 1.5},
}
BAD_FILTERS = {"array": [], "text": "tags", "number": 1, "boolean": True}
BAD_SECRETS = {"empty": "", "257 bytes": "x" * 257, "258 bytes of 129 characters": "é" * 129}
BAD_PAGES = {"limit 0": (0, 0), "limit -1": (-1, 0), "limit 1001": (1001, 0), "offset -1": (20, -1)}

# Every function that takes an id, and the kind of id it takes.
BY_ID = {
    "get_webhook(%s)": "webhook",
    "update_webhook(%s, '{}')": "webhook",
    "delete_webhook(%s)": "webhook",
    "list_deliveries(%s)": "webhook",
    "send_test(%s)": "webhook",
    "replay(%s, now() - interval '1 hour')": "webhook",
    "get_delivery(%s)": "delivery",
    "retry_delivery(%s)": "delivery",
}
HEX = some_uuid().replace("-", "")


def cases(table):
    return [
        pytest.param(*value, id=name) if isinstance(value, tuple) else pytest.param(value, id=name)
        for name, value in table.items()
    ]


def create(db, *, says=(), url=URL, events=("memory.created",), **arguments):
    """A create_webhook that must fail."""
    names = "".join(f", {name} => %s" for name in arguments)
    events = None if events is None else list(events)
    return db.fails(
        f"SELECT webhooks.create_webhook(%s, %s::text[]{names})",
        url,
        events,
        *arguments.values(),
        state=INVALID,
        says=says,
    )


def update(db, webhook, changes, says=()):
    """An update_webhook that must fail."""
    return db.fails(
        "SELECT webhooks.update_webhook(%s, %s)", webhook["id"], json.dumps(changes), state=INVALID, says=says
    )


@pytest.fixture
def webhook(shared_db):
    made = shared_db.create_webhook(URL, ["memory.created"])
    yield made
    after = shared_db.get_webhook(made)
    assert after == {key: value for key, value in made.items() if key != "secret"}, "a refused update changed something"


@pytest.mark.parametrize("url", cases(BAD_URLS))
def test_a_bad_url_is_refused(shared_db, webhook, url):
    create(shared_db, url=url, says="url")
    update(shared_db, webhook, {"url": url}, says="url")


@pytest.mark.parametrize("url", [5, ["http://127.0.0.1/"], {}])
def test_a_url_that_is_no_text_is_refused(shared_db, webhook, url):
    update(shared_db, webhook, {"url": url}, says="url")


def test_a_password_in_a_url_is_not_repeated_in_the_error(shared_db):
    error = create(shared_db, url="http://user:hunter2@127.0.0.1/hook")
    assert "hunter2" not in everything_said(error)


@pytest.mark.parametrize("events", cases(BAD_EVENTS))
def test_bad_events_are_refused(shared_db, webhook, events):
    create(shared_db, events=events, says="event")
    update(shared_db, webhook, {"events": events}, says="event")


@pytest.mark.parametrize("events", ["memory.created", {"memory.created": True}, [1], 1])
def test_events_that_are_no_list_of_texts_are_refused(shared_db, webhook, events):
    update(shared_db, webhook, {"events": events}, says="event")


def test_an_unknown_event_type_is_named_and_the_known_ones_are_listed(shared_db):
    error = create(shared_db, events=["memory.exploded"], says="memory.exploded")
    for known in (
        "memory.created",
        "memory.updated",
        "memory.deleted",
        "search.performed",
        "user.activity",
        "delivery.failed",
    ):
        assert known in everything_said(error)


def test_an_unknown_type_of_an_object_comes_with_the_call_that_makes_it_and_the_nearest_known(db):
    error = create(db, events=["order.created"], says="order.created")
    hint = error.diag.message_hint
    assert 'Did you mean "memory.created"?' in hint
    (call,) = re.findall(r"SELECT webhooks\.attach\(.*?\);", hint)
    assert call == "SELECT webhooks.attach('orders', object => 'order');"
    # It can be pasted as it stands.
    db.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    db.execute(call)
    db.create_webhook(URL, ["order.created"])


def test_an_unknown_type_that_no_table_emits_comes_with_the_call_that_registers_it(db):
    for error in (
        create(db, events=["invoice.paid"], says="invoice.paid"),
        db.fails("SELECT webhooks.emit('invoice.paid', '{}')", state=INVALID, says="invoice.paid"),
    ):
        (call,) = re.findall(r"SELECT webhooks\.register_event_type\(.*?\);", error.diag.message_hint)
    db.execute(call)
    db.create_webhook(URL, ["invoice.paid"])
    assert db.emit("invoice.paid").startswith("event_")


def test_a_url_without_a_scheme_is_told_so_in_words(shared_db):
    for url in ("", "/hook", "example.com", "//example.com/hook"):
        error = create(shared_db, url=url)
        assert error.diag.message_primary == "invalid URL: the URL has no scheme; it begins with https://"


EVERYTHING_WRONG = {
    "url": "/hook",
    "events": ["memory.exploded"],
    "retry_policy": {"max_attempts": 0},
    "filters": {"a": {"b": 1}},
    "secret": "",
}


def test_all_that_is_wrong_is_named_at_once(shared_db, webhook):
    values = {key: json.dumps(it) if isinstance(it, dict) else it for key, it in EVERYTHING_WRONG.items()}
    for error in (create(shared_db, **values), update(shared_db, webhook, {**EVERYTHING_WRONG, "color": "red"})):
        said = error.diag.message_detail.splitlines()
        assert {line.split(":")[0] for line in said} >= EVERYTHING_WRONG.keys()
        assert len(said) == len({line.split(":")[0] for line in said})
        for field in EVERYTHING_WRONG:
            assert field in error.diag.message_primary and f"{field}: " in error.diag.message_hint
    assert any(line.startswith("color: unknown key") for line in said)


def test_all_that_is_wrong_with_a_request_is_named_at_once(db):
    session = db.as_owner("alice")
    webhook = db.create_webhook(URL, session=session)
    tell(session, headers={"x-webhooks-id": webhook["id"]})
    wrong = {**EVERYTHING_WRONG, "active": "yes", "color": "red"}
    for operation in ("create_webhook", "update_webhook"):
        answer = db.one(f"SELECT webhooks_api.{operation}(%s::text)", json.dumps(wrong), session=session)
        assert answer["error"]["code"] == "VALIDATION_ERROR"
        details = answer["error"]["details"]
        assert sorted(it["field"] for it in details) == sorted(wrong)
        assert all(it["message"] for it in details)
    four = {key: EVERYTHING_WRONG[key] for key in ("url", "events", "retry_policy", "filters")}
    answer = db.one("SELECT webhooks_api.create_webhook(%s::text)", json.dumps(four), session=session)
    assert sorted(it["field"] for it in answer["error"]["details"]) == sorted(four)


# Every function that needs a value, with NULL for it, and the argument that the error must name.
WITHOUT = {
    "create_webhook(NULL, '{*}')": "url",
    "create_webhook('http://127.0.0.1/', NULL)": "events",
    "get_webhook(NULL)": "webhook_id",
    "update_webhook(NULL, '{}')": "webhook_id",
    "update_webhook('webhook_%s', NULL)": "changes",
    "delete_webhook(NULL)": "webhook_id",
    "rotate_secret(NULL)": "webhook_id",
    "rotate_secret('webhook_%s', NULL)": "overlap",
    "list_deliveries(NULL)": "webhook_id",
    "send_test(NULL)": "webhook_id",
    "replay(NULL, now())": "webhook_id",
    "replay('webhook_%s', NULL)": "since",
    "get_delivery(NULL)": "delivery_id",
    "retry_delivery(NULL)": "delivery_id",
    "emit(NULL, '{}')": "event_type",
    "emit('user.activity', NULL)": "data",
    "search_performed(NULL, '[]')": "query",
    "user_activity(NULL, 'login')": "user_id",
    "user_activity('7', NULL)": "activity",
    "register_event_type(NULL, 'something')": "type",
    "register_event_type('a.b', NULL)": "description",
    "create_api_key(NULL, 'alice')": "name",
    "create_api_key('laptop', NULL)": "owner",
    "revoke_api_key(NULL)": "key_id",
    "grant_access(NULL, 'api')": "role",
    "grant_access('nobody', NULL)": "what",
    "revoke_access(NULL, 'api')": "role",
    "attach(NULL)": "table_name",
    "detach(NULL)": "table_name",
}


@pytest.mark.parametrize("call", WITHOUT)
def test_a_null_where_a_value_is_needed_is_refused_and_the_argument_is_named(shared_db, call):
    call_with_id = call.replace("%s", HEX)
    error = shared_db.fails(f"SELECT webhooks.{call_with_id}", state=INVALID)
    assert error.diag.message_primary == f"{WITHOUT[call]} must not be null"


def test_system_health_for_a_webhook_with_an_owner_is_an_error_that_says_so(shared_db):
    create(shared_db, events=["system.health"], owner="alice", says=["system.health", "owner"])


@pytest.mark.parametrize("policy", cases(BAD_POLICIES))
def test_a_bad_retry_policy_is_refused(shared_db, webhook, policy):
    names = [re_escape(key) for key in policy] if isinstance(policy, dict) else ["retry_policy"]
    create(shared_db, retry_policy=json.dumps(policy), says=names)
    update(shared_db, webhook, {"retry_policy": policy}, says=names)


def re_escape(key):
    return key.replace("_", "[_ ]")


@pytest.mark.parametrize("filters", cases(BAD_FILTERS))
def test_a_filter_that_is_not_an_object_is_refused(shared_db, webhook, filters):
    create(shared_db, filters=json.dumps(filters), says="filter")
    update(shared_db, webhook, {"filters": filters}, says="filter")


@pytest.mark.parametrize("secret", cases(BAD_SECRETS))
def test_a_secret_that_is_empty_or_over_256_bytes_is_refused(shared_db, webhook, secret):
    create(shared_db, secret=secret, says="secret")
    update(shared_db, webhook, {"secret": secret}, says="secret")


def test_a_refused_secret_is_not_repeated_in_the_error(shared_db):
    assert "hush" not in everything_said(create(shared_db, secret="hush" * 100))


@pytest.mark.parametrize("active", ["yes", 1, None, []])
def test_active_must_be_true_or_false(shared_db, webhook, active):
    update(shared_db, webhook, {"active": active}, says="active")


@pytest.mark.parametrize("changes", [[], "active", 1, None])
def test_changes_must_be_an_object(shared_db, webhook, changes):
    update(shared_db, webhook, changes)
    shared_db.fails("SELECT webhooks.update_webhook(%s, NULL)", webhook["id"], state=INVALID)


@pytest.mark.parametrize(("limit", "offset"), cases(BAD_PAGES))
def test_a_page_out_of_range_is_refused(shared_db, webhook, limit, offset):
    word = "limit" if limit != 20 else "offset"
    page = "page_limit => %s, page_offset => %s"
    shared_db.fails(f"SELECT webhooks.list_webhooks({page})", limit, offset, state=INVALID, says=word)
    shared_db.fails(
        f"SELECT webhooks.list_deliveries(%s, {page})", webhook["id"], limit, offset, state=INVALID, says=word
    )


def test_an_unknown_state_is_refused_and_the_known_ones_are_listed(shared_db, webhook):
    shared_db.fails(
        "SELECT webhooks.list_deliveries(%s, 'lost')",
        webhook["id"],
        state=INVALID,
        says=["lost", "pending", "delivered", "failed", "cancelled"],
    )


@pytest.mark.parametrize("call", BY_ID)
@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param("", id="empty"),
        pytest.param("nonsense", id="nonsense"),
        pytest.param("{kind}_", id="prefix alone"),
        pytest.param("{kind}_" + HEX[:-1], id="too short"),
        pytest.param("{kind}_" + HEX + "0", id="too long"),
        pytest.param("{kind}_" + "g" * 32, id="not hex"),
        pytest.param("event_" + HEX, id="another kind"),
        pytest.param(HEX, id="no prefix"),
        pytest.param("{kind}_" + HEX + "\n", id="line break"),
        pytest.param(None, id="null"),
    ],
)
def test_a_malformed_id_is_refused(shared_db, call, malformed):
    given = malformed and malformed.format(kind=BY_ID[call])
    shared_db.fails(f"SELECT webhooks.{call}", given, state=INVALID)


@pytest.mark.parametrize("call", BY_ID)
def test_an_id_of_nothing_is_no_data_found(shared_db, call):
    given = f"{BY_ID[call]}_{HEX}"
    shared_db.fails(f"SELECT webhooks.{call}", given, state=ABSENT, says=given)


@pytest.mark.parametrize("event_type", ["nobody.knows", "", "*", "memory.*", None])
def test_emit_of_an_unknown_type_is_refused(shared_db, event_type):
    shared_db.fails("SELECT webhooks.emit(%s, '{}')", event_type, state=INVALID, says="type")


@pytest.mark.parametrize("name", ["", " ", "two words.made", "*", "memory.*", "line\nbreak.made", None])
def test_an_event_type_that_nobody_could_subscribe_to_is_refused(shared_db, name):
    shared_db.fails("SELECT webhooks.register_event_type(%s, 'something')", name, state=INVALID, says="type")


@pytest.mark.parametrize(
    "arguments",
    [
        "id_column => 'nothing'",
        "owner_column => 'nothing'",
        "soft_delete_column => 'nothing'",
        "exclude_columns => '{nothing}'",
    ],
)
def test_attach_names_a_column_that_is_not_there(db, arguments):
    db.execute("CREATE TABLE things (id int)")
    db.fails(f"SELECT webhooks.attach('things', {arguments})", state="42703", says=["nothing", "things"])


@pytest.mark.parametrize("name", ["", "Two Words", "*"])
def test_attach_refuses_an_object_that_makes_no_event_type(db, name):
    db.execute("CREATE TABLE things (id int)")
    db.fails("SELECT webhooks.attach('things', %s)", name, state=INVALID)


def test_attach_and_detach_of_a_table_of_somebody_else_are_refused(db):
    db.execute("CREATE TABLE things (id int)")
    role = db.role("USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks", "ALL ON things")
    other = db.connect(user=role)
    for call in ("attach", "detach"):
        db.fails(f"SELECT webhooks.{call}('things')", state="42501", session=other)
