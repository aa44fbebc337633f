"""Every setting applies on reload: one row each, with what is seen of it before and after, by the same worker."""

import base64
import itertools
import json
import time
from dataclasses import dataclass, field

import psycopg
import pytest
from receiver import Answer
from requests_as import SECRET, tell

ONE_ATTEMPT = {"max_attempts": 1}
# Between two looks, and how long a new value may take: the worker looks at its tables every five seconds.
APART_SECONDS = 0.1
PATIENCE_SECONDS = 20
STEADY_LOOKS = 20


class Setting:
    """What the measurements below share: fresh webhooks and owners, and a role for requests."""

    def __init__(self, db, receiver, make_receiver, authority):
        self.db = db
        self.receiver = receiver
        self.make_receiver = make_receiver
        self.authority = authority
        self.numbers = itertools.count()
        self.kept = {}

    def once(self, name, make):
        """What is made by the first measurement and used by all."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def webhook(self, answer=None, **arguments):
        """A new webhook with a path of its own; both."""
        path = f"/{next(self.numbers)}"
        if answer is not None:
            self.receiver.answer(path, answer)
        arguments = {"events": ["search.performed"], "retry_policy": ONE_ATTEMPT, **arguments}
        return self.db.create_webhook(self.receiver.url(path), **arguments), path

    def tests(self, webhook, count):
        self.db.execute("SELECT count(webhooks.send_test(%s)) FROM generate_series(1, %s)", webhook["id"], count)

    def outcome(self, webhook):
        """Of a test: its state, and its error if it has one."""
        event = self.db.send_test(webhook)
        ended = "FROM webhooks.deliveries WHERE event_id = %s AND state <> 'pending'"
        self.db.wait_until(f"SELECT EXISTS (SELECT {ended})", params=[event])
        row = self.db.row(f"SELECT state, last_error {ended}", event)
        return row["last_error"] or row["state"]

    def steady(self, measure):
        """The value of something once it has stayed the same for a while."""
        value, looks = measure(), 0
        while looks < STEADY_LOOKS:
            time.sleep(0.01)
            looks, value = (looks + 1, value) if measure() == value else (0, measure())
        return value

    def owner(self, claim="sub"):
        """A session of somebody new."""
        name = f"owner-{next(self.numbers)}"
        role = self.once("role", self.db.role)
        self.db.grant(role, "api", "emit")
        session = self.db.connect()
        session.execute(f"SET ROLE {role}")
        return name, tell(session, claims={claim: name, "other": f"other {name}"})

    def how_many(self, most, attempt):
        """How often in a row something can be done before it is refused."""
        for count in range(most):
            try:
                attempt()
            except psycopg.errors.ConfigurationLimitExceeded:
                return count
        return most


# What is measured


def captured(it):
    """Whether an event is stored, by a session that is there already."""
    it.once("subscriber", it.webhook)
    return it.db.emit("search.performed") is not None


def answered_late(it):
    return it.outcome(it.once("late", lambda: it.webhook(Answer(delay=0.7))[0]))


def started_at_once(it):
    """Of forty requests, those that do not have to wait for the next minute."""
    webhook, path = it.webhook()
    it.tests(webhook, 40)
    it.db.wait_until("SELECT count(*) FROM webhooks.outbox WHERE command IS NULL", lambda left: left <= 40)
    return it.steady(lambda: len(it.receiver.to(path)))


def at_once_to_one(it):
    webhook, path = it.webhook(Answer(delay=0.03))
    it.tests(webhook, 10)
    it.receiver.wait(10, path)
    return it.receiver.peak(path)


def at_once_in_all(it):
    path = f"/{next(it.numbers)}"
    it.receiver.answer(path, Answer(delay=0.03))
    url = it.receiver.url(path)
    for _ in range(4):
        it.tests(it.db.create_webhook(url, ["search.performed"], retry_policy=ONE_ATTEMPT), 5)
    it.receiver.wait(20, path)
    return it.receiver.peak(path)


def webhooks_of_an_owner(it):
    _, session = it.owner()
    return it.how_many(12, lambda: it.db.create_webhook(it.receiver.url(), session=session))


def pending_of_an_owner(it):
    _, session = it.owner()
    gate = it.once("gate", it.receiver.gate)
    it.receiver.answer("/held", Answer(hold=gate))
    webhook = it.db.create_webhook(it.receiver.url("/held"), session=session)
    test = "SELECT webhooks.send_test(%s)"
    return it.how_many(5, lambda: it.db.one(test, webhook["id"], session=session))


def ended_deliveries(it):
    webhook = it.once("ended", lambda: it.webhook()[0])
    if not it.kept.get("sent"):
        it.outcome(webhook)
        it.kept["sent"] = True
    return len(it.db.deliveries(webhook))


def outcome_of_a_test(it):
    return it.outcome(it.once("plain", lambda: it.webhook()[0]))


def outcome_over_tls(it):
    def make():
        receiver = it.make_receiver(tls=it.authority.context("localhost"))
        return it.db.create_webhook(receiver.url(host="localhost"), ["search.performed"], retry_policy=ONE_ATTEMPT)

    return it.outcome(it.once("tls", make))


def reports(event_type):
    def count(it):
        _, path = it.once("report", lambda: it.webhook(events=[event_type]))
        return len(it.receiver.wait(1, path))

    return count


def switched_on_after_failures(it):
    def make():
        webhook, _ = it.webhook(500)
        for _ in range(25):
            it.db.emit("search.performed")
        it.db.wait_for_states(webhook, failed=25)
        return webhook

    webhook = it.once("failing", make)
    if it.db.emit("search.performed"):
        it.db.wait_until("SELECT backlog FROM webhooks.status", 0)
    return it.db.get_webhook(webhook)["active"]


def jitter(it):
    """By how many milliseconds, at most, three retries come later than ten seconds."""
    policy = {"max_attempts": 3, "backoff_multiplier": 10}
    webhook, _ = it.webhook(500, retry_policy=policy)
    for _ in range(3):
        it.db.emit("search.performed")
    it.db.wait_until(
        "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND attempts = 2", 3, params=[webhook["id"]]
    )
    return max(
        it.db.one(
            "SELECT extract(epoch FROM d.next_attempt_at - a.started_at) * 1000 - a.duration_ms - 10000 FROM webhooks.deliveries d"
            " JOIN webhooks.attempts a ON a.delivery_id = d.id AND a.attempt = 2 WHERE d.id = %s",
            delivery["id"],
        )
        for delivery in it.db.deliveries(webhook)
    )


def truncated(it):
    webhook, path = it.once("large", it.webhook)
    before = len(it.receiver.to(path))
    it.db.emit("search.performed", {"object": "search", "id": "1", "content": "x" * 2_000})
    return it.receiver.wait(before + 1, path)[-1].data.get("truncated", False)


def last_request(see):
    def measure(it):
        webhook, path = it.once("seen", it.webhook)
        before = len(it.receiver.to(path))
        it.db.send_test(webhook)
        return see(it.receiver.wait(before + 1, path)[-1])

    return measure


def goes_by_proxy(it):
    """Whether a request comes with its whole URL: the receiver is the proxy too, if there is one."""
    webhook, _ = it.once("proxied", it.webhook)
    before = len(it.receiver.to())
    it.db.send_test(webhook)
    return it.receiver.wait(before + 1)[-1].target.startswith("http://")


def proxy(it):
    return f"http://127.0.0.1:{it.receiver.port}"


def goes_by_proxy_still(it):
    """The same, once the worker knows of the proxy."""

    def known():
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not goes_by_proxy(it):
            assert time.monotonic() < deadline
            time.sleep(APART_SECONDS)

    it.once("known", known)
    return goes_by_proxy(it)


def owner_of_what_is_made(it):
    name, session = it.owner(claim="sub")
    return it.db.create_webhook(it.receiver.url(), session=session)["owner"].replace(name, "somebody")


def role_of_a_key(it):
    """What a new key says of its role, or why there is none."""
    try:
        key = it.db.one("SELECT webhooks.create_api_key('name', 'alice')")["key"]
    except psycopg.Error as error:
        return str(error)
    claims = key.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["role"]


def role_with_api(it):
    def make():
        role = it.db.role()
        it.db.grant(role, "api")
        return role

    return it.once("keys", make)


@dataclass
class Row:
    value: object  # or a function of the Setting
    measure: object
    before: object  # a value, or a function that judges it
    after: object
    beside: dict = field(default_factory=dict)  # other settings that the measurement needs


TABLE = {
    "enabled": Row("off", captured, True, False),
    "request_timeout": Row("200ms", answered_late, "delivered", lambda said: "time" in said),
    "deliveries_per_minute": Row("20", started_at_once, 40, lambda count: count <= 20),
    "concurrent_deliveries": Row("2", at_once_to_one, 5, 2),
    "creations_per_hour": Row("2", webhooks_of_an_owner, 10, 2),
    "max_in_flight": Row("3", at_once_in_all, lambda count: count > 5, 3),
    "retention": Row("1s", ended_deliveries, 1, 0),
    "allowed_networks": Row("", outcome_of_a_test, "delivered", lambda said: "address" in said),
    "allowed_ports": Row("443", outcome_of_a_test, "delivered", lambda said: "port" in said),
    "require_https": Row("on", outcome_of_a_test, "delivered", lambda said: "https" in said),
    "health_interval": Row("1s", reports("system.health"), 1, lambda count: count >= 3),
    "analytics_interval": Row("1s", reports("analytics.update"), 1, lambda count: count >= 3),
    "disable_after": Row("1s", switched_on_after_failures, True, False),
    "retry_jitter": Row("off", jitter, lambda ms: ms > 3, lambda ms: abs(ms) <= 3),
    "max_payload": Row("1kB", truncated, False, True),
    "max_webhooks_per_owner": Row("3", webhooks_of_an_owner, 10, 3),
    "max_pending_per_owner": Row("2", pending_of_an_owner, 5, 2),
    "livemode": Row("off", last_request(lambda it: it.json["livemode"]), True, False),
    "header_prefix": Row("X-Other", last_request(lambda it: it.all("X-Other-Event")), [], ["webhook.test"]),
    "user_agent": Row(
        "Other/2.0", last_request(lambda it: it.header("User-Agent")), "Lanonasis-Webhooks/1.0", "Other/2.0"
    ),
    "ca_file": Row(lambda it: it.authority.file, outcome_over_tls, lambda said: said != "delivered", "delivered"),
    "proxy": Row(proxy, goes_by_proxy, False, True),
    "no_proxy": Row("127.0.0.0/8", goes_by_proxy_still, True, False, beside={"webhooks.proxy": proxy}),
    "owner_claim": Row("other", owner_of_what_is_made, "somebody", "other somebody"),
    "api_role": Row(
        role_with_api,
        role_of_a_key,
        lambda said: "api_role" in said,
        lambda said: said.startswith("role_"),
        beside={"webhooks.jwt_secret": SECRET},
    ),
    "jwt_secret": Row(
        SECRET,
        role_of_a_key,
        lambda said: "jwt_secret" in said,
        lambda said: said.startswith("role_"),
        beside={"webhooks.api_role": role_with_api},
    ),
}


def given(it, value):
    return value(it) if callable(value) else value


def is_as(expected, value):
    return expected(value) if callable(expected) else value == expected


@pytest.mark.parametrize("name", TABLE)
def test_a_setting_applies_on_reload(db, receiver, make_receiver, authority, name):
    row = TABLE[name]
    it = Setting(db, receiver, make_receiver, authority)
    pid = db.wait_for_worker()
    server = db.server
    with server.configured({other: given(it, value) for other, value in row.beside.items()}):
        before = row.measure(it)
        assert is_as(row.before, before), f"{before!r} before the change"
        with server.configured({f"webhooks.{name}": given(it, row.value)}):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not is_as(row.after, after := row.measure(it)):
                assert time.monotonic() < deadline, f"still {after!r} {PATIENCE_SECONDS} s after the change"
                time.sleep(APART_SECONDS)
        assert db.one("SELECT pid FROM webhooks.status") == pid, "it needed another worker"


def test_the_table_has_every_setting(shared_db):
    rows = shared_db.rows("SELECT name FROM pg_settings WHERE name LIKE 'webhooks.%%' AND context <> 'postmaster'")
    assert {row["name"].removeprefix("webhooks.") for row in rows} == set(TABLE)


# SET in a session


@dataclass
class Notice:
    severity: str
    state: str
    message: str
    detail: str
    hint: str


def notices_of(session, *statements):
    said = []

    def note(it):  # whose fields are gone afterwards
        said.append(Notice(it.severity, it.sqlstate, it.message_primary, it.message_detail, it.message_hint))

    session.add_notice_handler(note)
    for statement in statements:
        session.execute(statement)
    return said


def test_a_setting_that_the_worker_never_sees_gives_a_warning_with_the_call_that_it_would_see(db):
    session = db.connect()
    (warning,) = notices_of(session, "SET webhooks.retention = '1d'")
    assert (warning.severity, warning.state) == ("WARNING", "01000")
    assert warning.message == "webhooks.retention is set for this session alone, where it has no effect"
    assert "worker" in warning.detail
    assert "ALTER SYSTEM SET webhooks.retention = '1d'; SELECT pg_reload_conf();" in warning.hint
    assert f"ALTER DATABASE {db.name} SET webhooks.retention = '1d';" in warning.hint


def test_a_setting_that_acts_in_the_session_says_what_it_decides_there(db, sink):
    db.memories()
    (warning,) = notices_of(db.session, "SET webhooks.enabled = off")
    assert warning.message == "webhooks.enabled is set for this session alone"
    assert "whether changes that this session makes are captured" in warning.detail
    db.execute("INSERT INTO memories (content) VALUES ('unseen')")
    db.connect().execute("INSERT INTO memories (content) VALUES ('seen')")
    assert sink.take_one("memory.created")["data"]["content"] == "seen"


def test_nobody_is_warned_where_the_worker_sees_it_or_the_transaction_ends_it(db):
    role = db.role()
    said = notices_of(
        db.connect(),
        "BEGIN",
        "SET LOCAL webhooks.enabled = off",
        "COMMIT",
        "RESET webhooks.enabled",
        "SET webhooks.enabled TO DEFAULT",
        "SET application_name = 'webhooks.enabled'",
        f"ALTER DATABASE {db.name} SET webhooks.enabled = on",
        f"ALTER DATABASE {db.name} RESET webhooks.enabled",
        f"ALTER ROLE {role} SET webhooks.enabled = off",
        "SELECT pg_reload_conf()",
    )
    assert said == []


def test_a_setting_that_there_is_not_is_an_error(db):
    db.fails("SET webhooks.nothing = 1", state="42602", says="reserved prefix", hint=False)
    db.fails("SET webhooks.jwt_secret = 'x'", state="55P02", hint=False)
    db.fails("SET webhooks.enabled = off", state="42501", hint=False, session=db.connect(user=db.role()))
