"""grant_access and revoke_access, and what each right opens: nothing else, and for nobody else."""

import json
import threading

import psycopg
import pytest
from database import hint_of
from requests_as import Gateway, tell

URL = "http://127.0.0.1:9/hook"
LIST = "SELECT webhooks.list_webhooks()"
RIGHTS = ["api", "emit", "read", "admin", "gateway"]

PURE = {"sign", "verify"}
API = {
    "create_webhook",
    "list_webhooks",
    "get_webhook",
    "update_webhook",
    "delete_webhook",
    "rotate_secret",
    "list_deliveries",
    "get_delivery",
    "retry_delivery",
    "replay",
    "send_test",
}
EMIT = {"emit", "search_performed", "user_activity"}
# The REST functions, with what they and the views of own rows are made of.
ANSWERS = {"answer_body", "answer_call"}
REST = ANSWERS | {f"webhooks_api.{name}" for name in API | {"status", "activity", "event_types", "portal"}}
REST |= {"answer_query", "visible_owner", "may_read", "undispatched", "unreadable", "shown_error", "format_id"}
REST_EMIT = ANSWERS | {f"webhooks_api.{name}" for name in EMIT}
REST_VIEWS = {"webhooks_api.webhooks", "webhooks_api.deliveries", "webhooks_api.attempts"}
# With what the views are made of.
READ = {"metrics", "may_read", "visible_owner", "worker", "requests_in_flight", "undispatched", "shown_error"}
READ |= {"format_id", "format_time", "may_administer", "unreadable"}
ADMIN = {
    "register_event_type",
    "attach",
    "detach",
    "start_worker",
    "stop_worker",
    "create_api_key",
    "revoke_api_key",
    "may_administer",
    "grant_access",
    "revoke_access",
}
LOG = {"webhooks", "deliveries", "attempts", "status", "in_flight", "attached"}
FUNCTIONS = {
    "api": API | REST | PURE,
    "emit": EMIT | REST_EMIT | PURE,
    "read": READ,
    "admin": API | REST | EMIT | REST_EMIT | READ | ADMIN | PURE,
    "gateway": set(),
}
VIEWS = {"api": REST_VIEWS, "emit": set(), "read": LOG, "admin": LOG | REST_VIEWS | {"api_keys"}, "gateway": set()}
# What no role needs: triggers call them, and CREATE EXTENSION.
NOBODYS = {"emit_changes", "webhook_changed", "restored", "install", "wants", "delivery_id"}


def reach(db, role):
    """The functions and views that a role may use, whether it may use anything in schema webhooks, and check_request."""
    schema = "has_schema_privilege(%(role)s, 'webhooks', 'USAGE')"
    functions = """
        SELECT replace(pronamespace::regnamespace || '.' || proname, 'webhooks.', '') FROM pg_proc
         WHERE pronamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace) AND proname <> 'check_request'
           AND has_function_privilege(%(role)s, oid, 'EXECUTE')"""
    views = """
        SELECT replace(relnamespace::regnamespace || '.' || relname, 'webhooks.', '') FROM pg_class
         WHERE relnamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace) AND relkind IN ('r', 'v')
           AND (has_table_privilege(%(role)s, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                OR has_any_column_privilege(%(role)s, oid, 'SELECT, INSERT, UPDATE, REFERENCES'))"""
    check = """
        SELECT has_schema_privilege(%(role)s, 'webhooks_api', 'USAGE')
           AND has_function_privilege(%(role)s, 'webhooks_api.check_request()', 'EXECUTE')"""

    def column(query):
        return {row[0] for row in db.session.execute(query, {"role": role}).fetchall()}

    return column(functions), column(views), column(f"SELECT {schema}"), column(check)


def of_rights(*rights):
    functions = set().union(*(FUNCTIONS[right] for right in rights))
    views = set().union(*(VIEWS[right] for right in rights))
    return functions, views, {any(right != "gateway" for right in rights)}, {bool(rights)}


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_opens_what_it_is_for_and_nothing_else(shared_db, right):
    role = shared_db.role()
    shared_db.grant(role, right)
    assert reach(shared_db, role) == of_rights(right)
    shared_db.grant(role, right)  # again is no error
    assert reach(shared_db, role) == of_rights(right)


def test_every_function_is_for_some_right(shared_db):
    functions = shared_db.rows("""
        SELECT DISTINCT replace(pronamespace::regnamespace || '.' || proname, 'webhooks.', '') AS name FROM pg_proc
         WHERE pronamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace) AND proname <> 'check_request'""")
    assert {row["name"] for row in functions} == FUNCTIONS["admin"] | NOBODYS


@pytest.mark.parametrize("right", RIGHTS)
def test_revoking_a_right_leaves_what_the_others_need(shared_db, right):
    role = shared_db.role()
    shared_db.grant(role, *RIGHTS)
    shared_db.execute("SELECT webhooks.revoke_access(%s, %s)", role, right)
    others = [it for it in RIGHTS if it != right]
    assert reach(shared_db, role) == of_rights(*others)
    for other in others:
        shared_db.execute("SELECT webhooks.revoke_access(%s, %s)", role, other)
    assert reach(shared_db, role) == of_rights()
    shared_db.execute("SELECT webhooks.revoke_access(%s, %s)", role, right)  # again is no error


def test_a_role_without_rights_can_be_dropped(shared_db):
    role = shared_db.role()
    shared_db.grant(role, *RIGHTS)
    for right in RIGHTS:
        shared_db.execute("SELECT webhooks.revoke_access(%s, %s)", role, right)
    shared_db.execute(f"DROP ROLE {role}")


def test_names_are_quoted(shared_db):
    for name in ('a role"; GRANT postgres TO public; --', "CURRENT_USER", "Ünï", "session_user"):
        shared_db.session.execute(psycopg.sql.SQL("CREATE ROLE {}").format(psycopg.sql.Identifier(name)))
        try:
            shared_db.grant(name, "read")
            assert reach(shared_db, name) == of_rights("read")
            shared_db.execute("SELECT webhooks.revoke_access(%s, 'read')", name)
        finally:
            shared_db.session.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(name)))


@pytest.mark.parametrize("function", ["grant_access", "revoke_access"])
def test_what_makes_no_sense_is_refused(shared_db, function):
    role = shared_db.role()
    call = f"SELECT webhooks.{function}(%s, %s)"
    for bad in ("everything", "", "API", None):
        error = shared_db.fails(call, role, bad, state="22023")
        assert bad is None or all(right in hint_of(error) for right in RIGHTS)
    shared_db.fails(call, "no_such_role", "api", state="42704", says="no_such_role")
    shared_db.fails(call, "public", "api", state="22023", says="PUBLIC")
    shared_db.fails(call, None, "api", state="22023")
    nobody = shared_db.role()
    assert reach(shared_db, nobody) == of_rights()


def test_only_administrators_give_rights_and_only_superusers_those_that_make_administrators(shared_db):
    admin, other, target = (shared_db.role() for _ in range(3))
    shared_db.grant(admin, "admin")
    shared_db.grant(other, "api", "emit", "read", "gateway")
    for function in ("grant_access", "revoke_access"):
        shared_db.execute(f"GRANT EXECUTE ON FUNCTION webhooks.{function} TO {other}")
        call = f"SELECT webhooks.{function}(%s, %s)"
        for right in RIGHTS:
            shared_db.fails(call, target, right, state="42501", session=shared_db.connect(user=other))
        session = shared_db.connect(user=admin)
        for right in ("admin", "gateway"):
            shared_db.fails(call, target, right, state="42501", says=["superuser", right], session=session)
        for right in ("api", "emit", "read"):
            shared_db.execute(call, target, right, session=session)
            assert reach(shared_db, target) == of_rights(*([right] if function == "grant_access" else []))
            shared_db.execute("SELECT webhooks.revoke_access(%s, %s)", target, right)


def test_a_right_reaches_the_members_of_a_role(db):
    group, member = db.role(), db.role()
    db.grant(group, "read", "emit")
    db.execute(f"GRANT {group} TO {member}")
    session = db.connect(user=member)
    assert db.one("SELECT state FROM webhooks.status", session=session) == "running"
    assert db.emit(session=session) is None
    db.execute(f"REVOKE {group} FROM {member}")
    db.fails("SELECT * FROM webhooks.status", state="42501", hint=False, session=session)


def test_rights_that_are_given_at_once_are_all_given(db):
    roles = [db.role() for _ in range(8)]
    errors = []

    def give(role):
        try:
            session = db.connect()
            for right in RIGHTS:
                session.execute("SELECT webhooks.grant_access(%s, %s)", [role, right])
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=give, args=[role]) for role in roles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(reach(db, role) == of_rights(*RIGHTS) for role in roles)


# api: whose request it is


@pytest.fixture
def owners(db):
    """Webhooks of alice, of bob, and of nobody."""
    return {owner: db.create_webhook(URL, owner=owner) for owner in ("alice", "bob", None)}


def seen(db, session):
    return {it["owner"] for it in db.one(LIST, session=session)["webhooks"]}


def test_the_claims_of_a_gateway_are_believed(db, owners):
    web = db.role()
    db.grant(web, "api")
    gateway = Gateway(db, web)
    assert seen(db, gateway.request(web, claims={"role": web, "sub": "alice"})) == {"alice"}
    db.execute("SELECT webhooks.revoke_access(%s, 'gateway')", gateway.role)
    db.fails(LIST, state="42501", says="token", session=gateway.request(web, claims={"role": web, "sub": "alice"}))


@pytest.mark.parametrize(
    "claims",
    [None, "", " ", "{", "null", "[]", {}, {"role": "web"}, {"sub": ""}, {"sub": None}, {"sub": 7}, {"sub": ["alice"]}],
    ids=str,
)
def test_without_an_owner_there_is_nothing(db, owners, claims):
    web = db.role()
    db.grant(web, "api")
    session = Gateway(db, web).request(web, claims=claims)
    db.fails(LIST, state="42501", session=session)
    db.fails("SELECT webhooks.create_webhook(%s, '{*}', owner => 'alice')", URL, state="42501", session=session)


def test_the_role_of_a_request_needs_the_right_too(db, owners):
    web = db.role("USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks")
    session = Gateway(db, web).request(web, claims={"sub": "alice"})
    db.fails(LIST, state="42501", says="grant_access", session=session)


def test_claims_are_not_believed_in_any_other_session(db, owners):
    """Also not if the session's role may become the gateway's: what counts is who connected."""
    web, gateway = db.role(), db.role()
    db.grant(web, "api", "emit", "read")
    db.grant(gateway, "api", "gateway")
    db.execute(f"ALTER ROLE {web} NOINHERIT")
    db.execute(f"GRANT {gateway} TO {web}")
    session = tell(db.connect(user=web), claims={"role": web, "sub": "alice"})
    db.fails(LIST, state="42501", session=session)
    session.execute(f"SET ROLE {gateway}")
    db.fails(LIST, state="42501", session=session)
    assert seen(db, tell(db.connect(user=gateway), claims={"sub": "alice"})) == {"alice"}


def test_a_strangers_function_in_a_superusers_session_is_not_believed(db, owners):
    """It may be a trigger on a table that a superuser happens to write."""
    stranger = db.role("CREATE ON SCHEMA public")
    db.grant(stranger, "api")
    session = db.connect(user=stranger)
    session.execute("""
        CREATE FUNCTION public.steal() RETURNS jsonb SECURITY DEFINER LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('request.jwt.claims', '{"sub": "alice"}', true);
            RETURN webhooks.list_webhooks();
        END $$""")
    db.fails("SELECT public.steal()", state="42501")


def test_a_superuser_stays_one_whatever_claims_its_session_has(db, owners):
    session = tell(db.connect(), claims={"sub": "alice"}, headers={"authorization": "Bearer x"})
    assert seen(db, session) == {"alice", "bob", None}


def test_a_request_never_makes_an_administrator(db, owners):
    admin = db.role()
    db.grant(admin, "admin")
    assert seen(db, db.connect(user=admin)) == {"alice", "bob", None}
    gateway = Gateway(db, admin)
    tokens = [{"claims": {"sub": "alice"}}, {"claims": {"role": admin}}, {"claims": {"sub": 7}}, {"claims": "{"}]
    for said in [*tokens, {"headers": {"authorization": "Bearer a.b.c"}}]:
        session = gateway.request(admin, **said)
        for call in ("list_webhooks()", "metrics()", f"create_webhook('{URL}', '{{*}}', owner => 'bob')", "stop_worker()"):
            db.fails(f"SELECT webhooks.{call}", state="42501", session=session)
        db.fails("SELECT webhooks.grant_access(%s, 'api')", admin, state="42501", session=session)
    db.grant(admin, "api")
    session = gateway.request(admin, claims={"sub": "alice"})
    assert seen(db, session) == {"alice"}
    db.fails("SELECT webhooks.emit('memory.created', '{}', 'bob')", state="42501", session=session)
    db.fails("SELECT webhooks.metrics()", state="42501", session=session)
    assert db.rows("SELECT * FROM webhooks.deliveries", session=session) == []
    assert db.rows("SELECT * FROM webhooks.api_keys", session=session) == []


def test_an_administrator_is_not_limited_to_an_owner(db, owners):
    admin = db.role()
    db.grant(admin, "admin")
    session = db.connect(user=admin)
    made = db.create_webhook(URL, owner="carol", session=session)
    assert made["owner"] == "carol"
    for webhook in owners.values():
        assert db.update_webhook(webhook, session=session, active=False)["active"] is False
    session.execute("SELECT webhooks.register_event_type('thing.made', 'a thing was made')")
    assert "webhooks_up" in db.one("SELECT webhooks.metrics()", session=session)


# emit


def test_whoever_may_emit_says_whose_the_event_is(db, receiver):
    emitter = db.role()
    db.grant(emitter, "emit")
    db.create_webhook(receiver.url("/alice"), owner="alice")
    db.create_webhook(receiver.url("/bob"), owner="bob")
    session = db.connect(user=emitter)
    db.emit(owner="alice", session=session)
    db.one("SELECT webhooks.search_performed('tea', '[]', owner => 'bob')", session=session)
    db.one("SELECT webhooks.user_activity('me', 'login', owner => 'bob')", session=session)
    receiver.wait(1, "/alice")
    receiver.wait(2, "/bob")
    db.settle()
    assert len(receiver.to()) == 3


@pytest.mark.parametrize(
    "event_type",
    [
        "memory.created",
        "memory.updated",
        "memory.deleted",
        "memory.invented",
        "webhook.disabled",
        "webhook.test",
        "delivery.failed",
        "system.health",
        "analytics.update",
    ],
)
def test_emit_cannot_forge_what_tables_and_the_worker_say(shared_db, event_type):
    emitter = shared_db.role()
    shared_db.grant(emitter, "emit")
    session = shared_db.connect(user=emitter)
    shared_db.fails("SELECT webhooks.emit(%s, '{}')", event_type, state="42501", says=event_type, session=session)


def test_to_have_webhooks_is_not_to_emit(db):
    web = db.role("USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks")
    db.grant(web, "api")
    session = Gateway(db, web).request(web, claims={"sub": "alice"})
    for call in ("emit('user.activity', '{}')", "search_performed('q', '[]')", "user_activity('me', 'login')"):
        db.fails(f"SELECT webhooks.{call}", state="42501", says="emit", session=session)


def test_the_owner_of_a_token_emits_its_own_events_alone(db, receiver):
    web = db.role()
    db.grant(web, "api", "emit")
    db.create_webhook(receiver.url("/alice"), owner="alice")
    db.create_webhook(receiver.url("/bob"), owner="bob")
    session = Gateway(db, web).request(web, claims={"sub": "alice"})
    assert db.emit(session=session)
    assert db.emit(owner="alice", session=session)
    for call in (
        "emit('user.activity', '{}', 'bob')",
        "search_performed('q', '[]', owner => 'bob')",
        "user_activity('me', 'login', owner => 'bob')",
        "emit('memory.created', '{}')",
    ):
        db.fails(f"SELECT webhooks.{call}", state="42501", session=session)
    receiver.wait(2, "/alice")
    db.settle()
    assert receiver.to("/bob") == []


def test_to_emit_for_a_token_takes_both_rights(db):
    web = db.role()
    db.grant(web, "emit")
    session = Gateway(db, web).request(web, claims={"sub": "alice"})
    db.fails("SELECT webhooks.emit('user.activity', '{}')", state="42501", says="api", session=session)


# read


def test_a_reader_sees_the_log_of_all_and_no_bodies(db, receiver):
    for owner in ("alice", "bob"):
        db.create_webhook(receiver.url(), owner=owner)
        db.emit(owner=owner, data={"object": "activity", "id": "told to nobody else"})
    db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE state = 'delivered'", 2)
    reader = db.role()
    db.grant(reader, "read")
    session = db.connect(user=reader)
    for view in ("deliveries", "attempts", "status", "attached"):
        assert db.rows(f"SELECT * FROM webhooks.{view}", session=session) == db.rows(f"SELECT * FROM webhooks.{view}")
    assert len(db.rows("SELECT * FROM webhooks.deliveries", session=session)) == 2
    assert "webhooks_up 1" in db.one("SELECT webhooks.metrics()", session=session)
    delivery = db.rows("SELECT id FROM webhooks.deliveries")[0]["id"]
    db.fails("SELECT webhooks.get_delivery(%s)", delivery, state="42501", hint=False, session=session)
    db.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks TO {reader}")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {reader}")
    db.fails("SELECT webhooks.get_delivery(%s)", delivery, state="42501", session=session)
    for relation in relations(db):
        shown = db.rows(f"SELECT * FROM {relation}", session=session)
        assert "told to nobody else" not in json.dumps(shown, default=str), relation
        assert receiver.url() not in json.dumps(shown, default=str), relation


# What is granted by mistake


def relations(db):
    rows = db.rows(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE relnamespace = 'webhooks'::regnamespace AND relkind IN ('r', 'v')"
    )
    return [row["name"] for row in rows]


def test_grants_on_everything_by_hand_show_nothing(db, receiver, keys):
    """GRANT … ON ALL TABLES IN SCHEMA and ON ALL FUNCTIONS, as people do, to a role that serves tenants."""
    db.memories()
    webhook = db.create_webhook(receiver.url(), owner="alice")
    db.create_webhook(receiver.url("/all"))
    keys.create()
    db.emit(owner="alice")
    db.stop_worker()
    db.emit(owner="alice")
    db.start_worker()
    db.wait_for_states(webhook, delivered=2)
    web = db.role("USAGE ON SCHEMA webhooks")
    db.grant(web, "api", "emit", "gateway")
    db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA webhooks TO {web}")
    db.execute(f"GRANT ALL ON ALL FUNCTIONS IN SCHEMA webhooks TO {web}")
    session = tell(db.connect(user=web), claims={"sub": "alice"})
    names = relations(db)
    assert len(names) > 15
    for name in names:
        assert db.rows(f"SELECT * FROM {name}", session=session) == [], name
    db.fails("SELECT * FROM webhooks.worker()", state="42501", session=session)
    db.fails(
        "INSERT INTO webhooks.webhook (id, url, events, secret) VALUES (gen_random_uuid(), 'x', '{*}', 'x')",
        state="42501",
        hint=False,
        session=session,
    )
    assert session.execute("UPDATE webhooks.webhook SET secret = 'mine'").rowcount == 0
    assert session.execute("DELETE FROM webhooks.queue").rowcount == 0


def test_what_row_security_does_not_stop_is_for_the_owner_of_the_tables_alone(db):
    """A trigger would run as whoever writes the table; a foreign key would keep rows from being deleted."""
    granted = db.role("ALL ON SCHEMA public", "USAGE ON SCHEMA webhooks")
    db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA webhooks TO {granted}")
    session = db.connect(user=granted)
    session.execute("CREATE FUNCTION public.take() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    tables = [name for name in relations(db) if db.one("SELECT relkind FROM pg_class WHERE oid = %s::regclass", name) == "r"]
    assert len(tables) > 10
    for table in tables:
        for statement in (
            f"TRUNCATE {table}",
            f"CREATE TRIGGER take BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.take()",
            f"CREATE TRIGGER take AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION public.take()",
            f"CREATE CONSTRAINT TRIGGER take AFTER DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION public.take()",
        ):
            db.fails(statement, state="42501", says="owner", session=session)
    for statement in (
        "CREATE TABLE public.holder (id uuid REFERENCES webhooks.webhook (id))",
        "CREATE OR REPLACE TRIGGER webhook_changed AFTER INSERT ON webhooks.webhook"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.take()",
    ):
        db.fails(statement, state="42501", says="owner", session=session)
    if db.session.info.server_version >= 180000:  # one that nothing enforces looks at no row and keeps none
        session.execute("CREATE TABLE public.holder (id uuid REFERENCES webhooks.webhook (id) NOT ENFORCED)")
        enforce = "ALTER TABLE public.holder ALTER CONSTRAINT holder_id_fkey ENFORCED"
        db.fails(enforce, state="42501", says="owner", session=session)
    # Elsewhere all of that is nobody's business but Postgres's.
    session.execute("CREATE TABLE public.mine (id int PRIMARY KEY)")
    session.execute("CREATE TABLE public.theirs (id int REFERENCES public.mine (id))")
    session.execute("CREATE TRIGGER take BEFORE INSERT ON public.mine FOR EACH ROW EXECUTE FUNCTION public.take()")
    session.execute("TRUNCATE public.mine, public.theirs")
    # And superusers do as they like.
    db.execute("CREATE TRIGGER audit AFTER DELETE ON webhooks.webhook FOR EACH ROW EXECUTE FUNCTION public.take()")
    db.execute("TRUNCATE webhooks.attempt")


def test_default_privileges_hand_out_no_right(make_database):
    """Whoever makes the extension may have said that others get all that he makes from then on."""
    db = make_database(extension=False)
    lucky = db.role()
    for objects in ("TYPES", "FUNCTIONS", "TABLES", "SCHEMAS"):
        db.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {objects} TO {lucky}")
    db.execute("CREATE EXTENSION webhooks")
    for objects in ("TYPES", "FUNCTIONS", "TABLES", "SCHEMAS"):
        db.execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {objects} FROM {lucky}")
    db.create_webhook(URL)
    assert reach(db, lucky) == (set(), set(), {False}, {False})
    session = db.connect(user=lucky)
    for call in ("list_webhooks()", "metrics()", "emit('user.activity', '{}')", f"grant_access('{lucky}', 'admin')"):
        db.fails(f"SELECT webhooks.{call}", state="42501", hint=False, session=session)
    for right in RIGHTS:
        assert db.one("SELECT has_type_privilege(%s, %s, 'USAGE')", lucky, f"webhooks.{right}_access") is False


def test_every_table_has_row_security_and_no_policy(shared_db):
    tables = shared_db.rows(
        "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'webhooks'::regnamespace AND relkind = 'r'"
    )
    assert len(tables) > 10 and all(table["relrowsecurity"] for table in tables), tables
    # pg_dump would dump them beside the extension that makes them.
    assert shared_db.rows("SELECT polname FROM pg_policy") == []


def test_views_either_ask_and_are_barriers_or_read_as_their_reader(shared_db):
    """Which conditions are tried first, and what statistics tell, is then nothing that a reader can turn to use."""
    views = shared_db.rows("""
        SELECT relname, reloptions, pg_get_viewdef(oid) AS definition,
               (SELECT count(DISTINCT grantee) FROM aclexplode(coalesce(relacl, acldefault('r', relowner)))) AS readers
          FROM pg_class
         WHERE relnamespace IN ('webhooks'::regnamespace, 'webhooks_api'::regnamespace) AND relkind = 'v'""")
    ours = {"webhook_object", "delivery_object"}
    # Nobody else may read it: views that ask are made of it.
    closed = {"paused"}
    for view in views:
        expected = "security_invoker" if view["relname"] in ours else "security_barrier"
        assert view["reloptions"] == [f"{expected}=true"], view["relname"]
        if view["relname"] in closed:
            assert view["readers"] == 1, view["relname"]
            continue
        asks = "webhooks.may_" in view["definition"] or "webhooks.visible_owner()" in view["definition"]
        assert (view["relname"] in ours) != asks, view["relname"]
    assert {view["relname"] for view in views} == LOG | ours | closed | {
        "waiting",
        "pending",
        "backlog",
        "oldest_due",
        "api_keys",
        "webhooks",
    }


def test_conditions_of_a_reader_without_rights_are_not_tried_on_rows(db, receiver):
    db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT count(*) FROM webhooks.attempts", 1)
    curious = db.role("CREATE ON SCHEMA public", "USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {curious}")
    session = db.connect(user=curious)
    session.execute("""
        CREATE FUNCTION public.peek(anyelement) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
        BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END $$""")
    notices = []
    session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    for view in ("deliveries", "attempts", "status", "pending", "attached", "api_keys"):
        assert db.rows(f"SELECT * FROM webhooks.{view} v WHERE public.peek(v::text)", session=session) == []
    assert notices == []


# Settings


def test_no_setting_can_be_changed_by_a_role_without_rights_on_the_server(shared_db):
    role = shared_db.role()
    shared_db.grant(role, *RIGHTS)
    session = shared_db.connect(user=role)
    names = [row["name"] for row in shared_db.rows("SELECT name FROM pg_settings WHERE name LIKE 'webhooks.%%'")]
    assert len(names) >= 20 and "webhooks.jwt_secret" in names
    for name in names:
        shared_db.execute(f"SELECT 1 WHERE current_setting('{name}') IS NOT NULL")
        for statement in (
            f"SET {name} = '1'",
            f"RESET {name}",
            f"SELECT set_config('{name}', '1', true)",
            f"ALTER ROLE CURRENT_USER SET {name} = '1'",
            f"ALTER SYSTEM SET {name} = '1'",
        ):
            # Those of the whole server cannot be changed in a session, whoever asks: 55P02.
            with pytest.raises(psycopg.Error) as raised:
                session.execute(statement)
            assert raised.value.sqlstate in ("42501", "55P02"), (statement, raised.value)
    session.execute("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    for name in names:
        with pytest.raises(psycopg.Error):
            session.execute(f"ALTER FUNCTION pg_temp.f() SET {name} = '1'")
