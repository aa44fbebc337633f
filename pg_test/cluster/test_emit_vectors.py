"""Columns that change often or say nothing to people.

Embeddings of pgvector are left out unless they are asked for. A change of ignored columns alone is no event.
"""

import pytest
from database import Sink
from dumps import FORMS, restored_copy
from earlier_release import attach_as_0_2

# The seed product's table, as far as it concerns us.
MEMORY_ENTRIES = """
    CREATE TABLE memory_entries (
        id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id       uuid,
        title         text,
        content       text,
        tags          text[],
        metadata      jsonb DEFAULT '{{}}',
        embedding     {},
        access_count  int DEFAULT 0,
        last_accessed timestamptz,
        created_at    timestamptz DEFAULT '2024-01-15 10:30Z',
        updated_at    timestamptz DEFAULT '2024-01-15 10:30Z')"""
SEARCH = "UPDATE memory_entries SET access_count = access_count + 1, last_accessed = clock_timestamp()"

# What pgvector has, and what is made of it: a type, and a value.
VECTORS = {
    "vector": ("vector(3)", "'[1,2,3]'"),
    "vector of any size": ("vector", "'[1,2]'"),
    "halfvec": ("halfvec(3)", "'[1,2,3]'"),
    "sparsevec": ("sparsevec(5)", "'{1:1,3:2}/5'"),
    "array of vector": ("vector(3)[]", "ARRAY['[1,2,3]'::vector]"),
    "array of halfvec": ("halfvec[]", "ARRAY['[1,2,3]'::halfvec]"),
    "array of sparsevec": ("sparsevec[]", "ARRAY['{1:1}/5'::sparsevec]"),
    "domain over vector": ("embedding", "'[1,2,3]'"),
    "domain over a domain": ("small_embedding", "'[1,2,3]'"),
    "domain over an array": ("embeddings", "ARRAY['[1,2,3]'::vector]"),
    "array of a domain": ("embedding[]", "ARRAY['[1,2,3]'::embedding]"),
}
DOMAINS = """
    CREATE DOMAIN embedding AS vector;
    CREATE DOMAIN small_embedding AS embedding CHECK (value IS NOT NULL OR value IS NULL);
    CREATE DOMAIN embeddings AS vector[]"""
TABLES = {
    "ordinary": "CREATE TABLE memories (id int, content text, v {})",
    "partitioned": """
        CREATE TABLE memories (id int, content text, v {0}) PARTITION BY RANGE (id);
        CREATE TABLE memories_1 (v {0}, content text, id int);
        ALTER TABLE memories ATTACH PARTITION memories_1 FOR VALUES FROM (0) TO (100)""",
}


def need_pgvector(db, schema="public"):
    if not db.one("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip("needs pgvector")
    db.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    db.execute(f"CREATE EXTENSION vector SCHEMA {schema}")


@pytest.fixture
def vectors(db):
    """The database has pgvector, and domains over its types."""
    need_pgvector(db)
    db.execute(DOMAINS)
    return db


# Embeddings


@pytest.mark.parametrize("table_kind", TABLES)
@pytest.mark.parametrize("what", VECTORS)
def test_an_embedding_is_left_out_and_its_change_is_no_event(vectors, sink, what, table_kind):
    db = vectors
    type_name, value = VECTORS[what]
    db.execute(TABLES[table_kind].format(type_name))
    db.attach("memories")
    db.execute(f"INSERT INTO memories (id, content, v) VALUES (1, 'a', {value})")
    assert sink.take_one("memory.created")["data"] == {"object": "memory", "id": "1", "content": "a"}
    db.execute("UPDATE memories SET v = NULL")
    db.execute(f"UPDATE memories SET v = {value}")
    sink.take(0)
    db.execute("UPDATE memories SET content = 'b', v = NULL")
    changes = {"content": {"from": "a", "to": "b"}}
    assert sink.take_one("memory.updated")["data"] == {
        "object": "memory",
        "id": "1",
        "content": "b",
        "changes": changes,
    }
    db.execute("DELETE FROM memories")
    assert set(sink.take_one("memory.deleted")["data"]) - {"metadata"} == {"object", "id", "deleted_at"}
    assert db.rows("SELECT * FROM webhooks.event e WHERE (e.data || coalesce(e.subject, '')) ~ '\"v\"'") == []


@pytest.mark.parametrize("what", VECTORS)
def test_an_embedding_that_is_asked_for_is_sent_and_its_change_is_an_event(vectors, sink, what):
    db = vectors
    type_name, value = VECTORS[what]
    db.execute(TABLES["ordinary"].format(type_name))
    db.attach("memories", include_vectors=True)
    db.execute(f"INSERT INTO memories (id, content, v) VALUES (1, 'a', {value})")
    shown = sink.take_one("memory.created")["data"]["v"]
    assert shown
    db.execute("UPDATE memories SET v = NULL")
    assert sink.take_one("memory.updated")["data"]["changes"] == {"v": {"from": shown, "to": None}}


def test_an_embedding_that_is_asked_for_and_excluded_is_left_out(vectors, sink):
    db = vectors
    db.execute("CREATE TABLE memories (id int, content text, v vector(3), w vector(3))")
    db.attach("memories", include_vectors=True, exclude_columns=["v"])
    db.execute("INSERT INTO memories VALUES (1, 'a', '[1,2,3]', '[4,5,6]')")
    assert set(sink.take_one()["data"]) == {"object", "id", "content", "w"}


def test_an_embedding_of_another_schema_is_left_out_whatever_the_search_path_is(db, sink):
    need_pgvector(db, "extensions")
    db.execute("CREATE TABLE memories (id int, content text, v extensions.vector(3))")
    db.attach("memories")
    for path in ("public", "extensions, public", "pg_temp, public"):
        session = db.connect()
        session.execute(f"SET search_path = {path}")
        session.execute("INSERT INTO memories SELECT 1, 'a', '[1,2,3]'::extensions.vector")
        assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}


def test_tables_attached_by_0_2_send_embeddings_until_they_are_attached_again(vectors, sink):
    db = vectors
    db.execute("CREATE TABLE memories (id int, content text, v vector(3), w halfvec(3)[])")
    attach_as_0_2(db, "memories")
    insert = "INSERT INTO memories VALUES (1, 'a', '[1,2,3]', ARRAY['[1,2,3]'::halfvec])"
    db.execute(insert)
    assert set(sink.take_one()["data"]) == {"object", "id", "content", "v", "w"}
    # A rename does not make other triggers of them.
    db.execute("ALTER TABLE memories RENAME content TO words")
    db.execute(insert)
    assert set(sink.take_one()["data"]) == {"object", "id", "words", "v", "w"}
    db.attach("memories")
    db.execute(insert)
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "words": "a"}


def test_a_rename_of_an_excluded_column_leaves_a_table_of_0_2_sending_embeddings(vectors, sink):
    db = vectors
    db.execute("CREATE TABLE memories (id int, password text, v vector(3))")
    attach_as_0_2(db, "memories", exclude_columns=["password"])
    db.execute("ALTER TABLE memories RENAME password TO secret")
    db.execute("INSERT INTO memories VALUES (1, 'hush', '[1,2,3]')")
    assert set(sink.take_one()["data"]) == {"object", "id", "v"}
    assert db.one("SELECT include_vectors FROM webhooks.attached") is True


def test_a_column_that_is_added_or_becomes_an_embedding_is_left_out(vectors, sink):
    db = vectors
    db.execute("CREATE TABLE memories (id int, content text, w text)")
    db.attach("memories")
    writer = db.connect()
    writer.execute("INSERT INTO memories VALUES (1, 'a', '[1,2]')")
    assert sink.take_one()["data"]["w"] == "[1,2]"
    db.execute("ALTER TABLE memories ADD v vector(3), ALTER w TYPE vector USING w::vector")
    writer.execute("INSERT INTO memories VALUES (2, 'a', '[1,2]', '[1,2,3]')")
    assert sink.take_one()["data"] == {"object": "memory", "id": "2", "content": "a"}


def test_an_attached_table_outlives_its_embeddings(vectors, sink):
    db = vectors
    db.execute("CREATE TABLE memories (id int, content text, v vector(3))")
    db.attach("memories", exclude_columns=["v"])
    db.execute("DROP EXTENSION vector CASCADE")
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}


def test_filters_never_see_an_embedding(vectors, sink, receiver):
    db = vectors
    db.create_webhook(receiver.url("/filtered"), filters={"v": "[1,2,3]"})
    db.execute("CREATE TABLE memories (id int, content text, v vector(3))")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a', '[1,2,3]')")
    db.execute("DELETE FROM memories")
    sink.take(2)
    assert receiver.to("/filtered") == []


@pytest.mark.parametrize("form", FORMS)
def test_whether_embeddings_are_sent_is_dumped_and_restored(vectors, make_database, receiver, form):
    db = vectors
    db.execute("""
        CREATE TABLE memories (id int, v vector(3));
        CREATE TABLE memories_with (LIKE memories);
        CREATE TABLE memories_earlier (LIKE memories)""")
    db.attach("memories")
    db.attach("memories_with", include_vectors=True)
    attach_as_0_2(db, "memories_earlier")
    sink = Sink(db, receiver)
    sink.db = other = restored_copy(db, make_database, form)
    for table, keys in (
        ("memories", {"object", "id"}),
        ("memories_with", {"object", "id", "v"}),
        ("memories_earlier", {"object", "id", "v"}),
    ):
        other.execute(f"INSERT INTO {table} VALUES (1, '[1,2,3]')")
        assert set(sink.take_one()["data"]) == keys, table


def test_types_of_a_users_that_are_called_like_those_of_pgvector_are_sent(db, sink):
    db.execute("""
        CREATE TYPE vector AS (x int, y int);
        CREATE DOMAIN halfvec AS text;
        CREATE TYPE sparsevec AS ENUM ('few');
        CREATE TABLE memories (id int, v vector, h halfvec, s sparsevec, vs vector[])""")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, ROW(1, 2), 'a', 'few', ARRAY[ROW(3, 4)::vector])")
    assert sink.take_one()["data"] == {
        "object": "memory",
        "id": "1",
        "v": {"x": 1, "y": 2},
        "h": "a",
        "s": "few",
        "vs": [{"x": 3, "y": 4}],
    }


# The seed product


def test_a_search_of_the_seed_product_sends_nothing(vectors, sink):
    db = vectors
    db.execute(MEMORY_ENTRIES.format("vector(1536)"))
    db.execute("SELECT webhooks.attach('memory_entries', ignore_columns => '{access_count,last_accessed}')")
    db.execute("""
        INSERT INTO memory_entries (title, content, embedding)
        SELECT 'title', 'content', array_agg(sin(n))::vector(1536) FROM generate_series(1, 1536) n""")
    body = sink.take_one("memory.created")
    assert "embedding" not in body["data"] and body["data"]["access_count"] == 0
    assert len(sink.receiver.to(sink.path)[-1].body) < 1000
    db.execute(SEARCH)
    # And an embedding that is made anew, by a job of its own.
    db.execute("UPDATE memory_entries SET embedding = embedding + embedding")
    sink.take(0)
    db.execute("UPDATE memory_entries SET content = 'other', access_count = 7")
    data = sink.take_one("memory.updated")["data"]
    assert data["changes"] == {
        "content": {"from": "content", "to": "other"},
        "access_count": {"from": 1, "to": 7},
    }
    db.execute("DELETE FROM memory_entries")
    sink.take_one("memory.deleted")


# Ignored columns


@pytest.fixture(params=["ordinary", "partitioned"])
def ignoring(request, db, sink):
    """The sink of an attached table memories that ignores hits and seen, with an owner and a soft delete."""
    db.execute("""
        CREATE TABLE memories (
            id int PRIMARY KEY, who text, content text, hits int DEFAULT 0, seen date, gone timestamptz)"""
        + (" PARTITION BY RANGE (id)" if request.param == "partitioned" else ""))  # fmt: skip
    if request.param == "partitioned":
        db.execute("""
            CREATE TABLE memories_1 (
                gone timestamptz, seen date, hits int DEFAULT 0, content text, who text, id int NOT NULL);
            ALTER TABLE memories ATTACH PARTITION memories_1 FOR VALUES FROM (0) TO (100)""")
    db.attach("memories", owner_column="who", soft_delete_column="gone", ignore_columns=["hits", "seen"])
    db.execute("INSERT INTO memories VALUES (1, 'alice', 'a')")
    data = sink.take_one("memory.created")["data"]
    assert (data["hits"], data["seen"]) == (0, None), "ignored columns are sent"
    return sink


def test_a_change_of_ignored_columns_alone_is_no_event(db, ignoring):
    db.execute("UPDATE memories SET hits = hits + 1")
    db.execute("UPDATE memories SET seen = now(), hits = 5")
    db.execute("UPDATE memories SET seen = NULL")
    ignoring.take(0)
    assert db.one("SELECT count(*) FROM webhooks.event") == 1, "nor is one stored"


def test_a_change_of_ignored_columns_beside_another_is_shown(db, ignoring):
    db.execute("UPDATE memories SET hits = 1, content = 'b'")
    data = ignoring.take_one("memory.updated")["data"]
    assert data["changes"] == {"hits": {"from": 0, "to": 1}, "content": {"from": "a", "to": "b"}}
    assert data["hits"] == 1


def test_a_soft_delete_beside_a_change_of_ignored_columns_is_a_deletion(db, ignoring):
    db.execute("UPDATE memories SET hits = 1, gone = now()")
    ignoring.take_one("memory.deleted")
    db.execute("UPDATE memories SET hits = 2")
    ignoring.take(0)
    db.execute("UPDATE memories SET hits = 3, gone = NULL")
    assert ignoring.take_one("memory.created")["data"]["hits"] == 3


def test_a_change_of_owner_beside_a_change_of_ignored_columns_is_one(db, ignoring, receiver):
    db.create_webhook(receiver.url("/bob"), owner="bob")
    db.execute("UPDATE memories SET hits = 1, who = 'bob'")
    assert [body["type"] for body in ignoring.take(2)] == ["memory.deleted", "memory.created"]
    db.execute("UPDATE memories SET hits = 2")
    ignoring.take(0)
    assert [it.json["type"] for it in receiver.to("/bob")] == ["memory.created"]


@pytest.mark.parametrize(("role", "column"), [("owner_column", "who"), ("soft_delete_column", "gone")])
def test_an_ignored_column_keeps_its_other_role(db, sink, role, column):
    db.execute("CREATE TABLE memories (id int, who text, gone timestamptz, content text)")
    db.attach("memories", ignore_columns=[column], **{role: column})
    db.execute("INSERT INTO memories VALUES (1, 'alice', NULL, 'a')")
    sink.take_one("memory.created")
    db.execute(
        "UPDATE memories SET who = 'bob', gone = NULL"
        if column == "who"
        else "UPDATE memories SET gone = now()"
    )
    if column == "who":
        assert [body["type"] for body in sink.take(2)] == ["memory.deleted", "memory.created"]
    else:
        sink.take_one("memory.deleted")


def test_on_conflict_do_update_of_ignored_columns_alone_is_no_event(db, ignoring):
    upsert = (
        "INSERT INTO memories (id, who, content, hits) VALUES (1, 'alice', %s, 9), (2, 'alice', 'new', 0)"
    )
    db.execute(f"{upsert} ON CONFLICT (id) DO UPDATE SET hits = memories.hits + 1", "a")
    assert ignoring.take_one("memory.created")["data"]["id"] == "2"
    db.execute(
        f"{upsert} ON CONFLICT (id) DO UPDATE SET hits = excluded.hits, content = excluded.content", "b"
    )
    bodies = ignoring.take(1)
    assert bodies[0]["data"]["changes"] == {"content": {"from": "a", "to": "b"}, "hits": {"from": 1, "to": 9}}


def test_merge_of_ignored_columns_alone_is_no_event(db, ignoring):
    db.execute("""
        MERGE INTO memories m USING (VALUES (1), (2)) AS s(id) ON m.id = s.id
         WHEN MATCHED THEN UPDATE SET hits = 7
         WHEN NOT MATCHED THEN INSERT (id, content) VALUES (s.id, 'new')""")
    assert ignoring.take_one("memory.created")["data"]["id"] == "2"


def test_filters_see_ignored_columns(db, ignoring, receiver):
    db.create_webhook(receiver.url("/often"), filters={"hits": 7})
    db.execute("UPDATE memories SET hits = 7")
    db.execute("UPDATE memories SET content = 'b'")
    ignoring.take_one("memory.updated")
    assert len(receiver.to("/often")) == 1


def test_an_excluded_and_ignored_column_is_excluded(db, sink):
    db.execute("CREATE TABLE memories (id int, content text, hits int)")
    db.attach("memories", ignore_columns=["hits"], exclude_columns=["hits"])
    db.execute("INSERT INTO memories VALUES (1, 'a', 7)")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a"}
    db.execute("UPDATE memories SET hits = 8")
    sink.take(0)
    db.execute("UPDATE memories SET hits = 9, content = 'b'")
    assert sink.take_one()["data"]["changes"] == {"content": {"from": "a", "to": "b"}}


def test_attach_again_replaces_ignored_columns(db, ignoring):
    db.attach("memories", owner_column="who", soft_delete_column="gone", ignore_columns=["content"])
    db.execute("UPDATE memories SET content = 'b'")
    ignoring.take(0)
    db.execute("UPDATE memories SET hits = 1")
    assert ignoring.take_one("memory.updated")["data"]["changes"] == {"hits": {"from": 0, "to": 1}}
    db.attach("memories")
    db.execute("UPDATE memories SET content = 'c'")
    ignoring.take_one("memory.updated")


def test_a_generated_column_of_an_ignored_one_can_be_ignored_too(db, sink):
    db.execute("""
        CREATE TABLE memories (
            id int, content text, hits int, twice int GENERATED ALWAYS AS (hits * 2) STORED)""")
    db.attach("memories", ignore_columns=["hits", "twice"])
    db.execute("INSERT INTO memories VALUES (1, 'a', 1)")
    assert sink.take_one()["data"]["twice"] == 2
    db.execute("UPDATE memories SET hits = 2")
    sink.take(0)
