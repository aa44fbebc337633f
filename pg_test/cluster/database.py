"""One test's database, with the extension in it, and what tests do with it over and over."""

import contextlib
import itertools
import json
import os
import re
import signal
import threading
import time
import uuid

import psycopg
import pytest
from psycopg.rows import dict_row

POLL_SECONDS = 0.01
# What tests cause themselves. "*" would also bring what the worker reports by its own clock.
EVENTS = ["memory.*", "search.performed", "user.activity"]

MEMORIES = """
    CREATE TABLE memories (
        id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        owner_id   text,
        content    text,
        tags       text[],
        metadata   jsonb DEFAULT '{}',
        created_at timestamptz DEFAULT now(),
        updated_at timestamptz,
        deleted_at timestamptz,
        embedding  float8[])"""

_names = itertools.count(1)


def unique(prefix):
    """A name that no other test has: roles and databases belong to the whole server."""
    return f"{prefix}_{next(_names)}"


def some_uuid():
    return str(uuid.uuid4())


def hint_of(error):
    return error.diag.message_hint or ""


def everything_said(error):
    """Message, detail and hint of an error."""
    return " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)))


class Database:
    def __init__(self, server, extension=True, tablespace="pg_default"):
        self.server = server
        self.name = unique("db")
        self._sessions = []
        self._roles = []
        server.execute(f"CREATE DATABASE {self.name} TABLESPACE {tablespace}")
        self.session = self.connect()
        if extension:
            self.execute("CREATE EXTENSION webhooks")
            self.wait_for_worker()

    # Sessions

    def connect(self, user="postgres", **options):
        """Another session; closed with the test."""
        session = self.server.connect(self.name, user, **options)
        self._sessions.append(session)
        return session

    def reconnect(self):
        """A new session in place of the first, after the server was restarted."""
        self.session = self.connect()

    def role(self, *grants):
        """A new role that may log in and has nothing but what is granted here, as "INSERT ON memories"."""
        name = unique("role")
        self._roles.append(name)
        self.execute(f"CREATE ROLE {name} LOGIN")
        for grant in grants:
            self.execute(f"GRANT {grant} TO {name}")
        return name

    def grant(self, role, *rights):
        for right in rights:
            self.execute("SELECT webhooks.grant_access(%s, %s)", role, right)

    def as_owner(self, owner):
        """A session as PostgREST has it: it connected with rights, gave them up, and carries the owner's claims."""
        role = self.role()
        self.grant(role, "api")
        session = self.connect()
        session.execute(f"SET ROLE {role}")
        session.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": owner})])
        return session

    # Statements

    def execute(self, query, *params, session=None):
        return (session or self.session).execute(query, params or None)

    def one(self, query, *params, session=None):
        """The first column of the first row; None without a row."""
        row = self.execute(query, *params, session=session).fetchone()
        return None if row is None else row[0]

    def rows(self, query, *params, session=None):
        """All rows, as dicts."""
        with (session or self.session).cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, params or None).fetchall()

    def row(self, query, *params, session=None):
        found = self.rows(query, *params, session=session)
        assert len(found) == 1, f"{len(found)} rows of {query}"
        return found[0]

    def fails(self, query, *params, state, says=(), hint=True, session=None):
        """Asserts that a statement fails: with a SQLSTATE that begins so, a hint, and words in what is said."""
        session = session or self.session
        with pytest.raises(psycopg.Error) as raised:
            session.execute(query, params or None)
        error = raised.value
        assert error.sqlstate.startswith(state), f"{error.sqlstate}: {error}"
        if hint:
            assert hint_of(error), f"no hint: {error}"
        for words in [says] if isinstance(says, str) else says:
            assert re.search(words, everything_said(error), re.IGNORECASE), (
                f"{words!r} is not in: {everything_said(error)}"
            )
        if session.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            session.rollback()
        return error

    def wait_until(self, query, expected=True, *, params=None, timeout=10, session=None):
        """Waits until the query's first value is as expected: a value, or a function that judges it."""
        judge = expected if callable(expected) else lambda value: value == expected
        deadline = time.monotonic() + timeout
        while not judge(value := self.one(query, *(params or ()), session=session)):
            assert time.monotonic() < deadline, f"still {value!r} after {timeout} s: {query}\n{self.picture()}"
            time.sleep(POLL_SECONDS)
        return value

    def picture(self):
        """What is going on, for messages."""
        with contextlib.suppress(psycopg.Error):
            deliveries = self.rows("SELECT * FROM webhooks.deliveries ORDER BY created_at DESC LIMIT 10")
            return "\n".join(map(str, [*self.rows("SELECT * FROM webhooks.status"), *deliveries]))
        return "(no picture)"

    # The product

    def create_webhook(self, url, events=EVENTS, session=None, **arguments):
        """The webhook object, with its secret."""
        names = "".join(f", {name} => %s" for name in arguments)
        values = [json.dumps(it) if isinstance(it, dict) else it for it in arguments.values()]
        return self.one(f"SELECT webhooks.create_webhook(%s, %s{names})", url, list(events), *values, session=session)

    def update_webhook(self, webhook, session=None, **changes):
        return self.one("SELECT webhooks.update_webhook(%s, %s)", webhook["id"], json.dumps(changes), session=session)

    def get_webhook(self, webhook, session=None):
        return self.one("SELECT webhooks.get_webhook(%s)", webhook["id"], session=session)

    def delete_webhook(self, webhook, session=None):
        return self.one("SELECT webhooks.delete_webhook(%s)", webhook["id"], session=session)

    def send_test(self, webhook):
        return self.one("SELECT webhooks.send_test(%s)", webhook["id"])

    def emit(self, event_type="user.activity", data=None, owner=None, session=None):
        return self.one(
            "SELECT webhooks.emit(%s, %s, %s)",
            event_type,
            json.dumps(data or {"object": "activity"}),
            owner,
            session=session,
        )

    def emit_many(self, n, event_type="user.activity"):
        """n events in one statement; their data counts them."""
        self.execute(
            "SELECT count(webhooks.emit(%s, jsonb_build_object('object', 'activity', 'n', n))) FROM generate_series(1, %s) n",
            event_type,
            n,
        )

    def deliveries(self, webhook, state=None):
        """Rows of webhooks.deliveries of a webhook, oldest first."""
        return self.rows(
            "SELECT * FROM webhooks.deliveries WHERE webhook_id = %s AND (%s::text IS NULL OR state = %s)"
            " ORDER BY created_at, id",
            webhook["id"],
            state,
            state,
        )

    def the_delivery(self, webhook, state=None, timeout=10):
        """The one delivery of a webhook (in a state), once it is there: a request may arrive before its row is seen."""
        self.wait_until(
            "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND (%s::text IS NULL OR state = %s)",
            1,
            params=[webhook["id"], state, state],
            timeout=timeout,
        )
        return self.deliveries(webhook, state)[0]

    def attempts(self, delivery_id):
        return self.rows("SELECT * FROM webhooks.attempts WHERE delivery_id = %s ORDER BY attempt", delivery_id)

    def wait_for_states(self, webhook, timeout=10, **counts):
        """Waits until a webhook has so many deliveries in each named state: delivered=3, failed=0."""
        for state, count in counts.items():
            self.wait_until(
                "SELECT count(*) FROM webhooks.deliveries WHERE webhook_id = %s AND state = %s",
                count,
                params=[webhook["id"], state],
                timeout=timeout,
            )

    def wait_for_worker(self, timeout=15):
        """Waits until a worker serves this database; its pid. One that starts still reads what webhooks there are."""
        query = "SELECT pid FROM webhooks.status WHERE state <> 'starting'"
        return self.wait_until(query, lambda pid: pid is not None, timeout=timeout)

    def settle(self, timeout=10):
        """Waits until nothing that has committed is waiting or under way."""
        self.wait_until("SELECT backlog = 0 AND in_flight = 0 FROM webhooks.status", timeout=timeout)

    @contextlib.contextmanager
    def stopped_between_transactions(self, worker, after="%", timeout=20):
        """Stops the worker's process where it holds no lock that others wait for: asleep, after a transaction that was reported
        as `after` (a pattern of LIKE). Between two transactions it may also flush WAL, for which others wait."""
        between = """
            SELECT query LIKE %s AND state = 'idle' AND wait_event_type = 'Extension'
              FROM pg_stat_activity WHERE pid = %s"""
        deadline = time.monotonic() + timeout
        try:
            while not (self.one(between, after, worker) and self._stopped(worker, between, after)):
                assert time.monotonic() < deadline
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def _stopped(self, worker, where, after):
        """Stops it, and says whether it was there. A question that waits for one of its locks lets it go on."""
        let_go = threading.Timer(1, os.kill, (worker, signal.SIGCONT))
        os.kill(worker, signal.SIGSTOP)
        let_go.start()
        there = self.one(where, after, worker) and let_go.is_alive()
        let_go.cancel()
        if not there:
            os.kill(worker, signal.SIGCONT)
        return there

    def stop_worker(self):
        self.one("SELECT webhooks.stop_worker()")
        self.wait_until("SELECT pid IS NULL FROM webhooks.status")

    def start_worker(self):
        self.one("SELECT webhooks.start_worker()")
        return self.wait_for_worker()

    def memories(self, **attach):
        """Makes the table memories and attaches it."""
        self.execute(MEMORIES)
        self.attach("memories", **attach)

    def attach(self, table, session=None, **arguments):
        names = "".join(f", {name} => %s" for name in arguments)
        self.execute(f"SELECT webhooks.attach(%s{names})", table, *arguments.values(), session=session)

    # The end

    def drop(self):
        self.server.recover()  # a test that crashed it must not spoil the next
        with contextlib.suppress(psycopg.Error):
            fresh = self.connect()
            if fresh.execute("SELECT FROM pg_extension WHERE extname = 'webhooks'").fetchone():
                fresh.execute("SELECT webhooks.stop_worker()")
        for session in self._sessions:
            session.close()
        self.server.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        for role in self._roles:
            self.server.execute(f"DROP ROLE IF EXISTS {role}")


class Sink:
    """A webhook for all that tests cause, and what has come to it since it was last asked."""

    def __init__(self, db, receiver, path="/sink", events=EVENTS, **arguments):
        self.db = db
        self.receiver = receiver
        self.path = path
        self.webhook = db.create_webhook(receiver.url(path), events, **arguments)
        self.taken = 0

    def take(self, n, timeout=10):
        """The next n bodies, when it is sure that there are no more: sorted by event id, as they were emitted."""
        if n:
            self.receiver.wait(self.taken + n, self.path, timeout)
        self.db.settle(timeout)
        requests = self.receiver.to(self.path)[self.taken :]
        self.taken += len(requests)
        bodies = sorted((it.json for it in requests), key=lambda body: body["id"])
        assert len(bodies) == n, f"{len(bodies)} events instead of {n}: {bodies}"
        return bodies

    def take_one(self, event_type=None):
        (body,) = self.take(1)
        if event_type is not None:
            assert body["type"] == event_type, body
        return body
