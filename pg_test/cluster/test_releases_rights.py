"""From an earlier release to this one, by an update and by a dump: rights, attached tables and waiting
deliveries outlast both. attach() has more arguments than it had; that must cost no role its right.
"""

import time

import psycopg
import pytest
from database import some_uuid
from dumps import FORMS, restore_into, restored_copy
from earlier_release import attach_as_0_2
from ids import uuid_at
from releases import install_releases

EARLIER = ["0.1.0", "0.2.0"]
# How attach() was declared, and so how a dump names it.
ATTACH = "webhooks.attach(regclass, text, name, name, text[], name)"
CREATE_WEBHOOK = "webhooks.create_webhook(text, text[], text, boolean, jsonb, jsonb, text)"

# Functions and what a role may do with them.
REACHABLE = """
    SELECT p.pronamespace::regnamespace || '.' || p.proname AS name, privilege
      FROM pg_proc p, unnest('{EXECUTE,EXECUTE WITH GRANT OPTION}'::text[]) privilege
     WHERE p.pronamespace::regnamespace::text IN ('webhooks', 'webhooks_api')
       AND has_function_privilege(%s, p.oid, privilege)
    UNION ALL
    SELECT c.oid::regclass::text, privilege
      FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) privilege
     WHERE c.relnamespace::regnamespace::text IN ('webhooks', 'webhooks_api') AND c.relkind IN ('r', 'v')
       AND has_table_privilege(%s, c.oid, privilege)
    UNION ALL
    SELECT t.oid::regtype::text, 'USAGE'
      FROM pg_type t
     WHERE t.typnamespace = 'webhooks'::regnamespace AND t.typtype = 'd'
       AND has_type_privilege(%s, t.oid, 'USAGE')"""
# Who was granted what by whom.
GRANTS = """
    SELECT p.proname, a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable
      FROM pg_proc p, aclexplode(p.proacl) a
     WHERE p.pronamespace = 'webhooks'::regnamespace
       AND p.proname IN ('attach', 'detach', 'create_webhook')"""


def reachable(db, role):
    return {(row["name"], row["privilege"]) for row in db.rows(REACHABLE, role, role, role)}


def grants(db):
    return sorted(map(str, db.rows(GRANTS)))


def make_extension(db, version):
    install_releases()
    db.execute(f"CREATE EXTENSION webhooks VERSION '{version}'")


@pytest.fixture(params=EARLIER)
def old(request, make_database):
    """A database whose extension is of an earlier release."""
    db = make_database(extension=False)
    make_extension(db, request.param)
    return db


class Holders:
    """Roles that have rights on the extension, by grant_access() and by hand, and roles that have none."""

    RIGHTS = ["api", "emit", "read", "admin", "gateway"]

    def __init__(self, db):
        self.db = db
        self.roles = {}
        for right in self.RIGHTS:
            role = self.roles[right] = db.role("CREATE ON SCHEMA public")
            db.grant(role, right)
        own_tables = ("CREATE ON SCHEMA public", "USAGE ON SCHEMA webhooks")
        by_hand = [
            "attacher",
            "creator",
            "everything",
            "grantor",
            "grantee",
            "revoked",
            "nobody",
            "admin of less",
        ]
        for name in by_hand:
            self.roles[name] = db.role(*own_tables)
        of = self.roles
        for statement in (
            f"GRANT EXECUTE ON FUNCTION {ATTACH}, webhooks.detach(regclass) TO {of['attacher']}",
            f"GRANT EXECUTE ON FUNCTION {CREATE_WEBHOOK} TO {of['creator']}",
            f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {of['everything']}",
            f"GRANT EXECUTE ON FUNCTION {ATTACH}, {CREATE_WEBHOOK} TO {of['grantor']} WITH GRANT OPTION",
            f"SET ROLE {of['grantor']}",
            f"GRANT EXECUTE ON FUNCTION {ATTACH} TO {of['grantee']}",
            "RESET ROLE",
            f"GRANT EXECUTE ON FUNCTION {ATTACH} TO {of['revoked']}",
            f"REVOKE EXECUTE ON FUNCTION {ATTACH} FROM {of['revoked']}",
        ):
            db.execute(statement)
        db.grant(of["admin of less"], "admin")
        db.execute(f"REVOKE EXECUTE ON FUNCTION {ATTACH} FROM {of['admin of less']}")
        self.known = {name for name, _ in reachable(db, "postgres")}
        # A view shows the functions that it calls only if it has rows.
        db.execute("CREATE TABLE seen (id int)")
        attach_as_0_2(db, "seen")
        self.before = {name: reachable(db, role) for name, role in of.items()}
        self.assert_views_can_be_read(db)
        self.may_attach = {name for name in of if ("webhooks.attach", "EXECUTE") in self.before[name]}
        assert self.may_attach == {"attacher", "everything", "grantor", "grantee", "admin"}

    def assert_can_do_what_they_could(self, db):
        """Nobody has less than before, and nobody has more of what there was before."""
        for name, role in self.roles.items():
            after = {(it, privilege) for it, privilege in reachable(db, role) if it in self.known}
            assert after == self.before[name], name
        for name in ("nobody", "revoked", "creator", "attacher", "everything", "grantor", "grantee"):
            assert reachable(db, self.roles[name]) == self.before[name], f"{name}: nothing of what is new"
        self.assert_views_can_be_read(db)

    def assert_views_can_be_read(self, db):
        """A reader of a view needs the right to each function that the view calls."""
        for name in ("read", "admin"):
            if name in self.roles:
                session = db.connect(user=self.roles[name])
                for view in ("deliveries", "attempts", "status", "attached"):
                    session.execute(f"SELECT * FROM webhooks.{view}")
                session.close()

    def assert_attach_works_for_its_holders(self, db, number):
        """Each with a table of its own, with arguments by position and by name, old ones and new ones."""
        calls = [
            "'{0}'",
            "'{0}', 'memory', 'id', NULL, '{{}}', NULL",
            "table_name => '{0}', object => 'note'",
        ]
        for name, role in self.roles.items():
            session = db.connect(user=role)
            table = f"of_{role}_{number}"
            db.execute(f"CREATE TABLE {table} (id int, content text)", session=session)
            for call in calls:
                statement = f"SELECT webhooks.attach({call.format(table)})"
                if name in self.may_attach:
                    db.execute(statement, session=session)
                else:
                    db.fails(statement, state="42501", hint=False, session=session)
            session.close()


# The update


def test_an_update_leaves_every_role_what_it_could_do(old):
    holders = Holders(old)
    by_whom = grants(old)
    old.execute("ALTER EXTENSION webhooks UPDATE")
    holders.assert_can_do_what_they_could(old)
    assert grants(old) == by_whom
    holders.assert_attach_works_for_its_holders(old, 1)


def test_a_role_with_the_grant_option_can_use_it_after_an_update(old):
    holders = Holders(old)
    old.execute("ALTER EXTENSION webhooks UPDATE")
    grantor = old.connect(user=holders.roles["grantor"])
    other = old.role("CREATE ON SCHEMA public", "USAGE ON SCHEMA webhooks")
    old.execute(f"GRANT EXECUTE ON FUNCTION webhooks.attach TO {other}", session=grantor)
    assert ("webhooks.attach", "EXECUTE") in reachable(old, other)
    # And what it has granted goes when it loses the right.
    old.execute(f"REVOKE EXECUTE ON FUNCTION webhooks.attach FROM {holders.roles['grantor']} CASCADE")
    for role in (other, holders.roles["grantee"], holders.roles["grantor"]):
        assert ("webhooks.attach", "EXECUTE") not in reachable(old, role)


def test_a_right_that_is_revoked_after_an_update_is_gone(old):
    holders = Holders(old)
    old.execute("ALTER EXTENSION webhooks UPDATE")
    for right in holders.RIGHTS:
        role = holders.roles[right]
        old.execute("SELECT webhooks.revoke_access(%s, %s)", role, right)
        assert reachable(old, role) == set(), right


def test_an_update_gives_public_nothing_whatever_default_privileges_say(old):
    """A function that a script makes is open to PUBLIC and to roles that default privileges name."""
    greedy = old.role()
    old.execute(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {greedy}")
    old.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {greedy}")
    old.execute("ALTER EXTENSION webhooks UPDATE")
    assert reachable(old, greedy) == reachable(old, old.role()) == set()


def test_an_update_by_another_superuser_leaves_every_role_what_it_could_do(old):
    holders = Holders(old)
    other = old.role()
    old.execute(f"ALTER ROLE {other} SUPERUSER")
    session = old.connect(user=other)
    session.execute("ALTER EXTENSION webhooks UPDATE")
    holders.assert_can_do_what_they_could(old)
    holders.assert_attach_works_for_its_holders(old, 1)
    owners = """
        SELECT DISTINCT proowner::regrole::text AS name FROM pg_proc
         WHERE pronamespace = 'webhooks'::regnamespace"""
    assert [row["name"] for row in old.rows(owners)] == ["postgres"]


@pytest.mark.parametrize("form", FORMS)
def test_rights_that_outlasted_an_update_are_dumped_and_restored(old, make_database, form):
    """Grants that an update script repeats could be taken for the extension's own, and so not be dumped."""
    holders = Holders(old)
    old.execute("ALTER EXTENSION webhooks UPDATE")
    other = make_database(extension=False)
    restore_into(old, other, form)
    holders.assert_can_do_what_they_could(other)
    holders.assert_attach_works_for_its_holders(other, 1)


def test_a_role_with_rights_can_be_dropped_after_an_update(old, make_database):
    holders = Holders(old)
    old.execute("ALTER EXTENSION webhooks UPDATE")
    for name in ("attacher", "grantor", "admin"):
        role = holders.roles.pop(name)
        old.execute(f"DROP OWNED BY {role} CASCADE")
        old.execute(f"DROP ROLE {role}")
        holders.before.pop(name)
    restored_copy(old, make_database)


def test_attach_in_a_database_that_is_not_updated_yet_works_or_says_what_mends_it(old):
    """The library is the new one already."""
    old.execute("CREATE TABLE memories (id int, content text, password text)")
    statement = "SELECT webhooks.attach('memories', exclude_columns => '{password}')"
    try:
        old.execute(statement)
    except psycopg.Error as error:
        assert error.sqlstate == "55000" and "ALTER EXTENSION" in error.diag.message_hint, error
    else:
        assert old.row("SELECT * FROM webhooks.attached")["exclude_columns"] == ["password"]
    old.execute("ALTER EXTENSION webhooks UPDATE")
    old.execute(statement)
    assert old.row("SELECT * FROM webhooks.attached")["exclude_columns"] == ["password"]


def test_a_session_that_has_called_attach_before_an_update_goes_on(old):
    session = old.connect()
    for number in range(8):
        session.execute(f"CREATE TABLE memories_{number} (id int)")
        if number == 4:
            old.execute("ALTER EXTENSION webhooks UPDATE")
        elif number < 4:
            continue
        for _ in range(2):
            session.execute(
                "SELECT webhooks.attach(%s::text::regclass)", [f"memories_{number}"], prepare=True
            )
    assert len(old.rows("SELECT * FROM webhooks.attached")) == 4


# Bodies as bytes: functions beside those that take them as text

TAKES_BYTES = """
    SELECT p.pronamespace::regnamespace || '.' || p.proname AS name
      FROM pg_proc p
     WHERE p.pronamespace::regnamespace::text IN ('webhooks', 'webhooks_api')
       AND p.proargtypes[p.pronargs - 1] = 'bytea'::regtype AND has_function_privilege(%s, p.oid, 'EXECUTE')"""
TAKES_TEXT = TAKES_BYTES.replace("'bytea'", "'text'") + " AND p.provolatile = 'v' AND p.prorettype = 'json'::regtype"
DELETE_BY_HAND = "webhooks_api.delete_webhook(text), webhooks_api.delete_webhook(json)"


def callable_by(db, query, role):
    calls = ("webhooks.answer_call", "webhooks.answer_query")
    return {row["name"] for row in db.rows(query, role) if row["name"] not in calls}


@pytest.fixture
def callers(old):
    """Roles that may call the REST functions: by a right, by hand, and by a right of which something was taken away."""
    roles = [old.role(), old.role(), old.role("USAGE ON SCHEMA webhooks, webhooks_api"), old.role()]
    for role, right in ((roles[0], "api"), (roles[1], "api"), (roles[3], "emit")):
        old.grant(role, right)
    old.execute(f"REVOKE EXECUTE ON FUNCTION {DELETE_BY_HAND} FROM {roles[1]}")
    old.execute(f"GRANT EXECUTE ON FUNCTION {DELETE_BY_HAND} TO {roles[2]}")
    before = [callable_by(old, TAKES_TEXT, role) for role in roles]
    assert "webhooks_api.delete_webhook" in before[0] - before[1]
    assert before[2] == {"webhooks_api.delete_webhook"} and "webhooks_api.emit" in before[3]
    return roles, before


def test_an_update_gives_each_function_for_bytes_to_those_who_have_the_one_for_text(old, callers):
    roles, before = callers
    old.execute("ALTER EXTENSION webhooks UPDATE")
    assert [callable_by(old, TAKES_TEXT, role) for role in roles] == before
    assert [callable_by(old, TAKES_BYTES, role) for role in roles] == before


@pytest.mark.parametrize("form", FORMS)
def test_so_does_the_restore_of_an_older_dump(old, callers, make_database, form):
    roles, before = callers
    other = make_database(extension=False)
    restore_into(old, other, form)
    assert [callable_by(other, TAKES_TEXT, role) for role in roles] == before
    assert [callable_by(other, TAKES_BYTES, role) for role in roles] == before
    other.execute(f"REVOKE EXECUTE ON FUNCTION webhooks_api.delete_webhook(text) FROM {roles[0]}, {roles[2]}")
    assert "webhooks_api.delete_webhook" not in callable_by(other, TAKES_BYTES, roles[0])
    assert callable_by(other, TAKES_BYTES, roles[2]) == set()


# What users have made of attach()


def test_a_function_of_the_users_that_calls_attach_works_after_an_update(old):
    old.execute("""
        CREATE TABLE memories (id int, content text);
        CREATE FUNCTION attach_mine() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN PERFORM webhooks.attach('memories', 'note', 'id', NULL, '{content}', NULL); END $$;
        CREATE FUNCTION attach_again() RETURNS void LANGUAGE sql AS
            $$ SELECT webhooks.attach('memories', object => 'thing') $$""")
    old.execute("ALTER EXTENSION webhooks UPDATE")
    for function, thing in (("attach_mine", "note"), ("attach_again", "thing")):
        old.execute(f"SELECT {function}()")
        assert old.one("SELECT object FROM webhooks.attached") == thing


DEPENDENT = {
    "view": "CREATE VIEW mine AS SELECT webhooks.attach('memories') IS NULL AS attached",
    "materialized view": """
        CREATE MATERIALIZED VIEW mine AS
            SELECT webhooks.attach('memories') IS NULL AS attached WITH NO DATA""",
    "function": """
        CREATE FUNCTION mine() RETURNS void LANGUAGE sql
            BEGIN ATOMIC SELECT webhooks.attach('memories'); END""",
    "rule": """
        CREATE TABLE mine (name text);
        CREATE RULE mine AS ON INSERT TO mine DO ALSO SELECT webhooks.attach(new.name::regclass)""",
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_what_depends_on_attach_is_kept_or_named_and_the_update_can_be_repeated(old, kind):
    old.execute("CREATE TABLE memories (id int, content text)")
    old.execute(DEPENDENT[kind])
    version = old.one("SELECT extversion FROM pg_extension WHERE extname = 'webhooks'")
    attached = old.one("SELECT to_regprocedure(%s)::oid", ATTACH)
    try:
        old.execute("ALTER EXTENSION webhooks UPDATE")
    except psycopg.Error as error:
        said = f"{error.diag.message_primary} {error.diag.message_detail}"
        assert error.sqlstate == "2BP01" and "attach" in said and "mine" in said, said
        assert error.diag.message_hint
        # Nothing has happened, and nothing of the user's is lost.
        assert old.one("SELECT extversion FROM pg_extension WHERE extname = 'webhooks'") == version
        assert old.one("SELECT to_regprocedure(%s)::oid", ATTACH) == attached
        old.execute(f"DROP {'TABLE' if kind == 'rule' else kind} mine")
        old.execute("ALTER EXTENSION webhooks UPDATE")
        old.execute("SELECT webhooks.attach('memories')")
    else:
        use = {
            "view": "SELECT * FROM mine",
            "materialized view": "REFRESH MATERIALIZED VIEW mine",
            "function": "SELECT mine()",
            "rule": "INSERT INTO mine VALUES ('memories')",
        }[kind]
        old.execute(use)
    assert len(old.rows("SELECT * FROM webhooks.attached")) == 1


# A dump of an earlier release


class EarlierDatabase:
    """A database of an earlier release with roles, webhooks, attached tables and deliveries that wait.

    The worker of this library does not serve it, so what waits was never looked at.
    """

    def __init__(self, db, receiver):
        self.receiver = receiver
        self.holders = Holders(db)
        self.webhooks = {}
        self._webhook(db, "plain", events=["memory.*", "note.*"])
        self._webhook(db, "owned", owner="alice", events=["memory.*"])
        self._webhook(db, "filtered", filters='{"content": "special"}', events=["memory.*"])
        self._webhook(db, "paused", active=False, events=["memory.*"])
        db.execute("""
            UPDATE webhooks.webhook SET paused_at = created_at, paused_under = created_under
             WHERE NOT active""")
        self._webhook(db, "retried", events=["search.performed"])
        db.execute("SELECT webhooks.register_event_type('note.created', 'a note was inserted')")
        db.execute("""
            CREATE TABLE memories (unused int, id int, who text, content text, password text, gone date);
            ALTER TABLE memories DROP unused;
            CREATE TABLE notes (key int PRIMARY KEY, content text, password text) PARTITION BY RANGE (key);
            CREATE TABLE notes_1 PARTITION OF notes FOR VALUES FROM (0) TO (100)""")
        attach_as_0_2(
            db, "memories", owner_column="who", soft_delete_column="gone", exclude_columns=["password"]
        )
        attach_as_0_2(db, "notes", object="note", id_column="key", exclude_columns=["password"])
        self.attached = self._attached(db)
        # What nobody has looked at.
        db.execute("INSERT INTO memories VALUES (1, 'alice', 'special', 'hush'), (2, 'bob', 'plain', 'hush')")
        db.execute("INSERT INTO notes VALUES (1, 'a', 'hush')")
        # What failed once and is to be tried again.
        event, self.delivery = uuid_at(time.time() - 60), some_uuid()
        db.execute(
            "INSERT INTO webhooks.event (id, created_at, type, data) VALUES (%s, now(), %s, %s)",
            event,
            "search.performed",
            '{"object":"search","query":"q","user_id":null,"results":{"count":0,"ids":[]}}',
        )
        db.execute(
            "INSERT INTO webhooks.queue"
            " (id, event_id, webhook_id, seq, attempts, due, last_status, created_at)"
            " VALUES (%s, %s, %s, 1, 1, now(), 500, now())",
            self.delivery,
            event,
            self.webhooks["retried"],
        )
        self.rows = self._webhook_rows(db)
        self.columns = set(db.row("SELECT * FROM webhooks.webhook LIMIT 1"))

    def _webhook(self, db, name, **values):
        values = {
            "id": some_uuid(),
            "url": self.receiver.url(f"/{name}"),
            "secret": f"secret of {name}",
            **values,
        }
        places = ", ".join(["%s"] * len(values))
        db.execute(f"INSERT INTO webhooks.webhook ({', '.join(values)}) VALUES ({places})", *values.values())
        self.webhooks[name] = values["id"]

    @staticmethod
    def _attached(db):
        query = """
            SELECT table_name::text AS name, object, id_column, owner_column, soft_delete_column,
                   exclude_columns
              FROM webhooks.attached ORDER BY 1"""
        return db.rows(query)

    @staticmethod
    def _webhook_rows(db):
        return db.rows(
            "SELECT id, owner, url, events, secret, active, filters FROM webhooks.webhook ORDER BY id"
        )

    def assert_is_there(self, db):
        """Webhooks, attached tables and rights; what is new has its default."""
        assert self._webhook_rows(db) == self.rows
        assert self._attached(db) == self.attached
        self.holders.assert_can_do_what_they_could(db)
        for column in set(db.row("SELECT * FROM webhooks.webhook LIMIT 1")) - self.columns:
            default = db.one(
                "SELECT column_default FROM information_schema.columns"
                " WHERE table_schema = 'webhooks' AND table_name = 'webhook' AND column_name = %s",
                column,
            )
            query = (
                f"SELECT bool_and({column} IS NOT DISTINCT FROM {default or 'NULL'}) FROM webhooks.webhook"
            )
            assert db.one(query) is True, column
        for webhook in self.webhooks.values():
            assert db.one("SELECT webhooks.get_webhook('webhook_' || replace(%s, '-', ''))", webhook)

    def assert_what_waited_is_delivered_once(self, db):
        expected = {"/plain": 3, "/owned": 1, "/filtered": 1, "/retried": 1}
        for path, count in expected.items():
            # Rows that a restore brings may be found by the sweep that runs every minute.
            self.receiver.wait(count, path, timeout=90)
        db.settle()
        assert {path: len(self.receiver.to(path)) for path in expected} == expected
        assert self.receiver.to("/paused") == []
        (retried,) = self.receiver.to("/retried")
        assert retried.header("X-Lanonasis-Delivery") == f"delivery_{self.delivery.replace('-', '')}"
        assert retried.json["attempt"] == 2
        assert [it.body for it in self.receiver.to() if b"hush" in it.body] == []

    def assert_goes_on(self, db):
        """New changes are captured, with the settings of the earlier release, and columns may be renamed."""
        before = len(self.receiver.to("/plain"))
        db.execute("ALTER TABLE memories RENAME password TO secret")
        db.execute("INSERT INTO memories VALUES (3, 'alice', 'c', 'hush')")
        db.execute("UPDATE memories SET gone = now() WHERE id = 3")
        db.execute("ALTER TABLE notes RENAME password TO secret")
        db.execute("INSERT INTO notes VALUES (3, 'c', 'hush')")
        new = [it.json for it in self.receiver.wait(before + 3, "/plain")[before:]]
        db.settle()
        assert len(self.receiver.to("/plain")) == before + 3
        assert sorted(body["type"] for body in new) == ["memory.created", "memory.deleted", "note.created"]
        assert [it.body for it in self.receiver.to() if b"hush" in it.body] == []
        assert [row["include_vectors"] for row in db.rows("SELECT * FROM webhooks.attached")] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", EARLIER)
def test_a_dump_of_an_earlier_release_goes_into_this_one(make_database, receiver, version, form):
    db = make_database(extension=False)
    make_extension(db, version)
    earlier = EarlierDatabase(db, receiver)
    other = make_database(extension=False)
    restore_into(db, other, form)
    other.wait_for_worker()
    earlier.assert_is_there(other)
    earlier.assert_what_waited_is_delivered_once(other)
    earlier.assert_goes_on(other)
    earlier.holders.assert_attach_works_for_its_holders(other, 2)


@pytest.mark.parametrize("version", EARLIER)
def test_an_update_of_an_earlier_release_keeps_what_there_was(make_database, receiver, version):
    db = make_database(extension=False)
    make_extension(db, version)
    earlier = EarlierDatabase(db, receiver)
    db.execute("ALTER EXTENSION webhooks UPDATE")
    db.wait_for_worker()
    earlier.assert_is_there(db)
    earlier.assert_what_waited_is_delivered_once(db)
    earlier.assert_goes_on(db)


def test_a_grant_that_names_attach_as_it_was_is_understood(db):
    """As a dump of an earlier release has it; whoever holds the right may attach."""
    role = db.role("CREATE ON SCHEMA public", "USAGE ON SCHEMA webhooks")
    db.execute(f"GRANT ALL ON FUNCTION {ATTACH} TO {role}")
    named = (
        "webhooks.attach(table_name regclass, object text, id_column name, owner_column name,"
        " exclude_columns text[], soft_delete_column name)"
    )
    db.execute(f"GRANT ALL ON FUNCTION {named} TO {role} WITH GRANT OPTION")
    session = db.connect(user=role)
    db.execute("CREATE TABLE memories (id int, content text)", session=session)
    db.execute("SELECT webhooks.attach('memories', ignore_columns => '{content}')", session=session)
    db.execute(f"REVOKE ALL ON FUNCTION {named} FROM {role}")
    db.fails("SELECT webhooks.attach('memories')", state="42501", hint=False, session=session)


def test_there_is_one_attach_and_calls_of_it_are_not_ambiguous(db):
    db.execute("CREATE TABLE memories (id int, who text, content text, gone date)")
    for arguments in (
        "'memories'",
        "'memories', 'note'",
        "'memories', 'note', 'id', 'who', '{content}', 'gone'",
        "'memories', 'note', 'id', 'who', '{}', 'gone', '{content}'",
        "'memories', 'note', 'id', 'who', '{}', 'gone', '{content}', true",
        "table_name => 'memories', include_vectors => true",
    ):
        db.execute(f"SELECT webhooks.attach({arguments})")
    found = db.rows("""
        SELECT pg_get_function_arguments(oid) AS arguments FROM pg_proc
         WHERE pronamespace = 'webhooks'::regnamespace AND proname = 'attach'
         ORDER BY pronargs DESC LIMIT 1""")
    assert found == [
        {
            "arguments": "table_name regclass, object text DEFAULT 'memory'::text,"
            " id_column name DEFAULT 'id'::name,"
            " owner_column name DEFAULT NULL::name, exclude_columns text[] DEFAULT '{}'::text[],"
            " soft_delete_column name DEFAULT NULL::name, ignore_columns text[] DEFAULT '{}'::text[],"
            " include_vectors boolean DEFAULT false"
        }
    ]
