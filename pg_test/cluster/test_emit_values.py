"""Values as they are sent: ids, owners, times inside of other values, names of database objects, money.

Nothing that a session has set changes a byte of them.
"""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from database import Sink
from locales import NAME as AMOUNTS
from locales import make_locale
from server import pg_config

INSTANT = "2024-01-15T10:30:00"


@pytest.fixture
def value(db, sink):
    """Inserts a value of a type, and returns it as it is sent."""

    def sent(type_name, literal, session=None):
        db.execute("DROP TABLE IF EXISTS memories")
        db.execute(f"CREATE TABLE memories (id int, v {type_name})")
        db.attach("memories")
        db.execute(f"INSERT INTO memories VALUES (1, {literal})", session=session)
        data = sink.take_one("memory.created")["data"]
        assert set(data) == {"object", "id", "v"}, data
        return data["v"]

    return sent


# Owners


def test_an_owner_of_a_padded_column_is_the_owner_without_padding(db, receiver, sink):
    db.execute("CREATE TABLE memories (id int, who char(8), content text)")
    db.attach("memories", owner_column="who")
    db.create_webhook(receiver.url("/bob"), owner="bob")
    db.create_webhook(receiver.url("/padded"), owner="bob     ")
    # A filter looks at the value as it is sent.
    db.create_webhook(receiver.url("/filtered"), filters={"who": "bob     "})
    db.execute("INSERT INTO memories VALUES (1, 'bob', 'a')")
    db.execute("UPDATE memories SET content = 'b', who = 'bob '")
    db.execute("DELETE FROM memories")
    types = ["memory.created", "memory.updated", "memory.deleted"]
    assert [body["type"] for body in sink.take(3)] == types
    received = {path: sorted(it.json["type"] for it in receiver.to(path)) for path in ("/bob", "/filtered")}
    assert received == {"/bob": sorted(types), "/filtered": sorted(types)}
    assert receiver.to("/padded") == []
    owners = db.rows("SELECT DISTINCT owner FROM webhooks.event")
    assert owners == [{"owner": "bob"}]


def test_an_update_of_a_padded_owner_is_a_change_of_owner_only_if_the_owner_changes(db, receiver, sink):
    db.execute("CREATE TABLE memories (id int, who char(8), content text)")
    db.attach("memories", owner_column="who")
    db.create_webhook(receiver.url("/bob"), owner="bob")
    db.execute("INSERT INTO memories VALUES (1, 'bob', 'a')")
    db.execute("UPDATE memories SET who = 'bo'")
    assert [body["type"] for body in sink.take(3)] == ["memory.created", "memory.deleted", "memory.created"]
    assert len(receiver.to("/bob")) == 2


# Ids and owners are the value's own text, whatever its type

IDS = [
    ("numeric", "1.50", "1.50"),
    ("numeric", "1e21", "1000000000000000000000"),
    ("numeric(30,2)", "100", "100.00"),
    ("numeric", "'NaN'", "NaN"),
    ("numeric", "0.0000001", "0.0000001"),
    ("float8", "1e21", "1e+21"),
    ("float8", "0.1", "0.1"),
    ("float8", "1e15", "1e+15"),
    ("float8", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    ("float8", "'Infinity'", "Infinity"),
    ("float4", "0.1", "0.1"),
    ("float4", "16777216", "1.6777216e+07"),
    ("timestamptz", "'2024-01-15 10:30:00.123456+00'", f"{INSTANT}.123456Z"),
    ("timestamptz", "'2024-01-15 10:30:00.123+00'", f"{INSTANT}.123Z"),
    ("timestamptz", "'2024-01-15 12:30:00+02'", f"{INSTANT}.000Z"),
    ("timestamptz", "'infinity'", "infinity"),
    ("timestamp", "'2024-01-15 10:30:00.123456'", f"{INSTANT}.123456"),
    ("timestamp", "'2024-01-15 10:30:00'", f"{INSTANT}.000"),
    ("date", "'2024-01-15'", "2024-01-15"),
    ("uuid", "'11111111-1111-4111-8111-111111111111'", "11111111-1111-4111-8111-111111111111"),
    ("bytea", r"decode('00ff5c', 'hex')", r"\x00ff5c"),
    ("inet", "'::1'", "::1"),
    ("boolean", "true", "true"),
]


@pytest.mark.parametrize(("type_name", "literal", "shown"), IDS)
def test_an_id_is_the_text_of_its_value(db, receiver, sink, type_name, literal, shown):
    db.execute(f"CREATE TABLE memories (id {type_name}, content text)")
    db.attach("memories")
    db.create_webhook(receiver.url("/filtered"), filters={"id": shown})
    hostile = db.connect()
    set_all(hostile, {name: it for name, it in HOSTILE.items() if name != "client_encoding"})
    for session in (db.session, hostile):
        db.execute(f"INSERT INTO memories VALUES ({literal}, 'a')", session=session)
        db.execute("UPDATE memories SET content = 'b'", session=session)
        db.execute("DELETE FROM memories", session=session)
        assert [body["data"]["id"] for body in sink.take(3)] == [shown] * 3
    assert len(receiver.to("/filtered")) == 6


@pytest.mark.parametrize(("type_name", "literal", "shown"), IDS)
def test_an_owner_is_the_text_of_its_value(db, receiver, sink, type_name, literal, shown):
    db.execute(f"CREATE TABLE memories (id int, who {type_name})")
    db.attach("memories", owner_column="who")
    db.create_webhook(receiver.url("/owned"), owner=shown)
    hostile = db.connect()
    set_all(hostile, {name: it for name, it in HOSTILE.items() if name != "client_encoding"})
    for session in (db.session, hostile):
        db.execute(f"INSERT INTO memories VALUES (1, {literal})", session=session)
        sink.take_one("memory.created")
        db.execute("DELETE FROM memories", session=session)
        sink.take_one("memory.deleted")
    assert len(receiver.to("/owned")) == 4


def test_ids_that_differ_in_microseconds_only_differ(db, sink):
    db.execute("CREATE TABLE memories (id timestamptz PRIMARY KEY)")
    db.attach("memories")
    db.execute("INSERT INTO memories VALUES ('2024-01-15 10:30:00.000001Z'), ('2024-01-15 10:30:00.000002Z')")
    ids = [body["data"]["id"] for body in sink.take(2)]
    assert ids == [f"{INSTANT}.000001Z", f"{INSTANT}.000002Z"]


def test_a_time_that_is_no_id_keeps_its_milliseconds(value):
    assert value("timestamptz", "'2024-01-15 10:30:00.123456Z'") == f"{INSTANT}.123Z"


# Times inside of other values

TIMES = {
    "tstzrange": (
        "tstzrange",
        "tstzrange('2024-01-15 10:30Z', '2024-01-16 10:30Z')",
        f'["{INSTANT}.000Z","2024-01-16T10:30:00.000Z")',
    ),
    "tstzrange, other bounds": (
        "tstzrange",
        "tstzrange('2024-01-15 10:30Z', '2024-01-16 10:30Z', '(]')",
        f'("{INSTANT}.000Z","2024-01-16T10:30:00.000Z"]',
    ),
    "tstzrange without an end": ("tstzrange", "tstzrange('2024-01-15 10:30Z', NULL)", f'["{INSTANT}.000Z",)'),
    "tstzrange without an end or a beginning": ("tstzrange", "tstzrange(NULL, NULL)", "(,)"),
    "empty tstzrange": ("tstzrange", "'empty'", "empty"),
    "tsrange": (
        "tsrange",
        "tsrange('2024-01-15 10:30', '2024-01-16 10:30')",
        f'["{INSTANT}.000","2024-01-16T10:30:00.000")',
    ),
    "tstzmultirange": (
        "tstzmultirange",
        "tstzmultirange(tstzrange('2024-01-15 10:30Z', '2024-01-16 10:30Z'),"
        " tstzrange('2024-01-17 10:30Z', NULL))",
        f'{{["{INSTANT}.000Z","2024-01-16T10:30:00.000Z"),["2024-01-17T10:30:00.000Z",)}}',
    ),
    "tsmultirange": (
        "tsmultirange",
        "tsmultirange(tsrange('2024-01-15 10:30', '2024-01-16 10:30'))",
        f'{{["{INSTANT}.000","2024-01-16T10:30:00.000")}}',
    ),
    "array of tstzrange": (
        "tstzrange[]",
        "ARRAY[tstzrange('2024-01-15 10:30Z', NULL), NULL]",
        [f'["{INSTANT}.000Z",)', None],
    ),
    "a user's range": ("period", "period('2024-01-15 10:30Z', NULL)", f'["{INSTANT}.000Z",)'),
    "daterange": ("daterange", "daterange('2024-01-15', '2024-01-16')", "[2024-01-15,2024-01-16)"),
    "int4range": ("int4range", "int4range(1, 5)", "[1,5)"),
    "composite": (
        "moment",
        "ROW('2024-01-15 10:30:00.1234Z', '2024-01-15 10:30', '2024-01-15', 'a')::moment",
        {"at": f"{INSTANT}.123Z", "local": f"{INSTANT}.000", "day": "2024-01-15", "note": "a"},
    ),
    "composite in a composite": (
        "nested",
        "ROW(1, ROW('2024-01-15 10:30Z', NULL, NULL, NULL)::moment,"
        " ARRAY['2024-01-15 10:30Z'::timestamptz], tstzrange('2024-01-15 10:30Z', NULL))::nested",
        {
            "number": 1,
            "moment": {"at": f"{INSTANT}.000Z", "local": None, "day": None, "note": None},
            "ats": [f"{INSTANT}.000Z"],
            "period": f'["{INSTANT}.000Z",)',
        },
    ),
    "array of composites": (
        "moment[]",
        "ARRAY[ROW('2024-01-15 10:30Z', NULL, NULL, 'a')::moment, NULL]",
        [{"at": f"{INSTANT}.000Z", "local": None, "day": None, "note": "a"}, None],
    ),
    "array of two dimensions": (
        "timestamptz[]",
        "ARRAY[['2024-01-15 10:30Z'::timestamptz], [NULL::timestamptz]]",
        [[f"{INSTANT}.000Z"], [None]],
    ),
    "domain": ("instant", "'2024-01-15 10:30Z'", f"{INSTANT}.000Z"),
    "array of a domain": ("instant[]", "ARRAY['2024-01-15 10:30Z'::instant]", [f"{INSTANT}.000Z"]),
    "composite with a domain": (
        "stamped",
        "ROW('2024-01-15 10:30Z', 'infinity')::stamped",
        {"at": f"{INSTANT}.000Z", "until": "infinity"},
    ),
    "row of a table": (
        "log",
        "ROW(1, '2024-01-15 10:30Z')::log",
        {"id": 1, "at": f"{INSTANT}.000Z"},
    ),
}
TIME_TYPES = """
    CREATE TYPE moment AS (at timestamptz, local timestamp, day date, note text);
    CREATE TYPE nested AS (number int, moment moment, ats timestamptz[], period tstzrange);
    CREATE TYPE period AS RANGE (subtype = timestamptz);
    CREATE DOMAIN instant AS timestamptz;
    CREATE TYPE stamped AS (at instant, until timestamptz);
    CREATE TABLE log (id int, at timestamptz)"""


@pytest.mark.parametrize("what", TIMES)
def test_a_time_inside_of_another_value_is_spelled_as_elsewhere(db, value, what):
    type_name, literal, shown = TIMES[what]
    db.execute(TIME_TYPES)
    assert value(type_name, literal) == shown


def test_a_composite_keeps_what_it_had_beside_its_times(db, value):
    db.execute("""
        CREATE TYPE mood AS ENUM ('good', 'bad');
        CREATE TYPE mixed AS (
            at timestamptz, n numeric, f float8, flag boolean, feeling mood, words text[], doc jsonb, "2" int,
            plain json, nothing text, id uuid, bytes bytea, addr inet)""")
    shown = value(
        "mixed",
        """ROW('2024-01-15 10:30Z', 1.50, 0.1, true, 'good', '{a,"b c"}', '{"b": 1.0, "a": null}', 7,
               '{"z": 1, "1": 2}', NULL, '11111111-1111-4111-8111-111111111111', '\\x00ff', '::1')::mixed""",
    )
    assert shown == {
        "2": 7,
        "at": f"{INSTANT}.000Z",
        "n": 1.5,
        "f": 0.1,
        "flag": True,
        "feeling": "good",
        "words": ["a", "b c"],
        "doc": {"a": None, "b": 1},
        "plain": {"1": 2, "z": 1},
        "nothing": None,
        "id": "11111111-1111-4111-8111-111111111111",
        "bytes": "\\x00ff",
        "addr": "::1",
    }


# Names of database objects

OBJECTS = {
    "regclass": "'app.thing'",
    "regtype": "'app.pair'",
    "regproc": "'app.act'",
    "regprocedure": "'app.act(int)'",
    "regrole": "'postgres'",
    "regnamespace": "'app'",
    "regclass[]": "ARRAY['app.thing', 'pg_class']::regclass[]",
    "regtype[]": "ARRAY['app.pair', 'int']::regtype[]",
    "app.named": "ROW('app.thing', 'app.pair', 'app.act', ARRAY['app.thing']::regclass[])::app.named",
    "app.named[]": "ARRAY[ROW('app.thing', 'app.pair', 'app.act', NULL)::app.named]",
}


@pytest.mark.parametrize("type_name", OBJECTS)
def test_the_name_of_an_object_is_the_same_whatever_the_session_sees(db, sink, type_name):
    db.execute("""
        CREATE SCHEMA app;
        CREATE TABLE app.thing (id int);
        CREATE TYPE app.pair AS (a int);
        CREATE FUNCTION app.act(int) RETURNS int LANGUAGE sql RETURN 1;
        CREATE TYPE app.named AS (c regclass, t regtype, p regproc, cs regclass[])""")
    db.execute(f"""
        CREATE TABLE public.given (v {type_name});
        INSERT INTO public.given SELECT {OBJECTS[type_name]};
        CREATE TABLE public.memories (id int, v {type_name})""")
    db.attach("public.memories")
    seen = []
    for settings in (
        {},
        {"search_path": "app, public"},
        {"quote_all_identifiers": "on"},
        {"search_path": "app, public", "quote_all_identifiers": "on"},
        {"search_path": "pg_temp"},
    ):
        session = db.connect()
        set_all(session, settings)
        session.execute("INSERT INTO public.memories SELECT 1, v FROM public.given")
        seen.append(sink.take_one("memory.created")["data"]["v"])
    assert all(shown == seen[0] for shown in seen), seen
    words = {"regrole": "postgres", "regnamespace": "app"}.get(type_name, "app.")
    assert words in json.dumps(seen[0]), "objects outside of pg_catalog are named with their schema"


# Money


@pytest.fixture
def european(make_server, make_database, receiver):
    """A database of a server that knows a locale in which amounts look otherwise, with a sink."""
    directory = Path(tempfile.mkdtemp(prefix="wh-locale-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        server = make_server(environment=make_locale(directory))
        db = make_database(server=server)
        yield db, Sink(db, receiver)
    finally:
        shutil.rmtree(directory)


def test_money_is_spelled_as_in_the_c_locale_whatever_the_session_has_set(european, receiver):
    db, sink = european
    db.execute("""
        CREATE TYPE priced AS (price money, name text);
        CREATE TABLE memories (id money, who money, v money, vs money[], both_of priced)""")
    db.attach("memories", owner_column="who")
    db.create_webhook(receiver.url("/owned"), owner="$1,234.56")
    session = db.connect()
    session.execute(f"SET lc_monetary = '{AMOUNTS}'")
    assert session.execute("SELECT 1234.56::numeric::money::text").fetchone() == ("1.234,56 EUR",)
    insert = """
        INSERT INTO memories SELECT m, m, m, ARRAY[m, -m], ROW(m, 'a')::priced
          FROM (SELECT 1234.56::numeric::money AS m) AS given""".replace("-m", "(m * -1)")
    for writer in (db.session, session):
        db.execute(insert, session=writer)
        assert sink.take_one("memory.created")["data"] == {
            "object": "memory",
            "id": "$1,234.56",
            "who": "$1,234.56",
            "v": "$1,234.56",
            "vs": ["$1,234.56", "-$1,234.56"],
            "both_of": {"price": "$1,234.56", "name": "a"},
        }
    assert len(receiver.to("/owned")) == 2
    assert session.execute("SHOW lc_monetary").fetchone() == (AMOUNTS,)


# No setting changes a byte

HOSTILE = {
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "search_path": "app, pg_catalog, public",
    "quote_all_identifiers": "on",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "xmlbinary": "hex",
    "xmloption": "document",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "on",
    "transform_null_equals": "on",
    "timezone_abbreviations": "India",
    "default_text_search_config": "pg_catalog.simple",
    "row_security": "off",
    "client_encoding": "LATIN1",
}
OTHERS = {
    "extra_float_digits": "3",
    "DateStyle": "SQL, YMD",
    "IntervalStyle": "sql_standard",
    "xmlbinary": "base64",
    "TimeZone": "America/St_Johns",
    "search_path": "pg_temp",
}
# One setting after the other, then all.
SETTINGS = [{name: it} for name, it in [*HOSTILE.items(), *OTHERS.items()]] + [HOSTILE, {**HOSTILE, **OTHERS}]

VALUES = {
    "i": ("int", "7"),
    "n": ("numeric", "1.50"),
    "f8": ("float8", "0.1::float8 + 0.2::float8"),
    "f4": ("float4", "0.1::float4"),
    "f8s": ("float8[]", "ARRAY[1e300, 1::float8 / 3, NULL]"),
    "m": ("money", "1234.56::numeric::money"),
    "at": ("timestamptz", "timestamptz '2024-07-15 10:30:00.123456+00'"),
    "local": ("timestamp", "timestamp '2024-07-15 10:30:00.5'"),
    "day": ("date", "date '2024-07-15'"),
    "moment": ("time", "time '10:30:00.25'"),
    "zoned": ("timetz", "timetz '10:30+02'"),
    "span": ("interval", "interval '1 year 2 mons -3 days 04:05:06.7'"),
    "spans": ("interval[]", "ARRAY[interval '-1 day', interval '2 hours']"),
    "bytes": ("bytea", "decode('00ff5c27', 'hex')"),
    "bytess": ("bytea[]", "ARRAY[decode('00ff5c27', 'hex')]"),
    "ats": ("timestamptz[]", "ARRAY[timestamptz '2024-07-15 10:30+00', NULL]"),
    "days": ("date[]", "ARRAY[date '2024-07-15']"),
    "period": ("tstzrange", "tstzrange(timestamptz '2024-07-15 10:30+00', NULL)"),
    "locals": ("tsrange", "tsrange(timestamp '2024-07-15 10:30', NULL)"),
    "weeks": ("daterange", "daterange(date '2024-07-15', date '2024-07-22')"),
    "periods": ("tstzmultirange", "tstzmultirange(tstzrange(timestamptz '2024-07-15 10:30+00', NULL))"),
    "spread": ("numrange", "numrange(1.50, 2.50)"),
    "addr": ("inet", "inet '::1'"),
    "net": ("cidr", "cidr '10.0.0.0/8'"),
    "mac": ("macaddr", "macaddr '08:00:2b:01:02:03'"),
    "bits": ("bit(3)", "B'101'"),
    "point": ("point", "point(0.1, 1e300)"),
    "box": ("box", "box(point(0, 0), point(0.1, 1))"),
    "words": ("tsvector", "to_tsvector('pg_catalog.english', 'the quick brown foxes')"),
    "query": ("tsquery", "to_tsquery('pg_catalog.english', 'quick & foxes')"),
    "lsn": ("pg_lsn", "pg_lsn '16/B374D848'"),
    "snapshot": ("pg_snapshot", "pg_snapshot '10:20:10,14'"),
    "class": ("regclass", "regclass 'app.thing'"),
    "type": ("regtype", "regtype 'app.pair'"),
    "proc": ("regproc", "regproc 'app.act'"),
    "procedure": ("regprocedure", "regprocedure 'app.act(int)'"),
    "oper": ("regoperator", "regoperator '+(int,int)'"),
    "role": ("regrole", "regrole 'postgres'"),
    "space": ("regnamespace", "regnamespace 'app'"),
    "collation": ("regcollation", "regcollation '\"C\"'"),
    "config": ("regconfig", "regconfig 'english'"),
    "dictionary": ("regdictionary", "regdictionary 'simple'"),
    "classes": ("regclass[]", "ARRAY[regclass 'app.thing', NULL]"),
    "pair": ("app.pair", "ROW(timestamptz '2024-07-15 10:30+00', 1::float8 / 3)::app.pair"),
    "deep": (
        "app.deep",
        "ROW(ROW(timestamptz '2024-07-15 10:30+00', 0.1)::app.pair, regclass 'app.thing',"
        " 1234.56::numeric::money, interval '1 day', decode('00ff', 'hex'),"
        " ARRAY[NULL, 'a b'], date '2024-07-15', time '10:30',"
        " tstzrange(timestamptz '2024-07-15 10:30+00', NULL))::app.deep",
    ),
    "pairs": ("app.pair[]", "ARRAY[ROW(timestamptz '2024-07-15 10:30+00', 1::float8 / 3)::app.pair, NULL]"),
    "instant": ("app.instant", "timestamptz '2024-07-15 10:30+00'"),
    "feeling": ("app.mood", "app.mood 'so so'"),
    "texts": ("text[]", r"ARRAY[NULL, 'NULL', E'a\\b', 'c''d', 'é']"),
    "doc": ("jsonb", """jsonb '{"a": [1.0, null, "é"]}'"""),
    "plain": ("json", """json '{ "z": 1, "2": [1e2] }'"""),
    "padded": ("char(5)", "'ab'::char(5)"),
    "letter": ('"char"', "'x'::\"char\""),
    "id7": ("oid", "oid '1259'"),
}


def _has_xml():
    told = subprocess.run([pg_config(), "--configure"], check=True, capture_output=True, text=True)
    return "--with-libxml" in told.stdout


if _has_xml():
    VALUES["document"] = ("xml", "xmlelement(name a, decode('00ff', 'hex'))")
    VALUES["piece"] = ("xml", "XMLPARSE(CONTENT 'a<b/>c')")

OBJECTS_OF_THE_TEST = """
    CREATE SCHEMA app;
    CREATE TABLE app.thing (id int);
    CREATE FUNCTION app.act(int) RETURNS int LANGUAGE sql RETURN 1;
    CREATE TYPE app.pair AS (at timestamptz, part float8);
    CREATE TYPE app.deep AS (pair app.pair, class regclass, m money, span interval, bytes bytea, texts text[],
                             day date, moment time, period tstzrange);
    CREATE DOMAIN app.instant AS timestamptz;
    CREATE TYPE app.mood AS ENUM ('good', 'so so')"""


def set_all(session, settings):
    for name, it in settings.items():
        known = session.execute("SELECT count(*) FROM pg_settings WHERE name ILIKE %s", [name]).fetchone()[0]
        assert known == 1, name
        session.execute(f"SET {name} = {it}" if name == "search_path" else f"SET {name} = '{it}'")


def shown_settings(session, names):
    return {name: session.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in names}


def raw_data(request):
    """The data of a body, byte for byte, but for the time of a deletion."""
    (data,) = re.findall(rb'"data":(\{.*\}),"webhook_id":', request.body)
    return re.sub(rb'"deleted_at":"[^"]*"', b'"deleted_at":""', data)


def test_no_setting_of_the_session_changes_a_byte(db, sink):
    """Of rows that are created, updated and deleted. Id and owner are of types that depend on settings."""
    columns = ", ".join(f'"{name}" {type_name}' for name, (type_name, _) in VALUES.items())
    expressions = ", ".join(expression for _, expression in VALUES.values())
    nulls = ", ".join(f'"{name}" = NULL' for name in VALUES)
    db.execute(OBJECTS_OF_THE_TEST)
    db.execute(f"""
        CREATE TABLE public.given (key timestamptz, who float8, note text, {columns});
        INSERT INTO public.given
            SELECT timestamptz '2024-07-15 10:30:00.123456+00', 1::float8 / 3, 'a', {expressions};
        CREATE TABLE public.memories (LIKE public.given)""")
    db.attach("public.memories", id_column="key", owner_column="who")
    owned = db.create_webhook(sink.receiver.url("/owned"), owner="0.3333333333333333")
    expected = None
    for settings in [{}, *SETTINGS]:
        session = db.connect()
        set_all(session, settings)
        before_it = shown_settings(session, settings)
        session.execute("INSERT INTO public.memories SELECT * FROM public.given")
        session.execute("UPDATE public.memories SET note = 'b'")
        session.execute(f"UPDATE public.memories SET {nulls}")
        session.execute("DELETE FROM public.memories")
        before = sink.taken
        sink.take(4)
        requests = sorted(sink.receiver.to(sink.path)[before:], key=lambda request: request.json["id"])
        found = [raw_data(request) for request in requests]
        if expected is None:
            expected = found
            assert not any(b"truncated" in data for data in found), found
        assert found == expected, f"{settings}: {first_difference(found, expected)}"
        assert shown_settings(session, settings) == before_it, "settings are as they were"
        session.close()
    db.wait_for_states(owned, delivered=4 * (len(SETTINGS) + 1), timeout=30)
    created = json.loads(expected[0])
    assert created["id"] == "2024-07-15T10:30:00.123456Z" and created["m"] == "$1,234.56"


def first_difference(found, expected):
    for one, other in zip(found, expected, strict=True):
        for place, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                around = slice(max(0, place - 40), place + 60)
                return f"{one[around]!r} instead of {other[around]!r}"
    return "one is longer"
