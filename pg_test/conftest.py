"""Fixtures of all tests with clusters of their own (cluster/, faults/): a server for each process of pytest, a database and a
receiver for each test.

Marks:  settings({"webhooks.x": "…"})   set in the whole server before the test's database is made, reset after it
        quiet                           runs while no other test runs: it measures time or load
        slow                            is begun first, since it waits for a minute to pass
        long                            takes minutes, and is not part of the suite: pytest -m long runs it
"""

import contextlib
import fcntl
import os
import shutil
import ssl
import tempfile
from pathlib import Path

import pytest
import trustme

pytest.register_assert_rewrite("database", "lived_in", "signatures", "receiver")

from database import Database, Sink  # noqa: E402
from names import Names  # noqa: E402
from processes import JavaScript  # noqa: E402
from receiver import Receiver  # noqa: E402
from requests_as import SECRET, Keys  # noqa: E402
from server import Server  # noqa: E402

LOG_TAIL = 60
# Needs the server that is upgraded from.
collect_ignore = [] if os.environ.get("OLD_PG_CONFIG") else ["cluster/test_pg_upgrade.py"]


def pytest_configure(config):
    config.addinivalue_line("markers", "settings(values): set in the server for one test")
    config.addinivalue_line("markers", "quiet: runs while no other test does")
    config.addinivalue_line("markers", "slow: is begun first")
    config.addinivalue_line("markers", "long: not part of the suite")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


# One test at a time where that matters. The processes of pytest share a directory; a test holds its room lock shared, a quiet
# one alone. Whoever wants in waits at the door first, so that a quiet one's turn comes.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Around all else: the time that a test waits for its turn is none of its own, which has a limit."""
    base = item.config._tmp_path_factory.getbasetemp()  # as the fixture tmp_path_factory has it
    meeting_place = base.parent if hasattr(item.config, "workerinput") else base
    alone = item.get_closest_marker("quiet") is not None
    with (meeting_place / "door").open("w") as door, (meeting_place / "room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


# What becomes of a fault


@pytest.fixture
def row(request):
    """Notes a row of the table of faults, in the file that FAULTS_ROWS names: fault, rounds, events, lost, sent again, how many
    could have been, seconds until events arrived again."""

    def note(fault, rounds, events, lost=0, again=0, bound=0, resume=()):
        resume = sorted(resume)
        times = f"{resume[len(resume) // 2]:.2f} s ({resume[-1]:.2f} s)" if resume else "–"
        line = f"| {' | '.join(map(str, [fault, rounds, events, lost, again, bound, times]))} |"
        print(line)
        if rows := os.environ.get("FAULTS_ROWS"):
            path, number, _ = request.node.location
            with Path(rows).open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(f"{path}:{number:05}\t{line}\n")

    return note


# Servers


@pytest.fixture(scope="session")
def cluster():
    """A server with the extension preloaded and loopback allowed."""
    server = Server()
    try:
        yield server.start()
    finally:
        server.stop()
        alarms = server.alarms(server.judged)
        server.remove()
        assert not alarms, f"in the server's log: {alarms}"


@pytest.fixture
def make_server(request):
    """Makes servers for tests that crash, restart or configure them otherwise. Their logs are the test's own affair."""
    made = []

    def make(settings=None, environment=None):
        server = Server(settings, environment)
        made.append(server)
        request.node.log = (server, 0)
        return server.start()

    yield make
    for server in made:
        server.remove()


@pytest.fixture(autouse=True)
def log_of_this_test(request):
    """Remembers where the log begins that belongs to the test; fails a test that crashed something, and no other."""
    if "cluster" not in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("cluster")
    server.recover()
    began = server.log_size()
    request.node.log = (server, began)
    yield
    alarms = server.alarms(began)
    if alarms:
        server.recover()
    server.judged = server.log_size()
    assert not alarms, alarms


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    log = getattr(item, "log", None)
    if report.failed and log and log[0].log_file.exists():
        server, began = log
        tail = "\n".join(server.log(began).splitlines()[-LOG_TAIL:])
        report.sections.append(("server log", tail))
    return report


# Databases


@contextlib.contextmanager
def _configured(request, server):
    mark = request.node.get_closest_marker("settings")
    with server.configured(mark.args[0]) if mark else contextlib.nullcontext():
        yield


@pytest.fixture
def make_database(request, cluster):
    """Makes databases, as many as the test wants, under the test's settings."""
    made = []

    def make(extension=True, server=cluster, **options):
        database = Database(server, extension, **options)
        made.append(database)
        return database

    with _configured(request, cluster):
        yield make
        for database in reversed(made):  # a restored one depends on the roles of the first
            database.drop()


@pytest.fixture
def db(make_database):
    """A fresh database with the extension and its worker."""
    return make_database()


@pytest.fixture
def empty_db(make_database):
    """A fresh database without the extension."""
    return make_database(extension=False)


@pytest.fixture(scope="module")
def shared_db(cluster):
    """One database for all tests of a file that leave nothing in it: those of bad input."""
    database = Database(cluster)
    yield database
    database.drop()


@pytest.fixture
def keys(cluster, db):
    """API keys: a secret that they are signed with, and a role for them with the right api."""
    role = db.role()
    db.grant(role, "api")
    with cluster.configured({"webhooks.jwt_secret": SECRET, "webhooks.api_role": role}):
        db.wait_until("SELECT current_setting('webhooks.api_role')", role)
        yield Keys(db, role)


# Receivers


@pytest.fixture(scope="session")
def javascript():
    node = JavaScript()
    yield node
    node.stop()


@pytest.fixture
def make_receiver(javascript):
    """Makes receivers. Whatever they receive must come out of node's JSON.parse and JSON.stringify as it went in."""
    made = []

    def make(**options):
        receiver = Receiver(**options)
        made.append(receiver)
        return receiver

    yield make
    for receiver in made:
        receiver.close()
    for receiver in made:
        for request in receiver.requests if receiver.round_trip else ():
            if request.method == "POST":
                assert javascript.round_trip(request.body) == request.body


@pytest.fixture
def receiver(make_receiver):
    return make_receiver()


@pytest.fixture
def sink(db, receiver):
    """A webhook for every event, ready."""
    return Sink(db, receiver)


@pytest.fixture
def memories(db, sink):
    """The table memories, attached with owner_id as its owner and deleted_at as its soft delete; the sink gets its events."""
    db.memories(owner_column="owner_id", soft_delete_column="deleted_at", exclude_columns=["embedding"])
    return sink


# Certificates


class Authority:
    """A certificate authority of our own; its certificate lies where the server can read it."""

    def __init__(self):
        self.authority = trustme.CA()
        self.dir = Path(tempfile.mkdtemp(prefix="wh-ca-", dir="/tmp"))
        self.dir.chmod(0o755)
        self.file = self.dir / "ca.pem"
        self.authority.cert_pem.write_to_path(self.file)
        self.file.chmod(0o644)

    def context(self, *names):
        """For a receiver that goes by these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        return context

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def authority():
    made = Authority()
    yield made
    made.remove()


@pytest.fixture
def names(authority):
    """Answers for the look-ups of a server of the test's own."""
    return Names(authority.dir)  # which the server can enter
