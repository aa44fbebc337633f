"""Hostile input: whatever anybody hands to a function gets its SQLSTATE and its words, and nothing else happens."""

import re
from urllib.parse import quote

import psycopg
import pytest
from database import Database, Sink, everything_said
from hostile_rows import BY_FUNCTION, INNER_FUNCTIONS, PRIVATE, URL, deep
from receiver import Receiver

# What attach is tried on.
RELATIONS = """
    CREATE TABLE target (id int PRIMARY KEY, "odd'name\\" text, gone int, note text);
    ALTER TABLE target DROP COLUMN gone;
    CREATE VIEW a_view AS SELECT 1 AS id;
    CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
    CREATE SEQUENCE a_sequence;
    CREATE INDEX an_index ON target (note);
    CREATE TYPE a_type AS (id int);
    CREATE FOREIGN DATA WRAPPER a_wrapper;
    CREATE SERVER a_server FOREIGN DATA WRAPPER a_wrapper;
    CREATE FOREIGN TABLE a_foreign_table (id int) SERVER a_server;
    CREATE TEMPORARY TABLE temporary (id int)"""
# A message quotes the beginning of what was given; the log and the client are spared the rest.
LONGEST_MESSAGE = 2_000


class Victim:
    """A database with a webhook that works, one of another tenant's, and a delivery of each."""

    def __init__(self, cluster):
        self.receiver = Receiver()
        self.receiver.round_trip = False
        self.db = Database(cluster)
        self.db.execute(RELATIONS)
        self.webhook = self.db.create_webhook(self.receiver.url("/sound"))
        self.alice, self.mallory = self.db.as_owner("alice"), self.db.as_owner("mallory")
        # What is refused must be refused by the functions themselves.
        role = self.db.one("SELECT current_user", session=self.mallory)
        self.db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {role}")
        theirs = self.db.create_webhook(self.receiver.url("/theirs"), ["memory.created"], session=self.alice)
        waiting = self.db.create_webhook(URL, ["memory.created"], active=False)
        self.names = {
            "{hook}": self.victim(),
            "{theirs}": theirs["id"],
            "{their_delivery}": self.delivery(theirs),
            "{pending}": self.pending(waiting),
        }

    def victim(self):
        """What is changed and asked for; it gets nothing, so that what is sent is small."""
        return self.db.create_webhook(URL, ["memory.created"], active=False)["id"]

    def delivery(self, webhook):
        self.db.send_test(webhook)
        return self.db.the_delivery(webhook, "delivered")["id"]

    def pending(self, webhook):
        """A delivery that waits for its retry."""
        self.db.execute("UPDATE webhooks.webhook SET max_delay = 3600, backoff_multiplier = 10 WHERE NOT active")
        self.db.send_test(webhook)
        return self.db.the_delivery(webhook, "pending")["id"]

    def call(self, row):
        """What the row's call came to: SQLSTATE and what was said, or its result."""
        statement = row.call
        for name, value in self.names.items():
            statement = statement.replace(name, value)
        session = self.mallory if row.tenant else self.db.session
        if not row.args:
            statement = statement.replace("%", "%%")
        as_text = "::text" if row.state is None else ""
        try:
            result = session.execute(f"SELECT webhooks.{statement}{as_text}", row.args)
        except psycopg.Error as error:
            return error.sqlstate, everything_said(error), len(error.diag.message_primary)
        first = result.fetchone()
        return None, str(first[0]) if first else "no row", 0

    def is_well(self):
        """A webhook still gets what is sent to it."""
        before = len(self.receiver.to("/sound"))
        self.db.send_test(self.webhook)
        self.receiver.wait(before + 1, "/sound")
        assert self.db.one("SELECT set_aside FROM webhooks.status") == 0

    def close(self):
        self.db.drop()
        self.receiver.close()


@pytest.fixture(scope="module")
def victim(cluster):
    made = Victim(cluster)
    yield made
    made.close()


@pytest.mark.parametrize("function", BY_FUNCTION)
def test_hostile_calls_get_their_sqlstate_and_nothing_dies(victim, function):
    worker = victim.db.wait_for_worker()
    wrong = []
    for row in BY_FUNCTION[function]:
        state, said, length = victim.call(row)
        if state != row.state or not re.search(row.says, said, re.IGNORECASE) or length > LONGEST_MESSAGE:
            wrong.append(f"{row.call}  {str(row.args)[:100]}\n    {state}, not {row.state}: {said[:300]!r}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(BY_FUNCTION[function])}:", *wrong])
    victim.is_well()
    assert victim.db.one("SELECT pid FROM webhooks.status") == worker


def test_every_function_has_its_rows(victim):
    there = victim.db.rows("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'webhooks'::regnamespace")
    unheard = {it["proname"] for it in there} - set(BY_FUNCTION) - INNER_FUNCTIONS
    assert not unheard, "functions without hostile calls"
    assert sum(map(len, BY_FUNCTION.values())) >= 200


def test_what_was_refused_changed_nothing(victim):
    before = victim.db.get_webhook({"id": victim.names["{hook}"]})
    for row in BY_FUNCTION["update_webhook"]:
        if row.state is not None:
            victim.call(row)
    assert victim.db.get_webhook({"id": victim.names["{hook}"]}) == before


def test_a_url_that_grows_when_it_is_encoded_is_sent(db, receiver):
    path = "/" + "🎉" * 2_000
    webhook = db.create_webhook(receiver.url(path))
    db.send_test(webhook)
    (request,) = receiver.wait(1)
    assert request.target == quote(path)


def test_a_key_that_parsers_keep_for_themselves_hides_no_row_from_a_filter(db, receiver):
    db.memories()
    sink = Sink(db, receiver, filters={"content": "wanted"})
    for value in ('"no number"', "{}", "7", '"7"'):
        metadata = f'{{"{PRIVATE}": {value}}}'
        db.execute("INSERT INTO memories (content, metadata) VALUES ('wanted', %s), ('other', %s)", metadata, metadata)
        body = sink.take_one("memory.created")
        assert list(body["data"]["metadata"]) == [PRIVATE]


@pytest.mark.parametrize("levels", [101, 129, 1_000, 10_000])
@pytest.mark.parametrize("column", ["json", "jsonb", "json[]", "jsonb[]", "pair", "pair[]"])
def test_deep_json_in_a_row_is_sent_truncated_and_the_writer_does_not_notice(deep_rows, column, levels):
    db, sink = deep_rows
    before = db.one("SELECT truncated_total FROM webhooks.status")
    name = column.replace("[]", "s")
    value = {
        "pair": "ROW(%s)::pair",
        "pair[]": "ARRAY[ROW(%s)::pair]",
        "json[]": "ARRAY[%s::json]",
        "jsonb[]": "ARRAY[%s::jsonb]",
    }
    value = value.get(column, "%s")
    db.execute(f"INSERT INTO deep (id, kind, {name}) VALUES (7, 'wanted', {value})", deep(levels))
    assert sink.take_one("deep.created")["data"] == {"object": "deep", "id": "7", "truncated": True}
    db.execute(f"UPDATE deep SET {name} = NULL")
    assert sink.take_one("deep.updated")["data"] == {"object": "deep", "id": "7", "truncated": True}
    db.execute("DELETE FROM deep")
    assert sink.take_one("deep.deleted")["data"]["id"] == "7"
    assert db.one("SELECT truncated_total FROM webhooks.status") == before + 2


@pytest.fixture(scope="module")
def deep_rows(cluster):
    db, receiver = Database(cluster), Receiver()
    db.execute("CREATE TYPE pair AS (a jsonb)")
    db.execute(
        "CREATE TABLE deep (id int, kind text, json json, jsonb jsonb, jsons json[], jsonbs jsonb[], pair pair, pairs pair[])"
    )
    db.attach("deep", object="deep")
    # The filter judges what is left of the row.
    yield db, Sink(db, receiver, events=["deep.*"], filters={"kind": "wanted"})
    db.drop()
    receiver.close()


@pytest.mark.parametrize("levels", [101, 129, 1_000, 10_000])
def test_deep_json_is_emitted_truncated_and_counted(db, receiver, levels):
    sink = Sink(db, receiver, path=f"/deep{levels}", events=["user.activity", "search.performed"])
    before = db.one("SELECT truncated_total FROM webhooks.status")
    filtered = Sink(
        db, receiver, path=f"/filtered{levels}", events=["user.activity"], filters={"kind": "wanted"}
    )
    data = f'{{"object": "note", "id": {levels}, "kind": "wanted", "more": {deep(levels)}}}'
    db.one("SELECT webhooks.emit('user.activity', %s)", data)
    expected = {"object": "note", "id": str(levels), "truncated": True}
    assert sink.take_one("user.activity")["data"] == expected
    assert filtered.take_one("user.activity")["data"] == expected
    db.one("SELECT webhooks.user_activity('me', 'login', %s)", deep(levels))
    assert sink.take_one("user.activity")["data"] == {"object": "activity", "id": "", "truncated": True}
    assert db.one("SELECT truncated_total FROM webhooks.status") == before + 2
    # Of results only a summary is sent, which needs nothing of what is deep in them.
    results = f'[{{"id": "a", "score": 0.5, "more": {deep(levels)}}}, {{"id": 7}}]'
    db.one("SELECT webhooks.search_performed('q', %s)", results)
    assert sink.take_one("search.performed")["data"]["results"] == {"count": 2, "ids": ["a", "7"], "scores": [0.5]}
