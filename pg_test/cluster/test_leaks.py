"""What somebody may learn beside the rows that are shown to him: by functions in his conditions, by plans and statistics, by
the roles that Postgres itself brings.
"""

import json

import psycopg
import pytest
from receiver import Answer

VIEWS = ("deliveries", "attempts", "status", "attached", "api_keys", "pending")
SECRET = "a secret that nobody else may see"


def relations(db, kinds):
    rows = db.rows(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE relnamespace = 'webhooks'::regnamespace AND relkind = ANY (%s)",
        list(kinds),
    )
    return [row["name"] for row in rows]


@pytest.fixture
def log(db, receiver):
    """Deliveries that came, that failed, that were cancelled before an attempt, and that wait; and whose secrets are known."""
    receiver.answer("/bad", Answer(status=500, body=b"an answer that tells much"))
    receiver.answer("/held", Answer(hold=receiver.gate()))
    good = db.create_webhook(receiver.url(), secret=SECRET)
    bad = db.create_webhook(receiver.url("/bad"), secret=SECRET, retry_policy={"max_attempts": 1})
    for _ in range(2):
        db.emit(data={"object": "activity", "id": SECRET})
    db.wait_for_states(good, delivered=2)
    db.wait_for_states(bad, failed=2)
    held = db.create_webhook(receiver.url("/held"))
    db.emit_many(8)
    receiver.wait_under_way(5, "/held")
    db.wait_for_states(held, pending=8)
    db.delete_webhook(held)
    db.wait_until("SELECT count(*) FROM webhooks.delivery WHERE state = 'cancelled' AND started_at IS NULL", lambda n: n >= 3)
    return good, bad


class Peeker:
    """A role with functions of its own that note what they are asked about, and that a planner would rather try first."""

    def __init__(self, db, *grants):
        self.role = db.role("CREATE ON SCHEMA public", *grants)
        self.session = db.connect(user=self.role)
        self.session.execute("""
            CREATE FUNCTION public.peek(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END $$;
            CREATE FUNCTION public.peek(oid) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END $$;
            CREATE FUNCTION public.peek(text, text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END $$;
            CREATE OPERATOR public.<<<< (FUNCTION = public.peek, LEFTARG = text, RIGHTARG = text, RESTRICT = matchingsel);
        """)
        self.seen = set()
        self.session.add_notice_handler(lambda notice: self.seen.add(notice.message_primary.removeprefix("peeked at ")))

    def look(self, query):
        """What the functions were asked about, and the rows."""
        self.seen.clear()
        rows = self.session.execute(query).fetchall()
        return set(self.seen), rows


def test_a_readers_functions_are_asked_about_the_rows_of_a_view_and_no_others(db, log):
    """The one view that leaves rows out by itself is that of the attached tables."""
    db.memories()
    db.execute("CREATE TABLE theirs (id uuid REFERENCES memories (id))")
    peeker = Peeker(db)
    db.grant(peeker.role, "read")
    query = "SELECT table_name::text FROM webhooks.attached WHERE public.peek(table_name)"
    memories = str(db.one("SELECT 'memories'::regclass::oid"))
    assert peeker.look(query) == ({memories}, [("memories",)])
    # It is the barrier that does it.
    db.execute("ALTER VIEW webhooks.attached SET (security_barrier = false)")
    asked, rows = peeker.look(query)
    assert str(db.one("SELECT 'theirs'::regclass::oid")) in asked and rows == [("memories",)]


def test_without_rights_nothing_is_asked_about_with_or_without_the_barrier(db, log):
    """The question of rights has no row in it: Postgres asks it before it touches any."""
    peeker = Peeker(db, "USAGE ON SCHEMA webhooks")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {peeker.role}")
    db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {peeker.role}")
    for barrier in ("true", "false"):
        for view in VIEWS:
            db.execute(f"ALTER VIEW webhooks.{view} SET (security_barrier = {barrier})")
            assert peeker.look(f"SELECT * FROM webhooks.{view} v WHERE public.peek(v::text)") == (set(), []), view
    for table in relations(db, "r"):
        assert peeker.look(f"SELECT * FROM {table} t WHERE public.peek(t::text)") == (set(), []), table


def test_statistics_tell_nothing(db, log):
    """Neither by pg_stats nor by a planner that asks an operator of the reader's about the most common values."""
    for table in relations(db, "r"):
        db.execute(f"ANALYZE {table}")
    kept = "SELECT count(*) FROM pg_stats WHERE schemaname = 'webhooks' AND most_common_vals IS NOT NULL"
    assert db.one(kept) > 5
    tenant, granted = Peeker(db, "USAGE ON SCHEMA webhooks"), db.role("USAGE ON SCHEMA webhooks")
    db.grant(tenant.role, "api", "emit")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {tenant.role}")
    db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {tenant.role}")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {granted}")
    for session in (tenant.session, db.connect(user=granted)):
        assert db.rows("SELECT * FROM pg_stats WHERE schemaname = 'webhooks'", session=session) == []
    texts = db.rows("""
        SELECT attrelid::regclass::text AS relation, attname AS column FROM pg_attribute
         WHERE attrelid = ANY (%s::regclass[]) AND atttypid = 'text'::regtype AND attnum > 0""", relations(db, "rv"))
    assert len(texts) > 30
    for it in texts:
        relation, column = it["relation"], it["column"]
        asked, plan = tenant.look(f"EXPLAIN SELECT * FROM {relation} WHERE {column} OPERATOR(public.<<<<) 'x'")
        assert plan and asked == set(), (relation, column)


@pytest.mark.parametrize("role", ["pg_read_all_data", "pg_write_all_data", "pg_monitor", "pg_database_owner"])
def test_the_roles_that_postgres_brings_are_none_of_ours(db, log, role):
    member = db.role()
    if role == "pg_database_owner":
        db.execute(f"ALTER DATABASE {db.name} OWNER TO {member}")
    else:
        db.execute(f"GRANT {role} TO {member}")
    session = db.connect(user=member)
    try:
        for relation in relations(db, "rv"):
            for statement in (f"SELECT * FROM {relation}", f"COPY (SELECT * FROM {relation}) TO STDOUT", f"TABLE {relation}"):
                try:
                    with session.cursor() as cursor:
                        if statement.startswith("COPY"):
                            with cursor.copy(statement) as copy:
                                shown = [bytes(block) for block in copy]
                        else:
                            shown = cursor.execute(statement).fetchall()
                except psycopg.Error as error:
                    assert error.sqlstate == "42501", (statement, error)
                    continue
                assert shown == [], statement
        for statement in (
            "INSERT INTO webhooks.webhook (id, url, events, secret) VALUES (gen_random_uuid(), 'x', '{*}', 'x')",
            "INSERT INTO webhooks.outbox (id) VALUES (gen_random_uuid())",
            "TRUNCATE webhooks.webhook",
            "SELECT webhooks.list_webhooks()",
            "SELECT webhooks.metrics()",
            f"ALTER DATABASE {db.name} SET webhooks.enabled = off",
            f"ALTER DATABASE {db.name} SET webhooks.allowed_networks = '0.0.0.0/0'",
            "DROP EXTENSION webhooks",
            "DROP SCHEMA webhooks CASCADE",
            "DROP TRIGGER webhook_changed ON webhooks.webhook",
            "CREATE OR REPLACE FUNCTION webhooks.may_read() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        ):
            db.fails(statement, state="42501", hint=False, session=session)
        for statement in ("UPDATE webhooks.webhook SET url = 'x'", "DELETE FROM webhooks.event"):
            try:
                assert session.execute(statement).rowcount == 0
            except psycopg.Error as error:
                assert error.sqlstate == "42501"
        seen = json.dumps(db.rows("SELECT query FROM pg_stat_activity", session=session))
        assert SECRET not in seen
        assert db.one("SELECT count(*) FROM webhooks.webhook WHERE url <> 'x'") == 2
    finally:
        db.execute(f"ALTER DATABASE {db.name} OWNER TO postgres")
