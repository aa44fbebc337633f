"""Which tables can be attached, and what of them is sent: ids, columns, objects, rights."""

import pytest

URL = "http://127.0.0.1:9/hook"


def attached(db, definition, **arguments):
    """A table `memories` with these columns, attached."""
    db.execute(f"CREATE TABLE memories ({definition})")
    db.attach("memories", **arguments)


# Ids


@pytest.mark.parametrize(
    ("type_name", "value", "shown"),
    [
        ("int", "7", "7"),
        ("smallint", "-7", "-7"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("numeric", "12345678901234567890.50", "12345678901234567890.50"),
        ("text", 'a "quoted" id\n', 'a "quoted" id\n'),
        ("varchar(9)", "7", "7"),
        ("uuid", "11111111-1111-4111-8111-111111111111", "11111111-1111-4111-8111-111111111111"),
    ],
)
def test_an_id_of_any_type_is_sent_as_a_string(db, sink, type_name, value, shown):
    attached(db, f"id {type_name}, content text")
    db.execute("INSERT INTO memories VALUES (%s, 'a')", value)
    assert sink.take_one("memory.created")["data"]["id"] == shown
    db.execute("UPDATE memories SET content = 'b'")
    assert sink.take_one("memory.updated")["data"]["id"] == shown
    db.execute("DELETE FROM memories")
    assert sink.take_one("memory.deleted")["data"]["id"] == shown


def test_the_id_column_may_have_any_name(db, sink):
    attached(db, "key int, content text", id_column="key")
    db.execute("INSERT INTO memories VALUES (7, 'a')")
    assert sink.take_one()["data"]["id"] == "7"


def test_an_id_that_is_null_fails_nothing(db, sink):
    attached(db, "id int, content text")
    db.execute("INSERT INTO memories VALUES (NULL, 'a')")
    sink.take(1)


# Columns


def test_a_table_needs_no_tags_and_no_metadata(db, sink):
    attached(db, "id int")
    db.execute("INSERT INTO memories VALUES (1)")
    assert sink.take_one()["data"] == {"object": "memory", "id": "1"}
    db.execute("DELETE FROM memories")
    data = sink.take_one("memory.deleted")["data"]
    assert set(data) - {"metadata"} == {"object", "id", "deleted_at"} and not data.get("metadata")


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
def test_metadata_may_be_json_or_jsonb(db, sink, type_name):
    attached(db, f"id int, metadata {type_name}")
    db.execute("""INSERT INTO memories VALUES (1, '{"b": [1, 2.50, {"c": null}], "a": "é"}')""")
    assert sink.take_one("memory.created")["data"]["metadata"] == {"b": [1, 2.5, {"c": None}], "a": "é"}
    db.execute("""UPDATE memories SET metadata = '{"b": 1}'""")
    changes = sink.take_one("memory.updated")["data"]["changes"]
    assert changes["metadata"] == {"from": {"b": [1, 2.5, {"c": None}], "a": "é"}, "to": {"b": 1}}


def test_a_json_column_that_says_the_same_in_other_words_has_not_changed(db, sink):
    attached(db, "id int, metadata json")
    db.execute("""INSERT INTO memories VALUES (1, '{"a": 1}')""")
    sink.take_one("memory.created")
    db.execute("""UPDATE memories SET metadata = '{ "a" : 1 }'""")
    sink.take(0)


def test_a_generated_column_is_shown(db, sink):
    attached(db, "id int, content text, length int GENERATED ALWAYS AS (length(content)) STORED")
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'four')")
    assert sink.take_one()["data"]["length"] == 4
    db.execute("UPDATE memories SET content = 'three'")
    assert sink.take_one()["data"]["changes"] == {
        "content": {"from": "four", "to": "three"},
        "length": {"from": 4, "to": 5},
    }


def test_a_virtual_generated_column_is_computed_or_left_out_never_null(db, sink):
    if db.session.info.server_version < 180000:
        pytest.skip("since PostgreSQL 18")
    attached(db, "id int, content text, length int GENERATED ALWAYS AS (length(content)) VIRTUAL")
    db.execute("INSERT INTO memories (id, content) VALUES (1, 'four')")
    assert sink.take_one()["data"].get("length", 4) == 4


def test_an_excluded_column_is_never_sent(db, sink):
    attached(
        db,
        "id int, content text, embedding float8[], inner_thoughts text",
        exclude_columns=["embedding", "inner_thoughts"],
    )
    db.execute("INSERT INTO memories VALUES (1, 'a', '{0.5}', 'hush')")
    db.execute("UPDATE memories SET content = 'b', inner_thoughts = 'quiet'")
    db.execute("DELETE FROM memories")
    for body in sink.take(3):
        assert not {"embedding", "inner_thoughts"} & set(body["data"]) | set(body["data"].get("changes", ())) - {
            "content"
        }


def test_a_column_that_was_added_is_shown_and_one_that_was_dropped_is_gone(db, sink):
    attached(db, "id int, content text, old text")
    writer = db.connect()
    db.execute("INSERT INTO memories VALUES (1, 'a', 'x')", session=writer)
    assert sink.take_one()["data"] == {"object": "memory", "id": "1", "content": "a", "old": "x"}
    db.execute("ALTER TABLE memories ADD new int DEFAULT 5, DROP old")
    db.execute("INSERT INTO memories VALUES (2, 'b', 6)", session=writer)
    assert sink.take_one()["data"] == {"object": "memory", "id": "2", "content": "b", "new": 6}
    db.execute("UPDATE memories SET content = 'c' WHERE id = 1", session=writer)
    data = sink.take_one()["data"]
    assert (data["new"], data["changes"]) == (5, {"content": {"from": "a", "to": "c"}})


def test_a_column_of_another_type_is_shown_as_it_is_now(db, sink):
    attached(db, "id int, score int")
    writer = db.connect()
    db.execute("INSERT INTO memories VALUES (1, 1)", session=writer)
    assert sink.take_one()["data"]["score"] == 1
    db.execute("ALTER TABLE memories ALTER score TYPE text USING 'no. ' || score")
    db.execute("INSERT INTO memories VALUES (2, 'no. 2')", session=writer)
    assert sink.take_one()["data"]["score"] == "no. 2"


@pytest.mark.parametrize("change", ["RENAME id TO key", "DROP id"])
def test_an_id_column_that_is_renamed_or_dropped_fails_no_writer(db, sink, change):
    attached(db, "id int, content text")
    db.execute(f"ALTER TABLE memories {change}")
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    db.execute("UPDATE memories SET content = 'b'")
    db.execute("DELETE FROM memories")
    assert db.one("SELECT count(*) FROM memories") == 0
    db.settle()


def test_a_table_that_is_renamed_or_moved_stays_attached(db, sink):
    attached(db, "id int, content text")
    db.execute("""
        CREATE SCHEMA elsewhere;
        ALTER TABLE memories RENAME TO recollections;
        ALTER TABLE recollections SET SCHEMA elsewhere;
        INSERT INTO elsewhere.recollections VALUES (1, 'a')""")
    assert sink.take_one("memory.created")["data"]["content"] == "a"


def test_names_that_need_quotes_are_sent_as_they_are(db, sink):
    table = '"My ""Table"""'
    db.execute(f'CREATE TABLE {table} (id int, "2" int, "a""b" int, "10" int, "Größe" int)')
    db.attach(table)
    db.execute(f"INSERT INTO {table} VALUES (1, 2, 3, 4, 5)")
    data = sink.take_one()["data"]
    assert (data["2"], data['a"b'], data["10"], data["Größe"]) == (2, 3, 4, 5)


def test_columns_that_are_called_like_our_own_keys_do_not_shadow_them(db, sink):
    attached(db, 'key int, "object" text, id text, changes int, truncated boolean', id_column="key")
    db.execute("INSERT INTO memories VALUES (7, 'liar', 'other', 1, true)")
    data = sink.take_one("memory.created")["data"]
    assert (data["object"], data["id"]) == ("memory", "7")
    db.execute("UPDATE memories SET changes = 2")
    data = sink.take_one("memory.updated")["data"]
    assert data["changes"] == {"changes": {"from": 1, "to": 2}}


# Objects


def test_attaching_as_note_registers_and_emits_note_created_and_so_on(db, receiver):
    db.fails("SELECT webhooks.create_webhook(%s, '{note.created}')", URL, state="22", says="note.created")
    db.execute("CREATE TABLE notes (id int, content text)")
    db.attach("notes", object="note")
    db.create_webhook(receiver.url(), ["note.created", "note.updated", "note.deleted"])
    db.execute("INSERT INTO notes VALUES (1, 'a')")
    db.execute("UPDATE notes SET content = 'b'")
    db.execute("DELETE FROM notes")
    receiver.wait(3)
    bodies = sorted((it.json for it in receiver.to()), key=lambda body: body["id"])
    assert [it["type"] for it in bodies] == ["note.created", "note.updated", "note.deleted"]
    assert {it["data"]["object"] for it in bodies} == {"note"}


def test_a_prefix_takes_only_its_own_object(db, receiver):
    for table, thing in (("memories", "memory"), ("notes", "note")):
        db.execute(f"CREATE TABLE {table} (id int)")
        db.attach(table, object=thing)
    db.create_webhook(receiver.url("/notes"), ["note.*"])
    db.create_webhook(receiver.url("/memories"), ["memory.*"])
    db.execute("INSERT INTO memories VALUES (1); INSERT INTO notes VALUES (2)")
    db.settle()
    assert [it.json["type"] for it in receiver.to("/notes")] == ["note.created"]
    assert [it.json["type"] for it in receiver.to("/memories")] == ["memory.created"]


# attach and detach


def test_attach_again_replaces_the_settings(db, sink):
    attached(db, "id int, content text, hidden text", exclude_columns=["hidden"])
    db.execute("INSERT INTO memories VALUES (1, 'a', 'x')")
    assert "hidden" not in sink.take_one()["data"]
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (2, 'a', 'x')")
    assert sink.take_one()["data"]["hidden"] == "x"
    db.execute("UPDATE memories SET content = 'b' WHERE id = 2")
    sink.take_one("memory.updated")


def test_detach_ends_it(db, sink):
    attached(db, "id int")
    db.execute("SELECT webhooks.detach('memories')")
    db.execute("INSERT INTO memories VALUES (1)")
    db.execute("DELETE FROM memories")
    sink.take(0)
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1)")
    sink.take_one("memory.created")


def test_a_table_owner_may_attach_and_detach_it(db, sink):
    owner = db.connect(
        user=db.role(
            "CREATE ON SCHEMA public", "USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks"
        )
    )
    db.execute("CREATE TABLE memories (id int)", session=owner)
    db.attach("memories", session=owner)
    db.execute("INSERT INTO memories VALUES (1)", session=owner)
    sink.take_one("memory.created")
    db.execute("SELECT webhooks.detach('memories')", session=owner)
    db.execute("INSERT INTO memories VALUES (2)", session=owner)
    sink.take(0)


REFUSED = {
    "a view": "CREATE VIEW it AS SELECT 1 AS id",
    "a materialized view": "CREATE MATERIALIZED VIEW it AS SELECT 1 AS id",
    "a foreign table": """
        CREATE FOREIGN DATA WRAPPER nothing;
        CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE it (id int) SERVER nowhere""",
    "a temporary table": "CREATE TEMPORARY TABLE it (id int)",
    "a sequence": "CREATE SEQUENCE it",
    "an index": "CREATE TABLE indexed (id int); CREATE INDEX it ON indexed (id)",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_attach_refuses(db, kind):
    db.execute(REFUSED[kind])
    db.fails("SELECT webhooks.attach('it')", state="42809")


def test_attach_refuses_our_own_tables(db):
    tables = db.rows(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'r'"
    )
    assert tables
    for table in tables:
        db.fails("SELECT webhooks.attach(%s)", table["name"], state="42809")


def test_attach_refuses_a_catalog_table(db):
    db.fails("SELECT webhooks.attach('pg_catalog.pg_class', id_column => 'oid')", state="42")


def test_attach_of_a_table_that_is_not_there_is_an_error(db):
    db.fails("SELECT webhooks.attach('nowhere')", state="42P01", hint=False)
    db.fails("SELECT webhooks.attach(NULL)", state="22")


# The writer


def test_the_writer_needs_no_right_on_anything_of_ours(db, memories):
    writer = db.connect(user=db.role("SELECT, INSERT, UPDATE, DELETE ON memories"))
    db.execute("INSERT INTO memories (content) VALUES ('a')", session=writer)
    db.execute("UPDATE memories SET content = 'b'", session=writer)
    db.execute("DELETE FROM memories", session=writer)
    assert [body["type"] for body in memories.take(3)] == ["memory.created", "memory.updated", "memory.deleted"]


def test_the_writer_may_have_hostile_settings(db, memories):
    writer = db.connect(user=db.role("SELECT, INSERT, UPDATE ON memories", "CREATE ON SCHEMA public"))
    db.execute(
        """
        CREATE FUNCTION public.no(text, text) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'the wrong operator was called'; END $$;
        CREATE FUNCTION public.no(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'the wrong operator was called'; END $$;
        CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = no);
        CREATE OPERATOR public.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = no);
        CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql RETURN NULL::timestamptz;
        SET search_path = public, pg_catalog;
        SET row_security = off;
        SET check_function_bodies = off;
        SET transform_null_equals = on""",
        session=writer,
    )
    db.execute("INSERT INTO memories (content) VALUES ('a')", session=writer)
    db.execute("UPDATE memories SET content = 'b'", session=writer)
    assert [body["type"] for body in memories.take(2)] == ["memory.created", "memory.updated"]


def test_a_writer_that_gave_up_its_rights_in_a_function_is_seen(db, memories):
    db.execute("""
        CREATE FUNCTION remember(what text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public
            AS 'INSERT INTO memories (content) VALUES (what)'""")
    stranger = db.connect(user=db.role())
    db.execute("SELECT remember('a')", session=stranger)
    assert memories.take_one("memory.created")["data"]["content"] == "a"
