"""The events of a row follow the order in which its versions were made, by id and by time.

It does not matter what fires what: the last event of a row shows its last state.
"""

import contextlib
import random
import threading
import time

import psycopg
import pytest
from database import Sink
from ids import uuid_at

COLUMNS = "id int PRIMARY KEY, content text, step int DEFAULT 0"
ORDINARY = f"CREATE TABLE memories ({COLUMNS})"
PARTITIONED = f"""
    CREATE TABLE memories ({COLUMNS}) PARTITION BY RANGE (id);
    CREATE TABLE memories_1 PARTITION OF memories FOR VALUES FROM (0) TO (100);
    CREATE TABLE memories_2 (step int DEFAULT 0, content text, id int PRIMARY KEY);
    ALTER TABLE memories ATTACH PARTITION memories_2 FOR VALUES FROM (100) TO (1000)"""
# A table, and the name of a trigger of the user's. PostgreSQL fires row triggers in the order of their names.
WAYS = {
    "ordinary": (ORDINARY, "a_users"),
    "partitioned, the user's trigger first": (PARTITIONED, "a_users"),
    "partitioned, the user's trigger last": (PARTITIONED, "z_users"),
}


class Ordered:
    """An attached table memories, triggers of the user's on it, and the sink that gets its events."""

    def __init__(self, db, sink, name):
        self.db = db
        self.sink = sink
        self.name = name

    def trigger(self, when, body, table="memories", name=None):
        """Makes a row trigger with a PL/pgSQL body."""
        name = name or self.name
        self.db.execute(f"""
            CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
            CREATE TRIGGER {name} {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()""")

    def story(self, n, timeout=10):
        """The next n events, by row, in the order of their ids: what happened, and the content after it."""
        bodies = self.sink.take(n, timeout)
        times = [body["created"] for body in bodies]
        assert times == sorted(times), "times follow ids"
        told = {}
        for body in bodies:
            action = body["type"].removeprefix("memory.")
            told.setdefault(body["data"]["id"], []).append((action, body["data"].get("content")))
        return told


@pytest.fixture(params=WAYS)
def memories(request, db, sink):
    definition, name = WAYS[request.param]
    db.execute(definition)
    db.attach("memories")
    return Ordered(db, sink, name)


# Triggers that change the row for which they fire


def test_a_trigger_after_insert_that_updates_its_row(db, memories):
    memories.trigger(
        "AFTER INSERT", "UPDATE memories SET content = new.content || '!' WHERE id = new.id; RETURN NULL;"
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    assert memories.story(2) == {"1": [("created", "a"), ("updated", "a!")]}


def test_a_trigger_after_insert_that_updates_each_of_many_rows(db, memories):
    memories.trigger(
        "AFTER INSERT", "UPDATE memories SET content = new.content || '!' WHERE id = new.id; RETURN NULL;"
    )
    db.execute("INSERT INTO memories SELECT n, 'a' FROM generate_series(1, 150) n")
    assert memories.story(300, 30) == {str(n): [("created", "a"), ("updated", "a!")] for n in range(1, 151)}


def test_what_an_update_changed_is_told_step_by_step(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    created, updated = memories.sink.take(2)
    assert created["data"]["content"] == "a" and "changes" not in created["data"]
    assert updated["data"]["changes"] == {"content": {"from": "a", "to": "b"}}


def test_a_trigger_after_update_that_updates_its_row_again(db, memories):
    memories.trigger(
        "AFTER UPDATE",
        "IF new.step < 3 THEN UPDATE memories SET step = step + 1 WHERE id = new.id; END IF; RETURN NULL;",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    db.execute("UPDATE memories SET step = 1")
    bodies = memories.sink.take(4)
    assert [body["type"] for body in bodies] == ["memory.created"] + ["memory.updated"] * 3
    assert [body["data"]["step"] for body in bodies] == [0, 1, 2, 3]


def test_a_chain_of_triggers_three_deep(db, memories):
    memories.trigger(
        "AFTER INSERT OR UPDATE",
        """IF new.step < 3 THEN
               UPDATE memories SET step = step + 1, content = content || new.step WHERE id = new.id;
           END IF;
           RETURN NULL;""",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    assert memories.story(8) == {
        "1": [("created", "a"), ("updated", "a0"), ("updated", "a01"), ("updated", "a012")],
        "101": [("created", "b"), ("updated", "b0"), ("updated", "b01"), ("updated", "b012")],
    }


def test_a_trigger_after_insert_that_updates_its_row_twice(db, memories):
    memories.trigger(
        "AFTER INSERT",
        """UPDATE memories SET content = 'b' WHERE id = new.id;
           UPDATE memories SET content = 'c' WHERE id = new.id;
           RETURN NULL;""",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    assert memories.story(3) == {"1": [("created", "a"), ("updated", "b"), ("updated", "c")]}


def test_a_trigger_after_insert_that_deletes_its_row(db, memories):
    memories.trigger("AFTER INSERT", "DELETE FROM memories WHERE id = new.id; RETURN NULL;")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    assert memories.story(4) == {
        "1": [("created", "a"), ("deleted", None)],
        "101": [("created", "b"), ("deleted", None)],
    }


def test_a_trigger_after_delete_that_inserts_the_row_again(db, memories):
    memories.trigger("AFTER DELETE", "INSERT INTO memories VALUES (old.id, 'again'); RETURN NULL;")
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    db.execute("DELETE FROM memories")
    assert memories.story(3) == {"1": [("created", "a"), ("deleted", None), ("created", "again")]}


def test_a_trigger_before_insert_that_deletes_the_row_with_the_same_key(db, memories):
    memories.trigger("BEFORE INSERT", "DELETE FROM memories WHERE id = new.id; RETURN new;")
    db.execute("INSERT INTO memories VALUES (1, 'old')")
    db.execute("INSERT INTO memories VALUES (1, 'new')")
    assert memories.story(3) == {"1": [("created", "old"), ("deleted", None), ("created", "new")]}


def test_a_trigger_before_insert_that_deletes_a_row_of_the_same_statement(db, memories):
    memories.trigger("BEFORE INSERT", "DELETE FROM memories WHERE id = new.id; RETURN new;")
    db.execute("INSERT INTO memories VALUES (1, 'first'), (1, 'second'), (1, 'third')")
    assert memories.story(5) == {
        "1": [
            ("created", "first"),
            ("deleted", None),
            ("created", "second"),
            ("deleted", None),
            ("created", "third"),
        ]
    }


def test_a_trigger_before_insert_that_deletes_the_row_inserted_just_before(db, memories):
    """The row was made by the statement itself: nothing made room for it."""
    memories.trigger("BEFORE INSERT", "DELETE FROM memories WHERE id = new.id - 1; RETURN new;")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    assert memories.story(5) == {
        "1": [("created", "a"), ("deleted", None)],
        "2": [("created", "b"), ("deleted", None)],
        "3": [("created", "c")],
    }


def test_a_trigger_before_insert_that_updates_the_row_inserted_just_before(db, memories):
    memories.trigger(
        "BEFORE INSERT", "UPDATE memories SET content = content || '+' WHERE id = new.id - 1; RETURN new;"
    )
    db.execute("INSERT INTO memories VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    assert memories.story(5) == {
        "1": [("created", "a"), ("updated", "a+")],
        "2": [("created", "b"), ("updated", "b+")],
        "3": [("created", "c")],
    }


def test_a_trigger_before_update_that_updates_another_row_of_the_same_statement(db, memories):
    """The row that the statement has updated already."""
    memories.trigger(
        "BEFORE UPDATE",
        """IF pg_trigger_depth() = 1 THEN
               UPDATE memories SET content = content || '+' WHERE id = new.id - 1;
           END IF;
           RETURN new;""",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    db.execute("INSERT INTO memories VALUES (2, 'b')")
    memories.sink.take(2)
    db.execute("UPDATE memories SET content = upper(content)")
    assert memories.story(3) == {"1": [("updated", "A"), ("updated", "A+")], "2": [("updated", "B")]}


def test_a_trigger_before_update_that_deletes_the_row_whose_key_the_update_takes(db, memories):
    memories.trigger(
        "BEFORE UPDATE", "DELETE FROM memories WHERE id = new.id AND new.id <> old.id; RETURN new;"
    )
    db.execute("INSERT INTO memories VALUES (1, 'mover')")
    db.execute("INSERT INTO memories VALUES (2, 'in the way')")
    memories.sink.take(2)
    db.execute("UPDATE memories SET id = 2 WHERE id = 1")
    assert memories.story(2) == {"2": [("deleted", None), ("updated", "mover")]}


def test_triggers_of_both_kinds_at_once(db, memories):
    memories.trigger(
        "BEFORE INSERT", "DELETE FROM memories WHERE id = new.id; RETURN new;", name=f"{memories.name}_before"
    )
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    for _ in range(2):
        db.execute("INSERT INTO memories VALUES (1, 'a')")
    once = [("created", "a"), ("updated", "b")]
    assert memories.story(5) == {"1": [*once, ("deleted", None), *once]}


def test_a_statement_trigger_that_updates_all_rows(db, memories):
    name = memories.name
    db.execute(f"""
        CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE memories SET content = content || '!'; RETURN NULL; END $$;
        CREATE TRIGGER {name} AFTER INSERT ON memories FOR EACH STATEMENT EXECUTE FUNCTION {name}()""")
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    db.execute("INSERT INTO memories VALUES (101, 'b')")
    assert memories.story(5) == {
        "1": [("created", "a"), ("updated", "a!"), ("updated", "a!!")],
        "101": [("created", "b"), ("updated", "b!")],
    }


def test_a_trigger_that_works_through_a_table_that_is_not_attached(db, memories):
    db.execute("CREATE TABLE steps (memory int, content text)")
    memories.trigger("AFTER INSERT", "INSERT INTO steps VALUES (new.id, new.content || '!'); RETURN NULL;")
    memories.trigger(
        "AFTER INSERT",
        "UPDATE memories SET content = new.content WHERE id = new.memory; RETURN NULL;",
        table="steps",
        name="follow",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'b')")
    assert memories.story(4) == {
        "1": [("created", "a"), ("updated", "a!")],
        "101": [("created", "b"), ("updated", "b!")],
    }


def test_a_trigger_that_works_through_another_attached_table(db, memories, receiver):
    db.execute("CREATE TABLE notes (id int, content text)")
    db.attach("notes", object="note")
    db.create_webhook(receiver.url("/notes"), ["note.*"])
    memories.trigger("AFTER INSERT", "INSERT INTO notes VALUES (new.id, new.content || '!'); RETURN NULL;")
    memories.trigger(
        "AFTER INSERT",
        "UPDATE memories SET content = new.content WHERE id = new.id; RETURN NULL;",
        table="notes",
        name="follow",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    assert memories.story(2) == {"1": [("created", "a"), ("updated", "a!")]}
    assert len(receiver.wait(1, "/notes")) == 1


# Other ways to the same row


def test_copy_with_a_trigger_that_updates_each_row(db, memories):
    memories.trigger(
        "AFTER INSERT", "UPDATE memories SET content = new.content || '!' WHERE id = new.id; RETURN NULL;"
    )
    with db.session.cursor() as cursor, cursor.copy("COPY memories (id, content) FROM STDIN") as copy:
        for n in (1, 2, 101):
            copy.write_row([n, "a"])
    assert memories.story(6) == {key: [("created", "a"), ("updated", "a!")] for key in ("1", "2", "101")}


@pytest.mark.parametrize("when", ["at commit", "by SET CONSTRAINTS"])
def test_a_deferred_constraint_trigger_that_updates_the_row(db, memories, when):
    db.execute("""
        CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE memories SET content = content || '!' WHERE id = new.id; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER finish AFTER INSERT ON memories DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION finish()""")
    with db.session.transaction():
        db.execute("INSERT INTO memories VALUES (1, 'a')")
        db.execute("UPDATE memories SET content = 'b'")
        if when != "at commit":
            db.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert memories.story(3) == {"1": [("created", "a"), ("updated", "b"), ("updated", "b!")]}


def test_a_deferred_constraint_trigger_whose_update_fires_a_trigger(db, memories):
    memories.trigger(
        "AFTER UPDATE",
        "UPDATE memories SET step = 1 WHERE id = new.id AND step = 0; RETURN NULL;",
        name="a_second",
    )
    db.execute("""
        CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER finish AFTER INSERT ON memories DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION finish()""")
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    changes = [body["data"].get("changes") for body in memories.sink.take(3)]
    assert changes == [None, {"content": {"from": "a", "to": "b"}}, {"step": {"from": 0, "to": 1}}]


def test_a_statement_after_deferred_triggers_have_been_fired_comes_after_them(db, memories):
    db.execute("""
        CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE memories SET content = content || '!' WHERE id = new.id; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER finish AFTER INSERT ON memories DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION finish()""")
    with db.session.transaction():
        db.execute("INSERT INTO memories VALUES (1, 'a')")
        db.execute("SET CONSTRAINTS ALL IMMEDIATE")
        db.execute("UPDATE memories SET content = 'b'")
        db.execute("SET CONSTRAINTS ALL DEFERRED")
        db.execute("UPDATE memories SET content = 'c'")
    assert memories.story(4) == {
        "1": [("created", "a"), ("updated", "a!"), ("updated", "b"), ("updated", "c")]
    }


def test_a_statement_after_the_triggers_of_truncate_comes_after_them(db, memories):
    db.execute("""
        CREATE TABLE other (id int);
        CREATE FUNCTION emptied() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO memories VALUES (1, 'a'); RETURN NULL; END $$;
        CREATE TRIGGER emptied AFTER TRUNCATE ON other FOR EACH STATEMENT EXECUTE FUNCTION emptied()""")
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    with db.session.transaction():
        db.execute("TRUNCATE other")
        db.execute("UPDATE memories SET content = 'c'")
    assert memories.story(3) == {"1": [("created", "a"), ("updated", "b"), ("updated", "c")]}


def test_a_row_that_refers_to_itself_and_is_updated_by_cascade(db, memories):
    db.execute("ALTER TABLE memories ADD parent int REFERENCES memories ON UPDATE CASCADE")
    db.execute("INSERT INTO memories (id, content, parent) VALUES (1, 'a', 1)")
    memories.sink.take(1)
    db.execute("UPDATE memories SET id = 2")
    first, second = memories.sink.take(2)
    assert first["data"]["changes"] == {"id": {"from": 1, "to": 2}} and first["data"]["parent"] == 1
    assert second["data"]["changes"] == {"parent": {"from": 1, "to": 2}}


def test_statements_of_one_do_block(db, memories):
    db.execute("""
        DO $$ BEGIN
            INSERT INTO memories VALUES (1, 'a');
            UPDATE memories SET content = 'b';
            UPDATE memories SET content = 'c';
            DELETE FROM memories;
            INSERT INTO memories VALUES (1, 'd');
        END $$""")
    assert memories.story(5) == {
        "1": [("created", "a"), ("updated", "b"), ("updated", "c"), ("deleted", None), ("created", "d")]
    }


def test_statements_of_functions_that_one_select_calls(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("""
        CREATE FUNCTION remember(key int) RETURNS int LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO memories VALUES (key, 'a'); RETURN key; END $$;
        CREATE FUNCTION change(key int) RETURNS int LANGUAGE plpgsql AS
            $$ BEGIN UPDATE memories SET content = 'c' WHERE id = key; RETURN key; END $$""")
    db.execute("SELECT change(remember(n)) FROM generate_series(1, 3) n")
    told = [("created", "a"), ("updated", "b"), ("updated", "c")]
    assert memories.story(9) == {str(n): told for n in range(1, 4)}


def test_statements_of_a_cursor_that_is_never_read_to_its_end(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("""
        CREATE FUNCTION remember(key int) RETURNS int LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO memories VALUES (key, 'a'); RETURN key; END $$""")
    with db.session.transaction():
        db.execute("DECLARE c CURSOR FOR SELECT remember(n) FROM generate_series(1, 10) n")
        db.execute("FETCH 2 FROM c")
        db.execute("UPDATE memories SET content = 'c' WHERE id = 1")
        db.execute("FETCH 1 FROM c")
    told = [("created", "a"), ("updated", "b")]
    assert memories.story(7) == {"1": [*told, ("updated", "c")], "2": told, "3": told}


def test_a_view_whose_trigger_inserts_and_updates(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("CREATE VIEW seen AS SELECT * FROM memories")
    memories.trigger(
        "INSTEAD OF INSERT",
        """INSERT INTO memories VALUES (new.id, new.content);
           UPDATE memories SET content = 'c' WHERE id = new.id;
           RETURN new;""",
        table="seen",
        name="through",
    )
    db.execute("INSERT INTO seen VALUES (1, 'a')")
    assert memories.story(3) == {"1": [("created", "a"), ("updated", "b"), ("updated", "c")]}


def test_a_procedure_that_commits_between_its_statements(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("""
        CREATE PROCEDURE remember() LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO memories VALUES (1, 'a');
            COMMIT;
            UPDATE memories SET content = 'c';
            ROLLBACK;
            UPDATE memories SET content = 'd';
        END $$;""")
    db.execute("CALL remember()")
    assert memories.story(3) == {"1": [("created", "a"), ("updated", "b"), ("updated", "d")]}


# What is undone


def test_a_block_that_is_undone_in_a_trigger_drops_its_own_events_only(db, memories):
    memories.trigger(
        "AFTER INSERT",
        """UPDATE memories SET content = 'b' WHERE id = new.id;
           BEGIN
               UPDATE memories SET content = 'undone' WHERE id = new.id;
               RAISE division_by_zero;
           EXCEPTION WHEN division_by_zero THEN
               UPDATE memories SET content = content || '!' WHERE id = new.id;
           END;
           RETURN NULL;""",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'a')")
    told = [("created", "a"), ("updated", "b"), ("updated", "b!")]
    assert memories.story(6) == {"1": told, "101": told}


def test_a_block_that_is_undone_around_a_statement_with_triggers_drops_all_of_its_events(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("""
        DO $$ BEGIN
            INSERT INTO memories VALUES (1, 'a');
            BEGIN
                INSERT INTO memories VALUES (2, 'undone');
                BEGIN
                    INSERT INTO memories VALUES (3, 'undone');
                END;
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
            INSERT INTO memories VALUES (4, 'a');
        END $$""")
    told = [("created", "a"), ("updated", "b")]
    assert memories.story(4) == {"1": told, "4": told}


def test_a_block_that_succeeds_keeps_its_events(db, memories):
    memories.trigger(
        "AFTER INSERT",
        """BEGIN
               UPDATE memories SET content = 'b' WHERE id = new.id;
           EXCEPTION WHEN division_by_zero THEN RAISE;
           END;
           RETURN NULL;""",
    )
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    assert memories.story(2) == {"1": [("created", "a"), ("updated", "b")]}


def test_a_trigger_that_fails_leaves_nothing_for_the_next_statement(db, memories):
    memories.trigger(
        "AFTER INSERT",
        """UPDATE memories SET content = 'b' WHERE id = new.id;
           IF new.content = 'fails' THEN RAISE division_by_zero; END IF;
           RETURN NULL;""",
    )
    db.fails("INSERT INTO memories VALUES (1, 'fails')", state="22012", hint=False)
    db.execute("INSERT INTO memories VALUES (2, 'a')")
    with db.session.transaction():
        with pytest.raises(Exception, match="division"), db.session.transaction():
            db.execute("INSERT INTO memories VALUES (3, 'fails')")
        db.execute("INSERT INTO memories VALUES (4, 'a')")
    told = [("created", "a"), ("updated", "b")]
    assert memories.story(4) == {"2": told, "4": told}


# Transactions


def test_a_prepared_transaction_keeps_all_events_in_their_order(db, memories):
    memories.trigger("AFTER INSERT", "UPDATE memories SET content = 'b' WHERE id = new.id; RETURN NULL;")
    db.execute("BEGIN")
    db.execute("INSERT INTO memories VALUES (1, 'a'), (101, 'a')")
    db.execute("UPDATE memories SET content = 'c'")
    db.execute("PREPARE TRANSACTION 'ordered'")
    memories.sink.take(0)
    db.execute("COMMIT PREPARED 'ordered'")
    told = [("created", "a"), ("updated", "b"), ("updated", "c")]
    assert memories.story(6, 20) == {"1": told, "101": told}


def test_more_events_of_triggers_than_work_mem_holds_arrive_all(db, memories):
    """Their order is not promised then."""
    memories.trigger(
        "AFTER INSERT", "UPDATE memories SET content = new.content || '!' WHERE id = new.id; RETURN NULL;"
    )
    db.execute("SET work_mem = '64kB'")
    db.execute("INSERT INTO memories SELECT n, repeat('x', 2000) FROM generate_series(1, 250) n")
    bodies = memories.sink.take(500, 60)
    assert {(body["type"], body["data"]["id"]) for body in bodies} == {
        (f"memory.{action}", str(n)) for action in ("created", "updated") for n in range(1, 251)
    }


def test_a_statement_of_more_rows_than_work_mem_holds_is_ordered_without_triggers(db, memories):
    db.execute("SET work_mem = '64kB'")
    with db.session.transaction():
        db.execute("INSERT INTO memories SELECT n, repeat('x', 1000) FROM generate_series(1, 200) n")
        db.execute("UPDATE memories SET content = 'a'")
    told = [("created", "x" * 1000), ("updated", "a")]
    assert memories.story(400, 60) == {str(n): told for n in range(1, 201)}


# Sessions


@pytest.mark.parametrize("definition", [ORDINARY, PARTITIONED], ids=["ordinary", "partitioned"])
def test_events_of_a_row_that_sessions_update_in_turn_sort_in_the_order_of_its_versions(db, sink, definition):
    sessions, rounds = 3, 400
    db.execute(definition)
    db.attach("memories")
    db.execute(f"""
        INSERT INTO memories VALUES (1, 'a');
        CREATE PROCEDURE count_up() LANGUAGE plpgsql AS $$ BEGIN
            FOR n IN 1 .. {rounds} LOOP
                UPDATE memories SET step = step + 1;
                COMMIT;
            END LOOP;
        END $$""")
    writers = [
        threading.Thread(target=db.connect().execute, args=["CALL count_up()"]) for _ in range(sessions)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    steps = db.rows("SELECT (data::jsonb -> 'step')::int AS step FROM webhooks.event ORDER BY id")
    found = [row["step"] for row in steps]
    inversions = sum(after < before for before, after in zip(found, found[1:], strict=False))
    assert len(found) == sessions * rounds + 1
    assert inversions == 0, f"{inversions} of {len(found)} events come before the event of an earlier version"
    times = db.rows("SELECT created_at FROM webhooks.event ORDER BY id")
    assert times == sorted(times, key=lambda row: row["created_at"])


# A clock that was set back, and a server that takes over from one whose clock was ahead


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_event_ids_go_on_rising_after_a_restart_although_a_stored_one_lies_in_the_future(
    make_server, make_database, receiver, end
):
    server = make_server()
    db = make_database(server=server)
    db.execute(ORDINARY)
    db.attach("memories")
    sink = Sink(db, receiver)
    db.execute("INSERT INTO memories VALUES (1, 'a')")
    sink.take_one("memory.created")
    ahead = uuid_at(time.time() + 3600)
    statement = (
        "INSERT INTO webhooks.event (id, created_at, type, data) VALUES (%s, now(), 'user.activity', '{}')"
    )
    db.execute(statement, ahead)
    if end == "crash":
        server.crash()
        server.start()
    else:
        server.restart()
    db.reconnect()
    # At once: whether a worker is there yet or not.
    for content in ("b", "c"):
        db.execute("UPDATE memories SET content = %s", content)
    known = [row["id"] for row in db.rows("SELECT id FROM webhooks.event ORDER BY id")]
    assert len(known) == 4 and known[1] == ahead, "both new events sort behind the stored one"
    db.wait_for_worker()
    bodies = sink.take(2, 20)
    assert [body["data"]["content"] for body in bodies] == ["b", "c"]
    assert all(body["id"] > f"event_{ahead.hex}" for body in bodies)


def test_event_ids_of_two_databases_rise_each_by_itself(make_server, make_database, receiver):
    """The largest id stored in one database says nothing about another."""
    server = make_server()
    first, second = make_database(server=server), make_database(server=server)
    ahead = uuid_at(time.time() + 3600)
    statement = (
        "INSERT INTO webhooks.event (id, created_at, type, data) VALUES (%s, now(), 'user.activity', '{}')"
    )
    second.execute(statement, ahead)
    server.restart()
    for db in (first, second):
        db.reconnect()
        db.wait_for_worker()
        db.execute(ORDINARY)
        db.attach("memories")
        sink = Sink(db, receiver, f"/{db.name}")
        db.execute("INSERT INTO memories VALUES (1, 'a')")
        db.execute("UPDATE memories SET content = 'b'")
        assert [body["data"]["content"] for body in sink.take(2, 20)] == ["a", "b"]
    newest = second.one("SELECT id FROM webhooks.event ORDER BY id DESC LIMIT 1")
    assert newest > ahead


# Triggers at random

# The last of the BEFORE triggers notes each change right before it is made. A change that is undone takes its
# note along. A statement that PostgreSQL refuses (27000, unique keys) is undone with all that it caused.
RANDOM_TRIGGERS = """
    CREATE SEQUENCE steps;
    CREATE TABLE truth (seq bigserial, id int, action text, step int);
    CREATE TABLE other (id int);
    CREATE FUNCTION act() RETURNS int LANGUAGE plpgsql AS $$
    DECLARE
        what float8 := random();
        key int := 1 + floor(random() * 4);
    BEGIN
        IF what < 0.30 THEN
            IF NOT EXISTS (SELECT FROM memories WHERE id = key) THEN
                INSERT INTO memories (id, step) VALUES (key, nextval('steps'));
            END IF;
        ELSIF what < 0.55 THEN UPDATE memories SET step = nextval('steps') WHERE id = key;
        ELSIF what < 0.65 THEN UPDATE memories SET step = nextval('steps');
        ELSIF what < 0.78 THEN DELETE FROM memories WHERE id = key;
        ELSIF what < 0.88 THEN INSERT INTO other VALUES (key);
        ELSIF what < 0.92 THEN TRUNCATE other;
        ELSE
            BEGIN
                PERFORM act();
                RAISE division_by_zero;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION maybe_act() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() < 4 AND random() < 0.4 THEN
            BEGIN
                PERFORM act();
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        ELSIF pg_trigger_depth() < 4 AND random() < 0.3 THEN
            PERFORM act();
        END IF;
        RETURN CASE WHEN TG_OP = 'DELETE' THEN old ELSE new END;
    END $$;
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO truth (id, action) VALUES (old.id, 'deleted');
            RETURN old;
        END IF;
        INSERT INTO truth (id, action, step)
            VALUES (new.id, CASE TG_OP WHEN 'INSERT' THEN 'created' ELSE 'updated' END, new.step);
        RETURN new;
    END $$;
    CREATE TRIGGER a_before BEFORE INSERT OR UPDATE OR DELETE ON memories
        FOR EACH ROW EXECUTE FUNCTION maybe_act();
    CREATE TRIGGER z_before BEFORE INSERT OR UPDATE OR DELETE ON memories
        FOR EACH ROW EXECUTE FUNCTION witness();
    CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON memories
        FOR EACH ROW EXECUTE FUNCTION maybe_act();
    CREATE TRIGGER a_statement AFTER INSERT OR UPDATE OR DELETE ON memories
        FOR EACH STATEMENT EXECUTE FUNCTION maybe_act();
    CREATE TRIGGER a_before BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION maybe_act();
    CREATE TRIGGER a_after AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION maybe_act();
    CREATE TRIGGER a_truncate AFTER TRUNCATE ON other FOR EACH STATEMENT EXECUTE FUNCTION maybe_act()"""
STATEMENTS = [
    "INSERT INTO memories (id, step) SELECT n, nextval('steps') FROM generate_series(1, 4) n"
    " WHERE NOT EXISTS (SELECT FROM memories WHERE id = n)",
    "UPDATE memories SET step = nextval('steps')",
    "DELETE FROM memories WHERE id % 2 = 0",
    "INSERT INTO other VALUES (1), (2)",
    "SELECT act() FROM generate_series(1, 3)",
    "TRUNCATE other",
]


def by_row(rows):
    told = {}
    for row in rows:
        told.setdefault(row["id"], []).append((row["action"], row["step"]))
    return told


@pytest.mark.parametrize("seed", range(4))
def test_triggers_that_do_anything_leave_the_events_of_each_row_in_order(db, memories, seed):
    rng = random.Random(seed)
    db.execute(RANDOM_TRIGGERS.replace("{name}", memories.name))
    db.execute("SELECT setseed(%s)", seed / 10)
    for _ in range(40):
        with contextlib.suppress(psycopg.Error), db.session.transaction():
            for _ in range(rng.randint(1, 4)):
                with contextlib.suppress(psycopg.Error), db.session.transaction():
                    db.execute(rng.choice(STATEMENTS))
    truth = by_row(db.rows("SELECT id, action, step FROM truth ORDER BY seq"))
    events = by_row(
        db.rows("""
            SELECT (data::jsonb ->> 'id')::int AS id, replace(type, 'memory.', '') AS action,
                   (data::jsonb ->> 'step')::int AS step
              FROM webhooks.event ORDER BY event.id""")
    )
    assert sum(map(len, truth.values())) > 50
    for row, happened in truth.items():
        assert events.get(row) == happened, f"row {row}"
    assert events.keys() == truth.keys()
