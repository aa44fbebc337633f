"""Partitions, inheritance, and tables that attach() has something to say about.

What is refused comes with a hint that names the call that works. What is allowed but doubtful gives a NOTICE.
"""

import re

import psycopg
import pytest
from database import hint_of
from earlier_release import attach_as_0_2

PARTITIONED = """
    CREATE TABLE memories (id int, content text) PARTITION BY RANGE (id);
    CREATE TABLE memories_1 PARTITION OF memories FOR VALUES FROM (0) TO (100);
    CREATE TABLE memories_2 PARTITION OF memories FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
    CREATE TABLE memories_2a PARTITION OF memories_2 FOR VALUES FROM (100) TO (150)"""
INHERITED = """
    CREATE TABLE memories (id int, content text);
    CREATE TABLE memories_today () INHERITS (memories)"""
# Errors of PostgreSQL's that say nothing about attach().
DUPLICATE, DEPENDENT = "42710", "2BP01"


def refused(db, statement, *hints):
    """Asserts that a statement fails with an error of ours, whose hint holds these texts."""
    error = db.fails(statement, state="")
    assert error.sqlstate not in (DUPLICATE, DEPENDENT) and not error.sqlstate.startswith("XX"), error
    for text in hints:
        assert text in hint_of(error), f"{text!r} is not in the hint: {hint_of(error)}"
    return error


# Partitions


@pytest.mark.parametrize("table", ["memories_1", "memories_2", "memories_2a"])
def test_attach_refuses_a_partition_of_any_level_and_names_the_call_for_its_root(db, table):
    db.execute(PARTITIONED)
    error = refused(db, f"SELECT webhooks.attach('{table}')", "webhooks.attach('memories'")
    assert error.sqlstate == "42809" and table in str(error)
    assert db.rows("SELECT * FROM webhooks.attached") == []


def test_the_hint_for_a_partition_names_its_root_as_it_must_be_written(db):
    db.execute("""
        CREATE SCHEMA app;
        CREATE TABLE app."My Memories" (id int) PARTITION BY RANGE (id);
        CREATE TABLE app.part PARTITION OF app."My Memories" FOR VALUES FROM (0) TO (100)""")
    error = refused(db, "SELECT webhooks.attach('app.part')", """'app."My Memories"'""")
    (call,) = re.findall(r"SELECT webhooks\.attach\('[^']*'[^)]*\)", hint_of(error))
    db.execute(call)
    assert db.one("SELECT table_name::text FROM webhooks.attached") == 'app."My Memories"'


def test_a_partitioned_root_is_attached_with_all_its_levels(db, sink):
    db.execute(PARTITIONED)
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    db.execute("INSERT INTO memories_2 VALUES (102, 'c')")
    db.execute("INSERT INTO memories_2a VALUES (103, 'd')")
    assert sorted(body["data"]["id"] for body in sink.take(4)) == ["1", "101", "102", "103"]


@pytest.mark.parametrize("table", ["memories_1", "memories_2a"])
def test_attach_of_a_root_whose_partition_has_triggers_of_its_own_says_what_to_detach(db, sink, table):
    db.execute(PARTITIONED)
    attach_as_0_2(db, table)
    refused(db, "SELECT webhooks.attach('memories')", f"webhooks.detach('{table}')")
    db.execute(f"SELECT webhooks.detach('{table}')")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    sink.take(2)


@pytest.mark.parametrize("table", ["memories_1", "memories_2", "memories_2a"])
def test_detach_of_a_partition_that_is_attached_through_its_root_names_the_call_for_the_root(db, sink, table):
    db.execute(PARTITIONED)
    db.attach("memories")
    refused(db, f"SELECT webhooks.detach('{table}')", "webhooks.detach('memories')")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    sink.take(2)
    db.execute("SELECT webhooks.detach('memories')")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    sink.take(0)


def test_detach_of_a_partition_of_a_root_that_is_not_attached_does_nothing(db):
    db.execute(PARTITIONED)
    db.execute("SELECT webhooks.detach('memories_1')")


@pytest.mark.parametrize("how", ["attached", "attached by 0.2"])
def test_a_table_with_triggers_of_its_own_is_no_partition_of_an_attached_root_until_it_is_detached(
    db, sink, how
):
    db.execute(PARTITIONED)
    db.attach("memories")
    db.execute("CREATE TABLE memories_3 (id int, content text)")
    if how == "attached":
        db.attach("memories_3")
    else:
        attach_as_0_2(db, "memories_3")
    attach_partition = "ALTER TABLE memories ATTACH PARTITION memories_3 FOR VALUES FROM (300) TO (400)"
    refused(db, attach_partition, "webhooks.detach('memories_3')")
    db.execute("SELECT webhooks.detach('memories_3')")
    db.execute(attach_partition)
    db.execute("INSERT INTO memories VALUES (300, 'a')")
    db.execute("INSERT INTO memories_3 VALUES (301, 'b')")
    sink.take(2)


def test_a_partition_that_was_detached_from_its_root_can_be_attached_alone(db, sink):
    db.execute(PARTITIONED)
    db.attach("memories")
    db.execute("ALTER TABLE memories DETACH PARTITION memories_1")
    db.attach("memories_1")
    db.execute("INSERT INTO memories_1 VALUES (1, 'a')")
    sink.take(1)


# Inheritance


@pytest.mark.parametrize("table", ["memories", "memories_today"])
def test_attach_refuses_inheritance_children_and_parents_with_a_hint(db, table):
    db.execute(INHERITED)
    error = refused(db, f"SELECT webhooks.attach('{table}')")
    assert error.sqlstate == "42809" and table in str(error) and "inherit" in str(error).lower()
    assert db.rows("SELECT * FROM webhooks.attached") == []


def test_a_table_that_no_longer_inherits_can_be_attached(db, sink):
    db.execute(INHERITED)
    db.execute("ALTER TABLE memories_today NO INHERIT memories")
    db.attach("memories_today")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a'); INSERT INTO memories_today VALUES (2, 'b')")
    sink.take(2)


def test_detach_of_an_inheritance_child_or_parent_of_0_2_works(db, sink):
    db.execute(INHERITED)
    for table in ("memories", "memories_today"):
        attach_as_0_2(db, table)
        db.execute(f"SELECT webhooks.detach('{table}')")
    db.execute("INSERT INTO memories VALUES (1, 'a'); INSERT INTO memories_today VALUES (2, 'b')")
    sink.take(0)


# Such tables that 0.2 attached


def warnings_about(db, since, table):
    lines = db.server.log(since).splitlines()
    # A trigger on a middle level fires on its leaves, memories_2a for memories_2.
    return [line for line in lines if "WARNING:" in line and re.search(rf"\b{table}a?\b", line)]


@pytest.mark.parametrize(
    ("definition", "table", "key"),
    [
        (PARTITIONED, "memories_1", 1),
        (PARTITIONED, "memories_2", 101),
        (PARTITIONED, "memories_2a", 101),
        (INHERITED, "memories_today", 1),
        (INHERITED, "memories", 1),
    ],
    ids=["leaf", "middle level", "leaf of the middle level", "child", "parent"],
)
def test_a_table_attached_by_0_2_goes_on_with_one_warning_in_the_log_for_each_session(
    db, sink, definition, table, key
):
    db.execute(definition)
    attach_as_0_2(db, table)
    since = db.server.log_size()
    for number in range(1, 3):
        session = db.connect()
        db.execute(f"INSERT INTO {table} VALUES ({key}, 'a')", session=session)
        db.execute(f"UPDATE {table} SET content = 'b'", session=session)
        db.execute(f"DELETE FROM {table}", session=session)
        types = [body["type"] for body in sink.take(3)]
        assert types == ["memory.created", "memory.updated", "memory.deleted"]
        assert len(warnings_about(db, since, table)) == number, db.server.log(since)


def test_rows_of_children_are_seen_through_a_parent_attached_by_0_2_as_they_were(db, sink):
    db.execute(INHERITED)
    db.execute("ALTER TABLE memories_today ADD more text")
    attach_as_0_2(db, "memories")
    db.execute("INSERT INTO memories_today VALUES (1, 'a', 'x')")
    sink.take(0)
    db.execute("UPDATE memories SET content = 'b'")
    data = sink.take_one("memory.updated")["data"]
    assert data == {
        "object": "memory",
        "id": "1",
        "content": "b",
        "changes": {"content": {"from": "a", "to": "b"}},
    }


def test_a_root_and_a_middle_level_are_not_attached_both(db, sink):
    """As 0.2 could leave it: the middle level first, then its root, refused by PostgreSQL itself."""
    db.execute(PARTITIONED)
    attach_as_0_2(db, "memories_2")
    refused(db, "SELECT webhooks.attach('memories')", "webhooks.detach('memories_2')")


BECOMES = {
    "a partition": """
        CREATE TABLE root (id int, content text) PARTITION BY RANGE (id);
        ALTER TABLE root ATTACH PARTITION memories FOR VALUES FROM (0) TO (100)""",
    "a child": "CREATE TABLE parent (id int, content text); ALTER TABLE memories INHERIT parent",
    "a parent": "CREATE TABLE child () INHERITS (memories)",
}


@pytest.mark.parametrize("what", BECOMES)
def test_an_attached_table_that_becomes_one_that_attach_refuses_is_told_of(db, sink, what):
    """Either the statement is refused with a hint, or the log warns of rows that are not seen."""
    db.execute("CREATE TABLE memories (id int, content text)")
    db.attach("memories")
    since = db.server.log_size()
    try:
        db.execute(BECOMES[what])
    except psycopg.Error as error:
        assert hint_of(error), error
    else:
        with db.connect() as session:
            session.execute("INSERT INTO memories VALUES (1, 'a')")
        sink.take_one("memory.created")
        assert len(warnings_about(db, since, "memories")) >= 1, db.server.log(since)


# NOTICEs


class Notices:
    """Severity and text of all that a session is told beside the results of its statements."""

    def __init__(self, db):
        self.db = db
        self.said = []
        db.session.add_notice_handler(self._hear)

    def _hear(self, told):
        # What it holds is gone when this returns.
        texts = (told.message_primary, told.message_detail, told.message_hint)
        self.said.append((told.severity, " ".join(filter(None, texts))))

    def of_attach(self, table, **arguments):
        """Texts of the NOTICEs of one call of attach(), which is told nothing worse."""
        self.said.clear()
        self.db.attach(table, **arguments)
        assert {severity for severity, _ in self.said} <= {"NOTICE"}
        return [text for _, text in self.said]


@pytest.fixture
def notices(db):
    return Notices(db)


def test_attach_of_a_table_whose_name_does_not_suggest_its_object_names_the_call_that_would(db, notices):
    db.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    (notice,) = notices.of_attach("orders")
    assert "SELECT webhooks.attach('orders', object => 'order')" in notice
    # It has been attached all the same.
    assert db.one("SELECT object FROM webhooks.attached") == "memory"


@pytest.mark.parametrize(
    ("table", "arguments"),
    [
        ("memories", {}),
        ("memory", {}),
        ("memory_entries", {}),
        ("memories", {"object": "memory"}),
        ("orders", {"object": "order"}),
        ("notes", {"object": "note"}),
        ("categories", {"object": "category"}),
    ],
)
def test_attach_of_a_table_whose_name_suggests_its_object_says_nothing(db, notices, table, arguments):
    db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, content text)")
    assert notices.of_attach(table, **arguments) == []


@pytest.mark.parametrize(
    "table",
    [
        "orders",
        "categories",
        "boxes",
        "news",
        "x",
        '"Orders"',
        '"order\'s"',
        "app.orders",
        '"My Orders"',
    ],
)
def test_the_call_that_a_notice_names_can_be_run_and_is_content(db, notices, table):
    db.execute(f"CREATE SCHEMA app; CREATE TABLE {table} (id int PRIMARY KEY)")
    (notice,) = notices.of_attach(table)
    (call,) = re.findall(r"SELECT webhooks\.attach\('(?:[^']|'')*', object => '[a-z0-9_]+'\)", notice)
    notices.said.clear()
    db.execute(call)
    assert notices.said == []
    assert db.one("SELECT object FROM webhooks.attached") != "memory"


def test_the_call_that_a_notice_names_keeps_the_other_arguments_or_says_that_they_follow(db, notices):
    """Whoever pastes it must not lose the exclusion of a column without being told."""
    db.execute("CREATE TABLE orders (id int PRIMARY KEY, password text)")
    (notice,) = notices.of_attach("orders", exclude_columns=["password"])
    assert "object => 'order'" in notice
    assert "exclude_columns" in notice or "argument" in notice or "…" in notice or "..." in notice, notice


@pytest.mark.parametrize(
    ("definition", "arguments", "word"),
    [
        ("key int PRIMARY KEY, id int", {"id_column": "key"}, "id"),
        ("id int PRIMARY KEY, changes int", {}, "changes"),
        ("id int PRIMARY KEY, object text", {}, "object"),
    ],
)
def test_a_column_that_a_key_of_ours_hides_is_told_in_a_notice(db, notices, definition, arguments, word):
    db.execute(f"CREATE TABLE memories ({definition})")
    (notice,) = notices.of_attach("memories", **arguments)
    assert re.search(rf"\"{word}\"", notice), notice


def test_a_hidden_column_that_is_excluded_is_not_told(db, notices):
    db.execute("CREATE TABLE memories (key int PRIMARY KEY, id int, changes int)")
    assert notices.of_attach("memories", id_column="key", exclude_columns=["id", "changes"]) == []


def test_a_table_without_a_primary_key_is_told_in_a_notice(db, notices):
    db.execute("CREATE TABLE memories (id int, content text)")
    (notice,) = notices.of_attach("memories")
    assert "primary key" in notice.lower()


@pytest.mark.parametrize(
    "definition", ["id int PRIMARY KEY, content text", "id int, content text, PRIMARY KEY (id)"]
)
def test_a_table_as_it_should_be_is_attached_without_a_word(db, notices, definition):
    db.execute(f"CREATE TABLE memories ({definition})")
    assert notices.of_attach("memories") == []
    assert notices.of_attach("memories", exclude_columns=["content"]) == []


# Columns that cannot have the role


@pytest.mark.parametrize(
    "definition", ["id int, gone timestamptz NOT NULL DEFAULT now()", "id int, gone timestamptz PRIMARY KEY"]
)
def test_a_soft_delete_column_that_is_never_null_is_refused(db, definition):
    """Each of its rows would be deleted from the start."""
    db.execute(f"CREATE TABLE memories ({definition})")
    error = db.fails(
        "SELECT webhooks.attach('memories', soft_delete_column => 'gone')", state="", says="gone"
    )
    assert error.sqlstate[:2] in ("22", "42"), error.sqlstate
    assert db.rows("SELECT * FROM webhooks.attached") == []


def test_a_missing_id_column_is_answered_with_the_argument_and_the_columns_there_are(db):
    db.execute('CREATE TABLE memories (key int PRIMARY KEY, content text, "Größe" int, gone int)')
    db.execute("ALTER TABLE memories DROP gone")
    error = db.fails("SELECT webhooks.attach('memories')", state="42703")
    for word in ("id_column =>", "key", "content", "Größe"):
        assert word in hint_of(error), f"{word!r} is not in: {hint_of(error)}"
    assert "dropped" not in hint_of(error) and "gone" not in hint_of(error)


def test_a_missing_id_column_beside_a_primary_key_of_one_column_is_answered_with_that_column(db):
    db.execute("CREATE TABLE memories (content text, key int PRIMARY KEY)")
    error = db.fails("SELECT webhooks.attach('memories')", state="42703")
    assert "id_column => 'key'" in hint_of(error)


def test_a_missing_id_column_beside_a_composite_primary_key_is_answered_with_what_that_means(db):
    db.execute("CREATE TABLE memories (tenant int, number int, content text, PRIMARY KEY (tenant, number))")
    error = db.fails("SELECT webhooks.attach('memories')", state="42703")
    hint = hint_of(error)
    assert "primary key" in hint.lower() and "tenant" in hint and "number" in hint, hint
    assert "id_column => 'tenant'" not in hint, "which is no id"


def test_a_column_that_is_not_there_is_answered_with_a_hint_whatever_its_role(db):
    db.execute("CREATE TABLE memories (id int PRIMARY KEY, content text)")
    for arguments in (
        "owner_column => 'nowhere'",
        "soft_delete_column => 'nowhere'",
        "exclude_columns => '{nowhere}'",
        "ignore_columns => '{nowhere}'",
    ):
        db.fails(f"SELECT webhooks.attach('memories', {arguments})", state="42703", says="nowhere")
