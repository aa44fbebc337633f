"""A dump takes along what is configured and what waits, so that a restored database goes on where the other stood."""

import subprocess

import pytest
from receiver import Answer
from requests_as import bearer, tell


@pytest.fixture
def restored(db, make_database):
    """Dumps the test's database and restores it into another; the dumped one's worker is stopped."""

    def restore():
        db.stop_worker()
        other = make_database(extension=False)
        connection = ["--host", str(db.server.dir), "--port", str(db.server.port), "--username", "postgres"]
        dump = subprocess.run(
            [db.server.bin / "pg_dump", *connection, db.name], capture_output=True, check=True, cwd="/", text=True
        )
        subprocess.run(
            [db.server.bin / "psql", *connection, "-qX", "-v", "ON_ERROR_STOP=1", "-d", other.name],
            input=dump.stdout,
            capture_output=True,
            check=True,
            cwd="/",
            text=True,
        )
        return other

    return restore


def test_a_restored_database_has_the_webhooks_and_goes_on_capturing(db, receiver, restored):
    db.memories(object="note")
    webhook = db.create_webhook(receiver.url(), ["note.*"], secret="kept", filters={"content": "a"})
    other = restored()
    assert other.get_webhook(webhook) == db.get_webhook(webhook)
    other.wait_for_worker()
    other.execute("INSERT INTO memories (content) VALUES ('a'), ('b')")
    (request,) = receiver.wait(1)
    assert (request.json["type"], request.json["webhook_id"]) == ("note.created", webhook["id"])
    other.settle()
    assert len(receiver.to()) == 1


def test_a_restored_database_has_the_rights_and_keys(db, keys, restored):
    reader = db.role()
    db.grant(reader, "read")
    db.create_webhook("http://127.0.0.1:9/hook", owner="alice")
    key, ended = keys.create("alice"), keys.create("alice")
    keys.revoke(ended)
    other = restored()
    assert other.one("SELECT state FROM webhooks.status", session=other.connect(user=reader))
    session = other.connect(user=keys.role_that_logs_in())
    session.execute(f"SET ROLE {keys.role}")
    tell(session, headers=bearer(key["key"]))
    assert len(other.one("SELECT webhooks.list_webhooks()", session=session)["webhooks"]) == 1
    tell(session, headers=bearer(ended["key"]))
    other.fails("SELECT webhooks.list_webhooks()", state="42501", says="revoked", session=session)
    other.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA webhooks TO {keys.role}")
    assert other.rows("SELECT * FROM webhooks.webhook", session=session) == []
    nobody = other.connect(user=db.role())
    other.fails("SELECT webhooks.list_webhooks()", state="42501", hint=False, session=nobody)


@pytest.mark.slow
def test_a_restored_database_sends_what_waited_and_not_what_was_delivered(db, receiver, restored):
    receiver.answer("/hook", 200, Answer(status=500), 200)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 1})
    delivered = db.emit()
    db.wait_for_states(webhook, delivered=1)
    waited = db.emit()
    db.wait_until("SELECT attempts FROM webhooks.deliveries WHERE state = 'pending'", 1)
    other = restored()
    # Rows that a restore brings are found by a sweep, every minute.
    other.wait_for_states(webhook, delivered=1, timeout=90)
    events = [it.json["id"] for it in receiver.to()]
    assert events.count(delivered) == 1 and events.count(waited) >= 2
    assert receiver.to()[-1].json["attempt"] == 2


def test_a_restore_itself_emits_nothing(db, receiver, restored):
    db.memories()
    db.execute("INSERT INTO memories (content) SELECT n::text FROM generate_series(1, 10) n")
    db.create_webhook(receiver.url())
    other = restored()
    other.wait_for_worker()
    other.settle()
    assert receiver.to() == []
