"""PUBLIC has nothing: a plain role is refused everywhere, and being granted a function is not enough."""

import json

import pytest

URL = "http://127.0.0.1:9/hook"
DELIVERY = "delivery_" + "0" * 32
WEBHOOK = "webhook_" + "0" * 32
CALLS = [
    f"create_webhook('{URL}', '{{*}}')",
    "list_webhooks()",
    f"get_webhook('{WEBHOOK}')",
    f"update_webhook('{WEBHOOK}', '{{}}')",
    f"delete_webhook('{WEBHOOK}')",
    f"list_deliveries('{WEBHOOK}')",
    f"get_delivery('{DELIVERY}')",
    "emit('user.activity', '{}')",
    "search_performed('query', '[]')",
    "user_activity('me', 'login')",
    "register_event_type('a.b', 'c')",
    "sign('body', 'secret')",
    "verify('body', 'signature', 'secret')",
    f"send_test('{WEBHOOK}')",
    f"retry_delivery('{DELIVERY}')",
    f"replay('{WEBHOOK}', now())",
    "start_worker()",
    "stop_worker()",
    "metrics()",
    "attach('mine')",
    "detach('mine')",
]
# These judge nothing but their arguments.
PURE = ("sign", "verify")
# These judge who owns the table.
BY_TABLE = ("attach", "detach")
VIEWS = ["deliveries", "attempts", "status", "in_flight", "webhooks"]


@pytest.fixture(scope="module")
def plain(shared_db):
    """A session of a role that has nothing but a table of its own."""
    session = shared_db.connect(user=shared_db.role("CREATE ON SCHEMA public"))
    session.execute("CREATE TABLE mine (id int)")
    return session


@pytest.fixture(scope="module")
def granted(shared_db):
    """A session of a role that was granted the schema and everything in it, by hand."""
    return shared_db.connect(
        user=shared_db.role("USAGE ON SCHEMA webhooks", "EXECUTE ON ALL FUNCTIONS IN SCHEMA webhooks")
    )


@pytest.mark.parametrize("call", CALLS)
def test_a_plain_role_may_call_nothing(shared_db, plain, call):
    shared_db.fails(f"SELECT webhooks.{call}", state="42501", hint=False, session=plain)


@pytest.mark.parametrize("view", VIEWS)
def test_a_plain_role_may_read_nothing(shared_db, plain, view):
    shared_db.fails(f"SELECT * FROM webhooks.{view}", state="42501", hint=False, session=plain)


def test_public_has_no_right_on_anything(shared_db):
    nobody = shared_db.role()
    assert shared_db.one("SELECT has_schema_privilege(%s, 'webhooks', 'USAGE')", nobody) is False
    reachable = """
        SELECT 'function ' || p.oid::regprocedure FROM pg_proc p
         WHERE p.pronamespace = 'webhooks'::regnamespace AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')
        UNION ALL
        SELECT 'relation ' || c.oid::regclass FROM pg_class c
         WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
           AND (has_table_privilege(%(role)s, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                OR has_any_column_privilege(%(role)s, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
        UNION ALL
        SELECT 'sequence ' || c.oid::regclass FROM pg_class c
         WHERE c.relnamespace = 'webhooks'::regnamespace AND c.relkind = 'S'
           AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(%(role)s, c.oid, 'USAGE, SELECT, UPDATE') END"""
    assert shared_db.session.execute(reachable, {"role": nobody}).fetchall() == []


def test_no_function_with_the_rights_of_its_owner_trusts_the_callers_search_path(shared_db):
    definers = "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'webhooks'::regnamespace AND prosecdef"
    pinned = "EXISTS (SELECT FROM unnest(proconfig) AS c WHERE c LIKE 'search_path=%')"
    assert shared_db.rows(f"{definers} AND NOT {pinned}") == []


@pytest.mark.parametrize("call", [call for call in CALLS if not call.startswith((*PURE, *BY_TABLE))])
def test_to_be_granted_a_function_is_not_to_be_an_administrator(shared_db, granted, call):
    shared_db.fails(f"SELECT webhooks.{call}", state="42501", session=granted)


@pytest.mark.parametrize("call", ["list_webhooks()", f"create_webhook('{URL}', '{{*}}')"])
def test_claims_that_anybody_can_set_are_not_believed(shared_db, granted, call):
    granted.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": "alice"})])
    shared_db.fails(f"SELECT webhooks.{call}", state="42501", session=granted)


def test_a_stranger_cannot_use_our_trigger_functions(shared_db, plain):
    functions = shared_db.rows(
        "SELECT oid::regproc::text AS name FROM pg_proc WHERE pronamespace = 'webhooks'::regnamespace"
        " AND prorettype = 'trigger'::regtype"
    )
    assert functions
    for function in functions:
        shared_db.fails(
            f"CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION {function['name']}()",
            state="42501",
            hint=False,
            session=plain,
        )
