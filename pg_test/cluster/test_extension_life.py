"""DROP EXTENSION, CREATE EXTENSION and what they meet: writers that go on, a worker that is busy, callers and readers."""

import threading
import time

import psycopg
import pytest
from load import Writers, until_done
from receiver import Answer

# No writer stands still for longer.
LONGEST_SECONDS = 2
# What a caller may be told while the extension is gone: that it is.
GONE = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
)
INTERNAL = ("XX0", "could not open relation", "cache lookup failed", "tuple concurrently", "rolled back: could not")


@pytest.fixture
def telling(make_server, make_database):
    """A database in a server whose log shows the SQLSTATE of each error."""
    server = make_server(
        {
            "shared_preload_libraries": "webhooks",
            "webhooks.allowed_networks": "127.0.0.0/8",
            "webhooks.deliveries_per_minute": 0,
            "log_line_prefix": "%m [%p] %b %e ",
        }
    )
    db = make_database(server=server)
    yield db
    assert server.alarms() == []
    assert [line for line in server.log().splitlines() if any(words in line for words in INTERNAL)] == []


def two_tables(db):
    """Two tables; writers write them in either order, some in one transaction with a pause between."""
    for table in ("memories", "notes"):
        db.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, content text)")

    def statement(number):
        tables = ["memories", "notes"] if number % 2 else ["notes", "memories"]
        inserts = [(f"INSERT INTO {table} VALUES (%s, 'a')", number) for table in tables]
        return [inserts[0], ("SELECT pg_sleep(0.01)",), inserts[1]] if number % 5 == 0 else inserts

    return statement


def installed(db, receiver, path):
    until_done(db.session, "CREATE EXTENSION IF NOT EXISTS webhooks")
    for table, name in (("memories", "memory"), ("notes", "note")):
        until_done(db.session, f"SELECT webhooks.attach('{table}', '{name}')")
    return db.create_webhook(receiver.url(path), ["memory.*", "note.*"])


def test_drop_and_create_extension_under_load_fail_no_writer_and_hold_none_up(telling, receiver, row):
    db = telling
    statement = two_tables(db)
    installed(db, receiver, "/0")
    ended = threading.Event()
    rude, resume = [], []

    def call(query):
        session = db.connect()
        while not ended.is_set():
            try:
                session.execute(query)
            except GONE:
                pass
            except psycopg.Error as error:
                rude.append(error)

    emit = """SELECT webhooks.emit('user.activity', '{"object": "activity"}')"""
    callers = [threading.Thread(target=call, args=[query]) for query in (emit, "SELECT * FROM webhooks.status")]
    for caller in callers:
        caller.start()
    try:
        with Writers(db, statement, 4) as writers:
            for turn in range(1, 6):
                writers.wait_for_more(40)
                at = time.monotonic()
                until_done(db.session, "DROP EXTENSION webhooks CASCADE")
                writers.wait_for_more(20)
                installed(db, receiver, f"/{turn}")
                resume.append(receiver.wait(1, f"/{turn}")[0].at - at)
                first = max(writers.wait_for_more(40)) + 1
            last = max(writers.wait_for_more(40))
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert writers.errors == []
    assert rude == []
    assert writers.longest < LONGEST_SECONDS, f"a writer took {writers.longest:.1f} s"
    db.settle(30)
    # Each row of the last life of the extension, whoever wrote it, has been sent once.
    expected = {str(number) for number in writers.done if first <= number <= last}
    sent = [it.data["id"] for it in receiver.to("/5") if it.json["type"] == "memory.created"]
    assert expected <= set(sent) and len(sent) == len(set(sent))
    fault = f"`DROP EXTENSION … CASCADE`, `CREATE EXTENSION` (a writer took {writers.longest:.2f} s at most)"
    row(fault, len(resume), f"{len(sent):,} of the last life", resume=resume)


@pytest.mark.parametrize("drop", ["DROP EXTENSION webhooks CASCADE", "DROP SCHEMA webhooks CASCADE"])
def test_a_drop_gives_way_to_a_transaction_that_stays_open(db, receiver, drop):
    db.memories()
    db.create_webhook(receiver.url())
    writer, other = db.connect(), db.connect()
    writer.execute("BEGIN")
    writer.execute("INSERT INTO memories (content) VALUES ('a')")
    db.fails(drop, state="55P03", hint=False)
    # Also while the transaction goes on.
    refused = []

    def try_to_drop():
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(drop)
        refused.append(drop)

    thread = threading.Thread(target=try_to_drop)
    thread.start()
    for _ in range(20):
        writer.execute("INSERT INTO memories (content) VALUES ('b')")
    thread.join()
    assert refused
    writer.execute("COMMIT")
    receiver.wait(21)
    db.execute(drop)


def test_drop_extension_waits_no_longer_than_its_session_allows(db):
    db.memories()
    db.create_webhook("http://127.0.0.1:9/")
    reader = db.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT FROM memories")
    db.execute("SET lock_timeout = '1ms'")
    db.fails("DROP EXTENSION webhooks CASCADE", state="55P03", hint=False)
    assert db.one("SHOW lock_timeout") == "1ms"
    reader.execute("COMMIT")
    db.execute("RESET lock_timeout")
    db.execute("DROP EXTENSION webhooks CASCADE")
    assert db.one("SHOW lock_timeout") == "0"


def test_to_drop_the_extension_is_for_its_owner_and_locks_nothing_for_others(db):
    db.memories()
    stranger = db.connect(user=db.role())
    reader = db.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT FROM memories")
    db.fails("DROP EXTENSION webhooks CASCADE", state="42501", hint=False, session=stranger)


def test_where_nothing_can_be_dropped_nothing_is_locked_for_it(db):
    db.memories()
    reader = db.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT FROM memories")
    db.execute("SET default_transaction_read_only = on")
    db.fails("DROP EXTENSION webhooks CASCADE", state="25006", hint=False)


def test_drop_extension_leaves_the_tables_as_they_were(db):
    db.memories()
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    db.execute("DROP EXTENSION webhooks CASCADE")
    assert db.one("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'memories'::regclass") == 0
    db.execute("INSERT INTO memories (content) VALUES ('b')")
    assert db.one("SELECT count(*) FROM memories") == 2
    # The schema of an extension is PostgreSQL's affair, which leaves it.
    assert db.one("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('webhooks')") == 0
    assert db.one("SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('webhooks')") == 0


def test_a_drop_that_is_rolled_back_changes_nothing(db, receiver):
    db.memories()
    db.create_webhook(receiver.url())
    pid = db.wait_for_worker()
    db.execute("BEGIN")
    db.execute("DROP EXTENSION webhooks CASCADE")
    db.execute("ROLLBACK")
    db.execute("INSERT INTO memories (content) VALUES ('a')")
    receiver.wait(1)
    assert db.wait_for_worker() == pid


def test_the_library_does_no_harm_to_a_server_that_runs_in_single_user_mode(make_server, make_database, receiver):
    server = make_server()
    db = make_database(server=server)
    db.memories()
    webhook = db.create_webhook(receiver.url())
    db.session.close()
    server.stop()
    said = server.run("postgres", "--single", "-D", server.data, db.name, input="INSERT INTO memories (content) VALUES ('single')\n")
    assert "ERROR" not in said
    server.start()
    db.reconnect()
    db.wait_for_states(webhook, delivered=1)
    assert [it.data["content"] for it in receiver.to()] == ["single"]


def test_a_request_that_is_under_way_when_the_extension_goes_harms_nothing(db, receiver):
    gate = receiver.gate()
    receiver.answer("/hook", Answer(hold=gate))
    db.create_webhook(receiver.url())
    db.emit()
    receiver.wait_under_way(1, "/hook")
    db.execute("DROP EXTENSION webhooks CASCADE")
    gate.open()
    db.execute("CREATE EXTENSION webhooks")
    db.wait_for_worker()
    webhook = db.create_webhook(receiver.url("/again"))
    db.emit()
    db.wait_for_states(webhook, delivered=1)
    assert len(receiver.to("/hook")) == 1


# The schema


def schemas(db):
    return {row["nspname"] for row in db.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'webhooks%'")}


@pytest.mark.parametrize("drop", ["DROP EXTENSION webhooks", "DROP EXTENSION IF EXISTS webhooks CASCADE"])
def test_dropping_the_extension_drops_the_schema_that_creating_it_has_made(db, drop):
    db.execute(drop)
    assert schemas(db) == set()
    # As often as one likes, and in one transaction.
    db.execute("BEGIN; CREATE EXTENSION webhooks; DROP EXTENSION webhooks; COMMIT")
    assert schemas(db) == set()
    db.execute("CREATE EXTENSION webhooks")
    db.wait_for_worker()


def test_a_drop_that_is_rolled_back_leaves_schema_and_extension(db):
    db.execute("BEGIN; DROP EXTENSION webhooks; ROLLBACK")
    assert schemas(db) == {"webhooks", "webhooks_api"}
    assert db.get_webhook(db.create_webhook("http://127.0.0.1:9/hook"))["active"] is True


@pytest.mark.parametrize(
    "thing",
    [
        "CREATE TABLE webhooks.mine (id int)",
        "CREATE FUNCTION webhooks.mine() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE TYPE webhooks.mine AS ENUM ('a')",
    ],
)
def test_a_schema_that_holds_something_of_a_users_outlasts_the_extension(db, thing):
    db.execute(thing)
    db.execute("DROP EXTENSION webhooks")
    assert schemas(db) == {"webhooks"}
    assert db.one("SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass"
                  " AND refobjid = 'webhooks'::regnamespace") > 0


def test_a_schema_that_was_there_before_the_extension_outlasts_it(make_database):
    db = make_database(extension=False)
    db.execute("CREATE SCHEMA webhooks")
    db.execute("CREATE EXTENSION webhooks")
    db.execute("DROP EXTENSION webhooks")
    assert schemas(db) == {"webhooks"}
