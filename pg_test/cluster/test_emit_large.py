"""Large values of any type cost the writer no more than an empty trigger with the same transition tables.

Memory is the most that a fresh backend ever had (VmHWM), beside the same statement on a table with empty
triggers. The server has few shared buffers, so that the memory of a backend is its own.
"""

import re
import subprocess
from pathlib import Path

import pytest
from database import Database, Sink
from releases import scripts_directory
from server import PRELOADED, Server, pg_config

SETTINGS = {**PRELOADED, "shared_buffers": "2MB", "fsync": "off", "max_wal_size": "4GB"}
# What a statement on an attached table may take beside the one on the other table, in MB.
ALLOWED_MB = 8
TRUNCATED = {"object": "memory", "id": "1", "truncated": True}

TYPES = """
    CREATE TYPE pair AS (number int, words text);
    CREATE TYPE numbers AS (few numeric[]);
    CREATE DOMAIN prose AS text CHECK (length(value) > 0);
    CREATE DOMAIN series AS int[]"""
# A type, and an expression of 20 to 60 MB.
KINDS = {
    "bytea": ("bytea", "convert_to(repeat('x', 40000000), 'UTF8')"),
    "text": ("text", "repeat('x', 40000000)"),
    "text of random letters": (
        "text",
        "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 700000) n)",
    ),
    "text with accents": ("text", "repeat('é', 20000000)"),
    "varchar": ("varchar", "repeat('x', 40000000)"),
    "jsonb, a string": ("jsonb", "jsonb_build_object('a', repeat('x', 40000000))"),
    "jsonb, many numbers": ("jsonb", "(SELECT jsonb_agg(n) FROM generate_series(1, 2000000) n)"),
    "jsonb, many keys": (
        "jsonb",
        "(SELECT jsonb_object_agg('key ' || n, 'v') FROM generate_series(1, 1000000) n)",
    ),
    "json": ("json", "json_build_object('a', repeat('x', 40000000))"),
    "int[]": ("int[]", "array_fill(7, ARRAY[10000000])"),
    "int[] of two dimensions": ("int[]", "array_fill(7, ARRAY[1000, 10000])"),
    "text[], a few": ("text[]", "ARRAY[repeat('x', 20000000), repeat('y', 20000000)]"),
    "text[], many": ("text[]", "array_fill('abc'::text, ARRAY[3000000])"),
    "numeric[]": ("numeric[]", "array_fill(1.5::numeric, ARRAY[3000000])"),
    "timestamptz[]": ("timestamptz[]", "array_fill('2024-01-15 10:30Z'::timestamptz, ARRAY[3000000])"),
    "composite": ("pair", "ROW(1, repeat('x', 40000000))::pair"),
    "array of composites": ("pair[]", "array_fill(ROW(1, 'abc')::pair, ARRAY[700000])"),
    "domain over text": ("prose", "repeat('x', 40000000)::prose"),
    "domain over int[]": ("series", "array_fill(7, ARRAY[10000000])::series"),
    "bit varying": ("bit varying", "repeat('10', 80000000)::bit varying"),
    # As large as the type allows.
    "tsvector": (
        "tsvector",
        "array_to_tsvector(ARRAY(SELECT (1000000 + n)::text FROM generate_series(1, 140000) n))",
    ),
}


def _server_has(option):
    told = subprocess.run([pg_config(), "--configure"], check=True, capture_output=True, text=True)
    return option in told.stdout


if _server_has("--with-libxml"):
    KINDS["xml"] = ("xml", "xmlelement(name a, repeat('x', 40000000))")
HAS_HSTORE = (scripts_directory() / "hstore.control").exists()
if HAS_HSTORE:
    KINDS["hstore"] = ("hstore", "hstore('a', repeat('x', 40000000))")

# Small values whose text is far longer than any payload: some kilobytes, and 60 million characters.
EXPANDING = {
    "numeric[]": ("numeric[]", "array_fill('1e131071'::numeric, ARRAY[460])"),
    "jsonb": ("jsonb", "(SELECT jsonb_agg('1e131071'::numeric) FROM generate_series(1, 460))"),
    "composite": ("numbers", "ROW(array_fill('1e131071'::numeric, ARRAY[460]))::numbers"),
}

COLUMNS = "(id int PRIMARY KEY, note text, v {})"
TABLES = {
    "ordinary": "CREATE TABLE {0} {1}",
    "partitioned": """
        CREATE TABLE {0} {1} PARTITION BY RANGE (id);
        CREATE TABLE {0}_1 PARTITION OF {0} FOR VALUES FROM (0) TO (100)""",
}
# Of the largest values.
MEGABYTES = 40

EMPTY_TRIGGERS = {
    "INSERT": "NEW TABLE AS added",
    "UPDATE": "OLD TABLE AS removed NEW TABLE AS added",
    "DELETE": "OLD TABLE AS removed",
}


@pytest.fixture(scope="module")
def server():
    made = Server(SETTINGS)
    try:
        yield made.start()
        assert made.alarms() == []
    finally:
        made.remove()


@pytest.fixture(scope="module")
def lasting_db(server):
    """The database of all tests of this file. Large values are made once, and stored."""
    db = Database(server)
    db.execute(TYPES)
    if HAS_HSTORE:
        db.execute("CREATE EXTENSION hstore")
    db.execute("""
        CREATE FUNCTION do_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$""")
    db.stored = {}
    yield db
    db.drop()


class Large:
    """A table memories, attached, with a column v of some type; and a table plain of the same kind with empty
    triggers. The sink gets all events, and a webhook with a filter those of rows whose note is "a".
    """

    def __init__(self, db, sink):
        self.db = db
        self.sink = sink
        self.webhooks = [sink.webhook, db.create_webhook(sink.receiver.url("/a"), filters={"note": "a"})]

    def make(self, kind, type_name, columns=COLUMNS, **attach):
        for table in ("memories", "plain"):
            self.db.execute(TABLES[kind].format(table, columns.format(type_name)))
        self.db.attach("memories", **attach)
        for operation, tables in EMPTY_TRIGGERS.items():
            level = "FOR EACH ROW" if kind == "partitioned" else f"REFERENCING {tables} FOR EACH STATEMENT"
            self.db.execute(f"""
                CREATE TRIGGER nothing_{operation} AFTER {operation} ON plain {level}
                    EXECUTE FUNCTION do_nothing()""")

    def stored(self, type_name, expression):
        """A table with one row and one column, v, that has the value of an expression. Made once."""
        stored = self.db.stored
        if expression not in stored:
            stored[expression] = f"stored_{len(stored)}"
            self.db.execute(f"CREATE TABLE {stored[expression]} AS SELECT ({expression})::{type_name} AS v")
        return stored[expression]

    def peak(self, statement):
        """MB that a fresh backend has taken at most when it has run a statement."""
        with self.db.connect() as session:
            session.execute(statement)
            status = Path(f"/proc/{session.info.backend_pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def assert_costs_nothing(self, statement, more=0):
        """Runs a statement, in which {} is the table, on both tables."""
        without = self.peak(statement.format("plain"))
        taken = self.peak(statement.format("memories"))
        assert taken < without + ALLOWED_MB + more, (
            f"{statement}: {taken:.0f} MB, and {without:.0f} MB without webhooks"
        )

    def data(self, event_type):
        return self.sink.take_one(event_type)["data"]

    def assert_stored_events_are_small(self):
        """What is stored of an event to judge filters by is small too."""
        query = "SELECT max(length(data) + coalesce(length(subject), 0)) FROM webhooks.event"
        assert self.db.one(query) < 3 << 20

    def clear(self):
        for webhook in self.webhooks:
            self.db.delete_webhook(webhook)
        self.db.execute("DROP TABLE IF EXISTS memories, plain; DELETE FROM webhooks.event")


@pytest.fixture
def large(lasting_db, receiver):
    made = Large(lasting_db, Sink(lasting_db, receiver))
    yield made
    made.clear()


# Memory, and what arrives


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_value_costs_the_writer_nothing_and_its_row_is_sent_as_object_and_id(large, kind, table_kind):
    type_name, expression = KINDS[kind]
    stored = large.stored(type_name, expression)
    large.make(table_kind, type_name)
    large.assert_costs_nothing(f"INSERT INTO {{}} SELECT 1, 'a', v FROM {stored}")
    assert large.data("memory.created") == TRUNCATED
    large.assert_costs_nothing("UPDATE {} SET note = 'b'")
    assert large.data("memory.updated") == TRUNCATED
    large.assert_costs_nothing("UPDATE {} SET v = v, note = note")
    large.sink.take(0)
    large.assert_costs_nothing("DELETE FROM {}")
    data = large.data("memory.deleted")
    assert set(data) - {"metadata", "truncated"} == {"object", "id", "deleted_at"} and data["id"] == "1"
    assert len(large.sink.receiver.to("/a")) == 1, "the insert: its note is a"
    large.assert_stored_events_are_small()


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("kind", ["bytea", "text", "jsonb, a string", "composite", "text[], a few"])
def test_a_large_value_that_the_statement_itself_makes_costs_the_writer_nothing(large, kind, table_kind):
    type_name, expression = KINDS[kind]
    large.make(table_kind, type_name)
    # PostgreSQL 18 still holds the value that the statement has made while its triggers run, so whoever reads the row back
    # from a transition table on disk holds it a second time.
    held = table_kind == "ordinary" and large.db.session.info.server_version >= 180000
    large.assert_costs_nothing(
        f"INSERT INTO {{}} VALUES (1, 'a', {expression})", more=MEGABYTES if held else 0
    )
    assert large.data("memory.created") == TRUNCATED


OTHER = {
    "bytea": "convert_to(repeat('x', 39999999) || 'y', 'UTF8')",
    "text": "repeat('x', 39999999) || 'y'",
    "jsonb, a string": "jsonb_build_object('a', repeat('x', 39999999) || 'y')",
    "int[]": "array_fill(7, ARRAY[9999999]) || 8",
    "composite": "ROW(1, repeat('x', 39999999) || 'y')::pair",
}


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("kind", OTHER)
def test_a_large_value_that_changes_costs_the_writer_nothing(large, kind, table_kind):
    type_name, expression = KINDS[kind]
    stored, other = large.stored(type_name, expression), large.stored(type_name, OTHER[kind])
    large.make(table_kind, type_name)
    for table in ("memories", "plain"):
        large.db.execute(f"INSERT INTO {table} VALUES (1, 'a', NULL)")
    large.data("memory.created")
    # From nothing, in its last byte, and to nothing.
    large.assert_costs_nothing(f"UPDATE {{}} SET v = (SELECT v FROM {stored})")
    assert large.data("memory.updated") == TRUNCATED
    large.assert_costs_nothing(f"UPDATE {{}} SET v = (SELECT v FROM {other})")
    assert large.data("memory.updated") == TRUNCATED
    large.assert_costs_nothing("UPDATE {} SET v = NULL")
    assert large.data("memory.updated") == {
        "object": "memory",
        "id": "1",
        "note": "a",
        "v": None,
        "truncated": True,
    }, "the row as it is now; its changes have no room"


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("kind", EXPANDING)
def test_a_small_value_whose_text_is_large_costs_the_writer_nothing(large, kind, table_kind):
    type_name, expression = EXPANDING[kind]
    stored = large.stored(type_name, expression)
    large.make(table_kind, type_name)
    large.assert_costs_nothing(f"INSERT INTO {{}} SELECT 1, 'a', v FROM {stored}")
    assert large.data("memory.created") == TRUNCATED
    large.assert_costs_nothing("UPDATE {} SET note = 'b'")
    assert large.data("memory.updated") == TRUNCATED
    large.assert_costs_nothing("DELETE FROM {}")
    large.data("memory.deleted")
    large.assert_stored_events_are_small()


@pytest.mark.parametrize("table_kind", TABLES)
def test_many_rows_with_large_values_cost_no_more_than_one(large, table_kind):
    large.make(table_kind, "text")
    for table in ("memories", "plain"):
        large.db.execute(
            f"INSERT INTO {table} SELECT n, 'a', repeat('x', 4000000) FROM generate_series(1, 30) n"
        )
    large.sink.take(30)
    large.assert_costs_nothing("UPDATE {} SET note = 'b'")
    assert [body["data"]["truncated"] for body in large.sink.take(30)] == [True] * 30
    large.assert_costs_nothing("DELETE FROM {}")
    large.sink.take(30)


def test_several_large_values_of_a_row_cost_the_writer_nothing(large):
    columns = "(id int PRIMARY KEY, note text, v {0}, w {0}, x {0}, content {0})"
    large.make("ordinary", "text", columns)
    for table in ("memories", "plain"):
        large.db.execute(
            f"INSERT INTO {table} SELECT 1, 'a', r, r, r, r FROM (SELECT repeat('x', 20000000) AS r) s"
        )
    large.data("memory.created")
    large.assert_costs_nothing("UPDATE {} SET note = 'b'")
    assert large.data("memory.updated") == TRUNCATED
    large.assert_costs_nothing("DELETE FROM {}")
    large.data("memory.deleted")


# What is left out first

# Expressions of 3 MB, which no payload has room for.
SMALLER = {
    "bytea": ("bytea", "convert_to(repeat('x', 3000000), 'UTF8')"),
    "text": ("text", "repeat('x', 3000000)"),
    "jsonb": ("jsonb", "jsonb_build_object('a', repeat('x', 3000000))"),
    "json": ("json", "json_build_object('a', repeat('x', 3000000))"),
    "int[]": ("int[]", "array_fill(7, ARRAY[750000])"),
    "text[]": ("text[]", "ARRAY[repeat('x', 3000000)]"),
    "composite": ("pair", "ROW(1, repeat('x', 3000000))::pair"),
    "domain": ("prose", "repeat('x', 3000000)::prose"),
    "bit varying": ("bit varying", "repeat('10', 12000000)::bit varying"),
    "numeric[]": ("numeric[]", "array_fill(1.5::numeric, ARRAY[400000])"),
}
WITH_CONTENT = "(id int PRIMARY KEY, note text, content {}, metadata jsonb)"


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("kind", SMALLER)
def test_content_that_is_too_large_is_left_out_and_the_rest_is_sent(large, kind, table_kind):
    type_name, expression = SMALLER[kind]
    large.make(table_kind, type_name, WITH_CONTENT)
    large.db.execute(f"""INSERT INTO memories VALUES (1, 'a', {expression}, '{{"k": "v"}}')""")
    rest = {"object": "memory", "id": "1", "note": "a", "metadata": {"k": "v"}}
    assert large.data("memory.created") == {**rest, "truncated": True}
    large.db.execute("UPDATE memories SET note = 'b'")
    changes = {"note": {"from": "a", "to": "b"}}
    assert large.data("memory.updated") == {**rest, "note": "b", "changes": changes, "truncated": True}
    large.db.execute("UPDATE memories SET content = NULL")
    # The content that there was has no room in changes, and the content that there is goes before them.
    assert large.data("memory.updated") == {**rest, "note": "b", "truncated": True}
    large.db.execute(f"UPDATE memories SET note = 'c', content = {expression}")
    assert large.data("memory.updated") == {**rest, "note": "c", "truncated": True}
    large.db.execute("DELETE FROM memories")
    data = large.data("memory.deleted")
    assert data == {
        **{key: rest[key] for key in ("object", "id", "metadata")},
        "deleted_at": data["deleted_at"],
    }


def test_large_metadata_leaves_object_and_id_of_a_deletion_too(large):
    large.make("ordinary", "jsonb", "(id int PRIMARY KEY, note text, metadata {})")
    large.db.execute("INSERT INTO memories SELECT 1, 'a', jsonb_build_object('a', repeat('x', 3000000))")
    assert large.data("memory.created") == TRUNCATED
    large.db.execute("DELETE FROM memories")
    data = large.data("memory.deleted")
    assert data["truncated"] is True and {"object", "id"} <= set(data) and "metadata" not in data


def test_a_value_that_just_has_room_is_sent_whole_and_compared(large):
    """The limit is the payload's: 1 MB."""
    large.make("ordinary", "text")
    large.db.execute("INSERT INTO memories VALUES (1, 'a', repeat('x', 500000))")
    assert len(large.data("memory.created")["v"]) == 500_000
    large.db.execute("UPDATE memories SET v = repeat('x', 499999) || 'y'")
    data = large.data("memory.updated")
    assert data["truncated"] is True and "v" in data and "changes" not in data, (
        "each fits, both together do not"
    )
    large.db.execute("UPDATE memories SET v = v || ''")
    large.sink.take(0)


# Filters and owners beside large values


def test_filters_judge_what_stands_beside_a_large_value_and_never_the_value(large):
    large.make("ordinary", "jsonb", "(id int PRIMARY KEY, note text, metadata {})", owner_column="note")
    filters = {
        "/note": {"note": "a"},
        "/both": {"note": "a", "id": "1"},
        "/not": {"note": "z"},
        "/inside": {"metadata.category": "seen"},
    }
    for path, asked in filters.items():
        large.webhooks.append(large.db.create_webhook(large.sink.receiver.url(path), filters=asked))
    for owner in ("a", "z"):
        url = large.sink.receiver.url(f"/owner/{owner}")
        large.webhooks.append(large.db.create_webhook(url, owner=owner))
    large.db.execute("""
        INSERT INTO memories
        SELECT 1, 'a', jsonb_build_object('category', 'seen', 'a', repeat('x', 30000000));
        INSERT INTO memories SELECT * FROM memories WHERE false""")
    with large.db.connect() as session:
        session.execute("DELETE FROM memories")
        status = Path(f"/proc/{session.info.backend_pid}/status").read_text()
    assert [body["type"] for body in large.sink.take(2)] == ["memory.created", "memory.deleted"]
    arrived = {path: len(large.sink.receiver.to(path)) for path in [*filters, "/owner/a", "/owner/z"]}
    assert arrived == {"/note": 2, "/both": 2, "/not": 0, "/inside": 0, "/owner/a": 2, "/owner/z": 0}
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024 < 30, "less than the value alone"
    large.assert_stored_events_are_small()


def test_an_excluded_or_ignored_large_column_costs_nothing_and_the_rest_is_sent_whole(large):
    large.make("ordinary", "text", exclude_columns=["v"])
    stored = large.stored("text", KINDS["text"][1])
    large.assert_costs_nothing(f"INSERT INTO {{}} SELECT 1, 'a', v FROM {stored}")
    assert large.data("memory.created") == {"object": "memory", "id": "1", "note": "a"}
    large.assert_costs_nothing("UPDATE {} SET note = 'b'")
    assert large.data("memory.updated")["changes"] == {"note": {"from": "a", "to": "b"}}
    large.assert_costs_nothing("UPDATE {} SET v = v || 'y'")
    large.sink.take(0)
    large.assert_costs_nothing("DELETE FROM {}")
    large.data("memory.deleted")


def test_nothing_is_paid_for_a_large_value_that_no_webhook_wants(large):
    for webhook in large.webhooks:
        large.db.update_webhook(webhook, active=False)
    large.make("ordinary", "text")
    stored = large.stored("text", KINDS["text"][1])
    for statement in (
        f"INSERT INTO {{}} SELECT 1, 'a', v FROM {stored}",
        "UPDATE {} SET note = 'b'",
        "DELETE FROM {}",
    ):
        large.assert_costs_nothing(statement)
