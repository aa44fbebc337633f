"""PostgREST is told to read the schema again: once under each version that serves a database, by the worker, and never in the
transaction that makes or updates the extension."""

import pytest
from dumps import FORMS, restore_into
from releases import FIRST, install_releases

SERVED = "SELECT served_version FROM webhooks.home"


@pytest.fixture
def told(empty_db):
    """What PostgREST hears from here on."""
    session = empty_db.connect()
    session.execute("LISTEN pgrst")

    def hear(n, timeout=10):
        """The next n messages, and that there are no more of them."""
        heard = [it.payload for it in session.notifies(timeout=timeout, stop_after=n)] if n else []
        heard += [it.payload for it in session.notifies(timeout=0)]
        assert heard == ["reload schema"] * n
        return heard

    return hear


def version(db):
    return db.one("SELECT extversion FROM pg_extension WHERE extname = 'webhooks'")


def test_the_worker_tells_it_once_under_each_version(empty_db, told):
    db = empty_db
    install_releases()
    db.execute(f"CREATE EXTENSION webhooks VERSION '{FIRST}'")
    db.wait_until("SELECT state FROM webhooks.status", "version mismatch")
    told(0)  # a worker of this version does not serve that one
    db.execute("ALTER EXTENSION webhooks UPDATE")
    told(1)
    assert db.one(SERVED) == version(db)
    for _ in range(2):
        db.stop_worker()
        db.start_worker()
        db.create_webhook("http://127.0.0.1:9/hook")
        db.emit()
        db.wait_until("SELECT count(*) FROM webhooks.deliveries WHERE attempts > 0", lambda n: n > 0)
    told(0)
    db.execute("DROP EXTENSION webhooks")
    told(0)
    db.execute("CREATE EXTENSION webhooks")
    told(1)


def test_a_version_that_was_served_elsewhere_says_nothing_of_a_restored_database(db, make_database):
    db.wait_until(SERVED, version(db))
    for form in FORMS:
        other = make_database(extension=False)
        session = other.connect()
        session.execute("LISTEN pgrst")
        restore_into(db, other, form)
        assert [it.payload for it in session.notifies(timeout=10, stop_after=1)] == ["reload schema"]
        other.wait_until(SERVED, version(db))


def test_the_extension_can_be_made_and_updated_in_a_transaction_that_is_prepared(empty_db, told):
    db = empty_db
    install_releases()
    for statement in (f"CREATE EXTENSION webhooks VERSION '{FIRST}'", "ALTER EXTENSION webhooks UPDATE"):
        db.execute("BEGIN")
        db.execute(statement)
        db.execute("PREPARE TRANSACTION 'extension'")
        told(0)
        db.execute("COMMIT PREPARED 'extension'")
    db.start_worker()
    told(1)


@pytest.mark.settings({"webhooks.enabled": "off"})
def test_it_is_told_also_while_webhooks_is_switched_off(empty_db, told):
    empty_db.execute("CREATE EXTENSION webhooks")
    told(1)


def test_what_holds_it_up_holds_no_delivery_up_and_it_is_told_later(empty_db, told, receiver):
    db = empty_db
    db.execute("CREATE EXTENSION webhooks")
    told(1)
    db.stop_worker()
    db.execute("UPDATE webhooks.home SET served_version = NULL")
    holder = db.connect()
    with holder.transaction():
        holder.execute("SELECT FROM webhooks.home FOR UPDATE")
        db.start_worker()
        db.create_webhook(receiver.url())
        db.emit()
        receiver.wait(1)
        told(0)
    told(1)
