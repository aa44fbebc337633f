"""A dump goes into another cluster, whose transactions are far ahead or far behind and whose worker runs already: everything
that is configured, and everything that waits, is there and goes on."""

import random
import time

import pytest
from database import some_uuid
from lived_in import SETTINGS, LivedIn, figures
from server import Server

# A pause between two tables: long enough for the worker to notice what came, send it, and write down what became of it.
PAUSE_SECONDS = 0.4
# Longer than a worker waits for the next rows of a dump before it dispatches.
QUIET_SECONDS = 1.5
DUMPED = """
    SELECT c.relname FROM pg_extension e, unnest(e.extconfig) t JOIN pg_class c ON c.oid = t
     WHERE e.extname = 'webhooks' ORDER BY 1"""
# So many transactions a cluster may have behind it: at the first of a page of the commit log, which must not be read before.
FAR_AHEAD = ["-x", str(40_000 * 32_768), "-e", "9"]


@pytest.fixture
def make_cluster(request):
    """Makes servers that have had many transactions, or few."""
    made = []

    def make(*resetwal):
        server = Server(SETTINGS)
        made.append(server)
        request.node.log = (server, 0)
        server.start()
        if resetwal:
            server.stop()
            server.run("pg_resetwal", *resetwal, "-D", server.data)
            server.start()
        return server

    yield make
    alarms = [line for server in made for line in server.alarms()]
    for server in made:
        server.remove()
    assert alarms == []


@pytest.fixture
def dumped(make_database, receiver):
    """Furnishes a database and dumps it with the roles of its cluster."""

    def dump(server):
        db = make_database(server=server)
        lived = LivedIn(db, receiver)
        archive = server.dir / "dump"
        server.client("pg_dump", "-Fc", "-f", archive, db.name)
        roles = server.client("pg_dumpall", "--roles-only").replace("CREATE ROLE postgres;", "")
        return lived, archive, roles

    return dump


def begin_restore(archive, roles, target, make_database):
    """Schema and extension; the worker runs from then on."""
    target.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", input=roles)
    db = make_database(extension=False, server=target)
    restore(db, archive, "--section=pre-data")
    db.wait_for_worker()
    return db


def restore(db, archive, *options):
    db.server.client("pg_restore", "--exit-on-error", *options, "--dbname", db.name, archive)


def contents(server, archive, chosen):
    """A file that names the data of some tables of the archive, for pg_restore."""
    listed = server.run("pg_restore", "--list", "--section=data", archive).splitlines()
    lines = [line for line in listed if " TABLE DATA " in line]
    names = {line: line.split()[-2] for line in lines}
    file = server.dir / "list"
    file.write_text("".join(f"{line}\n" for line in lines if chosen(names[line])))
    return file


def has_looked(db):
    """Waits until the worker has read what there is: its activity is something that comes after."""
    start = ["", "looking for the extension", "starting", "loading webhooks"]
    db.wait_until("SELECT query <> ALL (%s) FROM pg_stat_activity WHERE pid = %s", params=[start, db.wait_for_worker()])


@pytest.mark.parametrize("source, target", [(FAR_AHEAD, []), ([], FAR_AHEAD)], ids=["far_behind", "far_ahead"])
def test_a_dump_goes_on_in_a_cluster_that_is(make_cluster, make_database, dumped, source, target, row):
    lived, archive, roles = dumped(make_cluster(*source))
    other = make_cluster(*target)
    db = begin_restore(archive, roles, other, make_database)
    at = time.monotonic()
    restore(db, archive, "--section=data")
    restore(db, archive, "--section=post-data")
    lived.assert_is_there(db)
    # At once, not at the next sweep.
    sent = lived.assert_is_delivered(db)
    # The history is not dumped: what there is now has been made here.
    logged = {it["id"] for it in db.rows("SELECT id FROM webhooks.deliveries WHERE state <> 'pending'")}
    assert logged == {it["id"] for it in lived.waiting} - lived.waiting_for("paused")
    assert lived.history
    lived.assert_goes_on(db)
    where = "ahead" if target else "behind"
    row(f"`pg_dump`, `pg_restore` where transactions are far {where}", 1, f"{len(sent)} waiting", resume=[sent[0].at - at])


def test_what_a_restore_brings_before_its_webhooks_is_kept_for_them(make_cluster, make_database, dumped):
    lived, archive, roles = dumped(make_cluster())
    other = make_cluster()
    db = begin_restore(archive, roles, other, make_database)
    first = contents(other, archive, lambda name: name != "webhook")
    restore(db, archive, "--use-list", first)
    query = "SELECT (SELECT count(*) FROM webhooks.queue) AS queue, (SELECT count(*) FROM webhooks.outbox) AS outbox"
    waiting = db.row(query)
    # A worker that starts now looks at everything.
    db.stop_worker()
    db.start_worker()
    has_looked(db)
    assert db.row(query) == waiting and waiting["queue"] and waiting["outbox"]
    then = contents(other, archive, lambda name: name == "webhook")
    restore(db, archive, "--use-list", then)
    restore(db, archive, "--section=post-data")
    lived.assert_is_delivered(db)
    lived.assert_goes_on(db)


def test_what_a_restore_brings_waits_for_its_webhooks_although_there_are_others(make_cluster, make_database, dumped):
    lived, archive, roles = dumped(make_cluster())
    other = make_cluster()
    db = begin_restore(archive, roles, other, make_database)
    db.execute("SELECT webhooks.register_event_type('invoice.paid', 'here')")
    # It is for one of the events that come, so that each of them is for this webhook or for none that is there.
    db.create_webhook(lived.receiver.url("/other"), ["invoice.paid"])
    first = contents(other, archive, lambda name: name != "webhook")
    restore(db, archive, "--use-list", first)
    query = "SELECT (SELECT count(*) FROM webhooks.queue) AS queue, (SELECT count(*) FROM webhooks.outbox) AS outbox"
    waiting = db.row(query)
    assert waiting["queue"] and waiting["outbox"]
    time.sleep(QUIET_SECONDS)
    # What is emitted here does not wait, in a subtransaction either.
    db.emit("invoice.paid", {"object": "invoice", "id": "live"})
    db.execute("""
        DO $$ BEGIN
            PERFORM webhooks.emit('invoice.paid', '{"object": "invoice", "id": "also live"}');
        EXCEPTION WHEN others THEN RAISE;
        END $$""")
    requests = lived.receiver.wait(2, "/other")
    assert {it.data["id"] for it in requests} == {"live", "also live"}
    db.wait_until("SELECT count(*) FROM webhooks.outbox", waiting["outbox"])
    # A worker that starts now looks at everything.
    db.stop_worker()
    db.start_worker()
    has_looked(db)
    time.sleep(QUIET_SECONDS)
    assert db.row(query) == waiting
    then = contents(other, archive, lambda name: name == "webhook")
    restore(db, archive, "--use-list", then)
    restore(db, archive, "--section=post-data")
    lived.assert_is_delivered(db)
    lived.assert_goes_on(db)


@pytest.mark.slow
def test_what_a_restore_brings_after_its_webhooks_and_out_of_order_is_found(make_cluster, make_database, dumped):
    lived, archive, roles = dumped(make_cluster())
    other = make_cluster()
    db = begin_restore(archive, roles, other, make_database)
    for tables in (["webhook", "webhook_stats", "disabled", "event_type", "creation", "api_key"], ["outbox", "queue"]):
        restore(db, archive, "--use-list", contents(other, archive, tables.__contains__))
        # What has no event yet must not be taken for nothing.
        db.stop_worker()
        db.start_worker()
        has_looked(db)
    rest = {"event", "attempt", "set_aside", "memories", "notes", "notes_2024"}
    restore(db, archive, "--use-list", contents(other, archive, rest.__contains__))
    restore(db, archive, "--section=post-data")
    # Rows that come by themselves are found by a sweep, every minute.
    lived.assert_is_delivered(db, timeout=90)
    lived.assert_goes_on(db)


def orders():
    """pg_dump's own order of the tables, the other way round, and others that chance makes."""
    return ["by name", "backwards", *(f"by chance {seed}" for seed in range(1, 5))]


def in_order(order, tables):
    if order == "by name":
        return tables
    if order == "backwards":
        return tables[::-1]
    return random.Random(order).sample(tables, len(tables))


def with_what_was_sent(before, requests):
    """Figures when these requests were delivered, too."""
    after = dict(before)
    for request in requests:
        webhook = request.json["webhook_id"].removeprefix("webhook_")
        attempts, delivered, failed = after.get(webhook, (0, 0, 0))
        after[webhook] = (attempts + 1, delivered + 1, failed)
    return after


def play(db, archive, program, part):
    if program == "psql":
        script = db.server.run("pg_restore", "--use-list", part, "-f", "-", archive)
        db.server.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", db.name, input=script)
    else:
        restore(db, archive, "--use-list", part)


def assert_nothing_is_lost_or_counted_twice(db, lived, before):
    sent = lived.assert_is_delivered(db)
    lived.assert_is_there(db)
    expected = with_what_was_sent(before, sent)
    db.wait_until("SELECT sum(total_attempts) FROM webhooks.webhook_stats", sum(it[0] for it in expected.values()))
    assert figures(db) == expected
    lived.assert_goes_on(db)


@pytest.mark.parametrize("order", orders())
def test_pauses_between_any_two_tables_cost_nothing(make_cluster, make_database, dumped, order):
    source = make_cluster()
    lived, archive, roles = dumped(source)
    before = lived.figures
    other = make_cluster()
    db = begin_restore(archive, roles, other, make_database)
    tables = in_order(order, [it for (it,) in db.execute(DUMPED).fetchall()])
    for number, table in enumerate(tables):
        play(db, archive, ("pg_restore", "psql")[number % 2], contents(other, archive, table.__eq__))
        time.sleep(PAUSE_SECONDS)
    restore(db, archive, "--use-list", contents(other, archive, lambda name: name not in tables))
    restore(db, archive, "--section=post-data")
    assert_nothing_is_lost_or_counted_twice(db, lived, before)


def test_a_parallel_restore_loses_nothing(make_cluster, make_database, dumped):
    lived, archive, roles = dumped(make_cluster())
    db = begin_restore(archive, roles, make_cluster(), make_database)
    restore(db, archive, "--jobs=4", "--section=data")
    restore(db, archive, "--jobs=4", "--section=post-data")
    assert_nothing_is_lost_or_counted_twice(db, lived, lived.figures)


def test_a_dump_of_inserts_loses_nothing(make_cluster, make_database, receiver):
    """Each row by a statement and a transaction of its own."""
    source = make_cluster()
    db = make_database(server=source)
    lived = LivedIn(db, receiver)
    script = source.client("pg_dump", "--inserts", db.name)
    roles = source.client("pg_dumpall", "--roles-only").replace("CREATE ROLE postgres;", "")
    target = make_cluster()
    target.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", input=roles)
    other = make_database(extension=False, server=target)
    target.client("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", other.name, input=script)
    assert_nothing_is_lost_or_counted_twice(other, lived, lived.figures)


# Rows whose key is there


def bring(db, table, **row):
    """As a dump brings it: by COPY."""
    columns = ", ".join(row)
    with db.session.cursor() as cursor, cursor.copy(f"COPY webhooks.{table} ({columns}) FROM stdin") as copy:
        copy.write_row(list(row.values()))


def uuid_of(thing):
    return thing["id"].split("_")[1]


def test_restored_figures_are_added_to_what_the_worker_has_counted(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    stats = "SELECT webhooks.get_webhook(%s) -> 'delivery_stats' ->> 'successful_deliveries'"
    db.wait_until(stats, "1", params=[webhook["id"]])
    before = {"total_attempts": 120, "successful_deliveries": 100, "failed_deliveries": 10}
    bring(db, "webhook_stats", webhook_id=uuid_of(webhook), **before)
    db.emit()
    db.wait_until(stats, "102", params=[webhook["id"]])
    assert db.get_webhook(webhook)["delivery_stats"] == {
        "total_attempts": 122,
        "successful_deliveries": 102,
        "failed_deliveries": 10,
    }


def test_figures_that_are_locked_while_a_dump_comes_hold_up_no_delivery(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT total_attempts FROM webhooks.webhook_stats", 1)
    locker = db.connect()
    locker.execute("BEGIN")
    locker.execute("SELECT FROM webhooks.webhook_stats FOR UPDATE")
    db.emit()
    receiver.wait(2)
    bring(db, "webhook_stats", webhook_id=some_uuid(), total_attempts=1)
    db.wait_until("SELECT restored_at IS NOT NULL FROM webhooks.worker_state")
    for count in range(3, 8):
        db.emit()
        receiver.wait(count)
    locker.execute("COMMIT")
    db.wait_until("SELECT total_attempts FROM webhooks.webhook_stats WHERE webhook_id = %s", 7, params=[uuid_of(webhook)])


def test_what_waits_for_a_webhook_that_is_deleted_while_a_dump_comes_is_cancelled(db, receiver):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 100, "backoff_multiplier": 10})
    db.emit()
    db.wait_until("SELECT count(*) FROM webhooks.queue", 1)
    bring(db, "webhook_stats", webhook_id=some_uuid(), total_attempts=1)
    db.wait_until("SELECT restored_at IS NOT NULL FROM webhooks.worker_state")
    db.one("SELECT webhooks.delete_webhook(%s)", webhook["id"])
    db.wait_until("SELECT count(*) FROM webhooks.queue", 0)
    assert db.one("SELECT state FROM webhooks.delivery") == "cancelled"


@pytest.mark.parametrize("counted_before", [True, False])
def test_a_webhook_that_failed_for_days_before_the_dump_goes_on_failing(db, receiver, counted_before):
    receiver.answer("/hook", 500)
    webhook = db.create_webhook(receiver.url(), retry_policy={"max_attempts": 1})
    if counted_before:
        db.emit()
        db.wait_until("SELECT count(*) FROM webhooks.webhook_stats", 1)
    since = db.one("SELECT now() - interval '6 days'")
    before = {"failed_deliveries": 19, "failing_since": since, "failed_since_success": 19}
    bring(db, "webhook_stats", webhook_id=uuid_of(webhook), **before)
    db.wait_until("SELECT restored_at IS NOT NULL FROM webhooks.worker_state")
    db.emit()
    failed = 21 if counted_before else 20
    db.wait_until("SELECT reason FROM webhooks.disabled", f"{failed} deliveries failed without a success between")


def test_a_restored_switch_off_holds_at_once_and_again_is_no_error(db, receiver):
    receiver.answer("/gone", 410)
    gone, other = db.create_webhook(receiver.url("/gone")), db.create_webhook(receiver.url("/other"))
    db.emit()
    receiver.wait(1, "/other")
    db.wait_until("SELECT count(*) FROM webhooks.disabled", 1)
    bring(db, "disabled", webhook_id=uuid_of(gone), activation=0, reason="before the dump")
    assert db.one("SELECT reason FROM webhooks.disabled") == "the endpoint answered 410 Gone"
    db.emit()
    bring(db, "disabled", webhook_id=uuid_of(other), activation=0, reason="before the dump")
    # Nobody subscribes any more.
    assert db.emit() is None
    bring(db, "disabled", webhook_id=uuid_of(other), activation=1, reason="later")
    assert db.one("SELECT reason FROM webhooks.disabled WHERE activation = 1") == "later"
    receiver.wait(2, "/other")
    assert len(receiver.to("/gone")) == 1


def test_what_else_may_be_there_already_is_no_error(db):
    session = db.as_owner("alice")
    db.create_webhook("http://127.0.0.1:9/hook", session=session)
    made = db.one("SELECT at FROM webhooks.creation")
    before = db.one("SELECT now() - interval '10 minutes'")
    bring(db, "creation", owner="alice", at=[before, *made])
    assert db.one("SELECT at FROM webhooks.creation") == [before, *made]
    db.execute("SELECT webhooks.register_event_type('invoice.paid', 'here')")
    bring(db, "event_type", name="invoice.paid", description="there")
    bring(db, "event_type", name="user.activity", description="an older version's")
    assert db.one("SELECT description FROM webhooks.event_type WHERE name = 'invoice.paid'") == "here"
    for error in ("here", "there"):
        bring(db, "set_aside", id="00000000-0000-0000-0000-000000000001", stage="fetch", error=error)
    assert db.one("SELECT error FROM webhooks.set_aside") == "here"


def test_roles_with_a_privilege_by_mistake_change_no_figures(db, receiver):
    webhook = db.create_webhook(receiver.url())
    db.emit()
    db.wait_until("SELECT total_attempts FROM webhooks.webhook_stats", 1)
    role = db.role("USAGE ON SCHEMA webhooks", "ALL ON webhooks.webhook_stats")
    add = "INSERT INTO webhooks.webhook_stats (webhook_id, total_attempts) VALUES (%s, 5)"
    db.fails(add, uuid_of(webhook), state="42501", hint=False, session=db.connect(user=role))
    assert db.one("SELECT total_attempts FROM webhooks.webhook_stats") == 1


@pytest.mark.settings({"webhooks.retention": "1s"})
def test_retention_leaves_events_that_rows_to_come_need(db, receiver):
    db.create_webhook(receiver.url())
    db.emit("user.activity", {"object": "activity", "n": 1})
    db.settle()
    webhook = uuid_of(db.create_webhook(receiver.url("/old")))
    # As old as one that a paused webhook has held for long.
    event = "01900000-0000-7000-8000-000000000001"
    created = db.one("SELECT to_timestamp(x'019000000000'::bigint / 1000.0)")
    bring(db, "event", id=event, created_at=created, type="user.activity", data='{"object":"activity","n":2}')
    # Deliveries that have ended go, so that retention has been there.
    db.wait_until("SELECT count(*) FROM webhooks.delivery", 0, timeout=20)
    db.emit("user.activity", {"object": "activity", "n": 3})
    db.wait_until("SELECT count(*) FROM webhooks.delivery", lambda count: count > 0)
    db.wait_until("SELECT count(*) FROM webhooks.delivery", 0, timeout=20)
    delivery = db.one("SELECT webhooks.delivery_id(%s, %s)", event, webhook)
    bring(db, "queue", id=delivery, event_id=event, webhook_id=webhook, seq=1, created_at=created)
    receiver.wait(2, "/old")
    assert [it.data["n"] for it in receiver.to("/old")] == [3, 2]
