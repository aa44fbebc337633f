"""Pending deliveries of an owner: beyond webhooks.max_pending_per_owner its own calls are errors, triggers never."""

import threading

import psycopg
import pytest
from receiver import Answer
from requests_as import Gateway

LIMIT = "53400"
FIVE = pytest.mark.settings({"webhooks.max_pending_per_owner": "5"})


@pytest.fixture
def alice(db):
    """A session of an owner who may emit, too."""
    web = db.role()
    db.grant(web, "api", "emit")
    return Gateway(db, web).request(web, claims={"sub": "alice"})


@pytest.fixture
def held(db, receiver):
    """A webhook of alice's whose receiver says nothing."""
    receiver.answer("/hook", Answer(hold=receiver.gate()))
    return db.create_webhook(receiver.url(), owner="alice")


def pending(db, webhook):
    return len(db.deliveries(webhook, "pending"))


def refused(db, call, *params, session=None):
    return db.fails(f"SELECT webhooks.{call}", *params, state=LIMIT, says=["pending", "5"], session=session)


EMITS = [
    "emit('user.activity', '{}', 'alice')",
    "search_performed('q', '[]', owner => 'alice')",
    "user_activity('me', 'login', owner => 'alice')",
]


@FIVE
@pytest.mark.parametrize("call", EMITS)
def test_beyond_the_limit_emit_for_that_owner_is_an_error(db, held, alice, call):
    trusted = db.role()
    db.grant(trusted, "emit")
    by_trusted = db.connect(user=trusted)
    for _ in range(5):
        assert db.one(f"SELECT webhooks.{call}", session=alice)
    for session in (alice, by_trusted):
        refused(db, call, session=session)
    assert pending(db, held) == 5
    # Others' events are not counted against it, nor its own against others.
    assert db.one(f"SELECT webhooks.{call.replace('alice', 'bob')}", session=by_trusted)
    # An administrator is exempt.
    assert db.one(f"SELECT webhooks.{call}")


@FIVE
def test_what_is_not_dispatched_yet_counts_too(db, receiver, held, alice):
    db.stop_worker()
    for _ in range(5):
        assert db.emit(session=alice)
    refused(db, "emit('user.activity', '{}')", session=alice)
    receiver.answer("/hook", 200)
    db.start_worker()
    db.wait_for_states(held, delivered=5)
    assert db.emit(session=alice)


@FIVE
def test_events_that_only_others_get_do_not_count(db, receiver, alice):
    db.stop_worker()
    db.create_webhook(receiver.url("/all"))
    db.create_webhook(receiver.url(), ["memory.*"], owner="alice")
    for _ in range(8):
        assert db.emit(session=alice)


@FIVE
def test_triggers_never_fail_for_it(db, held, alice):
    db.memories(owner_column="owner_id")
    db.execute("INSERT INTO memories (owner_id) SELECT 'alice' FROM generate_series(1, 9)")
    db.wait_for_states(held, pending=9)
    refused(db, "emit('user.activity', '{}')", session=alice)
    db.execute("UPDATE memories SET content = 'more'")
    db.wait_for_states(held, pending=18)


@FIVE
def test_a_replay_queues_all_or_nothing(db, receiver, alice):
    receiver.answer("/hook", *[Answer()] * 8, Answer(hold=receiver.gate()))
    webhook = db.create_webhook(receiver.url(), owner="alice")
    for owner in ("alice",) * 8:
        db.emit(owner=owner)
    db.wait_for_states(webhook, delivered=8)
    error = refused(db, "replay(%s, 'epoch')", webhook["id"], session=alice)
    assert "delete webhooks" in error.diag.message_hint
    assert pending(db, webhook) == 0 and db.one("SELECT count(*) FROM webhooks.queue") == 0
    fifth = db.one("SELECT created_at FROM webhooks.event ORDER BY id OFFSET 4 LIMIT 1")
    assert db.one("SELECT webhooks.replay(%s, 'epoch', %s)", webhook["id"], fifth, session=alice) == 5
    refused(db, "replay(%s, 'epoch', %s)", webhook["id"], fifth, session=alice)
    # Neither can what has ended be retried, nor a test be sent.
    ended = db.deliveries(webhook, "delivered")[0]["id"]
    refused(db, "retry_delivery(%s)", ended, session=alice)
    refused(db, "send_test(%s)", webhook["id"], session=alice)
    assert pending(db, webhook) == 5
    assert db.one("SELECT webhooks.replay(%s, 'epoch')", webhook["id"]) == 8  # an administrator is exempt


@FIVE
def test_calls_of_an_owner_that_race_do_not_exceed_it(db, held):
    db.stop_worker()
    web = db.role()
    db.grant(web, "api", "emit")
    gateway = Gateway(db, web)
    sessions = [gateway.request(web, claims={"sub": "alice"}) for _ in range(12)]
    barrier = threading.Barrier(len(sessions))
    made, errors = [], []

    def race(session):
        barrier.wait()
        try:
            with session.transaction():
                made.append(db.emit(session=session))
        except psycopg.Error as error:
            errors.append(error.sqlstate)

    threads = [threading.Thread(target=race, args=[session]) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), errors) == (5, [LIMIT] * 7)
    assert pending(db, held) == 5


@FIVE
def test_what_one_statement_has_emitted_before_counts_too(db, held, alice):
    refused(db, "emit('user.activity', '{}') FROM generate_series(1, 9)", session=alice)
    assert db.one("SELECT count(webhooks.emit('user.activity', '{}')) FROM generate_series(1, 5)", session=alice) == 5
    refused(db, "emit('user.activity', '{}')", session=alice)


@FIVE
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_an_older_snapshot_counts_what_others_have_emitted_since(db, held, isolation):
    db.stop_worker()
    web = db.role()
    db.grant(web, "api", "emit")
    gateway = Gateway(db, web)
    early, late = (gateway.request(web, claims={"sub": "alice"}) for _ in range(2))
    early.execute(f"BEGIN ISOLATION LEVEL {isolation}")
    db.one("SELECT count(*) FROM pg_class", session=early)  # takes the snapshot
    for _ in range(5):
        db.emit(session=late)
    refused(db, "emit('user.activity', '{}')", session=early)
    assert pending(db, held) == 5


@FIVE
def test_what_an_open_transaction_has_emitted_is_waited_for(db, held):
    web = db.role()
    db.grant(web, "api", "emit")
    gateway = Gateway(db, web)
    first, second = (gateway.request(web, claims={"sub": "alice"}) for _ in range(2))
    other = gateway.request(web, claims={"sub": "bob"})
    first.execute("BEGIN")
    for _ in range(5):
        db.emit(session=first)
    second.execute("SET lock_timeout = '200ms'")
    db.fails("SELECT webhooks.emit('user.activity', '{}')", state="55P03", hint=False, session=second)
    other.execute("SET lock_timeout = '200ms'")
    assert db.emit(session=other)
    first.commit()
    refused(db, "emit('user.activity', '{}')", session=second)


def test_without_a_limit_nothing_is_counted(db, held, alice):
    for _ in range(30):
        assert db.emit(session=alice)
