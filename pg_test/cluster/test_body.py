"""The body: its envelope, canonical JSON that survives JavaScript, and values that no setting of the writer's can change.

That JSON.stringify(JSON.parse(body)) is the body is checked for every body of every test, when its receiver is closed.
"""

import json
import random
import re

import pytest
from forms import ENVELOPE_KEYS, is_id, is_now, time_of

TRUNCATED = {"object": "memory", "id": "1", "truncated": True}


@pytest.fixture
def values(db, sink):
    """Inserts one value of a type, and returns the text of it in the body."""

    def sent(type_name, literal):
        db.execute(f"""
            DROP TABLE IF EXISTS memories;
            CREATE TABLE memories (id int, v {type_name})""")
        db.attach("memories")
        db.execute(f"INSERT INTO memories VALUES (1, {literal})")
        sink.take(1)
        body = sink.receiver.to(sink.path)[-1].body.decode()
        return re.search(r'"data":\{"object":"memory","id":"1","v":(.*)\},"webhook_id"', body)[1]

    return sent


# The envelope


def test_the_body_is_compact_json_with_its_keys_in_order(db, memories):
    event = db.one("INSERT INTO memories (content) VALUES ('a b') RETURNING id::text")
    body = memories.take_one()
    raw = memories.receiver.to(memories.path)[-1].body.decode()
    assert list(body) == ENVELOPE_KEYS
    assert is_id("event", body["id"], version=7) and body["type"] == "memory.created" and is_now(body["created"])
    assert (body["webhook_id"], body["attempt"], body["livemode"]) == (memories.webhook["id"], 1, True)
    assert body["data"]["id"] == event
    assert raw.startswith('{"id":"event_') and raw.endswith('","attempt":1,"livemode":true}')
    assert json.dumps(body, separators=(",", ":"), ensure_ascii=False) == raw


def test_the_data_of_a_row_begins_as_in_the_example(db, sink):
    db.execute(
        "CREATE TABLE memories (id int, content text, metadata jsonb, tags text[], created_at timestamptz, more text)"
    )
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES (1, 'a', '{}', '{x}', '2024-01-15 10:30Z', 'b')")
    data = sink.take_one()["data"]
    assert data == {
        "object": "memory",
        "id": "1",
        "content": "a",
        "metadata": {},
        "tags": ["x"],
        "created_at": "2024-01-15T10:30:00.000Z",
        "more": "b",
    }
    assert list(data)[:2] == ["object", "id"]


def test_id_and_created_stay_the_same_over_retries_and_attempt_counts(db, receiver):
    receiver.answer("/hook", 500, 500, 200)
    db.create_webhook(receiver.url(), retry_policy={"backoff_multiplier": 1})
    db.emit()
    bodies = [it.json for it in receiver.wait(3)]
    assert [body["attempt"] for body in bodies] == [1, 2, 3]
    assert all({**body, "attempt": 1} == bodies[0] for body in bodies)


def test_created_is_when_it_happened(db, memories):
    with db.session.transaction():
        before, _ = (db.one("SELECT clock_timestamp()"), db.execute("INSERT INTO memories (content) VALUES ('a')"))
        after = db.one("SELECT clock_timestamp()")
        db.execute("SELECT pg_sleep(0.2)")
    created = time_of(memories.take_one()["created"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= created <= after


@pytest.mark.settings({"webhooks.livemode": "off"})
def test_livemode_is_what_the_setting_says(db, sink):
    db.emit()
    assert sink.take_one()["livemode"] is False


# Numbers: as JavaScript spells them


@pytest.mark.parametrize(
    ("type_name", "literal", "sent"),
    [
        ("int", "-5", "-5"),
        ("bigint", "9007199254740991", "9007199254740991"),
        ("numeric", "1.50", "1.5"),
        ("numeric", "100.00", "100"),
        ("numeric", "0.1", "0.1"),
        ("numeric", "0.000001", "0.000001"),
        ("numeric", "0.0000001", "1e-7"),
        ("numeric", "1e21", "1e+21"),
        ("numeric", "123456789012345680000", "123456789012345680000"),
        ("numeric", "-0.0", "0"),
        ("float8", "1e300", "1e+300"),
        ("float8", "0.1", "0.1"),
        ("float8", "'-0'", "0"),
        ("float8", "5e-324", "5e-324"),
        ("float8", "1e20", "100000000000000000000"),
        ("float8", "1", "1"),
        ("jsonb", "'[1.0, 1e2, 1.5E-3]'", "[1,100,0.0015]"),
        ("json", "'[1.0, 1e2, -0, 0.10, 1E400]'", "[1,100,0,0.1,1E400]"),
    ],
)
def test_a_number_is_spelled_as_javascript_spells_it(values, receiver, type_name, literal, sent):
    receiver.round_trip = "1E400" not in literal
    shown = values(type_name, literal)
    if "1E400" in literal:
        # No double is near: it is sent exactly, in whatever spelling.
        shown = re.sub(r"1[eE]\+?400|10{400}", "1E400", shown)
    assert shown == sent


@pytest.mark.parametrize(
    ("type_name", "literal"),
    [
        ("bigint", "9007199254740993"),
        ("bigint", "9223372036854775807"),
        ("numeric", "12345678901234567890.123"),
        ("numeric", "0.12345678901234567890"),
        ("jsonb", "9007199254740993"),
    ],
)
def test_a_number_that_no_double_holds_is_sent_exactly(values, receiver, type_name, literal):
    receiver.round_trip = False
    shown = values(type_name, f"'{literal}'")
    assert shown.rstrip("0") == literal.rstrip("0")


def test_float4_is_sent_as_a_short_number(values):
    assert float(values("float4", "0.1")) == pytest.approx(0.1, rel=1e-6)


# Strings, keys, structure


@pytest.mark.parametrize(
    "text",
    [
        'quotes " and \\ and /',
        "controls \b\f\n\r\t \x01\x1f\x7f",
        "separators \u2028\u2029 bom \ufeff",
        "beyond the plane 🎉 \U0010ffff",
        "noncharacters \ufffe\uffff",
        "</script><!--",
        "",
    ],
)
def test_a_string_is_escaped_as_javascript_escapes_it(db, memories, text):
    db.execute("INSERT INTO memories (content) VALUES (%s)", text)
    assert memories.take_one()["data"]["content"] == text


def test_integer_like_keys_come_first_as_in_javascript(values):
    literal = """'{"b": 1, "10": 2, "2": 3, "01": 4, "-1": 5, "4294967294": 6, "4294967295": 7, "0": 8}'"""
    assert values("json", literal) == '{"0":8,"2":3,"10":2,"4294967294":6,"b":1,"01":4,"-1":5,"4294967295":7}'


def test_a_key_that_comes_twice_is_sent_once_as_javascript_keeps_it(values):
    assert values("json", """'{"a": 1, "b": 2, "a": 3}'""") == '{"a":3,"b":2}'


def test_a_key_called_proto_is_a_key_like_others(values):
    assert values("json", """'{"__proto__": {"x": 1}, "constructor": 2}'""") == '{"__proto__":{"x":1},"constructor":2}'


def test_json_is_compacted_and_its_escapes_are_resolved(values):
    literal = r"""'{ "a" : [ 1 , 2 ] , "\u0062" : "\u00e9\/\ud83c\udf89" }'"""
    assert values("json", literal) == '{"a":[1,2],"b":"é/🎉"}'


def test_nested_values_keep_their_structure(values):
    deep = "[" * 50 + "]" * 50
    assert values("jsonb", f"'{deep}'") == deep
    assert values("json", """'{"a": {}, "b": [], "c": null, "d": [{}, [[]]], "e": ""}'""") == (
        '{"a":{},"b":[],"c":null,"d":[{},[[]]],"e":""}'
    )


def _random_json(rng, depth=0):
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([rng.randint(-10, 10), rng.randint(-(2**53), 2**53)])
    if kind == 2:
        return rng.choice(
            [rng.uniform(-1, 1), rng.uniform(-1e25, 1e25), rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300)]
        )
    if kind in (3, 4):
        characters = ["a", "é", '"', "\\", "\n", "\x7f", "\u2028", "🎉", "/", "0", " ", "\x01"]
        return "".join(rng.choice(characters) for _ in range(rng.randrange(8)))
    if kind == 5:
        return [_random_json(rng, depth + 1) for _ in range(rng.randrange(5))]
    keys = ["a", "b", "1", "0", "01", "10", "-1", "é", "", "__proto__", "length", '"']
    return {rng.choice(keys): _random_json(rng, depth + 1) for _ in range(rng.randrange(6))}


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
def test_any_json_survives_javascript(db, sink, type_name):
    rng = random.Random(20240115)
    db.execute(f"CREATE TABLE memories (id int, v {type_name})")
    db.attach("memories")
    samples = {str(n): _random_json(rng) for n in range(300)}
    with db.session.cursor() as cursor:
        cursor.executemany("INSERT INTO memories VALUES (%s, %s)", [(n, json.dumps(v)) for n, v in samples.items()])
    for body in sink.take(300, timeout=30):
        assert body["data"]["v"] == samples[body["data"]["id"]]


# What the writer's session has set changes nothing

HOSTILE = {
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "lc_monetary": "C",
    "xmlbinary": "hex",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
}


def test_what_the_writers_session_has_set_changes_nothing(db, sink):
    db.execute("""
        CREATE TYPE pair AS (at timestamptz, part float8);
        CREATE TABLE memories (
            id int, at timestamptz, local timestamp, day date, moment time, zoned timetz, span interval, bytes bytea,
            f8 float8, f4 float4, ats timestamptz[], period tstzrange, both_of pair, bits bit(3), address inet)""")
    db.attach("memories")
    insert = r"""
        INSERT INTO memories VALUES (1, timestamptz '2024-07-15 10:30:00.123456+00', timestamp '2024-07-15 10:30:00.5',
            date '2024-07-15', time '10:30', timetz '10:30+02', interval '1 day 02:03:04.5', decode('00ff5c', 'hex'),
            0.1::float8 + 0.2::float8, 0.1::float4, ARRAY[timestamptz '2024-07-15 10:30+00'],
            tstzrange(timestamptz '2024-07-15 10:30+00', NULL), (timestamptz '2024-07-15 10:30+00', 1::float8 / 3),
            B'101', '::1')"""
    plain, hostile = db.connect(), db.connect()
    for name, value in HOSTILE.items():
        db.execute(f"SET {name} = '{value}'", session=hostile)
    db.execute(insert, session=plain)
    expected = sink.take_one()["data"]
    db.execute(insert, session=hostile)
    assert sink.take_one()["data"] == expected
    assert "truncated" not in expected
    assert expected["at"] == "2024-07-15T10:30:00.123Z"
    assert expected["day"] == "2024-07-15"
    assert expected["f8"] == 0.30000000000000004
    assert expected["bytes"] == "\\x00ff5c"
    for name, value in HOSTILE.items():
        assert db.one("SELECT current_setting(%s)", name, session=hostile) == value, "the writer's settings are its own"


def test_a_time_with_zone_ends_in_z_and_one_without_has_none(values):
    assert values("timestamptz", "'2024-01-15 10:30:00+02'") == '"2024-01-15T08:30:00.000Z"'
    local = json.loads(values("timestamp", "'2024-01-15 10:30:00'"))
    assert local.startswith("2024-01-15T10:30:00") and not local.endswith("Z")


@pytest.mark.parametrize("literal", ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'"])
def test_a_time_that_javascript_has_not_is_sent_all_the_same(values, literal):
    assert json.loads(values("timestamptz", literal))


@pytest.mark.parametrize("literal", ["'NaN'", "'Infinity'", "'-Infinity'"])
def test_a_float_that_json_has_not_fails_nothing(db, sink, literal):
    db.execute("CREATE TABLE memories (id int, v float8)")
    db.attach("memories")
    db.execute(f"INSERT INTO memories VALUES (1, {literal})")
    data = sink.take_one()["data"]
    assert data == TRUNCATED or not isinstance(data["v"], float)


# What cannot be rendered is sent as the truncated form, and the statement goes through

UNRENDERABLE = {
    "a null character": r"""'{"a": "\u0000"}'""",
    "a lone high surrogate": r"""'{"a": "\ud800"}'""",
    "a lone low surrogate": r"""'["\udc00x"]'""",
    "a key with a null character": r"""'{"\u0000": 1}'""",
    "great depth": "(repeat('[', 4000) || repeat(']', 4000))::json",
}


@pytest.mark.parametrize("what", UNRENDERABLE)
def test_what_cannot_be_rendered_is_truncated_and_the_insert_succeeds(db, sink, what):
    db.execute("CREATE TABLE memories (id int, content text, metadata json)")
    db.attach("memories")
    db.execute(f"INSERT INTO memories VALUES (1, 'a', {UNRENDERABLE[what]})")
    assert sink.take_one("memory.created")["data"] == TRUNCATED
    db.execute("UPDATE memories SET content = 'b'")
    data = sink.take_one("memory.updated")["data"]
    assert (data["object"], data["id"], data["truncated"]) == ("memory", "1", True)
    db.execute("DELETE FROM memories")
    data = sink.take_one("memory.deleted")["data"]
    assert (data["object"], data["id"]) == ("memory", "1")
    assert db.one("SELECT count(*) FROM memories") == 0


@pytest.mark.slow
def test_a_jsonb_whose_text_no_string_can_hold_is_truncated_and_the_insert_succeeds(db, sink):
    """Its numbers take 15 bytes each, and 131,072 characters in text."""
    db.execute("CREATE TABLE memories (id int, metadata jsonb)")
    db.attach("memories")
    db.execute("INSERT INTO memories SELECT 1, jsonb_agg('1e131071'::numeric) FROM generate_series(1, 8300)")
    assert sink.take_one("memory.created")["data"] == TRUNCATED
    # The session goes on.
    db.execute("INSERT INTO memories VALUES (2, '{}')")
    assert sink.take_one("memory.created")["data"] == {"object": "memory", "id": "2", "metadata": {}}


def test_what_cannot_be_rendered_is_counted_in_status(db, sink):
    (column,) = (name for name in db.row("SELECT * FROM webhooks.status") if "truncat" in name or "render" in name)
    before = db.one(f"SELECT {column} FROM webhooks.status")
    db.execute("CREATE TABLE memories (id int, metadata json)")
    db.attach("memories")
    db.execute(r"""INSERT INTO memories SELECT n, '{"a": "\u0000"}' FROM generate_series(1, 3) n""")
    sink.take(3)
    assert db.one(f"SELECT {column} FROM webhooks.status") == before + 3


def test_one_row_that_cannot_be_rendered_spoils_no_other(db, sink):
    db.execute("CREATE TABLE memories (id int, metadata json)")
    db.attach("memories")
    db.execute(r"""INSERT INTO memories VALUES (1, '{"a": "\u0000"}'), (2, '{"a": "fine"}')""")
    first, second = sorted((body["data"] for body in sink.take(2)), key=lambda data: data["id"])
    assert (first, second["metadata"]) == (TRUNCATED, {"a": "fine"})


# Types of users, whose casts to json run as the caller or not at all


@pytest.fixture
def mood(db):
    """A role that owns a type with a cast to json that does what the test says, and a table with it; a session as the role."""
    role = db.role("CREATE ON SCHEMA public")
    session = db.connect(user=role)

    def make(body):
        db.execute(
            f"""
            CREATE TYPE mood AS ENUM ('good', 'bad');
            CREATE TABLE spied (who name);
            CREATE FUNCTION mood_to_json(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
            CREATE CAST (mood AS json) WITH FUNCTION mood_to_json(mood);
            CREATE TABLE memories (id int, feeling mood)""",
            session=session,
        )
        db.attach("memories")
        return session

    make.role = role
    return make


def test_a_cast_to_json_runs_as_the_caller(db, sink, mood):
    session = mood("INSERT INTO spied VALUES (current_user); RETURN to_json($1::text);")
    db.execute("INSERT INTO memories VALUES (1, 'good')", session=session)
    db.execute("UPDATE memories SET feeling = 'bad'", session=session)
    sink.take(2)
    assert {row["who"] for row in db.rows("SELECT who FROM spied")} <= {mood.role}


def test_a_cast_to_json_gets_no_rights(db, sink, mood):
    session = mood("""
        BEGIN EXECUTE 'ALTER ROLE ' || session_user || ' SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM count(*) FROM webhooks.webhook; RETURN '"read"'; EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN '"harmless"'::json;""")
    db.execute("INSERT INTO memories VALUES (1, 'good')", session=session)
    assert sink.take_one()["data"].get("feeling") != "read"
    assert db.one("SELECT rolsuper FROM pg_roles WHERE rolname = %s", mood.role) is False


def test_a_cast_to_json_that_fails_fails_no_insert(db, sink, mood):
    session = mood("RAISE EXCEPTION 'not today';")
    db.execute("INSERT INTO memories VALUES (1, 'good')", session=session)
    data = sink.take_one("memory.created")["data"]
    assert (data["object"], data["id"]) == ("memory", "1")
    assert data == TRUNCATED or data["feeling"] == "good"


def test_a_cast_to_json_that_changes_settings_changes_nothing_of_ours(db, sink, mood):
    session = mood("SET search_path = nowhere; SET TimeZone = 'Asia/Kathmandu'; RETURN '1'::json;")
    db.execute("ALTER TABLE memories ADD at timestamptz DEFAULT '2024-01-15 10:30Z'", session=session)
    db.execute("INSERT INTO memories VALUES (1, 'good')", session=session)
    assert sink.take_one()["data"]["at"] == "2024-01-15T10:30:00.000Z"
