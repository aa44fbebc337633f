"""Which statements are seen: each kind, each row once, only what commits."""

import pytest
from database import MEMORIES

ID = "11111111-1111-4111-8111-111111111111"


def insert(db, content="a", n=1, session=None):
    """Inserts n memories in one statement."""
    db.execute(
        "INSERT INTO memories (content) SELECT %s || '' FROM generate_series(1, %s)", content, n, session=session
    )


def types(bodies):
    return [body["type"] for body in bodies]


def contents(bodies):
    return sorted(body["data"]["content"] for body in bodies)


# Statements


def test_insert_is_memory_created(db, memories):
    db.execute("INSERT INTO memories (id, content, tags) VALUES (%s, 'a', '{x,y}')", ID)
    data = memories.take_one("memory.created")["data"]
    assert (data["object"], data["id"], data["content"], data["tags"]) == ("memory", ID, "a", ["x", "y"])


def test_an_insert_of_many_rows_is_an_event_for_each(db, memories):
    db.execute("INSERT INTO memories (content) SELECT n::text FROM generate_series(1, 100) n")
    bodies = memories.take(100)
    assert {body["data"]["content"] for body in bodies} == {str(n) for n in range(1, 101)}
    assert set(types(bodies)) == {"memory.created"} and len({body["id"] for body in bodies}) == 100


def test_copy_is_seen(db, memories):
    with db.session.cursor() as cursor, cursor.copy("COPY memories (content) FROM STDIN") as copy:
        for n in range(10):
            copy.write_row([str(n)])
    assert contents(memories.take(10)) == [str(n) for n in range(10)]


def test_update_is_memory_updated_with_its_changes(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    db.execute("UPDATE memories SET content = 'b'")
    data = memories.take_one("memory.updated")["data"]
    assert (data["id"], data["content"]) == (ID, "b")
    assert data["changes"] == {"content": {"from": "a", "to": "b"}}


def test_an_update_of_many_rows_pairs_old_and_new_rightly(db, memories):
    db.execute("INSERT INTO memories (content) SELECT n::text FROM generate_series(1, 20) n")
    memories.take(20)
    db.execute("UPDATE memories SET content = content || '!'")
    for body in memories.take(20):
        change = body["data"]["changes"]["content"]
        assert change["to"] == change["from"] + "!" == body["data"]["content"]


def test_an_update_that_changes_nothing_emits_nothing(db, memories):
    db.execute("INSERT INTO memories (content, tags, metadata) VALUES ('a', '{x}', '{\"n\": 1}')")
    memories.take_one("memory.created")
    db.execute("UPDATE memories SET content = content, tags = '{x}', metadata = '{\"n\":1}'")
    db.execute("UPDATE memories SET content = 'b' WHERE false")
    memories.take(0)


def test_an_update_of_what_is_not_shown_emits_nothing(db, memories):
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    memories.take_one("memory.created")
    db.execute("UPDATE memories SET embedding = '{1,2}'")
    memories.take(0)


def test_delete_is_memory_deleted(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    db.execute("DELETE FROM memories")
    assert memories.take_one("memory.deleted")["data"]["id"] == ID


def test_a_delete_of_many_rows_is_an_event_for_each(db, memories):
    insert(db, n=20)
    ids = {body["data"]["id"] for body in memories.take(20)}
    db.execute("DELETE FROM memories")
    bodies = memories.take(20)
    assert {body["data"]["id"] for body in bodies} == ids and set(types(bodies)) == {"memory.deleted"}


def test_on_conflict_do_update_is_what_happened_to_each_row(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    upsert = """
        INSERT INTO memories (id, content) VALUES (%s, 'b'), (gen_random_uuid(), 'c')
            ON CONFLICT (id) DO UPDATE SET content = excluded.content"""
    db.execute(upsert, ID)
    created, updated = sorted(memories.take(2), key=lambda body: body["type"])
    assert (created["type"], created["data"]["content"]) == ("memory.created", "c")
    assert updated["data"]["changes"] == {"content": {"from": "a", "to": "b"}}


def test_on_conflict_do_nothing_emits_nothing(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'b') ON CONFLICT DO NOTHING", ID)
    memories.take(0)


def test_merge_is_what_happened_to_each_row(db, memories):
    db.execute("INSERT INTO memories (content) VALUES ('changes'), ('goes'), ('stays')")
    memories.take(3)
    db.execute("""
        MERGE INTO memories m USING (VALUES ('changes'), ('goes'), ('comes')) AS s(content) ON m.content = s.content
         WHEN MATCHED AND s.content = 'goes' THEN DELETE
         WHEN MATCHED THEN UPDATE SET tags = '{merged}'
         WHEN NOT MATCHED THEN INSERT (content) VALUES (s.content)""")
    assert sorted(types(memories.take(3))) == ["memory.created", "memory.deleted", "memory.updated"]


def test_insert_update_and_delete_of_one_statement_with_are_all_seen(db, memories):
    db.execute("INSERT INTO memories (content) VALUES ('old'), ('gone')")
    memories.take(2)
    db.execute("""
        WITH gone AS (DELETE FROM memories WHERE content = 'gone' RETURNING content),
             new AS (INSERT INTO memories (content) SELECT 'new' FROM gone)
        UPDATE memories SET content = 'older' WHERE content = 'old'""")
    assert sorted(types(memories.take(3))) == ["memory.created", "memory.deleted", "memory.updated"]


def test_statements_of_functions_and_triggers_are_seen(db, memories):
    db.execute("""
        CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO memories (content) VALUES ('by trigger'); RETURN NULL; END $$;
        CREATE TABLE notes (n int);
        CREATE TRIGGER remember AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION remember();
        INSERT INTO notes VALUES (1), (2)""")
    assert contents(memories.take(2)) == ["by trigger"] * 2


def test_prepared_statements_and_cursors_are_seen(db, memories):
    for content in ("a", "b"):
        db.session.execute("INSERT INTO memories (content) VALUES (%s)", [content], prepare=True)
    with db.session.transaction():
        db.execute("DECLARE c CURSOR FOR SELECT * FROM memories ORDER BY content FOR UPDATE")
        db.execute("FETCH c")
        db.execute("DELETE FROM memories WHERE CURRENT OF c")
    bodies = memories.take(3)
    assert sorted(types(bodies)) == ["memory.created", "memory.created", "memory.deleted"]


def test_truncate_is_unseen(db, memories):
    insert(db, n=3)
    memories.take(3)
    db.execute("TRUNCATE memories")
    memories.take(0)


# Foreign keys


@pytest.fixture
def family(db, sink):
    db.execute("""
        CREATE TABLE people (name text PRIMARY KEY);
        CREATE TABLE memories (id int PRIMARY KEY, person text REFERENCES people ON DELETE CASCADE ON UPDATE CASCADE);
        INSERT INTO people VALUES ('a');
        INSERT INTO memories VALUES (1, 'a'), (2, 'a')""")
    db.attach("memories")
    return sink


def test_a_delete_by_foreign_key_cascade_is_seen(db, family):
    db.execute("DELETE FROM people")
    bodies = family.take(2)
    assert {(body["type"], body["data"]["id"]) for body in bodies} == {("memory.deleted", "1"), ("memory.deleted", "2")}


def test_an_update_by_foreign_key_cascade_is_seen(db, family):
    db.execute("UPDATE people SET name = 'b'")
    for body in family.take(2):
        assert body["data"]["changes"] == {"person": {"from": "a", "to": "b"}}


def test_a_set_null_by_foreign_key_is_seen(db, family):
    db.execute("""
        ALTER TABLE memories DROP CONSTRAINT memories_person_fkey,
            ADD FOREIGN KEY (person) REFERENCES people ON DELETE SET NULL""")
    db.execute("DELETE FROM people")
    for body in family.take(2):
        assert body["data"]["changes"] == {"person": {"from": "a", "to": None}}


# Partitioned tables


@pytest.fixture
def partitioned(db, sink):
    db.execute("""
        CREATE TABLE memories (id int, content text) PARTITION BY RANGE (id);
        CREATE TABLE memories_1 PARTITION OF memories FOR VALUES FROM (0) TO (100)""")
    db.attach("memories")
    return sink


def test_a_partitioned_table_is_seen_through_its_root_each_row_once(db, partitioned):
    db.execute("INSERT INTO memories SELECT n, 'a' FROM generate_series(1, 3) n")
    assert types(partitioned.take(3)) == ["memory.created"] * 3
    db.execute("UPDATE memories SET content = 'b'")
    assert types(partitioned.take(3)) == ["memory.updated"] * 3
    db.execute("DELETE FROM memories")
    assert types(partitioned.take(3)) == ["memory.deleted"] * 3


def test_a_partitioned_table_is_seen_through_its_leaf_each_row_once(db, partitioned):
    db.execute("INSERT INTO memories_1 SELECT n, 'a' FROM generate_series(1, 3) n")
    assert types(partitioned.take(3)) == ["memory.created"] * 3
    db.execute("UPDATE memories_1 SET content = 'b'")
    assert types(partitioned.take(3)) == ["memory.updated"] * 3
    db.execute("DELETE FROM memories_1")
    assert types(partitioned.take(3)) == ["memory.deleted"] * 3


def test_partitions_that_came_later_are_seen_through_root_and_leaf(db, partitioned):
    db.execute("""
        CREATE TABLE memories_2 PARTITION OF memories FOR VALUES FROM (100) TO (200);
        CREATE TABLE memories_3 (content text, id int);
        ALTER TABLE memories ATTACH PARTITION memories_3 FOR VALUES FROM (200) TO (300)""")
    db.execute("INSERT INTO memories VALUES (100, 'root'), (200, 'root')")
    db.execute("INSERT INTO memories_2 VALUES (101, 'leaf')")
    db.execute("INSERT INTO memories_3 (id, content) VALUES (201, 'leaf')")
    seen = {(body["data"]["id"], body["data"]["content"]) for body in partitioned.take(4)}
    assert seen == {("100", "root"), ("200", "root"), ("101", "leaf"), ("201", "leaf")}


def test_copy_into_a_partitioned_table_is_seen(db, partitioned):
    with db.session.cursor() as cursor, cursor.copy("COPY memories FROM STDIN") as copy:
        copy.write_row([1, "a"])
        copy.write_row([2, "b"])
    assert contents(partitioned.take(2)) == ["a", "b"]


def test_a_partition_that_was_detached_is_no_longer_seen(db, partitioned):
    db.execute("ALTER TABLE memories DETACH PARTITION memories_1")
    db.execute("INSERT INTO memories_1 VALUES (1, 'alone')")
    partitioned.take(0)


# Soft deletes


def test_a_soft_delete_is_memory_deleted_and_its_reverse_memory_created(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    db.execute("UPDATE memories SET deleted_at = '2024-01-15 10:30:00+00'")
    data = memories.take_one("memory.deleted")["data"]
    assert (data["id"], data["deleted_at"]) == (ID, "2024-01-15T10:30:00.000Z")
    assert "content" not in data
    db.execute("UPDATE memories SET deleted_at = NULL")
    data = memories.take_one("memory.created")["data"]
    assert (data["id"], data["content"]) == (ID, "a") and "changes" not in data


def test_without_a_soft_delete_column_its_change_is_an_update(db, sink):
    db.memories()
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    sink.take_one("memory.created")
    db.execute("UPDATE memories SET deleted_at = '2024-01-15 10:30:00+00'")
    changes = sink.take_one("memory.updated")["data"]["changes"]
    assert changes == {"deleted_at": {"from": None, "to": "2024-01-15T10:30:00.000Z"}}


# Changes of id


def test_a_change_of_id_is_an_update_that_shows_both(db, sink):
    db.execute("CREATE TABLE memories (id int, content text)")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (2, 'b')")
    sink.take(2)
    db.execute("UPDATE memories SET id = id + 1")
    for body in sink.take(2):
        assert body["type"] == "memory.updated"
        change = body["data"]["changes"]["id"]
        before = {"a": 1, "b": 2}[body["data"]["content"]]
        assert (str(change["from"]), str(change["to"]), body["data"]["id"]) == (
            str(before),
            str(before + 1),
            str(before + 1),
        )


# Only what commits


def test_a_rollback_emits_nothing(db, memories):
    with pytest.raises(ZeroDivisionError), db.session.transaction():
        insert(db)
        raise ZeroDivisionError
    memories.take(0)


def test_a_rollback_to_a_savepoint_emits_nothing_and_the_rest_is_sent(db, memories):
    with db.session.transaction():
        insert(db, "before")
        with pytest.raises(ZeroDivisionError), db.session.transaction():
            insert(db, "within")
            raise ZeroDivisionError
        insert(db, "after")
    assert contents(memories.take(2)) == ["after", "before"]


def test_what_an_exception_block_undoes_emits_nothing(db, memories):
    db.execute("""
        DO $$ BEGIN
            INSERT INTO memories (content) VALUES ('kept');
            BEGIN
                INSERT INTO memories (content) VALUES ('undone');
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END $$""")
    assert contents(memories.take(1)) == ["kept"]


def test_a_statement_that_fails_emits_nothing(db, memories):
    db.execute("INSERT INTO memories (id, content) VALUES (%s, 'a')", ID)
    memories.take_one("memory.created")
    db.fails(
        "INSERT INTO memories (id, content) VALUES (gen_random_uuid(), 'b'), (%s, 'c')", ID, state="23505", hint=False
    )
    memories.take(0)


def test_what_is_not_committed_is_not_sent(db, memories):
    other = db.connect()
    with other.transaction():
        insert(db, "open", session=other)
        insert(db, "committed")
        assert contents(memories.take(1)) == ["committed"]
    assert contents(memories.take(1)) == ["open"]


def test_a_prepared_transaction_is_sent_when_it_is_committed(db, memories):
    for end in ("ROLLBACK", "COMMIT"):
        db.execute("BEGIN")
        insert(db, end)
        db.execute("PREPARE TRANSACTION 'two_phase'")
        memories.take(0)
        db.execute(f"{end} PREPARED 'two_phase'")
    assert contents(memories.take(1, timeout=20)) == ["COMMIT"]


def test_many_writers_at_once_lose_nothing(db, memories):
    sessions = [db.connect() for _ in range(8)]
    for number, session in enumerate(sessions):
        session.execute("BEGIN")
        insert(db, f"first of {number}", session=session)
    for number, session in enumerate(reversed(sessions)):
        insert(db, f"second of {number}", n=5, session=session)
        session.execute("COMMIT" if number % 2 else "ROLLBACK")
        insert(db, f"third of {number}", session=session)
    memories.take(4 + 4 * 5 + 8)


def test_a_role_that_plays_a_replica_does_not_emit(db, memories):
    db.execute("SET session_replication_role = replica")
    insert(db)
    db.execute("SET session_replication_role = origin")
    memories.take(0)


# Who subscribes


def test_nothing_is_captured_while_nobody_subscribes_and_everything_from_then_on(db, receiver):
    db.execute(MEMORIES)
    db.attach("memories")
    writer = db.connect()
    insert(db, "before", session=writer)
    webhook = db.create_webhook(receiver.url())
    insert(db, "after", session=writer)  # a session that knew of nobody
    (request,) = receiver.wait(1)
    assert request.data["content"] == "after"
    assert db.one("SELECT webhooks.replay(%s, 'epoch')", webhook["id"]) == 1, "the first was stored"
