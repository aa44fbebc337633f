"""Whatever somebody puts in our way, functions, operators, casts, types, tables: it runs as nobody but who called it.

Hostile objects note in public.caught who runs them.
"""

import re
import threading
from pathlib import Path

import psycopg
import pytest
from requests_as import Gateway, tell

URL = "http://127.0.0.1:9/hook"

# Better matches than pg_catalog's for what our statements and views write, as far as users can make them.
TYPES = ["uuid", "text", "integer", "bigint", "boolean", "timestamptz", "jsonb", "bytea", "oid", "name", "text[]", "uuid[]"]
FUNCTIONS = {
    "count(uuid)": "bigint",
    "format(text, text)": "text",
    "format(text, text, text)": "text",
    "format(text, regprocedure, text)": "text",
    "now()": "timestamptz",
    "clock_timestamp()": "timestamptz",
    "to_char(timestamp, text)": "text",
    "replace(text, text, text)": "text",
    "unnest(uuid[])": "uuid",
    "unnest(text[])": "text",
    "cardinality(timestamptz[])": "integer",
    "format_id(text, uuid)": "text",
    "format_time(timestamptz)": "text",
    "wants(text[], text, jsonb, text, text, text, text)": "boolean",
    "delivery_id(uuid, uuid)": "uuid",
    "split_part(text, text, integer)": "text",
    "jsonb_build_object(text, text)": "jsonb",
    "pg_visible_in_snapshot(xid8, pg_snapshot)": "boolean",
    "row_to_json(record)": "json",
    "may_read()": "boolean",
}
# All that a caller can have us do; {…} are ids.
CALLS = [
    "SELECT webhooks.list_webhooks(event => 'memory.created')",
    "SELECT webhooks.get_webhook('{webhook}')",
    "SELECT webhooks.update_webhook('{webhook}', '{{\"filters\": {{\"a\": 1}}}}')",
    "SELECT webhooks.rotate_secret('{webhook}')",
    "SELECT webhooks.list_deliveries('{webhook}', 'pending')",
    "SELECT webhooks.send_test('{webhook}')",
    "SELECT webhooks.replay('{webhook}', 'epoch', only_failed => true)",
    "SELECT webhooks.replay('{webhook}', 'epoch')",
    "SELECT webhooks.create_webhook('http://127.0.0.1:9/other', '{{*}}', filters => '{{\"a\": 1}}')",
    "SELECT webhooks.delete_webhook('{webhook}')",
]
ADMIN_CALLS = [
    "SELECT webhooks.register_event_type('a.b', 'c')",
    "SELECT webhooks.emit('user.activity', '{{}}', 'alice')",
    "SELECT webhooks.search_performed('q', '[]', owner => 'alice')",
    "SELECT webhooks.metrics()",
    "SELECT * FROM webhooks.deliveries",
    "SELECT * FROM webhooks.attempts",
    "SELECT * FROM webhooks.status",
    "SELECT * FROM webhooks.attached",
    "SELECT * FROM webhooks.api_keys",
    "SELECT webhooks.create_api_key('k', 'alice')",
    "SELECT webhooks.grant_access('{role}', 'read')",
    "SELECT webhooks.revoke_access('{role}', 'read')",
    "SELECT webhooks.attach('public.theirs', object => 'thing')",
    "SELECT webhooks.detach('public.theirs')",
]


def note(what):
    return f"INSERT INTO public.caught VALUES (current_user, '{what}')"


def hostile_schema(session, schema="public"):
    """Fills a schema with what our statements might run instead of pg_catalog's."""
    for arguments, result in FUNCTIONS.items():
        session.execute(
            f"CREATE FUNCTION {schema}.{arguments} RETURNS {result} LANGUAGE plpgsql AS"
            f" $f$ BEGIN {note(arguments.replace(chr(39), ''))}; RETURN NULL; END $f$"
        )
    for number, kind in enumerate(TYPES):
        session.execute(
            f"CREATE FUNCTION {schema}.op{number}({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql AS"
            f" $f$ BEGIN {note('operator on ' + kind)}; RETURN true; END $f$"
        )
        for operator in ("=", "<>", "<", ">", ">=", "<="):
            session.execute(
                f"CREATE OPERATOR {schema}.{operator} (FUNCTION = {schema}.op{number}, LEFTARG = {kind}, RIGHTARG = {kind})"
            )


@pytest.fixture
def hostile(db):
    """A stranger who may create in public, has filled it, and owns a table there; and the table of what was caught."""
    stranger = db.role("ALL ON SCHEMA public")
    db.execute("CREATE TABLE public.caught (who name, what text)")
    db.execute("GRANT INSERT, SELECT ON public.caught TO PUBLIC")
    session = db.connect(user=stranger)
    hostile_schema(session)
    session.execute("CREATE TABLE public.theirs (id int, content text)")
    return session


def caught(db):
    return {(row["who"], row["what"]) for row in db.rows("SELECT who, what FROM public.caught")}


def temporary(session):
    """What a session may have in pg_temp under the names of ours and of pg_catalog."""
    for table in ("webhook", "event", "outbox", "queue", "delivery", "event_type", "pg_proc", "pg_namespace", "pg_type"):
        session.execute(f"CREATE TEMP TABLE {table} (id uuid, name text, owner text)")
    for kind in ("text", "uuid", "interval"):
        session.execute(f"CREATE DOMAIN pg_temp.{kind} AS pg_catalog.int4")


PATH = "pg_temp, public, webhooks, pg_catalog"


def test_hostile_objects_are_really_better_matches(hostile, db):
    """Else the tests below would prove nothing."""
    session = tell(db.connect(), search_path=PATH)
    session.execute("SELECT count(gen_random_uuid()), now(), 'a'::text = 'b'::text, 1 < 2")
    assert {what for _, what in caught(db)} >= {"now()", "operator on text", "operator on integer"}


def test_what_administrators_call_runs_nothing_of_strangers(hostile, db, keys):
    session = tell(db.connect(), search_path=PATH)
    temporary(session)
    named = {"webhook": db.create_webhook(URL)["id"], "role": db.role()}
    for call in [*CALLS[:-1], *ADMIN_CALLS, CALLS[-1]]:
        session.execute(call.format(**named))
    assert caught(db) == set()


def test_what_tenants_call_runs_nothing_of_theirs_as_somebody_else(hostile, db):
    """A tenant whose session has any search path and any temporary objects."""
    web = db.role("ALL ON SCHEMA public")
    db.execute(f"GRANT TEMPORARY ON DATABASE {db.name} TO {web}")
    db.grant(web, "api", "emit", "read")
    session = Gateway(db, web).request(web, claims={"sub": "alice"}, search_path=PATH)
    temporary(session)
    named = {"webhook": db.create_webhook(URL, owner="alice")["id"]}
    for call in [*CALLS, *(call for call in ADMIN_CALLS if "FROM webhooks" in call and "api_keys" not in call)]:
        session.execute(call.format(**named))
    session.execute("SELECT webhooks.emit('user.activity', '{}')")
    assert {who for who, _ in caught(db)} <= {web}


def test_the_worker_runs_nothing_of_strangers(hostile, db, receiver):
    """Whatever its database has set."""
    db.execute(f"ALTER DATABASE {db.name} SET search_path = public, pg_catalog")
    db.stop_worker()
    receiver.answer("/hook", 500, 200)
    webhook = db.create_webhook(receiver.url(), ["*"], retry_policy={"backoff_multiplier": 1}, filters={"id": "7"})
    db.emit(data={"object": "activity", "id": "7"})
    db.start_worker()
    db.wait_for_states(webhook, delivered=1)
    db.delete_webhook(webhook)
    assert caught(db) == set()


def test_extension_objects_are_not_made_among_strangers(make_database):
    """Whoever owns the schema could put better matches into it before and afterwards."""
    db = make_database(extension=False)
    stranger = db.role(f"CREATE ON DATABASE {db.name}")
    session = db.connect(user=stranger)
    session.execute("CREATE SCHEMA webhooks")
    db.fails("CREATE EXTENSION webhooks", state="55000", says=["schema webhooks", stranger])
    session.execute("DROP SCHEMA webhooks")
    db.execute("CREATE EXTENSION webhooks")


def test_to_ask_for_deliveries_that_are_not_there_costs_nobody_much(db):
    """Those that wait in the outbox have no row: their ids are worked out, but not for all events and all webhooks."""
    db.stop_worker()
    db.execute(
        "INSERT INTO webhooks.webhook (id, owner, url, events, secret)"
        " SELECT gen_random_uuid(), 'bob', %s, '{*}', 'x' FROM generate_series(1, 1000)",
        URL,
    )
    db.emit_many(8_000)
    alice = db.as_owner("alice")
    alice.execute("SET statement_timeout = '1s'")
    for call in ("get_delivery", "retry_delivery"):
        db.fails(f"SELECT webhooks.{call}(%s)", "delivery_" + "0" * 32, state="P0002", session=alice)


def test_to_replay_much_takes_little_memory(db):
    """A page of events at a time is in memory, however many there are."""
    db.create_webhook(URL)
    db.stop_worker()
    db.execute("""
        SELECT count(webhooks.emit('user.activity', jsonb_build_object('object', 'activity', 'n', n, 'text', t), 'alice'))
          FROM generate_series(1, 30000) n,
               (SELECT string_agg(md5(m::text), '') FROM generate_series(1, 45) m) t (t)""")
    alice = db.as_owner("alice")
    webhook = db.create_webhook(URL, session=alice, filters={"n": 7})

    def peak_kb():
        """Memory of its own: without the buffers that all share, as far as it has touched them."""
        status = Path(f"/proc/{alice.info.backend_pid}/status").read_text()
        figure = {name: int(re.search(rf"{name}:\s*(\d+)", status)[1]) for name in ("VmHWM", "RssShmem")}
        return figure["VmHWM"] - figure["RssShmem"]

    assert db.one("SELECT webhooks.replay(%s, 'epoch', 'epoch')", webhook["id"], session=alice) == 0
    before = peak_kb()
    assert db.one("SELECT webhooks.replay(%s, 'epoch')", webhook["id"], session=alice) == 1
    grown = peak_kb() - before
    assert grown < 25_000, f"{grown} kB"


# The emit triggers, fired by somebody without rights


@pytest.fixture
def attached(db, receiver):
    """A table of a stranger's, with types of its own, attached by a superuser; what its writers cause is sent."""
    stranger = db.role("ALL ON SCHEMA public")
    db.execute("CREATE TABLE public.caught (who name, what text)")
    db.execute("GRANT INSERT, SELECT ON public.caught TO PUBLIC")
    session = db.connect(user=stranger)
    session.execute(f"""
        CREATE TYPE public.mood AS ENUM ('sad', 'happy');
        CREATE FUNCTION public.mood_json(public.mood) RETURNS json LANGUAGE plpgsql AS $f$
        BEGIN {note("cast to json")}; RETURN pg_catalog.format('"by cast %s"', $1); END $f$;
        CREATE CAST (public.mood AS json) WITH FUNCTION public.mood_json(public.mood);
        CREATE FUNCTION public.mood_text(public.mood) RETURNS text LANGUAGE plpgsql AS $f$
        BEGIN {note("cast to text")}; RETURN 'by cast'; END $f$;
        CREATE CAST (public.mood AS text) WITH FUNCTION public.mood_text(public.mood) AS IMPLICIT;
        CREATE TYPE public.pair AS (a int, b public.mood);
        CREATE FUNCTION public.pair_eq(public.pair, public.pair) RETURNS boolean LANGUAGE plpgsql AS $f$
        BEGIN {note("equality of pairs")}; RETURN true; END $f$;
        CREATE OPERATOR public.= (FUNCTION = public.pair_eq, LEFTARG = public.pair, RIGHTARG = public.pair);
        CREATE FUNCTION public.mood_eq(public.mood, public.mood) RETURNS boolean LANGUAGE plpgsql AS $f$
        BEGIN {note("equality of moods")}; RETURN true; END $f$;
        CREATE OPERATOR public.= (FUNCTION = public.mood_eq, LEFTARG = public.mood, RIGHTARG = public.mood);
        CREATE DOMAIN public.picky AS text CHECK (VALUE <> 'never' AND current_user <> 'nobody');
        CREATE TABLE public.theirs (id int, feeling public.mood, two public.pair, word public.picky, owner_id public.mood);
    """)
    db.attach("public.theirs", object="thing", owner_column="owner_id")
    db.create_webhook(receiver.url(), ["thing.*"])
    return session


def test_a_writer_without_any_rights_emits(attached, db, receiver):
    owner = attached
    writer = db.role()
    owner.execute(f"GRANT INSERT, UPDATE, DELETE, SELECT ON public.theirs TO {writer}")
    session = tell(db.connect(user=writer), search_path=PATH)
    session.execute("INSERT INTO public.theirs VALUES (1, 'sad', (1, 'sad'), 'w', 'happy')")
    session.execute("UPDATE public.theirs SET feeling = 'happy'")
    session.execute("DELETE FROM public.theirs")
    types = [it.json["type"] for it in receiver.wait(3)]
    assert sorted(types) == ["thing.created", "thing.deleted", "thing.updated"]
    db.fails("SELECT * FROM webhooks.event", state="42501", hint=False, session=session)


def test_casts_and_operators_of_a_tables_types_run_as_the_writer_and_nobody_else(attached, db, receiver):
    owner = attached
    writer = db.role()
    owner.execute(f"GRANT INSERT, UPDATE, DELETE, SELECT ON public.theirs TO {writer}")
    session = db.connect(user=writer)
    session.execute("INSERT INTO public.theirs SELECT n, 'sad', '(1,sad)', 'w', 'happy' FROM generate_series(1, 3) n")
    session.execute("UPDATE public.theirs SET feeling = 'happy', two = '(2,happy)'")
    session.execute("DELETE FROM public.theirs")
    assert {it.data["feeling"] for it in receiver.wait(9) if "feeling" in it.data} == {"by cast sad", "by cast happy"}
    # And of two values that differ, no operator of theirs is asked whether they do.
    assert caught(db) == {(writer, "cast to json")}


def test_a_cast_has_no_other_rights_than_the_writers(attached, db, receiver):
    """It tries to reach our tables, to become the owner of the extension, and to make our functions obey."""
    owner = attached
    db.execute("CREATE TABLE public.loot (what text)")
    db.execute("GRANT INSERT ON public.loot TO PUBLIC")
    owner.execute("""
        CREATE OR REPLACE FUNCTION public.mood_json(public.mood) RETURNS json LANGUAGE plpgsql AS $f$
        BEGIN
            BEGIN INSERT INTO public.loot SELECT secret FROM webhooks.webhook; EXCEPTION WHEN OTHERS THEN NULL; END;
            BEGIN INSERT INTO public.loot SELECT webhooks.list_webhooks()::text; EXCEPTION WHEN OTHERS THEN NULL; END;
            BEGIN SET LOCAL ROLE postgres; INSERT INTO public.loot VALUES ('role'); EXCEPTION WHEN OTHERS THEN NULL; END;
            BEGIN
                PERFORM set_config('request.jwt.claims', '{"sub": "alice"}', true);
                INSERT INTO public.loot SELECT webhooks.list_webhooks()::text;
            EXCEPTION WHEN OTHERS THEN NULL; END;
            RETURN '"tried"';
        END $f$""")
    writer = db.role()
    owner.execute(f"GRANT INSERT ON public.theirs TO {writer}")
    db.execute("INSERT INTO public.theirs (id, feeling) VALUES (1, 'sad')", session=db.connect(user=writer))
    assert receiver.wait(1)[0].data["feeling"] == "tried"
    assert db.rows("SELECT * FROM public.loot") == []


def test_a_cast_that_writes_attached_tables_itself_emits_and_breaks_nothing(attached, db, receiver):
    """While a row is rendered, the same triggers are fired again: by the cast, on the same table and on others."""
    owner = attached
    owner.execute("CREATE TABLE public.more (id int, feeling public.mood)")
    db.attach("public.more", object="thing")
    owner.execute("""
        CREATE OR REPLACE FUNCTION public.mood_json(public.mood) RETURNS json LANGUAGE plpgsql AS $f$
        BEGIN
            IF pg_catalog.format('%s', $1) OPERATOR(pg_catalog.=) 'sad' THEN
                INSERT INTO public.more VALUES (100, 'happy');
                UPDATE public.theirs SET two = ROW(1, 'happy')::public.pair WHERE id = 2;
                PERFORM pg_catalog.set_config('TimeZone', 'Asia/Tokyo', false);
                PERFORM pg_catalog.set_config('search_path', 'nowhere', false);
            END IF;
            RETURN '"again"';
        END $f$""")
    owner.execute("INSERT INTO public.theirs (id, feeling) VALUES (2, 'happy')")
    receiver.wait(1)
    owner.execute("INSERT INTO public.theirs (id, feeling) VALUES (1, 'sad')")
    seen = sorted((it.json["type"], it.data["id"], it.data["feeling"]) for it in receiver.wait(4))
    assert seen == [
        ("thing.created", "1", "again"),
        ("thing.created", "100", "again"),
        ("thing.created", "2", "again"),
        ("thing.updated", "2", "again"),
    ]
    # One that calls itself again and again ends where the stack does: the innermost row cannot be rendered.
    owner.execute("SET search_path = public, pg_catalog")
    owner.execute("""
        CREATE OR REPLACE FUNCTION public.mood_json(public.mood) RETURNS json LANGUAGE plpgsql AS $f$
        BEGIN INSERT INTO public.more VALUES (1, $1); RETURN '"never"'; END $f$""")
    owner.execute("INSERT INTO public.more VALUES (0, 'sad')")
    rows = db.one("SELECT count(*) FROM public.more WHERE id < 100", session=owner)
    seen = [it.data for it in receiver.wait(4 + rows)[4:]]
    assert len([data for data in seen if data["id"] == "0"]) == 1
    assert [data for data in seen if "truncated" in data] == [{"object": "thing", "id": "1", "truncated": True}]


def test_attach_takes_the_owner_of_the_table(db):
    attacher = db.role("ALL ON SCHEMA public")
    db.grant(attacher, "admin")
    session = db.connect(user=attacher)
    db.memories()
    for call in ("attach", "detach"):
        db.fails(f"SELECT webhooks.{call}('memories')", state="42501", says="owner", session=session)
    session.execute("CREATE TABLE public.mine (id int)")
    db.attach("public.mine", object="thing", session=session)
    assert {row["object"] for row in db.rows("SELECT object FROM webhooks.attached", session=session)} == {"memory", "thing"}
    db.one("SELECT webhooks.detach('public.mine')", session=session)
    assert db.rows("SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.mine'::regclass") == []


@pytest.mark.parametrize("call", ["attach", "detach"])
def test_a_table_that_is_renamed_or_given_away_meanwhile_is_judged_as_it_is_then(db, call):
    """The name that attach() was given must not lead it to somebody else's table."""
    attacher = db.role("ALL ON SCHEMA public")
    db.grant(attacher, "admin")
    session, other = db.connect(user=attacher), db.connect()
    session.execute("CREATE TABLE public.mine (id int)")
    if call == "detach":
        db.attach("public.mine", object="thing")
    for meanwhile in (
        "ALTER TABLE public.mine RENAME TO moved; CREATE TABLE public.mine (id int)",
        "ALTER TABLE public.moved OWNER TO postgres",
    ):
        other.execute("BEGIN")
        other.execute(meanwhile)
        table = "public.mine" if "RENAME" in meanwhile else "public.moved"
        errors = []

        def run(table=table, errors=errors):
            try:
                session.execute(f"SELECT webhooks.{call}('{table}')")
            except psycopg.Error as error:
                errors.append(error.sqlstate)

        thread = threading.Thread(target=run)
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        db.wait_until(waiting, 1, params=[f"SELECT webhooks.{call}%"])
        other.commit()
        thread.join()
        assert errors == ([] if "RENAME" in meanwhile else ["42501"])
    triggers = db.rows("SELECT tgrelid::regclass::text AS name FROM pg_trigger WHERE tgname LIKE 'webhooks_emit%%'")
    assert {it["name"] for it in triggers} == ({"moved"} if call == "attach" else set())


def held_at(db, session, call, blocked_by, meanwhile):
    """Runs a call that waits for a lock of another session's, and commits something before it goes on; its SQLSTATE."""
    holder = db.connect()
    holder.execute("BEGIN")
    holder.execute(blocked_by)
    ended = []

    def run():
        try:
            session.execute(call)
            ended.append(None)
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    thread = threading.Thread(target=run)
    thread.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = %s"
    db.wait_until(waiting, 1, params=[call])
    for statement in meanwhile:
        db.execute(statement, session=session.other)
    holder.rollback()
    thread.join()
    return ended[0]


@pytest.fixture
def swapper(db):
    """A session of somebody who owns two schemas: with a table of his own in one, and of another's in the other."""
    attacker = db.role(f"CREATE ON DATABASE {db.name}")
    db.grant(attacker, "admin")
    session = db.connect(user=attacker)
    session.other = db.connect(user=attacker)
    session.execute("CREATE SCHEMA mine; CREATE SCHEMA decoy; CREATE TABLE mine.t (id int)")
    db.execute("CREATE TABLE decoy.t (id int)")
    return session


SWAP = ("ALTER SCHEMA mine RENAME TO before", "ALTER SCHEMA decoy RENAME TO mine")


def with_triggers(db):
    rows = db.rows(
        "SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger WHERE tgname LIKE 'webhooks_emit%%'"
    )
    return {row["name"] for row in rows}


def test_schemas_that_are_renamed_while_attach_waits_for_its_table_lead_it_to_no_other(db, swapper):
    call = "SELECT webhooks.attach('mine.t', object => 'thing')"
    assert held_at(db, swapper, call, "LOCK TABLE mine.t", SWAP) is None
    assert with_triggers(db) == {"before.t"}


def test_schemas_that_are_renamed_when_attach_has_its_table_lead_it_to_no_other(db, swapper):
    """To replace a trigger it waits a second time, when it knows the table's name already."""
    db.attach("mine.t", object="thing")
    before = db.rows("SELECT tgargs FROM pg_trigger WHERE tgrelid = 'mine.t'::regclass ORDER BY oid")
    call = "SELECT webhooks.attach('mine.t', object => 'other')"
    assert held_at(db, swapper, call, "SELECT FROM mine.t", SWAP) == "55000"
    assert with_triggers(db) == {"before.t"}
    assert db.rows("SELECT tgargs FROM pg_trigger WHERE tgrelid = 'before.t'::regclass ORDER BY oid") == before
    # Where no other table has the name, it is an error of Postgres's.
    call = "SELECT webhooks.attach('before.t', object => 'other')"
    away = ["ALTER SCHEMA before RENAME TO away"]
    assert held_at(db, swapper, call, "SELECT FROM before.t", away) == "3F000"
    assert with_triggers(db) == {"away.t"}
    db.execute("SELECT webhooks.attach('away.t', object => 'other')", session=swapper)


def test_whoever_owns_an_attached_table_cannot_change_what_its_triggers_say(db):
    owner = db.role("ALL ON SCHEMA public")
    session = db.connect(user=owner)
    session.execute("CREATE TABLE public.mine (id int, owner_id text)")
    db.attach("public.mine", object="thing", owner_column="owner_id")
    for statement in (
        "CREATE OR REPLACE TRIGGER webhooks_emit_insert AFTER INSERT ON public.mine REFERENCING NEW TABLE AS webhooks_new"
        " FOR EACH STATEMENT EXECUTE FUNCTION webhooks.emit_changes('memory', 'id', 'owner_id', '')",
        "SELECT webhooks.emit_changes()",
        "UPDATE pg_trigger SET tgargs = 'memory' WHERE tgrelid = 'public.mine'::regclass",
    ):
        db.fails(statement, state="42501", hint=False, session=session)
    session.execute("CREATE TABLE public.copy (LIKE public.mine INCLUDING ALL)")
    assert with_triggers(db) == {"mine"}


def test_to_emit_is_not_to_attach(db):
    """Whoever attaches a table of his own says what is a memory, and whose."""
    emitter = db.role("ALL ON SCHEMA public")
    db.grant(emitter, "emit", "api", "read")
    session = db.connect(user=emitter)
    session.execute("CREATE TABLE public.mine (id int, owner_id text)")
    db.fails("SELECT webhooks.attach('public.mine')", state="42501", hint=False, session=session)
    for operation, how in (("INSERT", "FOR EACH ROW"), ("INSERT", "REFERENCING NEW TABLE AS n FOR EACH STATEMENT")):
        db.fails(
            f"CREATE TRIGGER t AFTER {operation} ON public.mine {how}"
            " EXECUTE FUNCTION webhooks.emit_changes('memory', 'id', 'owner_id')",
            state="42501",
            hint=False,
            session=session,
        )
