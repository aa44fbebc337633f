"""Columns that attach() named keep their role: when they are renamed or dropped, in a restored database, and
in partitions with another order of columns. A name that is no longer found publishes as little as possible.

Values of the excluded column begin with "hush", so that requests and stored events show any leak.
"""

import psycopg
import pytest
from database import Sink
from dumps import FORMS, restored_copy
from earlier_release import attach_as_0_2

ORDINARY = """
    CREATE TABLE memories (unused int, id int, content text, password text);
    ALTER TABLE memories DROP unused"""
# The second partition has its columns in another order, and a dropped one between them.
PARTITIONED = """
    CREATE TABLE memories (id int, content text, password text) PARTITION BY RANGE (id);
    CREATE TABLE memories_1 PARTITION OF memories FOR VALUES FROM (0) TO (100);
    CREATE TABLE memories_2 (password text, unused int, content text, id int);
    ALTER TABLE memories_2 DROP unused;
    ALTER TABLE memories ATTACH PARTITION memories_2 FOR VALUES FROM (100) TO (200)"""
# How a table is made, and how its triggers.
WAYS = {
    "ordinary": (ORDINARY, False),
    "partitioned": (PARTITIONED, False),
    "ordinary, attached by 0.2": (ORDINARY, True),
    "partitioned, attached by 0.2": (PARTITIONED, True),
}
BOTH_KINDS = pytest.mark.parametrize("definition", [ORDINARY, PARTITIONED], ids=["ordinary", "partitioned"])


@pytest.fixture(params=WAYS)
def secretive(request, db, sink):
    """The sink of a table memories whose column password is excluded."""
    definition, earlier = WAYS[request.param]
    db.execute(definition)
    attach = (lambda table, **given: attach_as_0_2(db, table, **given)) if earlier else db.attach
    attach("memories", exclude_columns=["password"])
    sink.keys = [1, 101] if definition == PARTITIONED else [1]
    return sink


def insert(db, key, column="password", session=None):
    statement = f"INSERT INTO memories (id, content, {column}) VALUES (%s, 'a', 'hush 1')"
    db.execute(statement, key, session=session)


def update_and_delete(db, key, column="password", session=None):
    db.execute(f"UPDATE memories SET content = 'b', {column} = 'hush 2' WHERE id = %s", key, session=session)
    # A change that nobody may see.
    db.execute(f"UPDATE memories SET {column} = 'hush 3' WHERE id = %s", key, session=session)
    db.execute("DELETE FROM memories WHERE id = %s", key, session=session)


def live(db, key, column="password", session=None):
    """The whole life of a row: three events."""
    insert(db, key, column, session)
    update_and_delete(db, key, column, session)


def assert_no_leak(sink):
    """No request and no stored event holds a value of the excluded column, what filters judge included."""
    leaked = [it.body for it in sink.receiver.to() if b"hush" in it.body]
    assert leaked == []
    assert sink.db.rows("SELECT data, subject FROM webhooks.event e WHERE e::text ~ 'hush'") == []


def assert_life_is_published(sink, key):
    """The three events of a row are sent, with all that may be seen and no more."""
    created, updated, deleted = sink.take(3)
    identity = {"object": "memory", "id": str(key)}
    assert (created["type"], created["data"]) == ("memory.created", {**identity, "content": "a"})
    changes = {"content": {"from": "a", "to": "b"}}
    assert updated["type"] == "memory.updated"
    assert updated["data"] == {**identity, "content": "b", "changes": changes}
    assert deleted["type"] == "memory.deleted" and deleted["data"]["id"] == str(key)
    assert set(deleted["data"]) - {"metadata"} == {"object", "id", "deleted_at"}
    assert_no_leak(sink)


def attached(db):
    """The one attached table as the view shows it."""
    return db.row("SELECT * FROM webhooks.attached")


# Excluded columns that are renamed


def test_an_excluded_column_renamed_before_the_first_event_is_never_published(db, secretive):
    db.execute("ALTER TABLE memories RENAME password TO secret")
    for key in secretive.keys:
        live(db, key, "secret")
        assert_life_is_published(secretive, key)


def test_an_excluded_column_renamed_between_two_events_is_never_published(db, secretive):
    for key in secretive.keys:
        live(db, key)
        assert_life_is_published(secretive, key)
    db.execute("ALTER TABLE memories RENAME password TO secret")
    for key in secretive.keys:
        live(db, key, "secret")
        assert_life_is_published(secretive, key)


def test_an_excluded_column_renamed_in_the_transaction_that_writes_is_never_published(db, secretive):
    for key in secretive.keys:
        with db.session.transaction():
            insert(db, key)
            db.execute("ALTER TABLE memories RENAME password TO secret")
            update_and_delete(db, key, "secret")
        assert_life_is_published(secretive, key)
        db.execute("ALTER TABLE memories RENAME secret TO password")


def test_an_excluded_column_renamed_twice_is_never_published(db, secretive):
    db.execute("ALTER TABLE memories RENAME password TO secret")
    db.execute("ALTER TABLE memories RENAME secret TO word")
    for key in secretive.keys:
        live(db, key, "word")
        assert_life_is_published(secretive, key)


def test_an_excluded_column_that_swaps_its_name_with_another_stays_excluded(db, secretive):
    with db.session.transaction():
        db.execute("ALTER TABLE memories RENAME password TO passing")
        db.execute("ALTER TABLE memories RENAME content TO password")
        db.execute("ALTER TABLE memories RENAME passing TO content")
    for key in secretive.keys:
        db.execute("INSERT INTO memories (id, password, content) VALUES (%s, 'a', 'hush')", key)
        assert secretive.take_one()["data"] == {"object": "memory", "id": str(key), "password": "a"}
    assert_no_leak(secretive)


ODD_NAMES = ['"Größe"', '"pass\\word"', '"it\'s"', '"two ""words"""', '"a, b"', '"a=b"', '"{}"']


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_excluded_column_renamed_to_an_odd_name_is_never_published(db, sink, name):
    db.execute(ORDINARY)
    db.attach("memories", exclude_columns=["password"])
    db.execute(f"ALTER TABLE memories RENAME password TO {name}")
    live(db, 1, name)
    assert_life_is_published(sink, 1)
    assert attached(db)["exclude_columns"] == [name[1:-1].replace('""', '"')]


def test_an_open_session_with_cached_plans_publishes_no_renamed_column(db, secretive):
    db.execute("""
        CREATE FUNCTION remember(key int) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO memories (id, content) VALUES (key, 'a'); END $$;
        ALTER TABLE memories ALTER password SET DEFAULT 'hush'""")
    if db.one("SELECT to_regclass('memories_2') IS NOT NULL"):
        db.execute("""
            ALTER TABLE memories_1 ALTER password SET DEFAULT 'hush';
            ALTER TABLE memories_2 ALTER password SET DEFAULT 'hush'""")
    writer = db.connect()
    statements = {
        "SELECT remember(%s)": "memory.created",
        "UPDATE memories SET content = content || '!' WHERE id = %s": "memory.updated",
        "DELETE FROM memories WHERE id = %s": "memory.deleted",
    }

    def live_in_the_open_session():
        for key in secretive.keys:
            for statement, event_type in statements.items():
                writer.execute(statement, [key], prepare=True)
                body = secretive.take_one(event_type)
                assert set(body["data"]) <= {"object", "id", "content", "changes", "deleted_at"}

    live_in_the_open_session()
    db.execute("ALTER TABLE memories RENAME password TO secret")
    live_in_the_open_session()
    db.execute("ALTER TABLE memories RENAME secret TO word")
    live_in_the_open_session()
    assert_no_leak(secretive)


def test_a_transaction_with_an_older_snapshot_publishes_no_renamed_column(db, secretive):
    writer = db.connect()
    live(db, 2, session=writer)
    assert_life_is_published(secretive, 2)
    writer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    writer.execute("SELECT")  # takes the snapshot, and no lock
    db.execute("ALTER TABLE memories RENAME password TO secret")
    live(db, 1, "secret", session=writer)
    writer.execute("COMMIT")
    assert_life_is_published(secretive, 1)


def test_a_rename_that_is_rolled_back_leaves_the_column_excluded(db, secretive):
    for end in ("ROLLBACK", "ROLLBACK TO before; COMMIT"):
        db.execute("BEGIN")
        db.execute("SAVEPOINT before")
        db.execute("ALTER TABLE memories RENAME password TO secret")
        insert(db, 7, "secret")
        db.execute(end)
        for key in secretive.keys:
            live(db, key)
            assert_life_is_published(secretive, key)
    assert attached(db)["exclude_columns"] == ["password"]


def test_a_rename_undone_by_a_savepoint_leaves_the_column_excluded_within_it(db, secretive):
    with db.session.transaction():
        with pytest.raises(ZeroDivisionError), db.session.transaction():
            db.execute("ALTER TABLE memories RENAME password TO secret")
            insert(db, 7, "secret")
            raise ZeroDivisionError
        live(db, 1)
    assert_life_is_published(secretive, 1)


def test_a_prepared_transaction_may_rename_an_excluded_column(db, secretive):
    for end in ("ROLLBACK", "COMMIT"):
        db.execute("BEGIN")
        db.execute("ALTER TABLE memories RENAME password TO secret")
        db.execute("PREPARE TRANSACTION 'rename'")
        db.execute(f"{end} PREPARED 'rename'")
        live(db, 1, "password" if end == "ROLLBACK" else "secret")
        assert_life_is_published(secretive, 1)


def test_a_function_may_rename_an_excluded_column(db, secretive):
    db.execute("""
        DO $$ BEGIN
            EXECUTE 'ALTER TABLE memories RENAME password TO secret';
            INSERT INTO memories (id, content, secret) VALUES (1, 'a', 'hush');
        END $$""")
    update_and_delete(db, 1, "secret")
    assert_life_is_published(secretive, 1)


@pytest.mark.parametrize("setting", ["session_replication_role = replica", "webhooks.enabled = off"])
def test_a_column_renamed_while_nothing_is_captured_stays_excluded(db, secretive, setting):
    name = setting.split()[0]
    with db.connect() as session:
        session.execute(f"SET {setting}")
        session.execute("ALTER TABLE memories RENAME password TO secret")
        session.execute(f"RESET {name}")
    live(db, 1, "secret")
    assert_life_is_published(secretive, 1)


def test_a_table_owner_without_a_right_on_webhooks_renames_an_excluded_column(db, secretive):
    owner = db.role("CREATE ON SCHEMA public")
    query = "SELECT relname AS name FROM pg_class WHERE relname ~ '^memories' AND relkind IN ('r', 'p')"
    for table in db.rows(query):
        db.execute(f"ALTER TABLE {table['name']} OWNER TO {owner}")
    session = db.connect(user=owner)
    session.execute("ALTER TABLE memories RENAME password TO secret")
    live(db, 1, "secret", session=session)
    assert_life_is_published(secretive, 1)


def test_a_column_of_another_table_may_be_renamed(db, secretive):
    db.execute("""
        CREATE TABLE people (id int, password text);
        CREATE VIEW seen AS SELECT id, password FROM memories;
        ALTER TABLE people RENAME password TO secret;
        ALTER VIEW seen RENAME COLUMN password TO secret""")
    assert attached(db)["exclude_columns"] == ["password"]
    live(db, 1)
    assert_life_is_published(secretive, 1)


def test_a_typed_table_whose_attribute_is_renamed_by_cascade_never_publishes_it(db, sink):
    db.execute("""
        CREATE TYPE memory_row AS (id int, content text, password text);
        CREATE TABLE memories OF memory_row""")
    db.attach("memories", exclude_columns=["password"])
    db.execute("ALTER TYPE memory_row RENAME ATTRIBUTE password TO secret CASCADE")
    live(db, 1, "secret")
    assert_life_is_published(sink, 1)
    assert attached(db)["exclude_columns"] == ["secret"]


def test_an_inheritance_child_attached_by_0_2_never_publishes_a_column_renamed_in_its_parent(db, sink):
    db.execute("""
        CREATE TABLE records (id int, content text, password text);
        CREATE TABLE memories () INHERITS (records)""")
    attach_as_0_2(db, "memories", exclude_columns=["password"])
    db.execute("ALTER TABLE records RENAME password TO secret")
    live(db, 1, "secret")
    assert_life_is_published(sink, 1)


def test_an_inheritance_parent_attached_by_0_2_never_publishes_a_renamed_column(db, sink):
    db.execute("""
        CREATE TABLE memories (id int, content text, password text);
        CREATE TABLE memories_of_today () INHERITS (memories)""")
    attach_as_0_2(db, "memories", exclude_columns=["password"])
    db.execute("ALTER TABLE memories RENAME password TO secret")
    live(db, 1, "secret")
    assert_life_is_published(sink, 1)


def test_partitions_made_after_a_rename_never_publish_the_column(db, sink):
    db.execute(PARTITIONED)
    db.attach("memories", exclude_columns=["password"])
    db.execute("ALTER TABLE memories RENAME password TO secret")
    db.execute("""
        CREATE TABLE memories_3 PARTITION OF memories FOR VALUES FROM (200) TO (300);
        CREATE TABLE memories_4 (secret text, id int, unused int, content text);
        ALTER TABLE memories_4 DROP unused;
        ALTER TABLE memories ATTACH PARTITION memories_4 FOR VALUES FROM (300) TO (400)""")
    for key in (1, 101, 201, 301):
        live(db, key, "secret")
        assert_life_is_published(sink, key)


def test_rows_written_through_a_partition_and_between_partitions_never_publish_the_column(db, sink):
    db.execute(PARTITIONED)
    db.attach("memories", exclude_columns=["password"])
    for column in ("password", "secret"):
        if column == "secret":
            db.execute("ALTER TABLE memories RENAME password TO secret")
        db.execute(f"INSERT INTO memories_2 (id, content, {column}) VALUES (101, 'a', 'hush 1')")
        db.execute(f"UPDATE memories_2 SET content = 'b', {column} = 'hush 2'")
        created, updated = sink.take(2)
        assert created["data"] == {"object": "memory", "id": "101", "content": "a"}
        assert updated["data"]["changes"] == {"content": {"from": "a", "to": "b"}}
        # The row moves: by PostgreSQL's own rules that is a deletion and an insertion, or an update.
        db.execute(f"UPDATE memories SET id = 1, {column} = 'hush 3' WHERE id = 101")
        db.settle()
        db.execute("DELETE FROM memories_1")
        db.settle()
        sink.taken = len(sink.receiver.to(sink.path))
        assert_no_leak(sink)


# Filters


def test_filters_never_see_an_excluded_column(db, receiver, secretive):
    """By its name then and now: neither when a row is inserted, nor in an update, nor in a deletion."""
    paths = {}
    for number, filters in enumerate(
        ({"password": "hush 1"}, {"secret": "hush 1"}, {"secret": "hush 2"}, {"secret": ["hush 3", "hush 2"]})
    ):
        paths[f"/filtered/{number}"] = db.create_webhook(receiver.url(f"/filtered/{number}"), filters=filters)
    db.create_webhook(receiver.url("/content"), filters={"content": "b"})
    live(db, 1)
    assert_life_is_published(secretive, 1)
    db.execute("ALTER TABLE memories RENAME password TO secret")
    live(db, 1, "secret")
    assert_life_is_published(secretive, 1)
    assert [len(receiver.to(path)) for path in paths] == [0] * len(paths)
    assert len(receiver.to("/content")) == 4, "twice updated and deleted"


# The other roles


@BOTH_KINDS
def test_an_id_column_keeps_its_role_when_it_is_renamed(db, sink, definition):
    db.execute(definition)
    db.attach("memories", exclude_columns=["password"])
    db.execute("ALTER TABLE memories RENAME id TO key")
    db.execute("INSERT INTO memories (key, content) VALUES (1, 'a')")
    assert sink.take_one("memory.created")["data"] == {"object": "memory", "id": "1", "content": "a"}
    db.execute("UPDATE memories SET content = 'b'")
    assert sink.take_one("memory.updated")["data"]["id"] == "1"
    db.execute("DELETE FROM memories")
    assert sink.take_one("memory.deleted")["data"]["id"] == "1"
    assert attached(db)["id_column"] == "key"


@BOTH_KINDS
def test_an_owner_column_keeps_its_role_when_it_is_renamed(db, receiver, sink, definition):
    db.execute(definition)
    db.attach("memories", owner_column="password")
    for owner in ("alice", "bob"):
        db.create_webhook(receiver.url(f"/{owner}"), owner=owner)
    db.execute("ALTER TABLE memories RENAME password TO person")
    db.execute("INSERT INTO memories (id, content, person) VALUES (1, 'a', 'alice')")
    db.execute("UPDATE memories SET person = 'bob'")
    assert [body["type"] for body in sink.take(3)] == ["memory.created", "memory.deleted", "memory.created"]
    types = {owner: [it.json["type"] for it in receiver.to(f"/{owner}")] for owner in ("alice", "bob")}
    assert sorted(types["alice"]) == ["memory.created", "memory.deleted"]
    assert types["bob"] == ["memory.created"]
    assert attached(db)["owner_column"] == "person"


@BOTH_KINDS
def test_a_soft_delete_column_keeps_its_role_when_it_is_renamed(db, sink, definition):
    db.execute(definition)
    db.attach("memories", soft_delete_column="password")
    db.execute("ALTER TABLE memories RENAME password TO gone")
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    sink.take_one("memory.created")
    db.execute("UPDATE memories SET gone = 'yes'")
    sink.take_one("memory.deleted")
    db.execute("UPDATE memories SET gone = NULL")
    sink.take_one("memory.created")
    assert attached(db)["soft_delete_column"] == "gone"


@BOTH_KINDS
def test_an_ignored_column_keeps_its_role_when_it_is_renamed(db, sink, definition):
    db.execute(definition)
    db.attach("memories", ignore_columns=["password"])
    db.execute("ALTER TABLE memories RENAME password TO noise")
    db.execute("INSERT INTO memories (id, content, noise) VALUES (1, 'a', 'x')")
    data = sink.take_one("memory.created")["data"]
    assert data == {"object": "memory", "id": "1", "content": "a", "noise": "x"}
    db.execute("UPDATE memories SET noise = 'y'")
    sink.take(0)
    db.execute("UPDATE memories SET noise = 'z', content = 'b'")
    changes = sink.take_one("memory.updated")["data"]["changes"]
    assert changes == {"content": {"from": "a", "to": "b"}, "noise": {"from": "y", "to": "z"}}
    assert attached(db)["ignore_columns"] == ["noise"]


def test_all_columns_with_a_role_may_be_renamed_in_one_transaction(db, sink):
    db.execute("CREATE TABLE memories (id int, who text, content text, password text, hits int, gone date)")
    db.attach(
        "memories",
        owner_column="who",
        exclude_columns=["password"],
        soft_delete_column="gone",
        ignore_columns=["hits"],
    )
    with db.session.transaction():
        for name in ("id", "who", "password", "hits", "gone"):
            db.execute(f"ALTER TABLE memories RENAME {name} TO new_{name}")
    row = attached(db)
    assert row == {
        "table_name": row["table_name"],
        "object": "memory",
        "id_column": "new_id",
        "owner_column": "new_who",
        "soft_delete_column": "new_gone",
        "exclude_columns": ["new_password"],
        "ignore_columns": ["new_hits"],
        "include_vectors": False,
    }


# Dump and restore


@pytest.mark.parametrize("form", FORMS)
def test_a_renamed_column_is_excluded_in_a_restored_database_too(db, make_database, secretive, form):
    db.execute("ALTER TABLE memories RENAME password TO secret")
    insert(db, 50, "secret")
    secretive.take_one("memory.created")
    other = secretive.db = restored_copy(db, make_database, form)
    assert other.one("SELECT secret FROM memories") == "hush 1"
    for key in secretive.keys:
        live(other, key, "secret")
        assert_life_is_published(secretive, key)
    # And a rename in the restored database.
    other.execute("ALTER TABLE memories RENAME secret TO word")
    for key in secretive.keys:
        live(other, key, "word")
        assert_life_is_published(secretive, key)


@pytest.mark.parametrize("form", FORMS)
def test_every_setting_of_attach_is_dumped_and_restored(db, make_database, form):
    db.execute("""
        CREATE TABLE memories (id int, "Wer" text, content text, "pass\\word" text, hits int, gone date);
        CREATE TABLE notes (key int, content text)""")
    db.attach(
        "memories",
        object="note",
        owner_column="Wer",
        exclude_columns=["pass\\word"],
        soft_delete_column="gone",
        ignore_columns=["hits", "content"],
        include_vectors=True,
    )
    db.attach("notes", object="note", id_column="key")
    query = "SELECT table_name::text, a.* FROM webhooks.attached a ORDER BY 1"
    settings = [{**row, "table_name": None} for row in db.rows(query)]
    assert settings[0]["exclude_columns"] == ["pass\\word"] and settings[0]["include_vectors"] is True
    other = restored_copy(db, make_database, form)
    assert [{**row, "table_name": None} for row in other.rows(query)] == settings


# Columns that are dropped


def test_a_dropped_excluded_column_leaves_the_list_and_a_new_one_of_that_name_is_shown(db, secretive):
    db.execute("ALTER TABLE memories DROP password")
    assert attached(db)["exclude_columns"] == []
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    assert secretive.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}
    db.execute("ALTER TABLE memories ADD password text")
    db.execute("UPDATE memories SET password = 'seen'")
    changes = secretive.take_one()["data"]["changes"]
    assert changes == {"password": {"from": None, "to": "seen"}}


def test_a_drop_that_is_rolled_back_leaves_the_column_excluded(db, secretive):
    db.execute("BEGIN")
    db.execute("ALTER TABLE memories DROP password")
    db.execute("INSERT INTO memories (id, content) VALUES (7, 'a')")
    db.execute("ROLLBACK")
    for key in secretive.keys:
        live(db, key)
        assert_life_is_published(secretive, key)
    assert attached(db)["exclude_columns"] == ["password"]


def test_a_column_dropped_and_added_in_one_statement_is_a_new_one(db, secretive):
    db.execute("ALTER TABLE memories DROP password, ADD password text")
    db.execute("INSERT INTO memories (id, content, password) VALUES (1, 'a', 'seen')")
    assert secretive.take_one()["data"]["password"] == "seen"


@BOTH_KINDS
def test_a_dropped_ignored_column_leaves_the_list_and_a_new_one_of_that_name_counts(db, sink, definition):
    db.execute(definition)
    db.attach("memories", ignore_columns=["password", "content"])
    db.execute("ALTER TABLE memories DROP password")
    assert attached(db)["ignore_columns"] == ["content"]
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}
    db.execute("ALTER TABLE memories ADD password text")
    db.execute("UPDATE memories SET password = 'seen'")
    assert sink.take_one()["data"]["changes"] == {"password": {"from": None, "to": "seen"}}
    db.execute("UPDATE memories SET content = 'b'")
    sink.take(0)


def test_an_excluded_column_dropped_with_its_type_leaves_the_list(db, sink):
    db.execute("""
        CREATE DOMAIN secret_text AS text;
        CREATE TABLE memories (id int, content text, password secret_text)""")
    db.attach("memories", exclude_columns=["password"])
    db.execute("DROP DOMAIN secret_text CASCADE")
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}
    assert attached(db)["exclude_columns"] == []


def test_an_attribute_dropped_by_cascade_leaves_the_list_of_a_typed_table(db, sink):
    db.execute("""
        CREATE TYPE memory_row AS (id int, content text, password text);
        CREATE TABLE memories OF memory_row""")
    db.attach("memories", exclude_columns=["password"])
    db.execute("ALTER TYPE memory_row DROP ATTRIBUTE password CASCADE")
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}
    assert attached(db)["exclude_columns"] == []


def test_a_dropped_column_is_forgotten_in_a_restored_database_too(db, make_database, secretive):
    db.execute("ALTER TABLE memories DROP password")
    secretive.db = other = restored_copy(db, make_database)
    other.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    assert secretive.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}


# Names that are not found

ROLES = ["exclude_columns", "soft_delete_column", "owner_column", "id_column"]
NAMES = {
    "exclude_columns": ["password"],
    "soft_delete_column": "password",
    "owner_column": "password",
    "id_column": "key",
}
KEY = {"id_column": "key"}


def lose(db, name):
    """Gives a column another name behind the back of every hook, as no statement can."""
    db.execute(
        "UPDATE pg_attribute SET attname = 'lost_' || attname"
        " WHERE attname = %s AND attrelid IN (SELECT oid FROM pg_class WHERE relname ~ '^memories')",
        name,
    )


@pytest.fixture(params=["ordinary", "partitioned", "attached by 0.2"])
def lost(request, db, sink, receiver):
    """Makes and attaches memories with a column in a role, and loses the column's name.

    Returns a session that begins after that. Beside the sink there are webhooks of the owners alice and hush,
    and one whose filter asks for the value of the lost column.
    """

    def make(role):
        definition = PARTITIONED if request.param == "partitioned" else ORDINARY
        db.execute(definition)
        arguments = {role: NAMES[role]}
        name = "password"
        if role == "id_column":
            db.execute("ALTER TABLE memories RENAME id TO key")
            name = "key"
        if request.param == "attached by 0.2":
            attach_as_0_2(db, "memories", **arguments)
        else:
            db.attach("memories", **arguments)
        for owner in ("alice", "hush"):
            db.create_webhook(receiver.url(f"/{owner}"), owner=owner)
        db.create_webhook(receiver.url("/hidden"), filters={"lost_password": "hush"})
        lose(db, name)
        return db.connect()

    return make


def lines_about(db, since, column):
    """Lines of the log, without their HINT and CONTEXT, that name the column and the table."""
    lines = db.server.log(since).splitlines()
    return [it for it in lines if column in it and "memories" in it and ("WARNING:" in it or "LOG:" in it)]


@pytest.mark.parametrize("role", ["exclude_columns", "soft_delete_column"])
def test_an_excluded_or_soft_delete_column_that_is_not_found_leaves_object_and_id_and_one_line_in_the_log(
    db, sink, receiver, lost, role
):
    session = lost(role)
    since = db.server.log_size()
    truncated = {"object": "memory", "id": "1", "truncated": True}
    db.execute("INSERT INTO memories (id, content, lost_password) VALUES (1, 'a', 'hush')", session=session)
    assert sink.take_one("memory.created")["data"] == truncated
    db.execute("UPDATE memories SET content = 'b', lost_password = 'hush 2'", session=session)
    assert sink.take_one()["data"] == truncated
    db.execute("DELETE FROM memories", session=session)
    assert sink.take_one("memory.deleted")["data"] == truncated
    assert receiver.to("/hidden") == []
    assert_no_leak(sink)
    assert len(lines_about(db, since, "password")) == 1, db.server.log(since)


def test_an_owner_column_that_is_not_found_hides_the_rows_from_owners(db, sink, receiver, lost):
    session = lost("owner_column")
    since = db.server.log_size()
    truncated = {"object": "memory", "id": "1", "truncated": True}
    db.execute("INSERT INTO memories (id, content, lost_password) VALUES (1, 'a', 'alice')", session=session)
    db.execute("UPDATE memories SET content = 'b'", session=session)
    db.execute("DELETE FROM memories", session=session)
    bodies = sink.take(3)
    assert [body["type"] for body in bodies] == ["memory.created", "memory.updated", "memory.deleted"]
    assert [body["data"] for body in bodies] == [truncated] * 3
    assert receiver.to("/alice") == receiver.to("/hush") == []
    assert len(lines_about(db, since, "password")) == 1, db.server.log(since)


def test_an_id_column_that_is_not_found_sends_nothing(db, sink, lost):
    session = lost("id_column")
    since = db.server.log_size()
    db.execute("INSERT INTO memories (lost_key, content, password) VALUES (1, 'a', 'hush')", session=session)
    db.execute("UPDATE memories SET content = 'b'", session=session)
    db.execute("DELETE FROM memories", session=session)
    sink.take(0)
    assert db.one("SELECT count(*) FROM webhooks.event") == 0
    assert len(lines_about(db, since, "key")) == 1, db.server.log(since)


@pytest.mark.parametrize("role", ROLES)
def test_a_name_that_is_not_found_fails_no_writer_and_is_mended_by_attach(db, sink, lost, role):
    session = lost(role)
    key = "lost_key" if role == "id_column" else "id"
    insert_many = f"INSERT INTO memories ({key}, content) SELECT n, 'a' FROM generate_series(1, 20) n"
    db.execute(insert_many, session=session)
    assert db.one("SELECT count(*) FROM memories") == 20
    sink.take(0 if role == "id_column" else 20)
    name = NAMES[role]
    found = ["lost_password"] if role == "exclude_columns" else f"lost_{name}"
    db.attach("memories", **{role: found})
    db.execute(f"INSERT INTO memories ({key}, content) VALUES (50, 'a')", session=session)
    data = sink.take_one("memory.created")["data"]
    assert (data["id"], data["content"]) == ("50", "a") and "truncated" not in data


@pytest.mark.parametrize("role", ["soft_delete_column", "owner_column", "id_column"])
def test_a_dropped_column_that_had_a_role_fails_closed(db, sink, receiver, role):
    """Unlike an excluded one: what a row is, or whose, cannot be told any more."""
    db.execute("CREATE TABLE memories (key int, id int, content text, password text)")
    db.attach("memories", **{role: NAMES[role]})
    db.create_webhook(receiver.url("/alice"), owner="alice")
    db.execute(f"ALTER TABLE memories DROP {NAMES[role]}")
    since = db.server.log_size()
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'a')")
    if role == "id_column":
        sink.take(0)
    else:
        assert sink.take_one("memory.created")["data"] == {"object": "memory", "id": "1", "truncated": True}
    assert receiver.to("/alice") == []
    column = "key" if role == "id_column" else "password"
    assert len(lines_about(db, since, column)) == 1, db.server.log(since)


def test_a_trigger_made_by_hand_with_a_wrong_name_fails_closed(db, sink):
    """As a restore by another tool could leave it."""
    db.execute(ORDINARY)
    attach_as_0_2(db, "memories", exclude_columns=["passwort"])
    db.execute("INSERT INTO memories (id, content, password) VALUES (1, 'a', 'hush')")
    assert sink.take_one("memory.created")["data"] == {"object": "memory", "id": "1", "truncated": True}
    assert_no_leak(sink)


# Triggers of 0.2, and the view


def test_triggers_of_0_2_go_on_with_each_of_their_arguments(db, sink, receiver):
    db.execute("CREATE TABLE memories (key int, who text, content text, password text, gone timestamptz)")
    attach_as_0_2(
        db,
        "memories",
        id_column="key",
        owner_column="who",
        soft_delete_column="gone",
        exclude_columns=["password", "gone"],
    )
    for owner in ("alice", "bob"):
        db.create_webhook(receiver.url(f"/{owner}"), owner=owner)
    for name in ("key", "who", "password", "gone"):
        db.execute("INSERT INTO memories VALUES (1, 'alice', 'a', 'hush', NULL)")
        db.execute("UPDATE memories SET content = 'b'")
        db.execute(f"ALTER TABLE memories RENAME {name} TO new_{name}")
        gone = "new_gone" if name == "gone" else "gone"
        db.execute(f"UPDATE memories SET {gone} = now()")
        db.execute("DELETE FROM memories")
        bodies = sink.take(4)
        assert [body["type"] for body in bodies] == [
            "memory.created",
            "memory.updated",
            "memory.deleted",
            "memory.deleted",
        ]
        assert {body["data"]["id"] for body in bodies} == {"1"}
    assert (len(receiver.to("/alice")), len(receiver.to("/bob"))) == (16, 0)
    assert_no_leak(sink)


def test_the_view_shows_the_settings_of_new_and_of_earlier_triggers(db):
    db.execute("""
        CREATE TABLE memories (id int, who text, content text, password text, hits int, gone timestamptz);
        CREATE TABLE earlier (LIKE memories);
        CREATE TABLE plain (LIKE memories);
        CREATE TABLE earlier_plain (LIKE memories)""")
    common = {
        "object": "note",
        "id_column": "hits",
        "owner_column": "who",
        "soft_delete_column": "gone",
        "exclude_columns": ["password", "content"],
    }
    db.attach("memories", **common, ignore_columns=["id", "who"], include_vectors=True)
    attach_as_0_2(db, "earlier", **common)
    db.attach("plain")
    attach_as_0_2(db, "earlier_plain")
    rows = db.rows("SELECT table_name::text AS name, a.* FROM webhooks.attached a")
    found = {row.pop("name"): row for row in rows}
    for row in rows:
        del row["table_name"]
    nothing = {
        "object": "memory",
        "id_column": "id",
        "owner_column": None,
        "soft_delete_column": None,
        "exclude_columns": [],
        "ignore_columns": [],
    }
    assert found == {
        "memories": {**common, "ignore_columns": ["id", "who"], "include_vectors": True},
        "earlier": {**common, "ignore_columns": [], "include_vectors": True},
        "plain": {**nothing, "include_vectors": False},
        "earlier_plain": {**nothing, "include_vectors": True},
    }


def test_the_view_names_each_partitioned_table_once(db):
    db.execute(PARTITIONED)
    db.attach("memories", exclude_columns=["password"])
    db.execute("ALTER TABLE memories RENAME password TO secret")
    assert [row["exclude_columns"] for row in db.rows("SELECT * FROM webhooks.attached")] == [["secret"]]


def test_a_column_that_does_not_exist_cannot_be_ignored(db):
    db.execute(ORDINARY)
    with pytest.raises(psycopg.Error) as raised:
        db.attach("memories", ignore_columns=["nowhere"])
    assert raised.value.sqlstate == "42703", raised.value


def test_a_restored_copy_sends_to_its_own_webhooks(db, make_database, receiver):
    """The measure itself: a copy has the webhook, and its events arrive."""
    db.execute(ORDINARY)
    db.attach("memories", exclude_columns=["password"])
    sink = Sink(db, receiver)
    sink.db = restored_copy(db, make_database)
    live(sink.db, 1)
    assert_life_is_published(sink, 1)
