"""The databases of a server come, go and change: served as soon as they can be, left in peace as soon as they cannot."""

import contextlib
import time

import psycopg
import pytest
from database import unique
from load import Writers
from receiver import Answer, hang

def busy(db, receiver):
    """A webhook whose deliveries take a while, some of them under way."""
    receiver.answer("/hook", Answer(delay=0.05))
    webhook = db.create_webhook(receiver.url())
    db.emit_many(30)
    receiver.wait(5)
    return webhook


def workers_of(session, name):
    return session.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'webhooks worker' AND datname = %s", [name]
    ).fetchone()[0]


def nothing_is_tried_again(server, oid, since, make_database):
    """The launcher has looked again, for others, and nobody asked for the database that is gone."""
    for _ in range(2):
        make_database(server=server).drop()
    tried = [line for line in server.log(since).splitlines() if f"database {oid} does not exist" in line]
    # One worker may have been on its way when the database went.
    assert len(tried) <= 1, tried


@pytest.mark.parametrize("stopped", [True, False], ids=["after_stop_worker", "with_force_at_once"])
def test_a_database_that_was_dropped_starts_no_worker_again(make_server, make_database, receiver, stopped):
    server = make_server()
    db = make_database(server=server)
    busy(db, receiver)
    if stopped:
        assert db.one("SELECT webhooks.stop_worker()") is True
    oid = db.one("SELECT oid FROM pg_database WHERE datname = current_database()")
    db.session.close()
    since = server.log_size()
    server.execute(f"DROP DATABASE {db.name}" + ("" if stopped else " WITH (FORCE)"))
    nothing_is_tried_again(server, oid, since, make_database)
    assert server.alarms() == []


@pytest.mark.parametrize("worker", ["running", "starting"])
def test_the_owner_of_a_database_needs_to_be_no_superuser_to_force_its_end(db, receiver, worker):
    owner = db.role()
    name = unique("owned")
    db.execute(f"ALTER ROLE {owner} CREATEDB")
    with db.server.connect(user=owner) as session:
        session.execute(f"CREATE DATABASE {name}")
        with db.server.connect(name) as inside:
            inside.execute("CREATE EXTENSION webhooks")
            while worker == "running" and inside.execute("SELECT pid FROM webhooks.status").fetchone()[0] is None:
                pass
            pid = inside.info.backend_pid
        # A session of a superuser's that is still on its way out is nothing that the owner may end.
        db.wait_until("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", 0, params=[pid])
        try:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            db.server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_drop_that_postgres_refuses_within_a_transaction_stops_nothing(db, make_database, receiver):
    webhook = db.create_webhook(receiver.url())
    other = make_database()
    elsewhere = other.create_webhook(receiver.url("/other"))
    pids = db.wait_for_worker(), other.wait_for_worker()
    with db.server.connect() as session, session.transaction():
        for name in (db.name, other.name):
            with pytest.raises(psycopg.errors.ActiveSqlTransaction), session.transaction():
                session.execute(f"DROP DATABASE {name} WITH (FORCE)")
        db.emit()
        other.emit()
        db.wait_for_states(webhook, delivered=1)
        other.wait_for_states(elsewhere, delivered=1)
    assert (db.wait_for_worker(), other.wait_for_worker()) == pids


def test_a_renamed_database_goes_on(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.stop_worker()
    event = db.emit()
    db.session.close()
    db.server.execute(f"ALTER DATABASE {db.name} RENAME TO {db.name}_new")
    db.name += "_new"
    db.reconnect()
    db.start_worker()
    db.wait_for_states(webhook, delivered=1)
    assert receiver.to()[0].json["id"] == event


def test_a_clone_is_made_after_stop_worker_and_holds_what_it_has_until_start_worker(db, make_database, receiver):
    webhook = db.create_webhook(receiver.url())
    db.stop_worker()
    waiting = db.emit()
    db.session.close()
    clone = make_database(extension=False)
    clone.session.close()
    clone.server.execute(f"DROP DATABASE {clone.name}", f"CREATE DATABASE {clone.name} TEMPLATE {db.name}")
    clone.reconnect()
    of_its_own = clone.emit()
    clone.wait_until("SELECT state FROM webhooks.status", "cloned")
    # The original is no clone.
    db.reconnect()
    db.start_worker()
    db.wait_for_states(webhook, delivered=1)
    assert [it.json["id"] for it in receiver.to()] == [waiting]
    assert clone.row("SELECT pid, state, backlog FROM webhooks.status") == {"pid": None, "state": "cloned", "backlog": 2}
    assert clone.one("SELECT webhooks.start_worker()") is True
    clone.wait_for_states(webhook, delivered=2)
    assert sorted(it.json["id"] for it in receiver.to()) == sorted([waiting, waiting, of_its_own])


def test_a_database_that_refuses_connections_is_left_and_served_again_when_it_takes_them(make_server, make_database, receiver):
    server = make_server()
    db = make_database(server=server)
    webhook = db.create_webhook(receiver.url())
    with server.connect() as session:
        session.execute(f"ALTER DATABASE {db.name} ALLOW_CONNECTIONS false")
        while workers_of(session, db.name):
            pass
    event = db.emit()  # this session was there before
    make_database(server=server)
    assert receiver.to() == []
    db.session.close()
    server.restart()
    make_database(server=server)
    assert "not currently accepting connections" not in server.log()
    # Nobody has to emit, or to start it.
    server.execute(f"ALTER DATABASE {db.name} ALLOW_CONNECTIONS true")
    assert receiver.wait(1)[0].json["id"] == event
    db.reconnect()
    db.wait_for_states(webhook, delivered=1)
    assert server.alarms() == []


def test_a_database_that_becomes_a_template_can_be_copied_at_once(db, receiver):
    db.create_webhook(receiver.url())
    db.wait_for_worker()
    db.session.close()
    copy = unique("copy")
    try:
        db.server.execute(
            f"ALTER DATABASE {db.name} IS_TEMPLATE true",
            f"CREATE DATABASE {copy} TEMPLATE {db.name}",
            f"ALTER DATABASE {db.name} IS_TEMPLATE false",
            f"DROP DATABASE {copy}",
        )
    finally:
        with contextlib.suppress(psycopg.Error):
            db.server.execute(f"ALTER DATABASE {db.name} IS_TEMPLATE false", f"DROP DATABASE IF EXISTS {copy} WITH (FORCE)")
    # Served again, though nobody emits.
    db.reconnect()
    db.wait_for_worker()


def test_to_drop_another_database_does_not_wait_for_busy_workers(db, empty_db, receiver):
    """Every process of the server has to hear of it."""
    receiver.answer("/hang", hang())
    db.create_webhook(receiver.url())
    db.create_webhook(receiver.url("/hang"))
    empty_db.session.close()
    with Writers(db, lambda number: [("SELECT webhooks.emit('user.activity', '{}')",)], 2) as writers:
        writers.wait_for_more(50)
        receiver.wait_under_way(5, "/hang")
        with db.server.connect(options="-c statement_timeout=3s") as session:
            session.execute(f"DROP DATABASE {empty_db.name}")
    assert writers.errors == []


def test_a_database_that_is_gone_leaves_nothing_to_one_that_comes_in_its_place(make_server):
    """The library has room for 128 databases, and remembers each by its oid."""
    server = make_server()
    for _ in range(2):
        server.execute("CREATE DATABASE passing OID 60000")
        with server.connect("passing") as session:
            session.execute("CREATE EXTENSION webhooks")
            deadline = time.monotonic() + 10
            while session.execute("SELECT state FROM webhooks.status").fetchone()[0] != "running":
                assert time.monotonic() < deadline, "it is taken for the one that was stopped"
            session.execute("SELECT webhooks.stop_worker()")
        server.execute("DROP DATABASE passing")
