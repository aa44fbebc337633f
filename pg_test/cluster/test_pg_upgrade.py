"""pg_upgrade from PostgreSQL 15 to the server of these tests, with the library preloaded in both."""

import os
import re
import time

import pytest
from lived_in import SETTINGS, LivedIn
from server import Server, free_port

# The pg_config of the server that is upgraded from: scripts/cluster-test names it where there is one.
OLD = os.environ.get("OLD_PG_CONFIG")


@pytest.fixture
def two(request):
    """A server of the old version, and one of the new; the latter is made and not started."""
    old = Server(SETTINGS, config=OLD)
    new = Server(SETTINGS, initdb=["--no-data-checksums"])
    request.node.log = (new, 0)
    try:
        yield old, new
    finally:
        for server in (old, new):
            server.remove()


# Some builds of 15 mark every column with an option of their own, which their pg_dump leaves out, but 18 neither leaves out
# nor knows: such a server cannot be upgraded, with or without webhooks, until the marks are gone.
UNMARK = "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text ~ '^{pg_attver=[0-9]+}$'"


def upgrade(old, new):
    try:
        new.run(
            "pg_upgrade",
            *("--old-bindir", old.bin, "--new-bindir", new.bin, "--old-datadir", old.data, "--new-datadir", new.data),
            *("--old-port", str(free_port()), "--new-port", str(free_port())),
            *("--username", "postgres", "--socketdir", new.dir),
        )
    except RuntimeError as error:
        # What went wrong stands in files.
        for log in new.data.glob("pg_upgrade_output.d/*/log/*.log"):
            said = [line for line in log.read_text(errors="replace").splitlines() if re.search("error|fatal", line, re.I)]
            error.add_note("\n".join([log.name, *said]))
        raise


def test_everything_goes_on_after_pg_upgrade(two, make_database, receiver, row):
    old, new = two
    old.start()
    db = make_database(server=old)
    lived = LivedIn(db, receiver)
    db.execute(UNMARK)
    for session in db._sessions:
        session.close()
    new.start()
    for server in two:
        server.stop()
    upgrade(old, new)
    assert receiver.to()[lived.received :] == [], "pg_upgrade starts both servers, and neither sends"
    at = time.monotonic()
    new.start()
    db.server = new
    db.reconnect()
    lived.assert_is_there(db)
    sent = lived.assert_is_delivered(db)
    # Here the history has come along.
    after = set(map(str, db.rows("SELECT * FROM webhooks.deliveries WHERE state <> 'pending'")))
    assert set(lived.history) <= after
    lived.assert_goes_on(db)
    assert new.alarms() == []
    row("`pg_upgrade` from 15", 1, f"{len(sent)} waiting", resume=[sent[0].at - at])
