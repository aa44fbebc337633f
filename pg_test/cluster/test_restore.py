"""A dump goes into another cluster, whose transactions are far ahead or far behind and whose worker runs already: everything
that is configured, and everything that waits, is there and goes on."""

import time

import pytest
from lived_in import SETTINGS, LivedIn
from server import Server

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
