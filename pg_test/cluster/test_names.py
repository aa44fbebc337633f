"""Our objects keep their names and schemas, without which neither the library nor a dump would find them."""

import pytest


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER SCHEMA webhooks RENAME TO hooks",
        "ALTER SCHEMA webhooks_api RENAME TO hooks",
        "ALTER TABLE webhooks.queue RENAME TO lines",
        "ALTER TABLE webhooks.queue RENAME COLUMN due TO at",
        "ALTER TABLE webhooks.queue SET SCHEMA public",
        "ALTER VIEW webhooks.status RENAME TO state",
        "ALTER FUNCTION webhooks.emit(text, jsonb, text) RENAME TO send",
        "ALTER FUNCTION webhooks.emit_changes() SET SCHEMA public",
        "ALTER DOMAIN webhooks.read_access RENAME TO readers",
        "ALTER TYPE webhooks.api_access SET SCHEMA public",
    ],
)
def test_nothing_of_ours_gets_another_name(shared_db, statement):
    error = shared_db.fails(statement, state="2BP01", says="extension webhooks requires it")
    assert "DROP EXTENSION webhooks" in error.diag.message_hint


def test_postgres_refuses_the_rest(shared_db):
    shared_db.fails("ALTER EXTENSION webhooks SET SCHEMA public", state="0A000", hint=False)
    shared_db.fails("DROP SCHEMA webhooks", state="2BP01")
    shared_db.fails("DROP TABLE webhooks.queue", state="2BP01")


def test_what_is_not_ours_gets_any_name(db, receiver):
    db.execute("CREATE SCHEMA hooks")
    db.execute("ALTER SCHEMA hooks RENAME TO more")
    db.execute("CREATE TABLE webhooks.mine (id int)")
    db.execute("ALTER TABLE webhooks.mine RENAME TO yours")
    db.execute("ALTER TABLE webhooks.yours SET SCHEMA more")
    db.fails("ALTER FUNCTION missing() RENAME TO b", state="42883", hint=False)
    # Another owner of the schema does no harm.
    role = db.role()
    db.execute(f"ALTER SCHEMA webhooks OWNER TO {role}")
    db.create_webhook(receiver.url())
    db.emit()
    receiver.wait(1)
    db.execute("ALTER SCHEMA webhooks OWNER TO postgres")


def test_without_the_extension_a_schema_of_that_name_is_anybodys(empty_db):
    empty_db.execute("CREATE SCHEMA webhooks")
    empty_db.execute("ALTER SCHEMA webhooks RENAME TO hooks")
